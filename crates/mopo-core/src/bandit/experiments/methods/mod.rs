//! Every method that has a form on a table, on the same problems, against the exact front.

mod ascent;
mod grpo;
mod ham;
mod newer;
mod problem;
mod rivals;
mod shares;
mod thresholds;

use burn::tensor::backend::AutodiffBackend;
use serde::Serialize;

use crate::bandit::comparisons::MergedPairs;
use crate::bandit::{
    Batch, Comparisons, Labels, Learned, LearnerConfig, Run, Structure, ToySet, learn,
};
use crate::divergence::Divergence;
use crate::mopo::{Extraction, MopoConfig, ThresholdRule};
use crate::{Ball, Error, Result};

use problem::{Problem, blend, projected};
use rivals::Sample;
use shares::method_shares;
pub use shares::{Mean, MethodShare};
pub use thresholds::ThresholdRow;
use thresholds::{RADII, RULES};

/// Settings of [`methods`].
#[derive(Debug, Clone, PartialEq)]
pub struct MethodSettings {
    /// Which structures.
    pub structures: Vec<Structure>,
    /// Which toy fronts.
    pub sets: Vec<ToySet>,
    /// τ of MOPO and of the exact COP; other methods' strengths are matched to it.
    pub tau: f64,
    /// Triplets (x, y, y′) of a toy.
    pub n_pairs: usize,
    /// Kind of a toy's labels.
    pub labels: Labels,
    /// Policies of a front: preference weights, and thresholds per sweep.
    pub n_points: usize,
    /// One draw of triplets and labels per seed.
    pub seeds: Vec<u64>,
    /// Steps of everything that is trained.
    pub steps: usize,
    /// Adam's learning rate of everything that is trained.
    pub learning_rate: f64,
    /// Steps between refreshes where thresholds follow them.
    pub reference_lag: usize,
    /// Values of τ of the comparison of thresholds.
    pub threshold_taus: Vec<f64>,
    /// Steps of that comparison.
    pub threshold_steps: usize,
    /// Steps between refreshes there.
    pub threshold_lag: usize,
}

impl Default for MethodSettings {
    /// All problems, the paper's τ, 10,000 triplets with drawn labels, fronts of 11, five seeds.
    fn default() -> Self {
        Self {
            structures: Structure::ALL.to_vec(),
            sets: ToySet::ALL.to_vec(),
            tau: 0.08,
            n_pairs: 10_000,
            labels: Labels::Sampled,
            n_points: 11,
            seeds: (0..5).collect(),
            steps: 2_000,
            learning_rate: 0.05,
            reference_lag: 500,
            threshold_taus: vec![0.02, 0.08, 0.2, 0.5],
            threshold_steps: 6_000,
            threshold_lag: 100,
        }
    }
}

impl MethodSettings {
    fn learner(&self) -> LearnerConfig {
        LearnerConfig { steps: self.steps, batch: Batch::All, learning_rate: self.learning_rate }
    }
}

/// A method's name in tables, and how its policies are made.
pub const METHODS: [(&str, &str); 36] = [
    ("exact", "closed form on the true preferences"),
    ("cop_on_data", "closed form on the data's mean labels"),
    ("pairwise_on_data", "closed form on the least-squares scores of the pairs"),
    ("mopo_fixed", "gradient steps, sweep of fixed thresholds"),
    ("mopo_pairwise", "gradient steps, sweep of fixed thresholds, pairwise extraction"),
    ("mopo_contrast", "gradient steps, sweep of fixed thresholds, cloning with a contrast"),
    ("mopo_adaptive_plain", "gradient steps, two policies and their mixtures"),
    ("mopo_adaptive_lower_bound", "gradient steps, two policies and their mixtures"),
    ("mopo_adaptive_no_ball", "gradient steps, two policies and their mixtures"),
    ("mopo_reference", "gradient steps, two policies and their mixtures"),
    ("mopo_reference_no_ball", "gradient steps, two policies and their mixtures"),
    ("mopo_reference_pairwise", "gradient steps, two policies and their mixtures"),
    ("mopo_reference_pairwise_no_ball", "gradient steps, two policies and their mixtures"),
    ("dpo", "gradient steps"),
    ("dpo_agree", "gradient steps"),
    ("dpo_weighted_labels", "gradient steps"),
    ("dpo_weighted_loss", "gradient steps"),
    ("dpo_mixed_reward", "gradient steps on labels of the weighted true reward"),
    ("ipo", "closed form: least squares on the data"),
    ("f_dpo_forward_kl", "gradient steps"),
    ("f_dpo_jensen_shannon", "gradient steps"),
    ("f_dpo_alpha", "gradient steps"),
    ("modpo", "gradient steps, margins of the true reward"),
    ("soups", "mixtures of the two DPO policies"),
    ("worst_case", "mixture of the two DPO policies by the worst weights of each context"),
    ("kto", "gradient steps on one objective; the two policies and their mixtures"),
    ("simpo", "gradient steps on one objective; the two policies and their mixtures"),
    ("sacpo", "gradient steps on one objective and then the other, merged, in both orders"),
    ("raco", "gradient steps, conflict-averse"),
    ("mod_forward_kl", "exact mixtures of two f-DPO policies"),
    ("mod_jensen_shannon", "exact mixtures of two f-DPO policies"),
    ("mod_alpha", "exact mixtures of two f-DPO policies"),
    ("can", "λ in closed form on the true rewards, then gradient steps"),
    ("ham", "gradient steps on the true rewards"),
    ("grpo", "gradient steps on the true rewards, each normalised in its context"),
    ("morlhf", "closed form on the true rewards"),
];

/// One policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodRow {
    /// `antichain`, `A`, …
    pub problem: &'static str,
    /// A name of [`METHODS`].
    pub method: &'static str,
    /// Seed of the data; `None` where nothing was drawn.
    pub seed: Option<u64>,
    /// Weight of the first objective, a threshold, or NaN.
    pub parameter: f64,
    /// τ or β.
    pub strength: f64,
    /// E\[r₁\], E\[r₂\]; for a structure, which has no rewards, its preferences.
    pub reward: [f64; 2],
    /// True E\[P(y ≻ μ)\].
    pub preference: [f64; 2],
    /// KL(π ‖ uniform), nats, mean over contexts.
    pub kl: f64,
}

impl MethodRow {
    fn new(
        problem: &Problem,
        method: &'static str,
        seed: Option<u64>,
        [parameter, strength]: [f64; 2],
        policy: &[f64],
    ) -> Self {
        Self {
            problem: problem.name,
            method,
            seed,
            parameter,
            strength,
            reward: problem.rewards.each_ref().map(|r| problem.mean(r, policy)),
            preference: problem.preference.each_ref().map(|p| problem.mean(p, policy)),
            kl: problem.kl(policy),
        }
    }
}

/// All that [`methods`] finds.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodResults {
    /// Every policy.
    pub rows: Vec<MethodRow>,
    /// Every front against the exact one.
    pub shares: Vec<MethodShare>,
    /// Rules for thresholds.
    pub thresholds: Vec<ThresholdRow>,
}

/// Preference weights of the first objective, ascending from 0 to 1.
fn weights(n: usize) -> Vec<f64> {
    (0..n).map(|i| i as f64 / (n.max(2) - 1) as f64).collect()
}

/// Runs everything. `progress` is called with (done, total) steps.
///
/// # Errors
/// [`Error::InvalidParameter`] for fewer than two points; those of the learner and of the exact solver.
pub fn methods<B: AutodiffBackend>(
    settings: &MethodSettings,
    device: &B::Device,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<MethodResults> {
    if settings.n_points < 2 {
        return Err(Error::InvalidParameter {
            field: "n_points",
            value: settings.n_points.to_string(),
            expected: "a front has two policies or more".into(),
        });
    }
    let problems: Vec<Problem> = settings
        .structures
        .iter()
        .map(|s| Problem::of_structure(*s))
        .chain(settings.sets.iter().map(|s| Problem::of_toy(*s)))
        .collect();
    let n_sets = settings.structures.len() + settings.sets.len() * settings.seeds.len();
    // Per data set eight trainings on pairs; per problem one of MOPO and one of thresholds.
    let total =
        8 * settings.steps * n_sets + problems.len() * (settings.steps + settings.threshold_steps);
    let mut done = 0;
    let mut results =
        MethodResults { rows: Vec::new(), shares: Vec::new(), thresholds: Vec::new() };
    for problem in &problems {
        let seeds: Vec<Option<u64>> = match problem.origin {
            problem::Origin::Structure(_) => vec![None],
            problem::Origin::Toy(_) => settings.seeds.iter().map(|s| Some(*s)).collect(),
        };
        let data: Vec<Comparisons> = seeds
            .iter()
            .map(|s| problem.data(settings.n_pairs, settings.labels, s.unwrap_or_default()))
            .collect::<Result<_>>()?;
        let rows = &mut results.rows;
        let start = rows.len();
        exact(problem, settings, rows)?;
        let kl = kl_to_match(problem, settings.tau)?;
        for (data, seed) in data.iter().zip(&seeds) {
            on_data(problem, data, *seed, settings, rows)?;
            let pairs = MergedPairs::new(data);
            let sample = Sample { problem, data, pairs: &pairs, seed: *seed, kl };
            rows.extend(rivals::rows::<B>(&sample, settings, device, &mut || {
                done += 1;
                progress(done, total);
            })?);
        }
        let before = done;
        let mut tell = |step: usize| progress(before + step, total);
        rows.extend(mopo::<B>(problem, &data, &seeds, settings, device, &mut tell)?);
        let before = before + settings.steps;
        let mut tell = |step: usize| progress(before + step, total);
        results
            .thresholds
            .extend(thresholds::rows::<B>(problem, &data, &seeds, settings, device, &mut tell)?);
        done = before + settings.threshold_steps;
        results.shares.extend(method_shares(problem, settings, &rows[start..])?);
    }
    Ok(results)
}

/// KL of the exact COP without a threshold.
fn kl_to_match(problem: &Problem, tau: f64) -> Result<f64> {
    let shares = vec![1.0; problem.n_contexts];
    let free = problem.constrained(&problem.preference, &shares, (0, tau), None)?;
    Ok(problem.kl(&free.policy))
}

/// What needs no data: the exact front, MORLHF, GRPO, and HaM.
fn exact(problem: &Problem, settings: &MethodSettings, rows: &mut Vec<MethodRow>) -> Result<()> {
    let (tau, n) = (settings.tau, settings.n_points);
    let shares = vec![1.0; problem.n_contexts];
    let truth = &problem.preference;
    let front = problem.front(truth, truth, &shares, tau, n)?;
    let mean_kl = front.iter().map(|c| problem.kl(&c.policy)).sum::<f64>() / front.len() as f64;
    for of in front {
        rows.push(MethodRow::new(problem, "exact", None, [of.threshold, tau], &of.policy));
    }
    let beta = problem.matched_strength(Divergence::ReverseKl, kl_to_match(problem, tau)?)?;
    let [first, second] = problem.rewards.each_ref().map(Vec::as_slice);
    for w in weights(n) {
        let policy =
            problem.regularised(Divergence::ReverseKl, &blend(w, [first, second]), beta)?;
        rows.push(MethodRow::new(problem, "morlhf", None, [w, beta], &policy));
    }
    let all = weights(n);
    let kl = kl_to_match(problem, tau)?;
    let (policies, beta) = grpo::policies(problem, &all, kl, &settings.learner());
    for (w, policy) in all.iter().zip(policies) {
        rows.push(MethodRow::new(problem, "grpo", None, [*w, beta], &policy));
    }
    let (policies, beta) = ham::policies(problem, n, mean_kl, &settings.learner());
    for policy in policies {
        rows.push(MethodRow::new(problem, "ham", None, [f64::NAN, beta], &policy));
    }
    Ok(())
}

/// What has a closed form on the data: the COP on mean labels and on least-squares scores, and IPO.
fn on_data(
    problem: &Problem,
    data: &Comparisons,
    seed: Option<u64>,
    settings: &MethodSettings,
    rows: &mut Vec<MethodRow>,
) -> Result<()> {
    let (tau, n) = (settings.tau, settings.n_points);
    let merged = MergedPairs::new(data);
    let scores = [0, 1].map(|k| {
        let labels = merged.merge(data.pairs().iter().map(|p| Some(f64::from(p.indicators[k]))));
        let f = projected(&merged, &labels, problem.n_cells());
        f.into_iter().map(|f| f + 0.5).collect::<Vec<f64>>()
    });
    let (shares, means) = (data.context_shares(), data.preference());
    for of in problem.front(&problem.preference, means, &shares, tau, n)? {
        rows.push(MethodRow::new(problem, "cop_on_data", seed, [of.threshold, tau], &of.policy));
    }
    for primary in [0, 1] {
        for b in problem.sweep(&problem.preference, primary, tau, n)? {
            let other = (&means[1 - primary][..], b);
            if let Some(policy) = problem.tilted(&scores, &shares, (primary, tau), other)? {
                rows.push(MethodRow::new(problem, "pairwise_on_data", seed, [b, tau], &policy));
            }
        }
    }
    for w in weights(n) {
        // The margin of IPO aims at (I − ½)/β, so β is the COP's τ.
        let score = blend(w, [&scores[0], &scores[1]]);
        let policy = problem.regularised(Divergence::ReverseKl, &score, tau)?;
        rows.push(MethodRow::new(problem, "ipo", seed, [w, tau], &policy));
    }
    Ok(())
}

/// Fronts of two policies, one per objective, under rules for thresholds that move, and the radius of the ball.
const MOVING: [(&str, thresholds::Rule, f64); 7] = [
    ("mopo_adaptive_plain", RULES[1], RADII[0]),
    ("mopo_adaptive_lower_bound", RULES[2], RADII[0]),
    ("mopo_adaptive_no_ball", RULES[1], RADII[1]),
    ("mopo_reference", RULES[3], RADII[0]),
    ("mopo_reference_no_ball", RULES[3], RADII[1]),
    ("mopo_reference_pairwise", RULES[4], RADII[0]),
    ("mopo_reference_pairwise_no_ball", RULES[4], RADII[1]),
];

/// The weight of the contrast.
const CONTRAST: f64 = 0.2;

/// MOPO over the sweep of fixed thresholds, cloning, pairwise and with a contrast, and under every rule for thresholds that move.
fn mopo<B: AutodiffBackend>(
    problem: &Problem,
    data: &[Comparisons],
    seeds: &[Option<u64>],
    settings: &MethodSettings,
    device: &B::Device,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<MethodRow>> {
    let (tau, n) = (settings.tau, settings.n_points);
    let mut runs = Vec::new();
    let mut names = Vec::new();
    for at in 0..data.len() {
        for (extraction, contrast_weight, name) in [
            (Extraction::Cloning, 0.0, "mopo_fixed"),
            (Extraction::Pairwise, 0.0, "mopo_pairwise"),
            (Extraction::Cloning, CONTRAST, "mopo_contrast"),
        ] {
            for primary in [0, 1] {
                for b in problem.sweep(&problem.preference, primary, tau, n)? {
                    let mut thresholds = vec![0.0; 2];
                    thresholds[1 - primary] = b;
                    runs.push(Run {
                        data: at,
                        primary,
                        thresholds,
                        mopo: MopoConfig {
                            tau,
                            extraction,
                            contrast_weight,
                            ball: Ball::Radius(0.0),
                            thresholds: ThresholdRule::Fixed,
                            reference_lag: usize::MAX,
                            lambda_lr: 0.1,
                            lambda_max: 100.0,
                            ..MopoConfig::default()
                        },
                        seed: 0,
                    });
                    names.push(name);
                }
            }
        }
        for (name, rule, radius) in MOVING {
            for primary in [0, 1] {
                let way = (tau, settings.reference_lag);
                runs.push(thresholds::run((rule, radius), data, (at, primary), way));
                names.push(name);
            }
        }
    }
    let learned: Vec<Learned> = learn::<B>(data, &runs, &settings.learner(), device, progress)?;
    let mut rows = Vec::new();
    for (i, (run, name)) in runs.iter().zip(names).enumerate() {
        let (seed, policy) = (seeds[run.data], &learned[i].policy);
        if run.mopo.thresholds == ThresholdRule::Fixed {
            let b = run.thresholds[1 - run.primary];
            rows.push(MethodRow::new(problem, name, seed, [b, tau], policy));
        } else if run.primary == 1 {
            // The run before it has the first objective as its primary.
            let both = [&learned[i - 1].policy[..], policy];
            for w in weights(n) {
                let mixed = problem.mixture(Divergence::ReverseKl, both, w)?;
                rows.push(MethodRow::new(problem, name, seed, [w, tau], &mixed));
            }
        }
    }
    Ok(rows)
}
