//! What holds from one refresh of the reference to the next: its log-probs, smoothed ratios, thresholds at it, and the exact
//! dual.

use std::collections::BTreeSet;

use mopo_core::dual::{DualProblem, ResponseGroups};
use mopo_core::importance::{MAX_SHAPE, SmoothedWeights};
use mopo_core::mopo::choice_levels;
use mopo_core::{DualMethod, Extraction, RatioSmoothing, ThresholdRule};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::Metrics;

use super::{Mopo, Setup};
use crate::log_probs::{LogProbs, all_log_probs, reference_log_probs};
use crate::{Result, Silent};

/// A policy's ratios π_ref/π_0 of all training pairs, Pareto-smoothed.
pub(super) struct SmoothedRatios {
    /// Of both responses of each pair.
    log_ratios: Vec<[f32; 2]>,
    /// k̂.
    pub(super) shape: f64,
}

/// log π_ref of a step's responses less that of another policy, `[n_policies][n_responses]`.
pub(super) struct LogRatios {
    /// As they are, to π_0.
    pub(super) exact: Vec<Vec<f32>>,
    /// As the importance weights take them: to the policy that the responses are from; clipped token by token, smoothed, or
    /// as they are.
    pub(super) weighing: Vec<Vec<f32>>,
}

/// The share of a threshold below which a statistic at a refresh is told to have lost it.
const LOST: f64 = 0.95;

/// Says at a refresh which constraints were not kept, since thresholds at the reference follow what was reached.
fn warn_of_lost(setup: &Setup<'_>, primary: usize, thresholds: &[f64], levels: &[Option<f64>]) {
    let constraints = levels.iter().zip(thresholds).enumerate().filter(|(k, _)| *k != primary);
    for (k, (level, threshold)) in constraints {
        if let Some(level) = level.filter(|level| *level < LOST * threshold) {
            tracing::warn!(
                "policy `{}`: its constraint on `{}` was not kept up to this refresh ({level:.3} where {threshold:.3} was \
                 asked for), and its threshold now follows: a larger `mopo.lambda_lr` keeps more",
                setup.objectives.name(primary),
                setup.objectives.name(k),
            );
        }
    }
}

impl<B: FusedAutodiffBackend> Mopo<'_, B> {
    /// The ratios of all responses of a step. What the window does not have yet is computed.
    pub(super) fn log_ratios(&mut self, micro: &[Vec<usize>]) -> Result<LogRatios> {
        let n_responses = 2 * micro.iter().map(Vec::len).sum::<usize>();
        let n_policies = self.duals.len();
        let Some(reference) = &self.reference else {
            let none = vec![vec![0.0; n_responses]; n_policies];
            return Ok(LogRatios { exact: none.clone(), weighing: none });
        };
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
        let (pairs, config) = (&*self.sample.pairs, self.setup.config);
        let found = self.trainer.communicator().deal(missing.len(), |v| {
            reference_log_probs(
                &self.base_inner,
                reference,
                pairs,
                &missing[v],
                config.token_ratio_clip,
                &self.device,
            )
        })?;
        for (missing, lists) in missing.iter().zip(found) {
            self.scored_tokens +=
                missing.iter().flat_map(|&i| pairs.tokens.lengths(i)).sum::<usize>();
            known.insert_all(missing.iter().copied(), &lists);
        }
        let of_step = |ratios: &dyn Fn(usize, usize) -> [f32; 2]| {
            let of_policy = |h| micro.iter().flatten().flat_map(|&i| ratios(h, i)).collect();
            (0..n_policies).map(of_policy).collect()
        };
        Ok(LogRatios {
            exact: of_step(&|h, i| self.log_ratio(h, i)),
            weighing: of_step(&|h, i| match self.smoothed.get(h) {
                Some(smoothed) => smoothed.log_ratios[i],
                None => self.raw_log_ratio(h, i),
            }),
        })
    }

    /// log π_ref − log π_0 of both responses of a pair that the window has.
    fn log_ratio(&self, h: usize, pair: usize) -> [f32; 2] {
        let rows = self.reference_log_probs.get(pair).expect("computed before");
        let initial = self.sample.initial[pair];
        [0, 1].map(|r| rows[h][r] - initial[r])
    }

    /// log π_ref − log μ, μ the policy that the responses are from, before it is smoothed: clipped token by token if the
    /// configuration asks for it.
    fn raw_log_ratio(&self, h: usize, pair: usize) -> [f32; 2] {
        match self.setup.config.token_ratio_clip {
            Some(_) => {
                let rows = self.reference_log_probs.get(pair).expect("computed before");
                rows[self.duals.len() + h]
            }
            None => {
                let rows = self.reference_log_probs.get(pair).expect("computed before");
                let behaviour = self.sample.behaviour(pair);
                [0, 1].map(|r| rows[h][r] - behaviour[r])
            }
        }
    }

    /// Computes log π_ref of all pairs, unless the reference is the initial policy. All steps of the window need the same
    /// ones, so they are kept.
    fn score_all(&mut self) -> Result<()> {
        let Some(reference) = &self.reference else { return Ok(()) };
        let (pairs, config) = (&*self.sample.pairs, self.setup.config);
        // Those of a fresh sample are there.
        if self.reference_log_probs.len() == pairs.len() {
            return Ok(());
        }
        let communicator = self.trainer.communicator();
        let lists: Vec<LogProbs> = match config.token_ratio_clip {
            None => all_log_probs(
                &self.base_inner,
                Some(reference),
                pairs,
                "reference",
                &self.device,
                communicator,
                &mut Silent,
            )?,
            clip => {
                let found = communicator.deal(pairs.len(), |i| {
                    reference_log_probs(
                        &self.base_inner,
                        reference,
                        pairs,
                        &[i],
                        clip,
                        &self.device,
                    )
                })?;
                let list = |of: usize| found.iter().map(|lists| lists[of][0]).collect();
                (0..2 * self.duals.len()).map(list).collect()
            }
        };
        self.scored_tokens += pairs.row_lengths().iter().sum::<usize>();
        self.reference_log_probs.insert_all(0..pairs.len(), &lists);
        Ok(())
    }

    /// What a window begins with, if it needs all pairs: thresholds at the reference, and the exact dual.
    pub(super) fn begin_window(&mut self) -> Result<()> {
        let config = self.setup.config;
        let is_reference = config.thresholds == ThresholdRule::Reference;
        let is_exact = config.dual == DualMethod::Exact;
        let is_smoothed = config.ratio_smoothing == RatioSmoothing::Pareto;
        if !is_reference && !is_exact && !is_smoothed {
            return Ok(());
        }
        self.score_all()?;
        self.smooth();
        let (pairs, radius) = (&*self.sample.pairs, &self.sample.radius);
        for (h, smoothed) in self.smoothed.iter().enumerate() {
            self.warn_of_ratios(h, smoothed.shape, "until the next refresh");
        }
        let ratios_of = |h: usize| match self.smoothed.get(h) {
            Some(smoothed) => smoothed.log_ratios.clone(),
            None if self.reference.is_none() => vec![[0.0; 2]; pairs.len()],
            None => (0..pairs.len()).map(|i| self.raw_log_ratio(h, i)).collect(),
        };
        let ratios: Vec<Vec<[f32; 2]>> = (0..self.duals.len()).map(ratios_of).collect();
        self.exact.clear();
        for (dual, ratios) in self.duals.iter_mut().zip(ratios) {
            let responses = || {
                let both = pairs.labels.iter().zip(&ratios);
                both.flat_map(|(labels, ratio)| [0, 1].map(|r| (labels[r].as_slice(), ratio[r])))
            };
            if is_reference {
                let levels = match config.extraction {
                    Extraction::Cloning => ResponseGroups::new(responses(), config.ratio_clip)?
                        .reference_levels(radius),
                    Extraction::Pairwise => choice_levels(&pairs.labels, &ratios, radius),
                };
                let before = dual.thresholds.clone();
                dual.follow(config, &levels);
                if self.reference.is_some() {
                    warn_of_lost(&self.setup, dual.primary, &before, &levels);
                }
            }
            if is_exact {
                let solved =
                    ResponseGroups::new(responses(), config.ratio_clip)?.solve(&DualProblem {
                        primary: dual.primary,
                        tau: config.tau,
                        thresholds: &dual.thresholds,
                        radius,
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

    /// Says at a refresh whether the estimates of the window that ends could be trusted, by k̂ of the ratios that it used.
    /// Smoothed ones were judged when it began, and those of fresh answers are bounded.
    pub(super) fn judge_window(&self, metrics: &mut Metrics) {
        let config = self.setup.config;
        let is_judged = config.ratio_smoothing == RatioSmoothing::Pareto || self.fresh.is_some();
        if self.reference.is_none() || is_judged || config.extraction == Extraction::Pairwise {
            return;
        }
        for (h, dual) in self.duals.iter().enumerate() {
            let known =
                (0..self.sample.pairs.len()).filter(|&i| self.reference_log_probs.get(i).is_some());
            let ratios: Vec<f64> =
                known.flat_map(|i| self.raw_log_ratio(h, i).map(f64::from)).collect();
            if ratios.is_empty() || !ratios.iter().all(|ratio| ratio.is_finite()) {
                continue;
            }
            let shape = SmoothedWeights::of(&ratios).shape;
            if shape.is_finite() {
                let name = self.setup.objectives.name(dual.primary);
                metrics.set(super::RATIO_SHAPE.of(name), shape);
                self.warn_of_ratios(h, shape, "since the refresh before this one");
            }
        }
    }

    fn warn_of_ratios(&self, h: usize, shape: f64, when: &str) {
        if shape > MAX_SHAPE {
            tracing::warn!(
                "policy `{}`: k̂ of the ratios π_ref/π_0 is {shape:.2}, above {MAX_SHAPE}: {when} its constraints' \
                 estimates are not to be trusted",
                self.setup.objectives.name(self.duals[h].primary),
            );
        }
    }

    /// Smooths the ratios of all pairs, if the configuration asks for it; from log-probs that are all there.
    pub(super) fn smooth(&mut self) {
        self.smoothed.clear();
        if self.setup.config.ratio_smoothing == RatioSmoothing::None || self.reference.is_none() {
            return;
        }
        for h in 0..self.duals.len() {
            let raw: Vec<f64> = (0..self.sample.pairs.len())
                .flat_map(|i| self.raw_log_ratio(h, i).map(f64::from))
                .collect();
            let SmoothedWeights { log_ratios, shape, .. } = SmoothedWeights::of(&raw);
            let (pairs, _) = log_ratios.as_chunks::<2>();
            let log_ratios = pairs.iter().map(|of| of.map(|x| x as f32)).collect();
            self.smoothed.push(SmoothedRatios { log_ratios, shape });
        }
    }
}
