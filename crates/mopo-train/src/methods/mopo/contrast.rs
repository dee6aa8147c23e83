//! A step of pairwise extraction: log-ratio differences fitted to differences of the closed form's scores
//! (docs/math.md, section 13).

use burn::tensor::{ElementConversion, Tensor, backend::Backend};
use mopo_core::mopo::{
    PolicyDual, choice_statistics, contrast_targets, contrastive_loss, logistic_beta,
};
use mopo_core::{ContrastLoss, ResponseLabels};
use mopo_lm::{Decoder, sequence_log_probs_by_head};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::Metrics;
use serde::{Deserialize, Serialize};

use super::{Mopo, PHASE, Passes, StepPasses};
use crate::Result;
use crate::batches::pass_seed;
use crate::log_probs::to_tensor;

/// What a step's pairs are fitted to.
pub(super) struct Contrast {
    loss: ContrastLoss,
    /// Of each policy t/τ of every pair, and β.
    policies: Vec<(Vec<f64>, f64)>,
}

impl Contrast {
    /// The loss of a policy on pairs from `from` on, of which Δ of both responses are given, `[n_pairs]`; each pair's is
    /// multiplied with `mass`.
    pub(super) fn loss<B: Backend>(
        &self,
        policy: usize,
        from: usize,
        first: Tensor<B, 1>,
        second: Tensor<B, 1>,
        mass: f64,
    ) -> Tensor<B, 1> {
        let ([n], device) = (first.dims(), first.device());
        let (targets, beta) = &self.policies[policy];
        let targets: Vec<f32> = targets[from..from + n].iter().map(|t| *t as f32).collect();
        let same = |x: f64| Tensor::full([n], x, &device);
        let targets = to_tensor(&targets, &device);
        contrastive_loss(self.loss, first, second, targets, same(*beta), same(mass))
    }
}

impl<B: FusedAutodiffBackend> Mopo<'_, B> {
    /// Of the multipliers as they are.
    pub(super) fn contrast(&self, rows: &[Vec<Option<f32>>]) -> Contrast {
        let of = |policy: &PolicyDual<'_>| {
            (contrast_targets(rows, policy), logistic_beta(policy.tau, policy.dual))
        };
        let policies = self.policy_duals().iter().map(of).collect();
        Contrast { loss: self.setup.config.contrast_loss, policies }
    }

    /// Accumulates the gradients of the regression at the current multipliers, and moves the multipliers by what the
    /// policies themselves choose.
    pub(super) fn fit_contrasts(
        &mut self,
        step: usize,
        micro: &[Vec<usize>],
        rows: &[Vec<Option<f32>>],
        metrics: &mut Metrics,
    ) -> Result<Passes> {
        let (n_policies, n_rows) = (self.duals.len(), rows.len());
        // log π_ref − log π_0.
        let drift = self.log_ratios(micro)?.exact;
        let contrast = self.contrast(rows);
        let step_passes = StepPasses::new(micro, self.trainer.module().adapters.len());
        let (setup, sample) = (self.setup, &self.sample);
        let found = self.trainer.passes(step_passes.len(), |params, pass| {
            B::seed(&self.device, pass_seed(setup.seed, PHASE, step, pass));
            let (v, start, adapter) = step_passes.of(pass);
            let indices = &micro[v];
            let n = indices.len();
            let batch = sample.pairs.pack(indices, &vec![[true, true]; n])?;
            let inputs = batch.inputs::<B>(&self.device);
            let order = [batch.responses_at(0), batch.responses_at(1)].concat();
            let (adapter, served) = params.by_adapter().nth(adapter).expect("one for each");
            let mut found = PassValues { of: Vec::new(), n_tokens: batch.n_tokens() };
            let hidden = self.base.hidden_states_packed(&inputs, Some(adapter));
            let mut total: Option<Tensor<B, 1>> = None;
            let heads = &params.heads.heads[served.clone()];
            let all = vec![order; heads.len()];
            let by_head = sequence_log_probs_by_head(hidden, heads, &batch, &all);
            for (h, log_probs) in served.zip(by_head.into_iter().flatten()) {
                let of_pair = |i: usize, in_pair: usize| start + 2 * i + in_pair;
                let each = || [0, 1].into_iter().flat_map(|r| (0..n).map(move |i| (i, r)));
                let reference: Vec<f32> = each()
                    .map(|(i, r)| sample.initial[indices[i]][r] + drift[h][of_pair(i, r)])
                    .collect();
                let log_ratio = log_probs - to_tensor(&reference, &self.device);
                let loss = contrast.loss(
                    h,
                    start / 2,
                    log_ratio.clone().narrow(0, 0, n),
                    log_ratio.clone().narrow(0, n, n),
                    2.0 / n_rows as f64,
                );
                let value = loss.clone().into_scalar().elem::<f64>();
                let ratios: Vec<f32> = log_ratio.detach().into_data().iter().collect();
                let moved = each()
                    .zip(ratios)
                    .map(|((i, r), ratio)| {
                        let at = of_pair(i, r);
                        (at, ratio + drift[h][at])
                    })
                    .collect();
                found.of.push((h, value, moved));
                total = Some(match total {
                    None => loss,
                    Some(sum) => sum + loss,
                });
            }
            Ok((total, found))
        })?;
        let mut losses = vec![0.0; n_policies];
        // log π − log π_0, policy by policy.
        let mut moved = vec![0.0_f32; n_policies * n_rows];
        let n_tokens = found.iter().map(|pass| pass.n_tokens).sum();
        for (h, loss, of) in found.into_iter().flat_map(|pass| pass.of) {
            losses[h] += loss;
            of.into_iter().for_each(|(at, value)| moved[h * n_rows + at] = value);
        }
        let labels = ResponseLabels::<B::InnerBackend>::from_rows(rows, &self.device);
        // log π − log μ, μ the policy that the responses are from.
        let all = micro.iter().flatten();
        let offsets = all
            .flat_map(|&i| [0, 1].map(|r| self.sample.initial[i][r] - self.sample.behaviour(i)[r]));
        let offsets: Vec<f32> = offsets.collect();
        let from_behaviour = moved.iter().zip(offsets.iter().cycle()).map(|(m, o)| m + o).collect();
        let (weights, statistics) =
            choice_statistics(&self.policy_duals(), &labels, from_behaviour, &self.device);
        self.move_duals(&statistics, metrics);
        let kls = weights
            .chunks_exact(n_rows)
            .zip(moved.chunks_exact(n_rows))
            .map(|(weights, moved)| weights.iter().zip(moved).map(|(w, m)| w * f64::from(*m)).sum())
            .collect();
        let needed = vec![vec![true; n_rows]; n_policies];
        Ok(Passes { losses, kls, needed, n_tokens })
    }
}

/// Places of responses in the step, with their log π − log π_0.
type Moved = Vec<(usize, f32)>;

/// What a pass came to.
#[derive(Serialize, Deserialize)]
struct PassValues {
    /// Of each policy: its number, its loss, and its responses.
    of: Vec<(usize, f64, Moved)>,
    n_tokens: usize,
}
