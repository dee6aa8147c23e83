//! The gradient on `Autodiff` of log-probabilities under output layers that differ by low-rank updates.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::{FloatTensor, IntTensor};

use crate::autodiff::{absent, plain_matrix};
use crate::{FusedBackend, UpdatedLayers, UpdatedLayersGradients};

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// Parents: hidden, inner, B and bias.
#[derive(Debug)]
struct UpdatedLogProbNode;

#[derive(Debug, Clone)]
struct State<B: FusedBackend> {
    hidden: FloatTensor<B>,
    inner: FloatTensor<B>,
    layers: UpdatedLayers<B>,
    targets: IntTensor<B>,
    log_probs: FloatTensor<B>,
}

impl<B: FusedBackend> Backward<B, 4> for UpdatedLogProbNode {
    type State = State<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let State { hidden, inner, layers, targets, log_probs } = ops.state;
        let UpdatedLayersGradients { hidden, inner, b, bias } =
            B::updated_log_prob_backward(hidden, inner, &layers, targets, log_probs, grad);
        let all = [Some(hidden), Some(inner), Some(b), bias];
        for (parent, grad) in ops.parents.iter().zip(all) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

pub(crate) fn log_prob<B: FusedBackend, C: CheckpointStrategy>(
    hidden: Tracked<B, C>,
    inner: Tracked<B, C>,
    layers: UpdatedLayers<Autodiff<B, C>>,
    targets: IntTensor<B>,
) -> Tracked<B, C> {
    let UpdatedLayers { n_layers, weight, b, bias, soft_cap } = layers;
    let (bias_node, bias) = match bias {
        Some(bias) => (bias.node, Some(bias.primitive)),
        None => (absent::<B, C>(&B::float_device(&hidden.primitive)).node, None),
    };
    let nodes = [hidden.node, inner.node, b.node, bias_node];
    let (hidden, inner, weight) =
        (hidden.primitive, inner.primitive, plain_matrix::<B, C>(&weight));
    let layers = UpdatedLayers { n_layers, weight, b: b.primitive, bias, soft_cap };
    let log_probs =
        B::updated_log_prob_forward(hidden.clone(), inner.clone(), &layers, targets.clone());
    match UpdatedLogProbNode.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(log_probs),
        OpsKind::Tracked(prep) => {
            let kept = log_probs.clone();
            prep.finish(State { hidden, inner, layers, targets, log_probs: kept }, log_probs)
        }
    }
}
