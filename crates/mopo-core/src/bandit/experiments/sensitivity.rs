//! Sensitivity to the relaxation β and the reference's lag t₀ under adaptive thresholds (Figure 6
//! of the paper), on a toy front.

use burn::tensor::backend::AutodiffBackend;
use serde::Serialize;

use super::ball_name;
use crate::bandit::{Batch, Labels, Learned, LearnerConfig, Run, ToySet, learn};
use crate::mopo::{MopoConfig, ThresholdRule, ThresholdStatistic};
use crate::{Ball, Result};

/// Settings of [`sensitivity`].
#[derive(Debug, Clone, PartialEq)]
pub struct SensitivitySettings {
    /// The toy; its first reward is the primary.
    pub set: ToySet,
    /// τ.
    pub tau: f64,
    /// β.
    pub relaxations: Vec<f64>,
    /// t₀.
    pub lags: Vec<usize>,
    /// What the thresholds follow, and the ball of the constraint.
    pub rules: Vec<(ThresholdStatistic, Ball)>,
    /// Sampled triplets.
    pub n_triplets: usize,
    /// The loop; its batch must be `Batch::All`.
    pub learner: LearnerConfig,
    /// Cap of λ, high enough to see it grow.
    pub lambda_max: f64,
    /// Seed of the triplets and labels; the loop itself is deterministic.
    pub seed: u64,
}

impl Default for SensitivitySettings {
    /// Set A, the paper's τ, a grid of five by five around the paper's β and t₀, 3,000 steps. The
    /// rules: the paper's; the same with a ball that fits the data; the lower bound.
    fn default() -> Self {
        Self {
            set: ToySet::A,
            tau: 0.08,
            relaxations: vec![0.9, 0.99, 0.999, 0.9995, 1.0],
            lags: vec![50, 100, 250, 500, 1000],
            rules: vec![
                (ThresholdStatistic::Plain, Ball::Radius(0.15)),
                (ThresholdStatistic::Plain, Ball::Confidence(0.95)),
                (ThresholdStatistic::LowerBound, Ball::Confidence(0.95)),
            ],
            n_triplets: 10_000,
            learner: LearnerConfig { steps: 3000, batch: Batch::All, learning_rate: 0.015 },
            lambda_max: 1000.0,
            seed: 0,
        }
    }
}

/// One policy after training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SensitivityRow {
    /// `plain` or `lower_bound`.
    pub statistic: &'static str,
    /// The ball: `radius 0.15`, `confidence 0.95`.
    pub ball: String,
    /// β.
    pub relaxation: f64,
    /// t₀.
    pub reference_lag: usize,
    /// E\[r₁\], the primary's reward.
    pub reward_1: f64,
    /// E\[r₂\].
    pub reward_2: f64,
    /// True E\[p\].
    pub primary: f64,
    /// True E\[q\].
    pub secondary: f64,
    /// The initial b: the reference's own value on the data.
    pub first_threshold: f64,
    /// b at the end.
    pub threshold: f64,
    /// λ at the end.
    pub lambda: f64,
    /// Largest λ during training.
    pub largest_lambda: f64,
    /// E_x\[KL(π ‖ uniform)\], in nats.
    pub kl: f64,
}

/// Learns one policy per rule, β and t₀, at the same time.
///
/// # Errors
/// Those of [`learn`].
pub fn sensitivity<B: AutodiffBackend>(
    settings: &SensitivitySettings,
    device: &B::Device,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<SensitivityRow>> {
    let set = settings.set;
    let data = set.sample(settings.n_triplets, Labels::Sampled, &[1.0, 0.0], settings.seed)?;
    let start: f64 = data.preference()[1]
        .chunks(data.n_actions())
        .zip(data.context_shares())
        .map(|(q, share)| share * q.iter().sum::<f64>() / q.len() as f64)
        .sum();
    let mut runs = Vec::new();
    for &(statistic, ball) in &settings.rules {
        for &reference_lag in &settings.lags {
            for &relaxation in &settings.relaxations {
                runs.push(Run {
                    data: 0,
                    primary: 0,
                    thresholds: vec![0.0, start],
                    mopo: MopoConfig {
                        tau: settings.tau,
                        ball,
                        relaxation,
                        reference_lag,
                        threshold_statistic: statistic,
                        thresholds: ThresholdRule::Adaptive,
                        lambda_max: settings.lambda_max,
                        ..MopoConfig::default()
                    },
                    seed: settings.seed,
                });
            }
        }
    }
    let learned = learn::<B>(&[data], &runs, &settings.learner, device, progress)?;
    Ok(runs.iter().zip(&learned).map(|(run, learned)| row(set, run, learned, start)).collect())
}

fn row(set: ToySet, run: &Run, learned: &Learned, first_threshold: f64) -> SensitivityRow {
    let policy = &learned.policy;
    let [reward_1, reward_2] = set.rewards().map(|r| ToySet::mean(&r, policy));
    let [primary, secondary] = set.preference().map(|q| ToySet::mean(&q, policy));
    let divergence: Vec<f64> =
        policy.iter().map(|p| (p.max(f64::MIN_POSITIVE) * ToySet::N_ACTIONS as f64).ln()).collect();
    SensitivityRow {
        statistic: match run.mopo.threshold_statistic {
            ThresholdStatistic::Plain => "plain",
            ThresholdStatistic::LowerBound => "lower_bound",
        },
        ball: ball_name(run.mopo.ball),
        relaxation: run.mopo.relaxation,
        reference_lag: run.mopo.reference_lag,
        reward_1,
        reward_2,
        primary,
        secondary,
        first_threshold,
        threshold: learned.dual.thresholds[1],
        lambda: learned.dual.lambda[1],
        largest_lambda: learned.largest_lambda[1],
        kl: ToySet::mean(&divergence, policy),
    }
}
