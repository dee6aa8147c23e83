//! Sums of the gradients of a step's passes.

use std::marker::PhantomData;

use burn::module::AutodiffModule;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use mopo_ops::FusedAutodiffBackend;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::sharded::ShardedSums;
use crate::Result;
use crate::communicator::Communicator;

/// Gradients summed in the order of passes: whole in one process, else each rank's pieces of them.
pub(super) enum Sums<B: FusedAutodiffBackend, M: AutodiffModule<B>> {
    Whole(GradientsAccumulator<M>),
    Sharded(ShardedSums, PhantomData<B>),
}

impl<B: FusedAutodiffBackend, M: AutodiffModule<B>> Sums<B, M> {
    pub(super) fn new(module: &M, communicator: &dyn Communicator) -> Self {
        match communicator.is_solo() {
            true => Self::Whole(GradientsAccumulator::new()),
            false => Self::Sharded(ShardedSums::new::<B, M>(module, communicator), PhantomData),
        }
    }

    /// The gradients, on every rank.
    pub(super) fn whole(
        self,
        module: &M,
        communicator: &dyn Communicator,
    ) -> Result<GradientsParams> {
        match self {
            Self::Whole(mut accumulator) => Ok(accumulator.grads()),
            Self::Sharded(sums, _) => sums.whole::<B, M>(module, communicator),
        }
    }

    /// Makes the passes `0..n`, dealt out over the ranks, and adds the gradients of the loss that each returns; what else
    /// they return comes back in their order, on every rank.
    pub(super) fn passes<T: Serialize + DeserializeOwned>(
        &mut self,
        module: &M,
        n: usize,
        communicator: &dyn Communicator,
        mut pass: impl FnMut(usize) -> Result<(Option<Tensor<B, 1>>, T)>,
    ) -> Result<Vec<T>> {
        let mut own = Vec::new();
        for first in (0..n).step_by(communicator.world()) {
            let v = first + communicator.rank();
            let mut gradients = None;
            if v < n {
                let (loss, found) = pass(v)?;
                gradients = loss.map(|loss| GradientsParams::from_grads(loss.backward(), module));
                own.push(found);
            }
            match (&mut *self, gradients) {
                (Self::Whole(accumulator), Some(gradients)) => {
                    accumulator.accumulate(module, gradients);
                }
                (Self::Whole(_), None) => {}
                // Also while only others have a pass left.
                (Self::Sharded(sums, _), gradients) => {
                    sums.add::<B, M>(module, gradients, communicator)?;
                }
            }
        }
        communicator.interleaved(n, own)
    }
}
