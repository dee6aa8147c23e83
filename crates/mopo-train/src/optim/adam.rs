//! Adam, one parameter at a time, in place.

use burn::optim::{LearningRate, SimpleOptimizer};
use burn::record::Record;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_ops::{AdamFactors, FusedBackend, primitive, tensor};

/// Adam with β (0.9, 0.999), ε 1e-8, no weight decay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adam;

/// Adam's state of a parameter.
#[derive(Record, Debug, Clone)]
pub(super) struct AdamState<B: Backend, const D: usize> {
    /// Number of steps so far.
    pub(super) time: usize,
    pub(super) first: Tensor<B, D>,
    pub(super) second: Tensor<B, D>,
}

impl<B: FusedBackend> SimpleOptimizer<B> for Adam {
    type State<const D: usize> = AdamState<B, D>;

    fn step<const D: usize>(
        &self,
        learning_rate: LearningRate,
        param: Tensor<B, D>,
        grad: Tensor<B, D>,
        state: Option<AdamState<B, D>>,
    ) -> (Tensor<B, D>, Option<AdamState<B, D>>) {
        let time = state.as_ref().map_or(0, |state| state.time) + 1;
        let moments = state.map(|state| [primitive(state.first), primitive(state.second)]);
        let factors = AdamFactors::new(learning_rate, [0.9, 0.999], 1e-8, time);
        let (param, [first, second]) =
            B::adam_step(primitive(param), primitive(grad), moments, factors);
        (tensor(param), Some(AdamState { time, first: tensor(first), second: tensor(second) }))
    }

    fn to_device<const D: usize>(state: AdamState<B, D>, device: &B::Device) -> AdamState<B, D> {
        let AdamState { time, first, second } = state;
        AdamState { time, first: first.to_device(device), second: second.to_device(device) }
    }
}
