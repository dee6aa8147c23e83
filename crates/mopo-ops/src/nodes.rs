//! Gradients on `Autodiff` of the operations of a sequential block, a linear layer, GELU and
//! attention, and of a selection of rows, one node each. They keep their inputs and recompute the rest.

use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{Shape, TensorMetadata};

use crate::autodiff::absent;
use crate::{FusedBackend, Gelu, Heads, Init, PackedRows};

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// Parents: x, weight, bias, and what is added.
#[derive(Debug)]
struct LinearNode;

impl<B: FusedBackend> Backward<B, 4> for LinearNode {
    type State = [FloatTensor<B>; 2];

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let [x, weight] = ops.state;
        let [to_x, to_weight, to_bias, to_add] = ops.parents;
        let product = |a: &FloatTensor<B>, turn_a, b, turn_b| {
            B::gemm(Init::zero(), 1.0, a.clone(), turn_a, b, turn_b)
        };
        if let Some(parent) = to_weight {
            grads.register::<B>(parent.id, product(&x, true, grad.clone(), false));
        }
        if let Some(parent) = to_bias {
            let n = grad.shape()[1];
            let sum = B::float_sum_dim(grad.clone(), 0);
            grads.register::<B>(parent.id, B::float_reshape(sum, Shape::new([n])));
        }
        if let Some(parent) = to_x {
            grads.register::<B>(parent.id, product(&grad, false, weight, true));
        }
        if let Some(parent) = to_add {
            grads.register::<B>(parent.id, grad);
        }
    }
}

pub(crate) fn linear<B: FusedBackend, C: CheckpointStrategy>(
    add: Option<Tracked<B, C>>,
    x: Tracked<B, C>,
    weight: Tracked<B, C>,
    bias: Tracked<B, C>,
) -> Tracked<B, C> {
    let (added, add) = match add {
        Some(add) => (add.node, Some(add.primitive)),
        None => (absent::<B, C>(&B::float_device(&x.primitive)).node, None),
    };
    let nodes = [x.node, weight.node, bias.node, added];
    let (x, weight) = (x.primitive, weight.primitive);
    let y = B::linear_op(add, x.clone(), weight.clone(), bias.primitive);
    match LinearNode.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(y),
        OpsKind::Tracked(prep) => prep.finish([x, weight], y),
    }
}

#[derive(Debug)]
struct GeluNode;

impl<B: FusedBackend> Backward<B, 1> for GeluNode {
    type State = (FloatTensor<B>, Gelu);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        if let Some(parent) = &ops.parents[0] {
            let (x, form) = ops.state;
            let dx = match form {
                Gelu::Tanh => B::gelu_tanh_backward(x, grad),
                Gelu::Erf => B::gelu_erf_backward(x, grad),
            };
            grads.register::<B>(parent.id, dx);
        }
    }
}

pub(crate) fn gelu<B: FusedBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    form: Gelu,
) -> Tracked<B, C> {
    match GeluNode.prepare::<C>([x.node]).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(B::gelu_op(x.primitive, form)),
        OpsKind::Tracked(prep) => {
            let y = B::gelu_op(x.primitive.clone(), form);
            prep.finish((x.primitive, form), y)
        }
    }
}

/// The state: which rows, and of how many.
#[derive(Debug)]
struct SelectRowsNode;

impl<B: FusedBackend> Backward<B, 1> for SelectRowsNode {
    type State = (IntTensor<B>, usize);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        if let Some(parent) = &ops.parents[0] {
            let (at, rows) = ops.state;
            grads.register::<B>(parent.id, B::scatter_rows(grad, at, rows));
        }
    }
}

pub(crate) fn select_rows<B: FusedBackend, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    at: IntTensor<B>,
) -> Tracked<B, C> {
    let rows = x.primitive.shape()[0];
    match SelectRowsNode.prepare::<C>([x.node]).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(B::select_rows_op(x.primitive, at)),
        OpsKind::Tracked(prep) => {
            let y = B::select_rows_op(x.primitive, at.clone());
            prep.finish((at, rows), y)
        }
    }
}

/// Parents: q, k and v.
#[derive(Debug)]
struct AttentionNode;

impl<B: FusedBackend> Backward<B, 3> for AttentionNode {
    type State = ([FloatTensor<B>; 3], Arc<PackedRows>, Heads);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let ([q, k, v], rows, heads) = ops.state;
        let all = B::packed_attention_backward(q, k, v, grad, &rows, &heads);
        for (parent, grad) in ops.parents.iter().zip(all) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

pub(crate) fn attention<B: FusedBackend, C: CheckpointStrategy>(
    [q, k, v]: [Tracked<B, C>; 3],
    rows: &Arc<PackedRows>,
    heads: &Heads,
) -> Tracked<B, C> {
    let nodes = [q.node, k.node, v.node];
    let [q, k, v] = [q.primitive, k.primitive, v.primitive];
    match AttentionNode.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(B::packed_attention(q, k, v, rows, heads)),
        OpsKind::Tracked(prep) => {
            let y = B::packed_attention(q.clone(), k.clone(), v.clone(), rows, heads);
            prep.finish(([q, k, v], rows.clone(), *heads), y)
        }
    }
}
