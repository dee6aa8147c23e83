//! Rules for thresholds, compared at the end of many refreshes.

use burn::tensor::backend::AutodiffBackend;
use serde::Serialize;

use super::MethodSettings;
use super::problem::Problem;
use crate::bandit::{Batch, Comparisons, Learned, LearnerConfig, Run, learn};
use crate::mopo::{Extraction, MopoConfig, ThresholdRule, ThresholdStatistic};
use crate::{Ball, Result};

/// A rule for thresholds, and how policies are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) name: &'static str,
    thresholds: ThresholdRule,
    statistic: ThresholdStatistic,
    extraction: Extraction,
}

/// The rules that are compared.
pub(super) const RULES: [Rule; 5] = [
    Rule {
        name: "fixed",
        thresholds: ThresholdRule::Fixed,
        statistic: ThresholdStatistic::Plain,
        extraction: Extraction::Cloning,
    },
    Rule {
        name: "adaptive_plain",
        thresholds: ThresholdRule::Adaptive,
        statistic: ThresholdStatistic::Plain,
        extraction: Extraction::Cloning,
    },
    Rule {
        name: "adaptive_lower_bound",
        thresholds: ThresholdRule::Adaptive,
        statistic: ThresholdStatistic::LowerBound,
        extraction: Extraction::Cloning,
    },
    Rule {
        name: "reference",
        thresholds: ThresholdRule::Reference,
        statistic: ThresholdStatistic::Plain,
        extraction: Extraction::Cloning,
    },
    Rule {
        name: "reference_pairwise",
        thresholds: ThresholdRule::Reference,
        statistic: ThresholdStatistic::Plain,
        extraction: Extraction::Pairwise,
    },
];

/// A policy after many refreshes under one rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThresholdRow {
    /// Name of the problem.
    pub problem: &'static str,
    /// Seed of the data; `None` where they are always the same.
    pub seed: Option<u64>,
    /// τ.
    pub tau: f64,
    /// `fixed`, `adaptive_plain`, `adaptive_lower_bound`, `reference`, `reference_pairwise`.
    pub rule: &'static str,
    /// Radius of the constraint's ball, nats.
    pub radius: f64,
    /// True E\[p\].
    pub primary: f64,
    /// True E\[q\].
    pub secondary: f64,
    /// E\[r₁\], E\[r₂\].
    pub reward: [f64; 2],
    /// KL to uniform, nats.
    pub kl: f64,
    /// b at the end.
    pub threshold: f64,
    /// λ at the end.
    pub lambda: f64,
    /// Largest λ during training.
    pub largest_lambda: f64,
    /// Whether λ was at its cap at some step.
    pub at_cap: bool,
}

/// Radii of the balls that are compared: the published one, and none.
pub(super) const RADII: [f64; 2] = [0.15, 0.0];

/// A run on one of the data sets under a rule, with the published β, cap and step of λ, from the uniform policy's own
/// level.
pub(super) fn run(
    (rule, radius): (Rule, f64),
    data: &[Comparisons],
    (at, primary): (usize, usize),
    (tau, lag): (f64, usize),
) -> Run {
    let shares = data[at].context_shares();
    let n = data[at].n_actions() as f64;
    let level = |q: &Vec<f64>| -> f64 {
        q.iter().enumerate().map(|(cell, q)| shares[cell / data[at].n_actions()] * q / n).sum()
    };
    Run {
        data: at,
        primary,
        thresholds: data[at].preference().iter().map(level).collect(),
        mopo: MopoConfig {
            tau,
            ball: Ball::Radius(radius),
            reference_lag: lag,
            thresholds: rule.thresholds,
            threshold_statistic: rule.statistic,
            extraction: rule.extraction,
            ..MopoConfig::default()
        },
        seed: 0,
    }
}

/// Every rule at every τ on every data set, with the first objective as the primary.
pub(super) fn rows<B: AutodiffBackend>(
    problem: &Problem,
    data: &[Comparisons],
    seeds: &[Option<u64>],
    settings: &MethodSettings,
    device: &B::Device,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<ThresholdRow>> {
    let mut runs = Vec::new();
    let mut rules = Vec::new();
    for at in 0..data.len() {
        for &tau in &settings.threshold_taus {
            for radius in RADII {
                for rule in RULES {
                    runs.push(run((rule, radius), data, (at, 0), (tau, settings.threshold_lag)));
                    rules.push((rule, radius));
                }
            }
        }
    }
    let config = LearnerConfig {
        steps: settings.threshold_steps,
        batch: Batch::All,
        learning_rate: settings.learning_rate,
    };
    let learned = learn::<B>(data, &runs, &config, device, progress)?;
    let row = |((run, (rule, radius)), learned): ((&Run, &(Rule, f64)), &Learned)| {
        let policy = &learned.policy;
        ThresholdRow {
            problem: problem.name,
            seed: seeds[run.data],
            tau: run.mopo.tau,
            rule: rule.name,
            radius: *radius,
            primary: problem.mean(&problem.preference[0], policy),
            secondary: problem.mean(&problem.preference[1], policy),
            reward: problem.rewards.each_ref().map(|r| problem.mean(r, policy)),
            kl: problem.kl(policy),
            threshold: learned.dual.thresholds[1],
            lambda: learned.dual.lambda[1],
            largest_lambda: learned.largest_lambda[1],
            at_cap: learned.largest_lambda[1] >= run.mopo.lambda_max,
        }
    };
    Ok(runs.iter().zip(&rules).zip(&learned).map(row).collect())
}
