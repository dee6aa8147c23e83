//! State from batch to batch: multipliers λ and χ, thresholds b, and the running means from which
//! adaptive thresholds are set. Plain `f64` on the host: there are only as many numbers as
//! objectives, and a checkpoint must keep every bit.

use serde::{Deserialize, Serialize};

use super::ExactDual;
use crate::mopo::{BatchStatistics, MopoConfig, ThresholdRule, ThresholdStatistic};

/// Limits of log χ: below e^-20 it no longer changes q̲ in f32. Above e^8, q̲ equals the plain
/// estimate within 1e-3, and its rounding error, which grows with χ, would soon be larger than
/// that.
const LOG_CHI: (f64, f64) = (-20.0, 8.0);

/// The multipliers of one policy. Every vector has one entry per objective; the primary's entries
/// exist so that all vectors share one index, and never change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DualState {
    /// Index of the policy's primary objective.
    pub primary: usize,
    /// λ_k ≥ 0.
    pub lambda: Vec<f64>,
    /// log χ_k: updating the logarithm keeps χ > 0.
    pub log_chi: Vec<f64>,
    /// b_k.
    pub thresholds: Vec<f64>,
    /// Sum of the threshold statistic since the last refresh.
    interval_sum: Vec<f64>,
    /// Number of batches in that sum.
    interval_count: Vec<u64>,
}

/// The effect of a step of the multipliers, per objective; `None` for the primary and if the batch
/// had no label.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DualStep {
    /// q̲_k − b_k before the step: negative where the constraint is violated on this batch.
    pub slack: Vec<Option<f64>>,
    /// λ_k is at its cap with the constraint still violated: at this τ the threshold seems
    /// unattainable, judging by the batches.
    pub saturated: Vec<bool>,
}

impl DualState {
    /// The state before the first batch, for the policy that maximises objective `primary`.
    pub fn new(config: &MopoConfig, primary: usize, n_objectives: usize) -> Self {
        let mut lambda = vec![config.initial_lambda; n_objectives];
        lambda[primary] = 0.0;
        Self {
            primary,
            lambda,
            log_chi: vec![config.initial_chi.ln(); n_objectives],
            thresholds: vec![config.initial_threshold; n_objectives],
            interval_sum: vec![0.0; n_objectives],
            interval_count: vec![0; n_objectives],
        }
    }

    /// The same, with one fixed threshold per objective (the primary's is ignored).
    pub fn with_thresholds(mut self, thresholds: &[f64]) -> Self {
        assert_eq!(thresholds.len(), self.thresholds.len(), "one threshold per objective");
        self.thresholds.copy_from_slice(thresholds);
        self
    }

    /// Indices of the secondary objectives.
    pub fn secondary(&self) -> impl Iterator<Item = usize> + use<> {
        let primary = self.primary;
        (0..self.lambda.len()).filter(move |&k| k != primary)
    }

    /// One step of Algorithm 1's multipliers on a batch's statistics: χ_k ascends q̲_k in log χ_k
    /// (or is the batch's best, where that was solved for),
    /// λ_k ← clip(λ_k − η_λ (q̲_k − b_k), 0, λ_max). The weights are held fixed (envelope theorem).
    pub fn step(&mut self, config: &MopoConfig, statistics: &BatchStatistics) -> DualStep {
        let n = self.lambda.len();
        let mut out = DualStep { slack: vec![None; n], saturated: vec![false; n] };
        for k in self.secondary() {
            let (Some(bound), Some(chi_gradient), Some(plain)) =
                (statistics.lower_bound[k], statistics.chi_gradient[k], statistics.plain[k])
            else {
                continue;
            };
            let slack = bound - self.thresholds[k];
            let log_chi = match statistics.best_chi[k] {
                Some(chi) => chi.ln(),
                None => self.log_chi[k] + config.chi_lr * chi_gradient,
            };
            self.log_chi[k] = log_chi.clamp(LOG_CHI.0, LOG_CHI.1);
            self.lambda[k] =
                (self.lambda[k] - config.lambda_lr * slack).clamp(0.0, config.lambda_max);
            out.slack[k] = Some(slack);
            out.saturated[k] = self.lambda[k] >= config.lambda_max && slack < 0.0;
            self.interval_sum[k] += match config.threshold_statistic {
                ThresholdStatistic::Plain => plain,
                ThresholdStatistic::LowerBound => bound,
            };
            self.interval_count[k] += 1;
        }
        out
    }

    /// Takes the multipliers of the exact dual on the whole data set; adaptive thresholds follow
    /// its estimate at the next refresh. χ is kept within the limits of [`step`](Self::step).
    pub fn set_exact(&mut self, config: &MopoConfig, exact: &ExactDual) {
        for k in self.secondary() {
            self.lambda[k] = exact.lambda[k];
            let statistic = match config.threshold_statistic {
                ThresholdStatistic::Plain => exact.plain[k],
                ThresholdStatistic::LowerBound => exact.lower_bound[k],
            };
            if let (Some(chi), Some(statistic)) = (exact.chi[k], statistic) {
                self.log_chi[k] = chi.ln().clamp(LOG_CHI.0, LOG_CHI.1);
                self.interval_sum[k] = statistic;
                self.interval_count[k] = 1;
            }
        }
    }

    /// Updates the thresholds when the reference is refreshed: adaptive ones become β × the
    /// interval's mean of the chosen statistic. An objective without labels in the whole interval
    /// keeps its threshold.
    pub fn refresh(&mut self, config: &MopoConfig) {
        for k in self.secondary() {
            if self.interval_count[k] > 0 && config.thresholds == ThresholdRule::Adaptive {
                let mean = self.interval_sum[k] / self.interval_count[k] as f64;
                self.thresholds[k] = config.relaxation * mean;
            }
        }
        self.interval_sum.fill(0.0);
        self.interval_count.fill(0);
    }

    /// Sets the thresholds from the statistics of a reference, one per objective: β times each. An objective
    /// without one keeps its threshold.
    pub fn follow(&mut self, config: &MopoConfig, levels: &[Option<f64>]) {
        for k in self.secondary() {
            if let Some(level) = levels[k] {
                self.thresholds[k] = config.relaxation * level;
            }
        }
    }

    /// χ_k.
    pub fn chi(&self, objective_idx: usize) -> f64 {
        self.log_chi[objective_idx].exp()
    }
}
