//! A step of pairwise extraction: log-ratio differences fitted to differences of the closed form's scores
//! (docs/math.md, section 13).

use burn::tensor::{ElementConversion, Tensor};
use mopo_core::ResponseLabels;
use mopo_core::mopo::{choice_statistics, contrast_targets, contrastive_loss};
use mopo_lm::{Decoder, sequence_log_probs};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::Metrics;

use super::{Mopo, Passes};
use crate::Result;
use crate::log_probs::to_tensor;

impl<B: FusedAutodiffBackend> Mopo<'_, B> {
    /// Accumulates the gradients of the regression at the current multipliers, and moves the multipliers by what the
    /// policies themselves choose.
    pub(super) fn fit_contrasts(
        &mut self,
        micro: &[Vec<usize>],
        rows: &[Vec<Option<f32>>],
        metrics: &mut Metrics,
    ) -> Result<Passes> {
        let (n_policies, n_rows) = (self.duals.len(), rows.len());
        // log π_ref − log π_0.
        let drift = self.log_ratios(micro)?;
        let targets: Vec<Vec<f64>> =
            self.policy_duals().iter().map(|policy| contrast_targets(rows, policy)).collect();
        let mut losses = vec![0.0; n_policies];
        // log π − log π_0, policy by policy.
        let mut moved = vec![0.0_f32; n_policies * n_rows];
        let (mut n_tokens, mut start) = (0, 0);
        for indices in micro {
            let n = indices.len();
            let batch = self.setup.pairs.pack(indices, &vec![[true, true]; n])?;
            let inputs = batch.inputs::<B>(&self.device);
            let order = [batch.responses_at(0), batch.responses_at(1)].concat();
            let mass = Tensor::full([n], 2.0 / n_rows as f64, &self.device);
            // A clone shares the parameters.
            let params = self.trainer.module().clone();
            for (adapter, served) in params.by_adapter() {
                n_tokens += batch.n_tokens();
                let hidden = self.base.hidden_states_packed(&inputs, Some(adapter));
                let mut total: Option<Tensor<B, 1>> = None;
                for h in served {
                    let head = &params.heads.heads[h];
                    let log_probs = sequence_log_probs(hidden.clone(), head, &batch, &order);
                    let of_pair = |i: usize, in_pair: usize| start + 2 * i + in_pair;
                    let each = || [0, 1].into_iter().flat_map(|r| (0..n).map(move |i| (i, r)));
                    let reference: Vec<f32> = each()
                        .map(|(i, r)| {
                            self.setup.initial_log_probs[indices[i]][r] + drift[h][of_pair(i, r)]
                        })
                        .collect();
                    let log_ratio = log_probs - to_tensor(&reference, &self.device);
                    let wanted: Vec<f32> =
                        (0..n).map(|i| targets[h][start / 2 + i] as f32).collect();
                    let loss = contrastive_loss(
                        log_ratio.clone().narrow(0, 0, n),
                        log_ratio.clone().narrow(0, n, n),
                        to_tensor(&wanted, &self.device),
                        mass.clone(),
                    );
                    losses[h] += loss.clone().into_scalar().elem::<f64>();
                    let found: Vec<f32> = log_ratio.detach().into_data().iter().collect();
                    for ((i, r), value) in each().zip(found) {
                        let at = of_pair(i, r);
                        moved[h * n_rows + at] = value + drift[h][at];
                    }
                    total = Some(match total {
                        None => loss,
                        Some(sum) => sum + loss,
                    });
                }
                if let Some(total) = total {
                    self.trainer.accumulate(total);
                }
            }
            start += 2 * n;
        }
        let labels = ResponseLabels::<B::InnerBackend>::from_rows(rows, &self.device);
        let (weights, statistics) =
            choice_statistics(&self.policy_duals(), &labels, moved.clone(), &self.device);
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
