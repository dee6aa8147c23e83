//! Naive against lower-bounded constraints as data grow (Figure 3 of the paper): how often does a
//! policy that meets a threshold on its data violate it on the true preferences?

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::bandit::toy::{preference_to_uniform, sigmoid};
use crate::bandit::{Comparison, Comparisons};
use crate::dual::{Context, DualProblem, ResponseGroups, TabularProblem, log_weights};
use crate::random::normal;
use crate::{Ball, Error, Result};

/// Settings of [`constraints`].
#[derive(Debug, Clone, PartialEq)]
pub struct ConstraintSettings {
    /// Actions of the bandit.
    pub n_actions: usize,
    /// Objectives; the first is the primary, all others have a threshold.
    pub n_objectives: usize,
    /// τ.
    pub tau: f64,
    /// Position of the thresholds between the reference's value (0) and the best action's value
    /// (1).
    pub fraction: f64,
    /// Numbers of responses N, ascending and even: a comparison has two.
    pub n_responses: Vec<usize>,
    /// The balls to compare; `Ball::Radius(0.0)` is the naive constraint.
    pub balls: Vec<Ball>,
    /// Number of bandits, each with its own data.
    pub repetitions: usize,
    /// Cap of λ.
    pub lambda_max: f64,
    /// Seed.
    pub seed: u64,
}

impl Default for ConstraintSettings {
    /// 8 actions, two objectives, the paper's τ, half-way thresholds, N from 50 to 10,000.
    fn default() -> Self {
        Self {
            n_actions: 8,
            n_objectives: 2,
            tau: 0.08,
            fraction: 0.5,
            n_responses: vec![50, 100, 200, 500, 1000, 2000, 5000, 10_000],
            balls: vec![
                Ball::Radius(0.0),
                Ball::Confidence(0.95),
                Ball::Confidence(0.975),
                Ball::Radius(0.15),
            ],
            repetitions: 200,
            lambda_max: 100.0,
            seed: 0,
        }
    }
}

/// One ball at one N, summarised over all repetitions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConstraintRow {
    /// N.
    pub n_responses: usize,
    /// `naive`, `confidence 0.95`, `radius 0.15`.
    pub method: String,
    /// Mean ε, in nats.
    pub radius: f64,
    /// Share of repetitions in which a true E\[q_k\] is below b_k by more than rounding.
    pub violation_rate: f64,
    /// √(p (1 − p)/R) of that share.
    pub standard_error: f64,
    /// Share of repetitions in which a λ_k is at its cap with its constraint violated on the data:
    /// the method itself reports that it found no policy.
    pub unattainable_rate: f64,
    /// Violations among the repetitions in which no λ_k was at its cap; NaN if there are none.
    pub violation_rate_attainable: f64,
    /// Mean over repetitions of the least true slack E\[q_k\] − b_k.
    pub mean_slack: f64,
    /// Mean of the policy's true E\[p\].
    pub mean_primary: f64,
    /// Mean of E\[p\] of the exact solution, which knows the preferences.
    pub exact_primary: f64,
    /// Share of repetitions in which a threshold binds in the exact solution; in the others a
    /// policy may ignore the constraints.
    pub binding_rate: f64,
    /// Bandits that were discarded, for all N together, since no policy meets all of their
    /// thresholds at once; 0 for two objectives.
    pub discarded: usize,
}

/// The name of a ball in rows.
pub fn ball_name(ball: Ball) -> String {
    match ball {
        Ball::Radius(0.0) => "naive".into(),
        Ball::Radius(r) => format!("radius {r}"),
        Ball::Confidence(c) => format!("confidence {c}"),
    }
}

/// A bandit with known preferences.
struct Truth {
    /// r_k(y), `[n_objectives][n_actions]`.
    rewards: Vec<Vec<f64>>,
    /// P(y ≻ μ), likewise.
    preference: Vec<Vec<f64>>,
    /// b_k; the primary's is 0.
    thresholds: Vec<f64>,
    exact_primary: f64,
    binds: bool,
}

/// Sums over repetitions.
#[derive(Clone, Default)]
struct Sums {
    radius: f64,
    violated: usize,
    unattainable: usize,
    violated_attainable: usize,
    slack: f64,
    primary: f64,
}

/// Draws bandits and comparisons, solves each with every ball at every N (the first N responses of
/// one
/// stream), and compares the policy a·w with the true preferences.
///
/// Rewards are standard normal, μ is uniform, labels are drawn with σ(r(y) − r(y′)). Every response
/// has
/// its action's mean indicator, as with the `action` estimator.
///
/// # Errors
/// [`Error::InvalidParameter`] for settings out of range, or if no drawn bandit has thresholds that
/// can be met; and those of the exact solver.
pub fn constraints(
    settings: &ConstraintSettings,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<ConstraintRow>> {
    check(settings)?;
    let cells = settings.n_responses.len() * settings.balls.len();
    let mut sums = vec![Sums::default(); cells];
    let (mut exact_primary, mut binding, mut discarded) = (0.0, 0, 0);
    for repetition in 0..settings.repetitions {
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        rng.set_stream(repetition as u64);
        let (truth, tries) = feasible_bandit(settings, &mut rng)?;
        discarded += tries;
        exact_primary += truth.exact_primary;
        binding += usize::from(truth.binds);
        let largest = settings.n_responses.last().copied().unwrap_or(0);
        let pairs = compare(settings, &truth, largest / 2, &mut rng);
        for (i, &n) in settings.n_responses.iter().enumerate() {
            let data = Comparisons::new(
                1,
                settings.n_actions,
                settings.n_objectives,
                pairs[..n / 2].to_vec(),
                0.0,
            )?;
            let at = i * settings.balls.len();
            solve(settings, &truth, &data, &mut sums[at..at + settings.balls.len()])?;
        }
        progress(repetition + 1);
    }
    let n = settings.repetitions as f64;
    let mut rows = Vec::with_capacity(cells);
    for (i, &n_responses) in settings.n_responses.iter().enumerate() {
        for (j, &ball) in settings.balls.iter().enumerate() {
            let s = &sums[i * settings.balls.len() + j];
            let rate = s.violated as f64 / n;
            rows.push(ConstraintRow {
                n_responses,
                method: ball_name(ball),
                radius: s.radius / n,
                violation_rate: rate,
                standard_error: (rate * (1.0 - rate) / n).sqrt(),
                unattainable_rate: s.unattainable as f64 / n,
                violation_rate_attainable: s.violated_attainable as f64
                    / (settings.repetitions - s.unattainable) as f64,
                mean_slack: s.slack / n,
                mean_primary: s.primary / n,
                exact_primary: exact_primary / n,
                binding_rate: binding as f64 / n,
                discarded,
            });
        }
    }
    Ok(rows)
}

fn check(settings: &ConstraintSettings) -> Result<()> {
    let invalid = |field, value: String, expected: &str| {
        Err(Error::InvalidParameter { field, value, expected: expected.into() })
    };
    if settings.n_actions < 2 {
        return invalid("n_actions", settings.n_actions.to_string(), "a choice needs two");
    }
    if settings.n_objectives < 2 {
        let expected = "a constraint needs a second objective";
        return invalid("n_objectives", settings.n_objectives.to_string(), expected);
    }
    if !(0.0..1.0).contains(&settings.fraction) {
        return invalid("fraction", settings.fraction.to_string(), "must lie in [0, 1)");
    }
    if settings.repetitions == 0 {
        return invalid("repetitions", "0".into(), "there must be at least one");
    }
    let even = settings.n_responses.iter().all(|n| *n > 0 && n % 2 == 0);
    if !even || !settings.n_responses.is_sorted() || settings.n_responses.is_empty() {
        let found = format!("{:?}", settings.n_responses);
        return invalid("n_responses", found, "must be even numbers above 0, ascending");
    }
    settings.balls.iter().try_for_each(Ball::check)
}

/// Draws until the thresholds can be met together; also returns how many bandits were discarded.
fn feasible_bandit(settings: &ConstraintSettings, rng: &mut ChaCha8Rng) -> Result<(Truth, usize)> {
    const TRIES: usize = 10_000;
    for tries in 0..TRIES {
        let rewards: Vec<Vec<f64>> = (0..settings.n_objectives)
            .map(|_| (0..settings.n_actions).map(|_| normal(rng)).collect())
            .collect();
        let preference: Vec<Vec<f64>> = rewards.iter().map(|r| preference_to_uniform(r)).collect();
        // The reference wins half of the time against itself.
        let between = |q: &Vec<f64>| 0.5 + settings.fraction * (q.iter().fold(0.0, max) - 0.5);
        let mut thresholds: Vec<f64> = preference.iter().map(between).collect();
        thresholds[0] = 0.0;
        let problem = TabularProblem {
            contexts: vec![Context {
                weight: 1.0,
                reference: vec![1.0; settings.n_actions],
                preference: preference.clone(),
            }],
            primary: 0,
            tau: settings.tau,
            thresholds: std::iter::once(None)
                .chain(thresholds[1..].iter().map(|b| Some(*b)))
                .collect(),
        };
        match problem.solve() {
            Ok(exact) => {
                let truth = Truth {
                    rewards,
                    preference,
                    thresholds,
                    exact_primary: exact.attained[0],
                    binds: exact.lambda.iter().any(|l| *l > 0.0),
                };
                return Ok((truth, tries));
            }
            Err(Error::Infeasible { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Err(Error::InvalidParameter {
        field: "fraction",
        value: settings.fraction.to_string(),
        expected: format!(
            "none of {TRIES} bandits with {} objectives can meet it: lower it",
            settings.n_objectives
        ),
    })
}

/// Comparisons of two uniform actions.
fn compare(
    settings: &ConstraintSettings,
    truth: &Truth,
    n_pairs: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<Comparison> {
    (0..n_pairs)
        .map(|_| {
            let first = rng.random_range(0..settings.n_actions);
            let second = rng.random_range(0..settings.n_actions);
            let indicators = truth
                .rewards
                .iter()
                .map(|r| f32::from(u8::from(rng.random_bool(sigmoid(r[first] - r[second])))))
                .collect();
            Comparison { context: 0, first, second, indicators }
        })
        .collect()
}

/// Every ball on one data set.
fn solve(
    settings: &ConstraintSettings,
    truth: &Truth,
    data: &Comparisons,
    sums: &mut [Sums],
) -> Result<()> {
    let k = settings.n_objectives;
    let n = 2 * data.pairs().len();
    let shares: Vec<f64> = data.counts().iter().map(|&c| c as f64 / n as f64).collect();
    let labels: Vec<Vec<Option<f32>>> = (0..settings.n_actions)
        .map(|y| data.preference().iter().map(|q| Some(q[y] as f32)).collect())
        .collect();
    let responses = data.pairs().iter().flat_map(|p| [p.first, p.second]);
    let groups = ResponseGroups::new(responses.map(|y| (labels[y].as_slice(), 0.0)), 0.0)?;
    for (ball, sums) in settings.balls.iter().zip(sums) {
        let radius = ball.radius(n);
        let dual = groups.solve(&DualProblem {
            primary: 0,
            tau: settings.tau,
            thresholds: &truth.thresholds,
            radius: &vec![radius; k],
            lambda_max: settings.lambda_max,
        });
        let score: Vec<f64> = labels
            .iter()
            .map(|row| {
                let of = |j: usize| f64::from(row[j].unwrap_or(0.5));
                of(0) + (1..k).map(|j| dual.lambda[j] * of(j)).sum::<f64>()
            })
            .collect();
        let weights = log_weights(&shares, &score, settings.tau);
        let value = |j: usize| -> f64 {
            let q = &truth.preference[j];
            (0..q.len()).map(|y| shares[y] * weights[y].exp() * q[y]).sum()
        };
        let slack = (1..k).map(|j| value(j) - truth.thresholds[j]).fold(f64::INFINITY, f64::min);
        let violated = slack < -1e-12;
        let unattainable = dual.saturated.contains(&true);
        sums.radius += radius;
        sums.violated += usize::from(violated);
        sums.unattainable += usize::from(unattainable);
        sums.violated_attainable += usize::from(violated && !unattainable);
        sums.slack += slack;
        sums.primary += value(0);
    }
    Ok(())
}

fn max(a: f64, b: &f64) -> f64 {
    a.max(*b)
}
