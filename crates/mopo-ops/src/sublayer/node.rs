//! The sub-layers on `Autodiff`: one node each.

use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients as Found;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;

use super::{
    AttentionParams, FeedForwardParams, Gradients, NormParams, PARENTS, SublayerContext, Wanted,
    attention, feed_forward,
};
use crate::autodiff::{absent, plain, plain_linear, trainable};
use crate::{FusedBackend, LinearParams};

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

fn register<B: FusedBackend, S>(
    ops: Ops<S, PARENTS>,
    grads: &mut Found,
    backward: impl FnOnce(S, FloatTensor<B>, &Wanted) -> Gradients<B>,
) {
    let grad = grads.consume::<B>(&ops.node);
    let wanted: Wanted = std::array::from_fn(|i| ops.parents[i].is_some());
    let found = backward(ops.state, grad, &wanted);
    for (parent, grad) in ops.parents.iter().zip(found) {
        if let (Some(parent), Some(grad)) = (parent, grad) {
            grads.register::<B>(parent.id, grad);
        }
    }
}

pub(crate) fn plain_norm<B: FusedBackend, C: CheckpointStrategy>(
    norm: &NormParams<Autodiff<B, C>>,
) -> NormParams<B> {
    NormParams {
        kind: norm.kind,
        gamma: plain::<B, C>(&norm.gamma),
        beta: norm.beta.as_ref().map(plain::<B, C>),
        epsilon: norm.epsilon,
    }
}

fn plain_context<B: FusedBackend, C: CheckpointStrategy>(
    context: &SublayerContext<Autodiff<B, C>>,
) -> SublayerContext<B> {
    SublayerContext {
        rows: context.rows.clone(),
        cos: plain::<B, C>(&context.cos),
        sin: plain::<B, C>(&context.sin),
        heads: context.heads,
        checkpoint: context.checkpoint,
    }
}

/// The layers that read a sub-layer's input, and its last one with its place.
type Linears<'a, B> = (&'a [LinearParams<B>], (usize, &'a LinearParams<B>));

/// The tensors of a sub-layer in the order of [`PARENTS`].
fn parents<'a, B: FusedBackend, C: CheckpointStrategy>(
    x: &'a Tracked<B, C>,
    norm: &'a NormParams<Autodiff<B, C>>,
    linears: Linears<'a, Autodiff<B, C>>,
    head_norms: Option<&'a [NormParams<Autodiff<B, C>>; 2]>,
    post_norm: Option<&'a NormParams<Autodiff<B, C>>>,
) -> [Option<&'a Tracked<B, C>>; PARENTS] {
    let mut all = vec![Some(x), Some(&norm.gamma), norm.beta.as_ref()];
    let (inputs, (place, last)) = linears;
    for i in 0..4 {
        let linear = if i == place { Some(last) } else { inputs.get(i) };
        all.extend(linear.map_or([None; 4], trainable::<B, C>));
    }
    all.extend([0, 1].map(|i| head_norms.map(|norms| &norms[i].gamma)));
    all.push(post_norm.map(|norm| &norm.gamma));
    all.try_into().expect("one for each parent")
}

#[derive(Debug)]
struct AttentionLayerNode;

#[derive(Debug, Clone)]
struct AttentionState<B: FusedBackend> {
    x: FloatTensor<B>,
    params: Arc<AttentionParams<B>>,
    context: Arc<SublayerContext<B>>,
    saved: Option<attention::Saved<B>>,
}

impl<B: FusedBackend> Backward<B, PARENTS> for AttentionLayerNode {
    type State = AttentionState<B>;

    fn backward(self, ops: Ops<Self::State, PARENTS>, grads: &mut Found, _: &mut Checkpointer) {
        register::<B, _>(ops, grads, |state, grad, wanted| {
            let AttentionState { x, params, context, saved } = state;
            attention::backward::<B>(x, &params, &context, saved, grad, wanted)
        });
    }
}

pub(crate) fn attention_node<B: FusedBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    params: &AttentionParams<Autodiff<B, C>>,
    context: &SublayerContext<Autodiff<B, C>>,
) -> Tracked<B, C> {
    let none = absent::<B, C>(&B::float_device(&x.primitive));
    let linears = (&params.inputs[..], (attention::OUTPUT, &params.output));
    let (head_norms, post_norm) = (params.head_norms.as_ref(), params.post_norm.as_ref());
    let nodes = parents::<B, C>(&x, &params.norm, linears, head_norms, post_norm)
        .map(|tensor| tensor.unwrap_or(&none).node.clone());
    let params = AttentionParams {
        norm: plain_norm::<B, C>(&params.norm),
        inputs: params.inputs.iter().map(plain_linear::<B, C>).collect(),
        output: plain_linear::<B, C>(&params.output),
        head_norms: head_norms.map(|norms| norms.each_ref().map(plain_norm::<B, C>)),
        post_norm: post_norm.map(plain_norm::<B, C>),
    };
    let (x, context) = (x.primitive, plain_context::<B, C>(context));
    match AttentionLayerNode.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => {
            prep.finish(attention::forward::<B>(x, &params, &context, false).0)
        }
        OpsKind::Tracked(prep) => {
            let keep = !context.checkpoint;
            let (y, saved) = attention::forward::<B>(x.clone(), &params, &context, keep);
            let (params, context) = (Arc::new(params), Arc::new(context));
            prep.finish(AttentionState { x, params, context, saved }, y)
        }
    }
}

#[derive(Debug)]
struct FeedForwardNode;

#[derive(Debug, Clone)]
struct FeedForwardState<B: FusedBackend> {
    x: FloatTensor<B>,
    params: Arc<FeedForwardParams<B>>,
    saved: Option<feed_forward::Saved<B>>,
}

impl<B: FusedBackend> Backward<B, PARENTS> for FeedForwardNode {
    type State = FeedForwardState<B>;

    fn backward(self, ops: Ops<Self::State, PARENTS>, grads: &mut Found, _: &mut Checkpointer) {
        register::<B, _>(ops, grads, |state, grad, wanted| {
            let FeedForwardState { x, params, saved } = state;
            feed_forward::backward::<B>(x, &params, saved, grad, wanted)
        });
    }
}

pub(crate) fn feed_forward_node<B: FusedBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    params: &FeedForwardParams<Autodiff<B, C>>,
    checkpoint: bool,
) -> Tracked<B, C> {
    let none = absent::<B, C>(&B::float_device(&x.primitive));
    let linears = (&params.inputs[..], (feed_forward::DOWN, &params.down));
    let post_norm = params.post_norm.as_ref();
    let nodes = parents::<B, C>(&x, &params.norm, linears, None, post_norm)
        .map(|tensor| tensor.unwrap_or(&none).node.clone());
    let params = FeedForwardParams {
        norm: plain_norm::<B, C>(&params.norm),
        inputs: params.inputs.iter().map(plain_linear::<B, C>).collect(),
        is_gated: params.is_gated,
        down: plain_linear::<B, C>(&params.down),
        activation: params.activation,
        post_norm: post_norm.map(plain_norm::<B, C>),
    };
    let x = x.primitive;
    match FeedForwardNode.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(feed_forward::forward::<B>(x, &params, false).0),
        OpsKind::Tracked(prep) => {
            let (y, saved) = feed_forward::forward::<B>(x.clone(), &params, !checkpoint);
            prep.finish(FeedForwardState { x, params: Arc::new(params), saved }, y)
        }
    }
}
