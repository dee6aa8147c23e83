//! The five canonical structures over a sweep of τ (Figure 4 of the paper).

use burn::tensor::backend::AutodiffBackend;
use serde::Serialize;

use crate::bandit::{Learned, LearnerConfig, Run, Structure, learn, total_variation};
use crate::mopo::{IndicatorEstimator, MopoConfig, ThresholdRule};
use crate::{Ball, Result};

/// Settings of [`structures`].
#[derive(Debug, Clone, PartialEq)]
pub struct StructureSettings {
    /// Which structures.
    pub structures: Vec<Structure>,
    /// The sweep of τ.
    pub taus: Vec<f64>,
    /// One run of everything per seed.
    pub seeds: Vec<u64>,
    /// The loop.
    pub learner: LearnerConfig,
    /// Steps between refreshes of the reference in the second run; `None` omits that run.
    pub reference_lag: Option<usize>,
}

impl Default for StructureSettings {
    /// τ from 0.02 to 5, five seeds, the paper's loop, lag 500.
    fn default() -> Self {
        Self {
            structures: Structure::ALL.to_vec(),
            taus: vec![0.02, 0.08, 0.2, 0.5, 1.0, 5.0],
            seeds: (0..5).collect(),
            learner: LearnerConfig::default(),
            reference_lag: Some(500),
        }
    }
}

/// A learned policy and the exact one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StructureRow {
    /// Name of the structure.
    pub structure: &'static str,
    /// τ.
    pub tau: f64,
    /// `action`, or `pair`: the paper's equation 11 read literally.
    pub estimator: &'static str,
    /// Steps between refreshes of the reference; `None`: never.
    pub reference_lag: Option<usize>,
    /// Seed.
    pub seed: u64,
    /// π(a), π(b), π(c).
    pub learned: Vec<f64>,
    /// The exact solution: for a fixed reference, or iterated from refresh to refresh.
    pub exact: Vec<f64>,
    /// ½ Σ |learned − exact|.
    pub total_variation: f64,
    /// λ of the second objective at the end.
    pub lambda: f64,
    /// λ of the exact solution (of the last window, if the reference is refreshed).
    pub exact_lambda: f64,
}

/// Learns every structure at every τ with every seed: with the `action` estimator, with the `pair`
/// estimator, and with `action` and a lagged reference.
///
/// # Errors
/// Those of [`learn`] and of the exact solver.
pub fn structures<B: AutodiffBackend>(
    settings: &StructureSettings,
    device: &B::Device,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<StructureRow>> {
    let data: Vec<_> = settings.structures.iter().map(|s| s.comparisons()).collect();
    let fixed = usize::MAX;
    let mut kinds = vec![(IndicatorEstimator::Action, fixed), (IndicatorEstimator::Pair, fixed)];
    kinds.extend(settings.reference_lag.map(|lag| (IndicatorEstimator::Action, lag)));
    let mut runs = Vec::new();
    for (i, structure) in settings.structures.iter().enumerate() {
        for &tau in &settings.taus {
            for &(estimator, reference_lag) in &kinds {
                for &seed in &settings.seeds {
                    runs.push(Run {
                        data: i,
                        primary: 0,
                        thresholds: vec![0.0, structure.threshold().unwrap_or(0.0)],
                        mopo: MopoConfig {
                            tau,
                            indicator_estimator: estimator,
                            reference_lag,
                            ball: Ball::Radius(0.0),
                            thresholds: ThresholdRule::Fixed,
                            lambda_lr: 0.05,
                            lambda_max: 100.0,
                            ..MopoConfig::default()
                        },
                        seed,
                    });
                }
            }
        }
    }
    let learned = learn::<B>(&data, &runs, &settings.learner, device, progress)?;
    let mut rows = Vec::with_capacity(runs.len());
    for (run, learned) in runs.iter().zip(learned) {
        let structure = settings.structures[run.data];
        let (exact, exact_lambda) = exact(structure, run, settings.learner.steps)?;
        let lagged = run.mopo.reference_lag != fixed;
        rows.push(row(structure, run, learned, exact, exact_lambda, lagged));
    }
    Ok(rows)
}

fn row(
    structure: Structure,
    run: &Run,
    learned: Learned,
    exact: Vec<f64>,
    exact_lambda: f64,
    lagged: bool,
) -> StructureRow {
    StructureRow {
        structure: structure.name(),
        tau: run.mopo.tau,
        estimator: match run.mopo.indicator_estimator {
            IndicatorEstimator::Action => "action",
            IndicatorEstimator::Pair => "pair",
        },
        reference_lag: lagged.then_some(run.mopo.reference_lag),
        seed: run.seed,
        total_variation: total_variation(&learned.policy, &exact),
        learned: learned.policy,
        exact,
        lambda: learned.dual.lambda[1],
        exact_lambda,
    }
}

/// The exact policy and its λ; every refresh replaces the reference by the last solution.
fn exact(structure: Structure, run: &Run, steps: usize) -> Result<(Vec<f64>, f64)> {
    let thresholds = vec![None, structure.threshold()];
    let mut problem = structure.comparisons().problem(0, run.mopo.tau, thresholds);
    let windows = steps.saturating_sub(1) / run.mopo.reference_lag + 1;
    let mut last = (Vec::new(), 0.0);
    for _ in 0..windows {
        let solution = problem.solve()?;
        // An action that has died out in the reference remains possible, if hopeless.
        let floor = |p: &f64| p.max(1e-30);
        problem.contexts[0].reference = solution.policy[0].iter().map(floor).collect();
        last = (solution.policy[0].clone(), solution.lambda[1]);
    }
    Ok(last)
}
