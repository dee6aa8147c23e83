//! Gradients on `Autodiff`: a block, a LayerNorm and a log-probability are one node each, with gradients written by hand;
//! so are a linear layer, GELU, attention and a selection of rows, in `nodes`, and log-probabilities under several output
//! layers, in `updated`. All other operations are differentiable by their generic bodies.

use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::{FloatTensor, FloatTensorOps, IntTensor};
use burn::tensor::{Shape, TensorData, TensorMetadata};

use crate::block::{self, LINEARS, Saved, Wanted};
use crate::sublayer::{attention_node, feed_forward_node, plain_norm};
use crate::{
    AttentionParams, BlockContext, BlockParams, FeedForwardParams, FusedBackend, Gelu, Heads,
    LinearParams, LoraParams, Matrix, NormParams, OutputParams, PackedRows, QuantisedMatrix,
    SublayerContext, UpdatedLayers, nodes, updated,
};

/// Parents of a block's node: x, gamma, beta; then weight, bias, A and B of each linear layer.
const PARENTS: usize = 3 + 4 * LINEARS;

#[derive(Debug)]
struct BlockNode;

#[derive(Debug, Clone)]
struct BlockState<B: FusedBackend> {
    x: FloatTensor<B>,
    params: Arc<BlockParams<B>>,
    context: Arc<BlockContext<B>>,
    saved: Option<Saved<B>>,
}

impl<B: FusedBackend> Backward<B, PARENTS> for BlockNode {
    type State = BlockState<B>;

    fn backward(
        self,
        ops: Ops<Self::State, PARENTS>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let tracked: [bool; PARENTS] = std::array::from_fn(|i| ops.parents[i].is_some());
        let wanted = Wanted {
            x: tracked[0],
            norm: [tracked[1], tracked[2]],
            linears: std::array::from_fn(|i| std::array::from_fn(|j| tracked[3 + 4 * i + j])),
        };
        let BlockState { x, params, context, saved } = ops.state;
        let found = block::backward::<B>(x, &params, &context, saved, grad, &wanted);
        let [gamma, beta] = match found.norm {
            None => [None, None],
            Some([gamma, beta]) => [Some(gamma), Some(beta)],
        };
        let all = [found.x, gamma, beta].into_iter().chain(found.linears.into_iter().flatten());
        for (parent, grad) in ops.parents.iter().zip(all) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct NormNode;

impl<B: FusedBackend> Backward<B, 3> for NormNode {
    type State = (FloatTensor<B>, NormParams<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, norm) = ops.state;
        if ops.parents[1].is_some() || ops.parents[2].is_some() {
            let both = norm.parameter_gradients(x.clone(), grad.clone());
            for (parent, grad) in ops.parents[1..].iter().zip(both) {
                if let (Some(parent), Some(grad)) = (parent, grad) {
                    grads.register::<B>(parent.id, grad);
                }
            }
        }
        if let Some(parent) = &ops.parents[0] {
            grads.register::<B>(parent.id, norm.backward(None, x, grad));
        }
    }
}

/// For a frozen output layer: the gradient is already known, up to each token's factor.
#[derive(Debug)]
struct FrozenLogProbNode;

impl<B: FusedBackend> Backward<B, 1> for FrozenLogProbNode {
    type State = FloatTensor<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        if let Some(parent) = &ops.parents[0] {
            let n = grad.shape()[0];
            let grad = B::float_reshape(grad, Shape::new([n, 1]));
            grads.register::<B>(parent.id, B::float_mul(ops.state, grad));
        }
    }
}

#[derive(Debug)]
struct LogProbNode;

#[derive(Debug, Clone)]
struct LogProbState<B: FusedBackend> {
    hidden: FloatTensor<B>,
    layer: OutputParams<B>,
    targets: IntTensor<B>,
    log_probs: FloatTensor<B>,
}

impl<B: FusedBackend> Backward<B, 3> for LogProbNode {
    type State = LogProbState<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let LogProbState { hidden, layer, targets, log_probs } = ops.state;
        let ([hidden, weight], bias) =
            B::log_prob_backward(hidden, &layer, targets, log_probs, grad);
        for (parent, grad) in ops.parents.iter().zip([Some(hidden), Some(weight), bias]) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

/// A placeholder for an absent parent, whose node nothing tracks.
pub(crate) fn absent<B: FusedBackend, C: CheckpointStrategy>(
    device: &B::Device,
) -> FloatTensor<Autodiff<B, C>> {
    Autodiff::<B, C>::float_from_data(TensorData::from([0f32]), device)
}

/// The tensor without its node.
pub(crate) fn plain<B: FusedBackend, C: CheckpointStrategy>(
    tensor: &FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<B> {
    tensor.primitive.clone()
}

pub(crate) fn plain_matrix<B: FusedBackend, C: CheckpointStrategy>(
    matrix: &Matrix<Autodiff<B, C>>,
) -> Matrix<B> {
    match matrix {
        Matrix::Dense(weight) => Matrix::Dense(plain::<B, C>(weight)),
        Matrix::Quantised(weight) => Matrix::Quantised(plain_quantised::<B, C>(weight)),
    }
}

fn plain_quantised<B: FusedBackend, C: CheckpointStrategy>(
    matrix: &QuantisedMatrix<Autodiff<B, C>>,
) -> QuantisedMatrix<B> {
    QuantisedMatrix {
        layout: matrix.layout,
        codes: matrix.codes.clone(),
        scales: plain::<B, C>(&matrix.scales),
        scale_codes: matrix.scale_codes.clone(),
    }
}

pub(crate) fn plain_linear<B: FusedBackend, C: CheckpointStrategy>(
    params: &LinearParams<Autodiff<B, C>>,
) -> LinearParams<B> {
    LinearParams {
        weight: plain_matrix::<B, C>(&params.weight),
        bias: params.bias.as_ref().map(plain::<B, C>),
        lora: params.lora.as_ref().map(|lora| LoraParams {
            a: plain::<B, C>(&lora.a),
            b: plain::<B, C>(&lora.b),
            scale: lora.scale,
            dropout: lora.dropout.as_ref().map(plain::<B, C>),
        }),
    }
}

/// Weight, bias, A and B of a linear layer, as far as it has them and they are no constants.
pub(crate) fn trainable<B: FusedBackend, C: CheckpointStrategy>(
    linear: &LinearParams<Autodiff<B, C>>,
) -> [Option<&FloatTensor<Autodiff<B, C>>>; 4] {
    let weight = match &linear.weight {
        Matrix::Dense(weight) => Some(weight),
        Matrix::Quantised(_) => None,
    };
    let lora = linear.lora.as_ref();
    [weight, linear.bias.as_ref(), lora.map(|lora| &lora.a), lora.map(|lora| &lora.b)]
}

impl<B: FusedBackend, C: CheckpointStrategy> FusedBackend for Autodiff<B, C> {
    const FEW_LINES: Option<usize> = B::FEW_LINES;

    fn parallel_block(
        x: FloatTensor<Self>,
        params: BlockParams<Self>,
        context: &BlockContext<Self>,
    ) -> FloatTensor<Self> {
        let absent = absent::<B, C>(&B::float_device(&x.primitive)).node;
        let mut nodes = vec![x.node.clone(), params.gamma.node.clone(), params.beta.node.clone()];
        for linear in &params.linears {
            let tensors = trainable::<B, C>(linear);
            nodes.extend(tensors.map(|t| t.map_or_else(|| absent.clone(), |t| t.node.clone())));
        }
        let nodes: [_; PARENTS] = nodes.try_into().expect("one for each parent");
        let params = BlockParams {
            gamma: plain::<B, C>(&params.gamma),
            beta: plain::<B, C>(&params.beta),
            linears: params.linears.each_ref().map(plain_linear::<B, C>),
        };
        let context = BlockContext {
            rows: context.rows.clone(),
            cos: plain::<B, C>(&context.cos),
            sin: plain::<B, C>(&context.sin),
            n_heads: context.n_heads,
            epsilon: context.epsilon,
            checkpoint: context.checkpoint,
        };
        let x = x.primitive;
        match BlockNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::UnTracked(prep) => prep.finish(block::forward(x, &params, &context, false).0),
            OpsKind::Tracked(prep) => {
                let (y, saved) = block::forward(x.clone(), &params, &context, !context.checkpoint);
                let (params, context) = (Arc::new(params), Arc::new(context));
                prep.finish(BlockState { x, params, context, saved }, y)
            }
        }
    }

    fn attention_layer(
        x: FloatTensor<Self>,
        params: &AttentionParams<Self>,
        context: &SublayerContext<Self>,
    ) -> FloatTensor<Self> {
        attention_node::<B, C>(x, params, context)
    }

    fn feed_forward_layer(
        x: FloatTensor<Self>,
        params: &FeedForwardParams<Self>,
        checkpoint: bool,
    ) -> FloatTensor<Self> {
        feed_forward_node::<B, C>(x, params, checkpoint)
    }

    fn norm_op(x: FloatTensor<Self>, norm: &NormParams<Self>) -> FloatTensor<Self> {
        let none = absent::<B, C>(&B::float_device(&x.primitive));
        let beta = norm.beta.as_ref().unwrap_or(&none);
        let nodes = [x.node, norm.gamma.node.clone(), beta.node.clone()];
        let (x, norm) = (x.primitive, plain_norm::<B, C>(norm));
        let y = norm.forward(x.clone());
        match NormNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::UnTracked(prep) => prep.finish(y),
            OpsKind::Tracked(prep) => prep.finish((x, norm), y),
        }
    }

    fn linear_op(
        add: Option<FloatTensor<Self>>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        nodes::linear::<B, C>(add, x, weight, bias)
    }

    fn gelu_op(x: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self> {
        nodes::gelu::<B, C>(x, form)
    }

    fn select_rows_op(x: FloatTensor<Self>, at: IntTensor<Self>) -> FloatTensor<Self> {
        nodes::select_rows::<B, C>(x, at)
    }

    fn attention_op(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        rows: &Arc<PackedRows>,
        heads: &Heads,
    ) -> FloatTensor<Self> {
        nodes::attention::<B, C>([q, k, v], rows, heads)
    }

    fn linear_log_prob(
        hidden: FloatTensor<Self>,
        layer: OutputParams<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let inner = OutputParams {
            weight: plain_matrix::<B, C>(&layer.weight),
            bias: layer.bias.as_ref().map(plain::<B, C>),
            soft_cap: layer.soft_cap,
        };
        let (node, hidden) = (hidden.node, hidden.primitive);
        let is_constant = |tensor: &FloatTensor<Self>| tensor.node.requirement.is_none();
        if let Matrix::Dense(weight) = layer.weight
            && !(is_constant(&weight) && layer.bias.as_ref().is_none_or(is_constant))
        {
            let bias = layer.bias.unwrap_or_else(|| absent::<B, C>(&B::float_device(&hidden)));
            let nodes = [node, weight.node, bias.node];
            let (log_probs, _) =
                B::log_prob_forward(hidden.clone(), &inner, targets.clone(), false);
            return match LogProbNode.prepare::<C>(nodes).compute_bound().stateful() {
                OpsKind::UnTracked(prep) => prep.finish(log_probs),
                OpsKind::Tracked(prep) => {
                    let log_prob = log_probs.clone();
                    let state = LogProbState { hidden, layer: inner, targets, log_probs: log_prob };
                    prep.finish(state, log_probs)
                }
            };
        }
        match FrozenLogProbNode.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::UnTracked(prep) => {
                prep.finish(B::log_prob_forward(hidden, &inner, targets, false).0)
            }
            OpsKind::Tracked(prep) => {
                let (log_probs, gradient) = B::log_prob_forward(hidden, &inner, targets, true);
                prep.finish(gradient.expect("asked for"), log_probs)
            }
        }
    }
    fn updated_log_prob(
        hidden: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        layers: UpdatedLayers<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        updated::log_prob::<B, C>(hidden, inner, layers, targets)
    }
}
