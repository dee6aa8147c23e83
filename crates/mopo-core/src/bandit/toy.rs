//! The toy fronts with contexts (section 2 and A.1 of the paper): x on 11 points of [0, 1], y on 21
//! points of [0, 1], two rewards that want y near x/2 and near 1 − x/2.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Comparison, Comparisons};
use crate::Result;
use crate::dual::{Context, TabularProblem};

/// A pair of rewards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToySet {
    /// r = 4 (1 − (y − target)²): a concave front.
    A,
    /// r = 4 exp(−8 (y − target)²): compromises satisfy neither, and the front is not concave.
    B,
}

/// The label of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// σ(r(x, y) − r(x, y′)) itself.
    Probability,
    /// One draw with that probability: 0 or 1.
    Sampled,
}

impl ToySet {
    /// Both sets.
    pub const ALL: [Self; 2] = [Self::A, Self::B];
    /// Points of x.
    pub const N_CONTEXTS: usize = 11;
    /// Points of y.
    pub const N_ACTIONS: usize = 21;
    /// Scale of the rewards.
    pub const SCALE: f64 = 4.0;

    /// `A` or `B`.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    /// r_k(x, y), `[2][n_contexts × n_actions]`; all in \[0, 4\].
    pub fn rewards(self) -> [Vec<f64>; 2] {
        let of = |objective: usize| {
            (0..Self::N_CONTEXTS * Self::N_ACTIONS)
                .map(|cell| {
                    let x = (cell / Self::N_ACTIONS) as f64 / (Self::N_CONTEXTS - 1) as f64;
                    let y = (cell % Self::N_ACTIONS) as f64 / (Self::N_ACTIONS - 1) as f64;
                    let target = if objective == 0 { x / 2.0 } else { 1.0 - x / 2.0 };
                    let miss = (y - target).powi(2);
                    Self::SCALE * if self == Self::A { 1.0 - miss } else { (-8.0 * miss).exp() }
                })
                .collect()
        };
        [of(0), of(1)]
    }

    /// P(y ≻ μ|x) = mean over a uniform y′ of σ(r(x, y) − r(x, y′)), `[2][n_cells]`.
    pub fn preference(self) -> [Vec<f64>; 2] {
        self.rewards().map(|r| r.chunks(Self::N_ACTIONS).flat_map(preference_to_uniform).collect())
    }

    /// The exact problem: true preferences, contexts and reference uniform.
    pub fn problem(self, primary: usize, tau: f64, thresholds: Vec<Option<f64>>) -> TabularProblem {
        let preference = self.preference();
        let contexts = (0..Self::N_CONTEXTS)
            .map(|x| {
                let cells = x * Self::N_ACTIONS..(x + 1) * Self::N_ACTIONS;
                Context {
                    weight: 1.0,
                    reference: vec![1.0; Self::N_ACTIONS],
                    preference: preference.iter().map(|q| q[cells.clone()].to_vec()).collect(),
                }
            })
            .collect();
        TabularProblem { contexts, primary, tau, thresholds }
    }

    /// E\[values\] of a policy over cells (each context's row sums to 1), contexts uniform.
    pub fn mean(values: &[f64], policy: &[f64]) -> f64 {
        values.iter().zip(policy).map(|(v, p)| v * p).sum::<f64>() / Self::N_CONTEXTS as f64
    }

    /// `n` triplets (x, y, y′), drawn uniformly, with labels for the given mixtures of the two
    /// rewards,
    /// w r₁ + (1 − w) r₂ for each w in `weights`: 1 and 0 are the objectives themselves. The
    /// triplets
    /// depend only on the seed, and each label on the seed and its index.
    ///
    /// # Errors
    /// `n` is 0.
    pub fn sample(
        self,
        n: usize,
        labels: Labels,
        weights: &[f64],
        seed: u64,
    ) -> Result<Comparisons> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut draws: Vec<ChaCha8Rng> = (1..=weights.len() as u64)
            .map(|stream| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(stream);
                rng
            })
            .collect();
        let [r1, r2] = self.rewards();
        let pairs = (0..n)
            .map(|_| {
                let context = rng.random_range(0..Self::N_CONTEXTS);
                let first = rng.random_range(0..Self::N_ACTIONS);
                let second = rng.random_range(0..Self::N_ACTIONS);
                let cell = |y: usize| context * Self::N_ACTIONS + y;
                let indicators = weights
                    .iter()
                    .zip(&mut draws)
                    .map(|(w, draws)| {
                        let reward = |y: usize| w * r1[cell(y)] + (1.0 - w) * r2[cell(y)];
                        let p = sigmoid(reward(first) - reward(second));
                        match labels {
                            Labels::Probability => p as f32,
                            Labels::Sampled => f32::from(u8::from(draws.random_bool(p))),
                        }
                    })
                    .collect();
                Comparison { context, first, second, indicators }
            })
            .collect();
        Comparisons::new(Self::N_CONTEXTS, Self::N_ACTIONS, weights.len(), pairs, 0.0)
    }
}

/// P(y ≻ μ) = mean over a uniform y′ of σ(r(y) − r(y′)), one per action.
pub(crate) fn preference_to_uniform(rewards: &[f64]) -> Vec<f64> {
    let n = rewards.len() as f64;
    rewards.iter().map(|y| rewards.iter().map(|o| sigmoid(y - o)).sum::<f64>() / n).collect()
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
