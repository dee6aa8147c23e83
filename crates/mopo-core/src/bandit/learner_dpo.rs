//! Softmax tables trained with losses on pairs: DPO and its relatives.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Int, Tensor, TensorData};

use super::learner::{Adam, by_context, fall, host};
use super::{Comparisons, LearnerConfig};
use crate::divergence::Divergence;
use crate::pairwise::{dpo_loss, f_reward};

/// A table to train on pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct PairPolicy {
    /// I of each pair: the probability that its first cell is preferred.
    pub indicators: Vec<f32>,
    /// Weight of each pair; 0 excludes it. Normalised.
    pub mass: Vec<f32>,
    /// Factor of the rewards: β, for MODPO β/α_0.
    pub scale: f64,
    /// What is subtracted from the reward of each cell before the factor: zeros, or MODPO's margins over β. Empty:
    /// zeros.
    pub shift: Vec<f32>,
}

/// Trains tables side by side with [`dpo_loss`] of [`f_reward`] on all pairs at once, with a uniform reference.
/// Returns π(y|x) per cell for each of them.
///
/// * `n_cells`: contexts times actions; `n_actions` cells in turn are a context.
/// * `pairs`: the cells of each pair.
///
/// # Panics
/// If a policy does not fit the pairs or cells, or [`f_reward`] refuses the divergence.
pub fn learn_pairs<B: AutodiffBackend>(
    [n_cells, n_actions]: [usize; 2],
    pairs: &[[usize; 2]],
    policies: &[PairPolicy],
    divergence: Divergence,
    config: &LearnerConfig,
    device: &B::Device,
    progress: &mut dyn FnMut(usize),
) -> Vec<Vec<f64>> {
    let batch = PairBatch::<B>::new(n_cells, pairs, policies, device);
    let gradient = |logits: Tensor<B::InnerBackend, 2>| {
        let leaf = Tensor::<B, 2>::from_inner(logits).require_grad();
        let log_ratio = by_context(leaf.clone(), n_actions).add_scalar((n_actions as f64).ln());
        let [first, second] = batch.rewards(f_reward(log_ratio, divergence));
        let loss = dpo_loss(first, second, batch.indicators.clone(), batch.mass.clone(), 1.0);
        let gradients = loss.backward();
        leaf.grad(&gradients).expect("the logits are in the loss")
    };
    descend::<B>([policies.len(), n_cells], n_actions, config, device, gradient, progress)
}

/// Takes `config.steps` steps of Adam from uniform tables, `[n_policies, n_cells]`, along what `gradient` has at their
/// logits. Returns π(y|x) per cell for each of them.
pub(super) fn descend<B: AutodiffBackend>(
    [n_policies, n_cells]: [usize; 2],
    n_actions: usize,
    config: &LearnerConfig,
    device: &B::Device,
    mut gradient: impl FnMut(Tensor<B::InnerBackend, 2>) -> Tensor<B::InnerBackend, 2>,
    progress: &mut dyn FnMut(usize),
) -> Vec<Vec<f64>> {
    let shape = [n_policies, n_cells];
    let mut adam = Adam::<B::InnerBackend>::new(shape, device);
    let mut logits = Tensor::<B::InnerBackend, 2>::zeros(shape, device);
    for step in 0..config.steps {
        let slope = gradient(logits.clone());
        logits = adam.step(logits, slope, config.learning_rate * fall(step, config.steps));
        progress(step + 1);
    }
    host(by_context(logits, n_actions).exp()).chunks(n_cells).map(<[f64]>::to_vec).collect()
}

/// The pairs of several tables as tensors, `[n_policies, n_pairs]` and `[n_policies, n_cells]`.
pub(super) struct PairBatch<B: AutodiffBackend> {
    cells: [Tensor<B, 2, Int>; 2],
    pub(super) indicators: Tensor<B, 2>,
    /// Summing to 1 in each row.
    pub(super) mass: Tensor<B, 2>,
    scale: Tensor<B, 2>,
    shift: Tensor<B, 2>,
}

impl<B: AutodiffBackend> PairBatch<B> {
    /// # Panics
    /// If a policy does not fit the pairs or cells.
    pub(super) fn new(
        n_cells: usize,
        pairs: &[[usize; 2]],
        policies: &[PairPolicy],
        device: &B::Device,
    ) -> Self {
        let (p, n) = (policies.len(), pairs.len());
        for policy in policies {
            assert!(policy.indicators.len() == n && policy.mass.len() == n, "one entry per pair");
            assert!(policy.shift.is_empty() || policy.shift.len() == n_cells, "one entry per cell");
        }
        let table = |values: Vec<f32>, width: usize| {
            Tensor::<B, 2>::from_data(TensorData::new(values, [p, width]), device)
        };
        let cells = |r: usize| {
            let row: Vec<i32> = pairs.iter().map(|cells| cells[r] as i32).collect();
            Tensor::<B, 2, Int>::from_data(TensorData::new(row.repeat(p), [p, n]), device)
        };
        let share = |q: &PairPolicy| {
            let total: f32 = q.mass.iter().sum::<f32>().max(f32::MIN_POSITIVE);
            q.mass.iter().map(|x| x / total).collect::<Vec<f32>>()
        };
        let shift = |q: &PairPolicy| match q.shift.is_empty() {
            true => vec![0.0; n_cells],
            false => q.shift.clone(),
        };
        Self {
            cells: [cells(0), cells(1)],
            indicators: table(policies.iter().flat_map(|q| q.indicators.clone()).collect(), n),
            mass: table(policies.iter().flat_map(share).collect(), n),
            // β goes into the margin, so that one loss serves all rows: h is scaled per row.
            scale: table(policies.iter().map(|q| q.scale as f32).collect(), 1),
            shift: table(policies.iter().flat_map(shift).collect(), n_cells),
        }
    }

    /// The scaled rewards of both responses of each pair from those of the cells, before shift and scale.
    pub(super) fn rewards(&self, of_cells: Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
        let rewards = (of_cells - self.shift.clone()) * self.scale.clone();
        self.cells.clone().map(|cells| rewards.clone().gather(1, cells))
    }
}

/// Trains one table per objective of `data` with DPO on all pairs ([`learn_pairs`]).
///
/// * `mass`: weight of each pair per objective; 0 excludes it. Normalised.
/// * `beta`: β per objective.
///
/// # Panics
/// If `mass` or `beta` do not fit the data.
pub fn learn_dpo<B: AutodiffBackend>(
    data: &Comparisons,
    mass: &[Vec<f32>],
    beta: &[f64],
    config: &LearnerConfig,
    device: &B::Device,
    progress: &mut dyn FnMut(usize),
) -> Vec<Vec<f64>> {
    let (p, a) = (data.n_objectives(), data.n_actions());
    assert!(mass.len() == p && beta.len() == p, "one entry per objective");
    let policy = |k: usize| PairPolicy {
        indicators: data.pairs().iter().map(|q| q.indicators[k]).collect(),
        mass: mass[k].clone(),
        scale: beta[k],
        shift: Vec::new(),
    };
    let policies: Vec<PairPolicy> = (0..p).map(policy).collect();
    let cell = |context: usize, y: usize| context * a + y;
    let pairs: Vec<[usize; 2]> = data
        .pairs()
        .iter()
        .map(|q| [cell(q.context, q.first), cell(q.context, q.second)])
        .collect();
    let shape = [data.n_contexts() * a, a];
    learn_pairs::<B>(shape, &pairs, &policies, Divergence::ReverseKl, config, device, progress)
}
