//! What holds from one refresh of the reference to the next: its log-probs, smoothed ratios, thresholds at it, and the exact
//! dual.

use std::collections::BTreeSet;

use mopo_core::dual::{DualProblem, ResponseGroups};
use mopo_core::importance::{MAX_SHAPE, SmoothedWeights};
use mopo_core::mopo::choice_levels;
use mopo_core::{DualMethod, Extraction, RatioSmoothing, ThresholdRule};
use mopo_ops::FusedAutodiffBackend;

use super::Mopo;
use crate::log_probs::{LogProbs, all_log_probs, batch_log_probs};
use crate::{Result, Silent};

/// A policy's ratios π_ref/π_0 of all training pairs, Pareto-smoothed.
pub(super) struct SmoothedRatios {
    /// Of both responses of each pair.
    log_ratios: Vec<[f32; 2]>,
    /// k̂.
    pub(super) shape: f64,
}

impl<B: FusedAutodiffBackend> Mopo<'_, B> {
    /// log π_ref − log π_0 of every response, `[n_policies × n_responses]`, policy by policy.
    pub(super) fn log_ratios(&mut self, micro: &[Vec<usize>]) -> Result<Vec<Vec<f32>>> {
        let n_responses = 2 * micro.iter().map(Vec::len).sum::<usize>();
        let n_policies = self.duals.len();
        let Some(reference) = &self.reference else {
            return Ok(vec![vec![0.0; n_responses]; n_policies]);
        };
        if !self.smoothed.is_empty() {
            let of = |smoothed: &SmoothedRatios| {
                micro.iter().flatten().flat_map(|&i| smoothed.log_ratios[i]).collect()
            };
            return Ok(self.smoothed.iter().map(of).collect());
        }
        let known = &mut self.reference_log_probs;
        let mut wanted = BTreeSet::new();
        let missing: Vec<Vec<usize>> = micro
            .iter()
            .map(|indices| {
                let is_new = |&i: &usize| known.get(i).is_none() && wanted.insert(i);
                indices.iter().copied().filter(is_new).collect()
            })
            .filter(|missing: &Vec<usize>| !missing.is_empty())
            .collect();
        let pairs = self.setup.pairs;
        let found = self.trainer.communicator().deal(missing.len(), |v| {
            batch_log_probs(&self.base_inner, Some(reference), pairs, &missing[v], &self.device)
        })?;
        for (missing, heads) in missing.iter().zip(found) {
            self.scored_tokens +=
                missing.iter().flat_map(|&i| pairs.tokens.lengths(i)).sum::<usize>();
            for (row, &i) in missing.iter().enumerate() {
                known.insert(i, heads.iter().map(|of| of[row]).collect());
            }
        }
        let mut out = vec![Vec::with_capacity(n_responses); n_policies];
        for &i in micro.iter().flatten() {
            let initial = self.setup.initial_log_probs[i];
            let rows = known.get(i).expect("just computed");
            for (ratios, row) in out.iter_mut().zip(rows) {
                ratios.extend([row[0] - initial[0], row[1] - initial[1]]);
            }
        }
        Ok(out)
    }

    /// log π_ref of all pairs, one list per policy; `None`: the reference is the initial policy. All steps of the
    /// window need the same ones, so they are kept.
    fn reference_on_all(&mut self) -> Result<Option<Vec<LogProbs>>> {
        let Some(reference) = &self.reference else { return Ok(None) };
        let pairs = self.setup.pairs;
        let log_probs = all_log_probs(
            &self.base_inner,
            Some(reference),
            pairs,
            "reference",
            &self.device,
            self.trainer.communicator(),
            &mut Silent,
        )?;
        self.scored_tokens += pairs.row_lengths().iter().sum::<usize>();
        for i in 0..pairs.len() {
            self.reference_log_probs.insert(i, log_probs.iter().map(|of| of[i]).collect());
        }
        Ok(Some(log_probs))
    }

    /// What a window begins with, if it needs all pairs: thresholds at the reference, and the exact dual.
    pub(super) fn begin_window(&mut self) -> Result<()> {
        let (config, pairs) = (self.setup.config, self.setup.pairs);
        let is_reference = config.thresholds == ThresholdRule::Reference;
        let is_exact = config.dual == DualMethod::Exact;
        let is_smoothed = config.ratio_smoothing == RatioSmoothing::Pareto;
        if !is_reference && !is_exact && !is_smoothed {
            return Ok(());
        }
        let log_probs = self.reference_on_all()?;
        self.smooth();
        for (smoothed, dual) in self.smoothed.iter().zip(&self.duals) {
            if smoothed.shape > MAX_SHAPE {
                tracing::warn!(
                    "policy `{}`: k̂ of the ratios π_ref/π_0 is {:.2}, above {MAX_SHAPE}: until the next refresh its \
                     constraints' estimates are not to be trusted",
                    self.setup.objectives.name(dual.primary),
                    smoothed.shape
                );
            }
        }
        let initial = self.setup.initial_log_probs;
        self.exact.clear();
        for (h, dual) in self.duals.iter_mut().enumerate() {
            let ratios: Vec<[f32; 2]> = match self.smoothed.get(h) {
                Some(smoothed) => smoothed.log_ratios.clone(),
                None => (0..pairs.len())
                    .map(|i| {
                        let reference = log_probs.as_ref().map_or(initial[i], |of| of[h][i]);
                        [0, 1].map(|r| reference[r] - initial[i][r])
                    })
                    .collect(),
            };
            let responses = || {
                let both = pairs.labels.iter().zip(&ratios);
                both.flat_map(|(labels, ratio)| [0, 1].map(|r| (labels[r].as_slice(), ratio[r])))
            };
            if is_reference {
                let levels = match config.extraction {
                    Extraction::Cloning => ResponseGroups::new(responses(), config.ratio_clip)?
                        .reference_levels(&self.radius),
                    Extraction::Pairwise => choice_levels(&pairs.labels, &ratios, &self.radius),
                };
                dual.follow(config, &levels);
            }
            if is_exact {
                let solved =
                    ResponseGroups::new(responses(), config.ratio_clip)?.solve(&DualProblem {
                        primary: dual.primary,
                        tau: config.tau,
                        thresholds: &dual.thresholds,
                        radius: &self.radius,
                        lambda_max: config.lambda_max,
                    });
                dual.set_exact(config, &solved);
                if !solved.is_solved() {
                    tracing::warn!(
                        "the exact dual of policy `{}` is off by {:.1e} after {} iterations",
                        self.setup.objectives.name(dual.primary),
                        solved.kkt.stationarity,
                        solved.iterations
                    );
                }
                self.exact.push(solved);
            }
        }
        Ok(())
    }

    /// Smooths the ratios of all pairs, if the configuration asks for it; from log-probs that are all there.
    pub(super) fn smooth(&mut self) {
        self.smoothed.clear();
        if self.setup.config.ratio_smoothing == RatioSmoothing::None || self.reference.is_none() {
            return;
        }
        let initial = self.setup.initial_log_probs;
        for h in 0..self.duals.len() {
            let raw: Vec<f64> = (0..initial.len())
                .flat_map(|i| {
                    let rows = self.reference_log_probs.get(i).expect("computed at the refresh");
                    [0, 1].map(|r| f64::from(rows[h][r] - initial[i][r]))
                })
                .collect();
            let SmoothedWeights { log_ratios, shape, .. } = SmoothedWeights::of(&raw);
            let (pairs, _) = log_ratios.as_chunks::<2>();
            let log_ratios = pairs.iter().map(|of| of.map(|x| x as f32)).collect();
            self.smoothed.push(SmoothedRatios { log_ratios, shape });
        }
    }
}
