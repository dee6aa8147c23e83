//! Initial thresholds against a known front (A.3, Figures 2 and 9 of the paper): on a toy front
//! where they are also learned, and on a random bandit with two constraints, each of which may be
//! possible although both together are not.

use burn::tensor::backend::AutodiffBackend;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::bandit::{
    Batch, Comparison, Comparisons, KnownFront, Learned, LearnerConfig, Run, StartCheck, ToySet,
    learn,
    toy::{preference_to_uniform, sigmoid},
};
use crate::dual::Context;
use crate::mopo::{MopoConfig, ThresholdRule};
use crate::random::normal;
use crate::{Ball, CopSolution, Error, Result, TabularProblem};

/// Settings of [`initialisation`].
#[derive(Debug, Clone, PartialEq)]
pub struct InitialisationSettings {
    /// The toy with one constraint.
    pub set: ToySet,
    /// τ, in both parts.
    pub tau: f64,
    /// Points of the known front of the toy.
    pub front_points: usize,
    /// How far the hopeless initial thresholds lie beyond the best value of any policy.
    pub beyond: Vec<f64>,
    /// The loop; its batch must be `Batch::All`.
    pub learner: LearnerConfig,
    /// Step size of λ. A threshold that is missed by d raises λ by d times this in every step.
    pub lambda_lr: f64,
    /// Cap of λ.
    pub lambda_max: f64,
    /// Actions of the bandit with three objectives.
    pub n_actions: usize,
    /// The number of thresholds along each axis of the grid for its front.
    pub grid: usize,
    /// Random pairs of thresholds.
    pub n_vectors: usize,
    /// Seed of the bandit and the thresholds.
    pub seed: u64,
}

impl Default for InitialisationSettings {
    /// Set A, 100 points; 30 actions, 60 × 60 points, 2,000 vectors; the paper's τ.
    fn default() -> Self {
        Self {
            set: ToySet::A,
            tau: 0.08,
            front_points: 100,
            beyond: vec![0.01, 0.03, 0.06],
            learner: LearnerConfig { steps: 1500, batch: Batch::All, learning_rate: 0.05 },
            lambda_lr: 1.0,
            lambda_max: 10.0,
            n_actions: 30,
            grid: 60,
            n_vectors: 2000,
            seed: 0,
        }
    }
}

/// The result of the experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Initialisation {
    /// Toy: (E\[q\], E\[p\]) of the known front, by ascending E\[q\].
    pub front: Vec<(f64, f64)>,
    /// Toy: the largest E\[q\] of any policy.
    pub best: f64,
    /// Toy: the initial thresholds.
    pub starts: Vec<StartRow>,
    /// Three objectives: points of the known front.
    pub grid_points: usize,
    /// Three objectives: random thresholds.
    pub vectors: Vec<VectorRow>,
}

/// An initial threshold on the toy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StartRow {
    /// Its name.
    pub start: String,
    /// E\[p\] of the initial policy; `None`: no policy has such a value.
    pub start_primary: Option<f64>,
    /// v: E\[q\] of the initial policy, used as the threshold.
    pub threshold: f64,
    /// Its insertion index among the front's values of q.
    pub index: usize,
    /// Points of the front: an index of this size is past the end.
    pub front_points: usize,
    /// Where the run should end, (E\[q\], E\[p\]); `None`: predicted infeasible.
    pub predicted: Option<(f64, f64)>,
    /// The exact solution's; `None` if the solver refuses the threshold.
    pub exact: Option<(f64, f64)>,
    /// λ of the exact solution.
    pub exact_lambda: Option<f64>,
    /// The learned policy's.
    pub learned: (f64, f64),
    /// λ at the end.
    pub lambda: f64,
    /// Whether λ ended at its cap.
    pub at_cap: bool,
}

/// Two thresholds on the bandit with three objectives.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VectorRow {
    /// b₂ and b₃.
    pub thresholds: [f64; 2],
    /// Their insertion indices.
    pub index: [usize; 2],
    /// No index is past the end.
    pub each: bool,
    /// A front point meets both.
    pub together: bool,
    /// Whether the exact solver finds a policy; `None`: undecided (thresholds on the very edge).
    pub feasible: Option<bool>,
    /// E\[p\] − τ KL of the predicted end point.
    pub predicted: Option<f64>,
    /// That of the exact solution.
    pub exact: Option<f64>,
}

/// Runs both parts.
///
/// # Errors
/// Those of [`learn`] and of the exact solver.
pub fn initialisation<B: AutodiffBackend>(
    settings: &InitialisationSettings,
    device: &B::Device,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Initialisation> {
    let steps = settings.learner.steps;
    // Only shares of the progress bar: steps cost more than thresholds.
    let total = steps + settings.grid + settings.n_vectors / 20;
    let toy = Toy::new(settings)?;
    let starts = toy.starts::<B>(settings, device, &mut |step| progress(step, total))?;
    let three = Three::new(settings, &mut |row| progress(steps + row, total))?;
    let vectors = three.vectors(settings)?;
    progress(total, total);
    Ok(Initialisation {
        front: toy.plane,
        best: toy.best,
        starts,
        grid_points: three.front.points().len(),
        vectors,
    })
}

/// The toy with its known front.
struct Toy {
    set: ToySet,
    tau: f64,
    /// (E\[p\] − τ KL, E\[q\]).
    front: KnownFront,
    /// (E\[q\], E\[p\]) of the same points.
    plane: Vec<(f64, f64)>,
    best: f64,
}

impl Toy {
    fn new(settings: &InitialisationSettings) -> Result<Self> {
        let (set, tau) = (settings.set, settings.tau);
        let free = set.problem(0, tau, vec![None, None]);
        let best = free.best_attainable(1, &[])?;
        let low = free.solve()?.attained[1];
        let n = settings.front_points.max(2) - 1;
        let (mut points, mut plane) = (Vec::new(), Vec::new());
        for i in 0..n {
            let threshold = low + (best - low) * i as f64 / n as f64;
            let solution = set.problem(0, tau, vec![None, Some(threshold)]).solve()?;
            // The dual's value is E[p] − τ KL of the optimum.
            points.push(vec![solution.dual_value, solution.attained[1].max(threshold)]);
            plane.push((solution.attained[1], solution.attained[0]));
        }
        // The sweep's limit, which no finite λ reaches: only the secondary's best actions.
        let [p, q] = set.preference();
        let policy = best_actions(&p, &q);
        let divergence: Vec<f64> = policy
            .iter()
            .map(|x| if *x > 0.0 { (x * ToySet::N_ACTIONS as f64).ln() } else { 0.0 })
            .collect();
        let primary = ToySet::mean(&p, &policy);
        points.push(vec![primary - tau * ToySet::mean(&divergence, &policy), best]);
        plane.push((best, primary));
        Ok(Self { set, tau, front: KnownFront::new(points)?, plane, best })
    }

    /// Names, thresholds and E\[p\] of the initial policies.
    fn candidates(&self, beyond: &[f64]) -> Result<Vec<(String, f64, Option<f64>)>> {
        let solved = |primary: usize, tau: f64| -> Result<(f64, f64)> {
            let solution = self.set.problem(primary, tau, vec![None, None]).solve()?;
            Ok((solution.attained[1], solution.attained[0]))
        };
        let uniform = vec![1.0 / ToySet::N_ACTIONS as f64; ToySet::N_ACTIONS * ToySet::N_CONTEXTS];
        let [p, q] = self.set.preference();
        let own = solved(0, self.tau)?;
        let other = solved(1, self.tau)?;
        let half = ((own.0 + other.0) / 2.0, (own.1 + other.1) / 2.0);
        let mut starts = vec![
            ("primary's optimum".to_string(), own),
            ("uniform".into(), (ToySet::mean(&q, &uniform), ToySet::mean(&p, &uniform))),
            ("half of each optimum".into(), half),
            ("secondary's optimum at tau 1".into(), solved(1, 1.0)?),
            ("secondary's optimum at tau 0.3".into(), solved(1, 0.3)?),
            ("secondary's optimum".into(), other),
            ("secondary's optimum at tau 0.03".into(), solved(1, 0.03)?),
        ]
        .into_iter()
        .map(|(name, (v, p))| (name, v, Some(p)))
        .collect::<Vec<_>>();
        starts.extend(beyond.iter().map(|d| (format!("beyond by {d}"), self.best + d, None)));
        Ok(starts)
    }

    fn starts<B: AutodiffBackend>(
        &self,
        settings: &InitialisationSettings,
        device: &B::Device,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<StartRow>> {
        let candidates = self.candidates(&settings.beyond)?;
        let runs: Vec<Run> = candidates
            .iter()
            .map(|(_, threshold, _)| Run {
                data: 0,
                primary: 0,
                thresholds: vec![0.0, *threshold],
                mopo: MopoConfig {
                    tau: self.tau,
                    ball: Ball::Radius(0.0),
                    reference_lag: usize::MAX,
                    lambda_lr: settings.lambda_lr,
                    lambda_max: settings.lambda_max,
                    thresholds: ThresholdRule::Fixed,
                    ..MopoConfig::default()
                },
                seed: settings.seed,
            })
            .collect();
        let data = every_comparison(self.set)?;
        let learned = learn::<B>(&[data], &runs, &settings.learner, device, progress)?;
        candidates
            .into_iter()
            .zip(learned)
            .map(|((start, threshold, start_primary), learned)| {
                let check = self.front.check(0, &[0.0, threshold])?;
                let problem = self.set.problem(0, self.tau, vec![None, Some(threshold)]);
                let exact = match problem.solve() {
                    Ok(solution) => Some(solution),
                    Err(Error::Infeasible { .. }) => None,
                    Err(other) => return Err(other),
                };
                let named = Named { start, start_primary, threshold };
                Ok(self.row(named, &check, exact.as_ref(), &learned, settings.lambda_max))
            })
            .collect()
    }

    fn row(
        &self,
        named: Named,
        check: &StartCheck,
        exact: Option<&CopSolution>,
        learned: &Learned,
        cap: f64,
    ) -> StartRow {
        let [p, q] = self.set.preference().map(|v| ToySet::mean(&v, &learned.policy));
        StartRow {
            start: named.start,
            start_primary: named.start_primary,
            threshold: named.threshold,
            index: check.index[1].expect("the secondary has one"),
            front_points: self.front.points().len(),
            predicted: check.landing.map(|i| self.plane[i]),
            exact: exact.map(|s| (s.attained[1], s.attained[0])),
            exact_lambda: exact.map(|s| s.lambda[1]),
            learned: (q, p),
            lambda: learned.dual.lambda[1],
            at_cap: learned.dual.lambda[1] >= cap,
        }
    }
}

struct Named {
    start: String,
    start_primary: Option<f64>,
    threshold: f64,
}

/// The secondary's best action in every context; among equals, the best for the primary.
fn best_actions(p: &[f64], q: &[f64]) -> Vec<f64> {
    let n = ToySet::N_ACTIONS;
    let mut policy = vec![0.0; q.len()];
    for (x, row) in q.chunks(n).enumerate() {
        let highest = row.iter().cloned().fold(f64::MIN, f64::max);
        let ties = (0..n).filter(|&y| row[y] >= highest - 1e-12);
        let chosen = ties.max_by(|a, b| p[x * n + a].total_cmp(&p[x * n + b]));
        policy[x * n + chosen.expect("the highest is among them")] = 1.0;
    }
    policy
}

/// Every ordered pair once, labelled with its probability: the data's mean indicators are the true
/// preferences, so the result differs from the exact solution only through learning.
fn every_comparison(set: ToySet) -> Result<Comparisons> {
    let rewards = set.rewards();
    let n = ToySet::N_ACTIONS;
    let mut pairs = Vec::with_capacity(ToySet::N_CONTEXTS * n * n);
    for context in 0..ToySet::N_CONTEXTS {
        for first in 0..n {
            for second in 0..n {
                let label =
                    |r: &Vec<f64>| sigmoid(r[context * n + first] - r[context * n + second]) as f32;
                let indicators = rewards.iter().map(label).collect();
                pairs.push(Comparison { context, first, second, indicators });
            }
        }
    }
    Comparisons::new(ToySet::N_CONTEXTS, n, 2, pairs, 0.0)
}

/// The bandit with three objectives, and its known front.
struct Three {
    problem: TabularProblem,
    front: KnownFront,
    /// The front's least value and the best value of any policy, per secondary objective.
    range: [(f64, f64); 2],
}

/// The distance of the grid from the best values, where λ would be infinite.
const MARGIN: f64 = 1e-4;

impl Three {
    fn new(settings: &InitialisationSettings, progress: &mut dyn FnMut(usize)) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let mut preference = || {
            let rewards: Vec<f64> = (0..settings.n_actions).map(|_| normal(&mut rng)).collect();
            preference_to_uniform(&rewards)
        };
        let problem = TabularProblem {
            contexts: vec![Context {
                weight: 1.0,
                reference: vec![1.0; settings.n_actions],
                preference: vec![preference(), preference(), preference()],
            }],
            primary: 0,
            tau: settings.tau,
            thresholds: vec![None; 3],
        };
        let ask = |b: [Option<f64>; 2]| TabularProblem {
            thresholds: vec![None, b[0], b[1]],
            ..problem.clone()
        };
        let free = problem.solve()?;
        let best = [problem.best_attainable(1, &[])?, problem.best_attainable(2, &[])?];
        // Improving one objective costs the other: this is how low the front reaches.
        let ends = [
            ask([None, Some(best[1] - MARGIN)]).solve()?.attained[1],
            ask([Some(best[0] - MARGIN), None]).solve()?.attained[2],
        ];
        let low = [ends[0].min(free.attained[1]), ends[1].min(free.attained[2])];
        let n = settings.grid.max(2);
        let between =
            |low: f64, high: f64, i: usize| low + (high - low) * i as f64 / (n - 1) as f64;
        let mut points = vec![vec![free.dual_value, free.attained[1], free.attained[2]]];
        for i in 0..n {
            let first = between(low[0], best[0] - MARGIN, i);
            let most = ask([Some(first), None]).best_attainable(2, &[1])? - MARGIN;
            for j in 0..n {
                let second = between(low[1].min(most), most, j);
                let solution = ask([Some(first), Some(second)]).solve()?;
                points.push(vec![
                    solution.dual_value,
                    solution.attained[1].max(first),
                    solution.attained[2].max(second),
                ]);
            }
            progress(i + 1);
        }
        let range = [(low[0], best[0]), (low[1], best[1])];
        Ok(Self { front: KnownFront::new(points)?, range, problem })
    }

    /// Thresholds uniform between the front's least value and a tenth beyond the best.
    fn vectors(&self, settings: &InitialisationSettings) -> Result<Vec<VectorRow>> {
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        rng.set_stream(1);
        (0..settings.n_vectors)
            .map(|_| {
                let [b2, b3] =
                    self.range.map(|(low, high)| low + 1.1 * (high - low) * rng.random::<f64>());
                let check = self.front.check(0, &[0.0, b2, b3])?;
                let problem = TabularProblem {
                    thresholds: vec![None, Some(b2), Some(b3)],
                    ..self.problem.clone()
                };
                let (feasible, exact) = match problem.solve() {
                    Ok(solution) => (Some(true), Some(solution.dual_value)),
                    Err(Error::Infeasible { .. }) => (Some(false), None),
                    Err(Error::NotConverged { .. }) => (None, None),
                    Err(other) => return Err(other),
                };
                Ok(VectorRow {
                    thresholds: [b2, b3],
                    index: [1, 2].map(|k| check.index[k].expect("both are secondary")),
                    each: check.each,
                    together: check.landing.is_some(),
                    feasible,
                    predicted: check.landing.map(|i| self.front.points()[i][0]),
                    exact,
                })
            })
            .collect()
    }
}
