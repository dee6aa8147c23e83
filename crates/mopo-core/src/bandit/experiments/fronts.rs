//! Fronts of the toy with contexts: MOPO and the exact solution over a sweep of thresholds, and DPO
//! with four ways of combining two objectives into one (Figures 1, 7 and 8 of the paper).

use burn::tensor::backend::AutodiffBackend;
use serde::Serialize;

use crate::bandit::{
    Batch, Comparison, Comparisons, Labels, LearnerConfig, Run, ToySet, learn, learn_dpo,
};
use crate::dual::TabularProblem;
use crate::mopo::{MopoConfig, ThresholdRule};
use crate::pareto::{Direction, hypervolume};
use crate::{Ball, Error, Result};

/// Settings of [`fronts`].
#[derive(Debug, Clone, PartialEq)]
pub struct FrontSettings {
    /// Which rewards.
    pub sets: Vec<ToySet>,
    /// Triplets (x, y, y′).
    pub n_pairs: usize,
    /// Kind of labels.
    pub labels: Labels,
    /// τ, one front for each.
    pub taus: Vec<f64>,
    /// Thresholds per sweep; there is one sweep with each objective as the primary.
    pub n_thresholds: usize,
    /// Weights of the mixed reward of D_w; empty means no DPO.
    pub dpo_weights: Vec<f64>,
    /// Steps of MOPO.
    pub steps: usize,
    /// Steps of DPO, which has no multipliers to wait for.
    pub dpo_steps: usize,
    /// Seed of the triplets and labels.
    pub seed: u64,
}

impl Default for FrontSettings {
    /// 10,000 triplets labelled with probabilities, τ = 0.08, two sweeps of 21 thresholds.
    fn default() -> Self {
        Self {
            sets: ToySet::ALL.to_vec(),
            n_pairs: 10_000,
            labels: Labels::Probability,
            taus: vec![0.08],
            n_thresholds: 21,
            dpo_weights: (1..20).map(|i| f64::from(i) / 20.0).collect(),
            steps: 2_000,
            dpo_steps: 600,
            seed: 0,
        }
    }
}

/// Origin of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum FrontMethod {
    /// The COP on the true preferences.
    #[serde(rename = "exact")]
    Exact,
    /// The COP on the preferences estimated from the data.
    #[serde(rename = "exact_on_data")]
    ExactOnData,
    /// Algorithm 1 on the data.
    #[serde(rename = "mopo")]
    Mopo,
    /// DPO on the first objective's labels.
    #[serde(rename = "dpo_d1")]
    DpoFirst,
    /// DPO on the second objective's labels.
    #[serde(rename = "dpo_d2")]
    DpoSecond,
    /// DPO on the pairs whose two labels agree.
    #[serde(rename = "dpo_agree")]
    DpoAgree,
    /// DPO on the labels of a weighted reward.
    #[serde(rename = "dpo_weighted")]
    DpoWeighted,
}

impl FrontMethod {
    /// All methods, in the order of a legend.
    pub const ALL: [Self; 7] = [
        Self::Exact,
        Self::ExactOnData,
        Self::Mopo,
        Self::DpoFirst,
        Self::DpoSecond,
        Self::DpoAgree,
        Self::DpoWeighted,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::ExactOnData => "exact_on_data",
            Self::Mopo => "mopo",
            Self::DpoFirst => "dpo_d1",
            Self::DpoSecond => "dpo_d2",
            Self::DpoAgree => "dpo_agree",
            Self::DpoWeighted => "dpo_weighted",
        }
    }
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrontRow {
    /// `A` or `B`.
    pub set: &'static str,
    /// τ of the front; DPO's β is matched to it.
    pub tau: f64,
    /// How it was obtained.
    pub method: FrontMethod,
    /// The objective that was maximised (0 or 1); 0 for DPO.
    pub primary: usize,
    /// The threshold b, DPO's weight of the first reward, or 1, 0 and NaN for its other data sets.
    pub parameter: f64,
    /// E\[r₁\], E\[r₂\] under the true rewards.
    pub reward: [f64; 2],
    /// E\[P(y ≻ μ|x)\] under the true preferences.
    pub preference: [f64; 2],
    /// KL(π ‖ uniform), nats, mean over contexts.
    pub kl: f64,
    /// λ of the secondary objective; NaN for DPO.
    pub lambda: f64,
    /// τ, or DPO's β.
    pub strength: f64,
}

/// The hypervolume of one method's policies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShareRow {
    /// `A` or `B`.
    pub set: &'static str,
    /// τ.
    pub tau: f64,
    /// The method.
    pub method: FrontMethod,
    /// Above (0, 0), the smallest rewards there are.
    pub hypervolume: f64,
    /// Its ratio to the hypervolume of the exact front.
    pub share: f64,
    /// The same above the rewards of the uniform policy, so that only the gains of training count.
    pub share_of_gain: f64,
    /// Mean KL of the policies to the uniform one.
    pub kl: f64,
}

/// Runs every method on every set at every τ.
///
/// Thresholds run in equal steps from the value of the secondary objective without a threshold to
/// its value as the primary. DPO's β is chosen such that exp(r₁/β) has the same KL to the reference
/// as
/// the exact COP without a threshold: methods are compared at equal strength of regularisation.
///
/// # Errors
/// Those of [`learn`] and of the exact solver.
pub fn fronts<B: AutodiffBackend>(
    settings: &FrontSettings,
    device: &B::Device,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<FrontRow>> {
    let n_dpo = if settings.dpo_weights.is_empty() { 0 } else { settings.sets.len() };
    let total = settings.steps + settings.dpo_steps * n_dpo * settings.taus.len();
    let sample = |set: ToySet, weights: &[f64]| {
        set.sample(settings.n_pairs, settings.labels, weights, settings.seed)
    };
    let data: Vec<Comparisons> =
        settings.sets.iter().map(|set| sample(*set, &[1.0, 0.0])).collect::<Result<_>>()?;
    let mut rows = Vec::new();
    let mut runs = Vec::new();
    for (i, &set) in settings.sets.iter().enumerate() {
        for &tau in &settings.taus {
            for primary in [0, 1] {
                for b in sweep(set, primary, tau, settings.n_thresholds)? {
                    let mut thresholds = vec![None, None];
                    thresholds[1 - primary] = Some(b);
                    for (method, problem) in [
                        (FrontMethod::Exact, set.problem(primary, tau, thresholds.clone())),
                        (FrontMethod::ExactOnData, data[i].problem(primary, tau, thresholds)),
                    ] {
                        rows.extend(solved(&problem, set, method, primary, b)?);
                    }
                    let mut thresholds = vec![0.0; 2];
                    thresholds[1 - primary] = b;
                    runs.push(Run {
                        data: i,
                        primary,
                        thresholds,
                        mopo: MopoConfig {
                            tau,
                            ball: Ball::Radius(0.0),
                            thresholds: ThresholdRule::Fixed,
                            reference_lag: usize::MAX,
                            lambda_lr: 0.1,
                            lambda_max: 100.0,
                            ..MopoConfig::default()
                        },
                        seed: settings.seed,
                    });
                }
            }
        }
    }
    let config = LearnerConfig { steps: settings.steps, batch: Batch::All, learning_rate: 0.05 };
    let learned = learn::<B>(&data, &runs, &config, device, &mut |done| progress(done, total))?;
    for (run, learned) in runs.iter().zip(learned) {
        let (set, b) = (settings.sets[run.data], run.thresholds[1 - run.primary]);
        rows.push(FrontRow {
            primary: run.primary,
            lambda: learned.dual.lambda[1 - run.primary],
            ..row(set, FrontMethod::Mopo, run.mopo.tau, run.mopo.tau, b, &learned.policy)
        });
    }
    let mut done = settings.steps;
    let config = LearnerConfig { steps: settings.dpo_steps, ..config };
    for &set in settings.sets.iter().take(n_dpo) {
        for &tau in &settings.taus {
            let mut tell = |step: usize| progress(done + step, total);
            rows.extend(dpo::<B>(set, tau, settings, &config, device, &mut tell)?);
            done += settings.dpo_steps;
        }
    }
    Ok(rows)
}

/// DPO on D₁, D₂, D_∩ and every D_w, at the same time.
fn dpo<B: AutodiffBackend>(
    set: ToySet,
    tau: f64,
    settings: &FrontSettings,
    config: &LearnerConfig,
    device: &B::Device,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<FrontRow>> {
    let weights = [&[1.0, 0.0][..], &settings.dpo_weights].concat();
    let sampled = set.sample(settings.n_pairs, settings.labels, &weights, settings.seed)?;
    // A third objective: the agreed label, with mass 0 where there is none.
    let agrees = |p: &Comparison| (p.indicators[0] - 0.5) * (p.indicators[1] - 0.5) > 0.0;
    let mut mass = vec![vec![1.0f32; settings.n_pairs]; weights.len()];
    mass.push(sampled.pairs().iter().map(|p| f32::from(u8::from(agrees(p)))).collect());
    let pairs = sampled
        .pairs()
        .iter()
        .map(|p| {
            let mut p = p.clone();
            p.indicators.push((p.indicators[0] + p.indicators[1]) / 2.0);
            p
        })
        .collect();
    let data =
        Comparisons::new(ToySet::N_CONTEXTS, ToySet::N_ACTIONS, weights.len() + 1, pairs, 0.0)?;
    let beta = matched_beta(set, tau)?;
    let policies =
        learn_dpo::<B>(&data, &mass, &vec![beta; weights.len() + 1], config, device, progress);
    let mut rows = Vec::new();
    for (i, policy) in policies.iter().enumerate() {
        let (method, parameter) = match i {
            0 => (FrontMethod::DpoFirst, 1.0),
            1 => (FrontMethod::DpoSecond, 0.0),
            _ if i == weights.len() => (FrontMethod::DpoAgree, f64::NAN),
            _ => (FrontMethod::DpoWeighted, weights[i]),
        };
        rows.push(row(set, method, tau, beta, parameter, policy));
    }
    Ok(rows)
}

/// One row per method and front.
///
/// # Errors
/// Those of the hypervolume.
pub fn shares(rows: &[FrontRow]) -> Result<Vec<ShareRow>> {
    let mut out: Vec<ShareRow> = Vec::new();
    let mut seen: Vec<(&str, f64)> = rows.iter().map(|r| (r.set, r.tau)).collect();
    seen.sort_by(|a, b| a.0.cmp(b.0).then(a.1.total_cmp(&b.1)));
    seen.dedup();
    for (set, tau) in seen {
        let of = |method: FrontMethod| {
            rows.iter().filter(move |r| r.set == set && r.tau == tau && r.method == method)
        };
        let toy = ToySet::ALL.into_iter().find(|s| s.name() == set).expect("a set's own name");
        let uniform = vec![1.0 / ToySet::N_ACTIONS as f64; ToySet::N_CONTEXTS * ToySet::N_ACTIONS];
        let ref_point = toy.rewards().map(|r| ToySet::mean(&r, &uniform));
        let volume = |method, ref_point: &[f64; 2]| {
            let points: Vec<[f64; 2]> = of(method).map(|r| r.reward).collect();
            hypervolume(&points, ref_point, &[Direction::Maximize; 2])
        };
        let exact =
            [volume(FrontMethod::Exact, &[0.0; 2])?, volume(FrontMethod::Exact, &ref_point)?];
        for method in FrontMethod::ALL {
            let n = of(method).count();
            if n > 0 {
                let hypervolume = volume(method, &[0.0; 2])?;
                out.push(ShareRow {
                    set,
                    tau,
                    method,
                    hypervolume,
                    share: hypervolume / exact[0],
                    share_of_gain: volume(method, &ref_point)? / exact[1],
                    kl: of(method).map(|r| r.kl).sum::<f64>() / n as f64,
                });
            }
        }
    }
    Ok(out)
}

/// Thresholds of the secondary objective, from none that binds to the largest attainable at this τ.
fn sweep(set: ToySet, primary: usize, tau: f64, n: usize) -> Result<Vec<f64>> {
    let free = set.problem(primary, tau, vec![None; 2]).solve()?.attained[1 - primary];
    let best = set.problem(1 - primary, tau, vec![None; 2]).solve()?.attained[1 - primary];
    let step = |i: usize| i as f64 / (n.max(2) - 1) as f64;
    Ok((0..n).map(|i| free + (best - free) * step(i)).collect())
}

/// The exact solution's row; `None` if the threshold is unattainable on the data.
fn solved(
    problem: &TabularProblem,
    set: ToySet,
    method: FrontMethod,
    primary: usize,
    b: f64,
) -> Result<Option<FrontRow>> {
    match problem.solve() {
        Ok(solution) => Ok(Some(FrontRow {
            primary,
            lambda: solution.lambda[1 - primary],
            ..row(set, method, problem.tau, problem.tau, b, &solution.policy.concat())
        })),
        Err(Error::Infeasible { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

fn row(
    set: ToySet,
    method: FrontMethod,
    tau: f64,
    strength: f64,
    parameter: f64,
    policy: &[f64],
) -> FrontRow {
    FrontRow {
        set: set.name(),
        tau,
        method,
        primary: 0,
        parameter,
        reward: set.rewards().map(|r| ToySet::mean(&r, policy)),
        preference: set.preference().map(|p| ToySet::mean(&p, policy)),
        kl: kl(policy),
        lambda: f64::NAN,
        strength,
    }
}

/// KL(π ‖ uniform), mean over contexts.
fn kl(policy: &[f64]) -> f64 {
    let n = ToySet::N_ACTIONS as f64;
    let terms = policy.iter().filter(|p| **p > 0.0).map(|p| p * (p * n).ln());
    terms.sum::<f64>() / ToySet::N_CONTEXTS as f64
}

/// β at which DPO's optimum for the first reward, exp(r₁/β), is as far from uniform as the exact
/// COP without a threshold; by bisection in log β, since that KL falls with β.
fn matched_beta(set: ToySet, tau: f64) -> Result<f64> {
    let target = kl(&set.problem(0, tau, vec![None; 2]).solve()?.policy.concat());
    let [reward, _] = set.rewards();
    let spent = |beta: f64| {
        let policy: Vec<f64> = reward
            .chunks(ToySet::N_ACTIONS)
            .flat_map(|row| {
                let best = row.iter().cloned().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = row.iter().map(|r| ((r - best) / beta).exp()).collect();
                let total: f64 = weights.iter().sum();
                weights.into_iter().map(move |w| w / total)
            })
            .collect();
        kl(&policy)
    };
    let (mut low, mut high) = (1e-4f64.ln(), 1e4f64.ln());
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if spent(middle.exp()) > target {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok((0.5 * (low + high)).exp())
}
