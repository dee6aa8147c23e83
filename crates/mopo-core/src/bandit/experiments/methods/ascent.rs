//! Tables trained on the true rewards with Adam, in f64.

use std::ops::Range;

use super::problem::Problem;
use crate::bandit::LearnerConfig;
use crate::bandit::learner::fall;

/// Several tables, from uniform ones on.
pub(super) struct Ascent<'a> {
    /// `[n_tables][n_cells]`.
    pub(super) policies: Vec<Vec<f64>>,
    logits: Vec<Vec<f64>>,
    /// Adam's, of each logit.
    moments: Vec<[f64; 2]>,
    n_actions: usize,
    n_steps: usize,
    config: &'a LearnerConfig,
}

impl<'a> Ascent<'a> {
    pub(super) fn new(problem: &Problem, n_tables: usize, config: &'a LearnerConfig) -> Self {
        let n_cells = problem.n_cells();
        Self {
            policies: vec![problem.uniform(); n_tables],
            logits: vec![vec![0.0; n_cells]; n_tables],
            moments: vec![[0.0; 2]; n_tables * n_cells],
            n_actions: problem.n_actions,
            n_steps: 0,
            config,
        }
    }

    /// A step. `slope`: from a table's policy, its index and the cells of a context to the objective's derivatives by
    /// their logits, in order.
    pub(super) fn step(&mut self, slope: impl Fn(&[f64], usize, Range<usize>, &mut Vec<f64>)) {
        let (a, step) = (self.n_actions, self.n_steps);
        let rate = self.config.learning_rate * fall(step, self.config.steps);
        let fix = [0.9f64, 0.999].map(|b| 1.0 - b.powi(step as i32 + 1));
        let mut slopes = Vec::with_capacity(a);
        let tables = self.policies.iter_mut().zip(&mut self.logits).enumerate();
        for (k, (policy, logits)) in tables {
            let c = policy.len();
            for start in (0..c).step_by(a) {
                slopes.clear();
                slope(policy, k, start..start + a, &mut slopes);
                for (i, slope) in (start..).zip(&slopes) {
                    let [first, second] = &mut self.moments[k * c + i];
                    *first = 0.9 * *first + 0.1 * slope;
                    *second = 0.999 * *second + 1e-3 * slope * slope;
                    logits[i] += rate * *first / fix[0] / ((*second / fix[1]).sqrt() + 1e-8);
                }
            }
            for (row, logits) in policy.chunks_mut(a).zip(logits.chunks(a)) {
                let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = logits.iter().map(|l| (l - most).exp()).sum();
                for (p, l) in row.iter_mut().zip(logits) {
                    *p = (l - most).exp() / total;
                }
            }
        }
        self.n_steps += 1;
    }
}

/// What is trained with a strength β of the KL term such that `kl` is spent, and β. `train`: from β to what is trained and
/// its KL, which falls with it.
pub(super) fn matched<T>(kl: f64, train: impl Fn(f64) -> (T, f64)) -> (T, f64) {
    let (mut low, mut high) = (1e-5f64.ln(), 10f64.ln());
    let mut found = None;
    for _ in 0..12 {
        let beta = (0.5 * (low + high)).exp();
        let (trained, spent) = train(beta);
        match spent > kl {
            true => low = beta.ln(),
            false => high = beta.ln(),
        }
        found = Some((trained, beta));
    }
    found.expect("there are iterations")
}
