//! HaM on a table: exact means instead of ratios, otherwise the language model's step.

use super::problem::Problem;
use crate::Result;
use crate::bandit::LearnerConfig;
use crate::bandit::learner::fall;
use crate::hypervolume::{ascent, spread_weights, volume_gradient};

/// z in standard deviations from the mean of a uniform response's rewards.
const CORNER: f64 = -2.0;

/// `n` policies of the largest hypervolume of z-scored mean rewards less β Σ KL, with β such that their mean KL is
/// `kl`. Returns them and β.
pub(super) fn policies(
    problem: &Problem,
    n: usize,
    kl: f64,
    config: &LearnerConfig,
) -> Result<(Vec<Vec<f64>>, f64)> {
    let (mut low, mut high) = (1e-5f64.ln(), 10f64.ln());
    let mut found = (Vec::new(), 0.0);
    for _ in 0..12 {
        let beta = (0.5 * (low + high)).exp();
        let policies = at(problem, n, beta, config);
        let spent = policies.iter().map(|p| problem.kl(p)).sum::<f64>() / n as f64;
        match spent > kl {
            true => low = beta.ln(),
            false => high = beta.ln(),
        }
        found = (policies, beta);
    }
    Ok(found)
}

fn at(problem: &Problem, n: usize, beta: f64, config: &LearnerConfig) -> Vec<Vec<f64>> {
    let rewards = problem.rewards.each_ref().map(|r| z_scores(r));
    let (a, c, contexts) = (problem.n_actions, problem.n_cells(), problem.n_contexts as f64);
    let corner = [CORNER; 2];
    let own = spread_weights(n, 2);
    let mut logits = vec![vec![0.0; c]; n];
    let mut moments = vec![[0.0f64; 2]; n * c];
    let mut policies = vec![problem.uniform(); n];
    for step in 0..config.steps {
        let points: Vec<Vec<f64>> =
            policies.iter().map(|p| rewards.iter().map(|r| problem.mean(r, p)).collect()).collect();
        let mut volume = volume_gradient(&points, &corner, 0, 0);
        volume.gradient.iter_mut().flatten().for_each(|g| *g /= CORNER * CORNER);
        let directions = ascent(&points, &corner, &volume, &own, 1.0);
        let rate = config.learning_rate * fall(step, config.steps);
        let fix = [0.9f64, 0.999].map(|b| 1.0 - b.powi(step as i32 + 1));
        for (k, (policy, direction)) in policies.iter_mut().zip(&directions).enumerate() {
            for cells in (0..c).collect::<Vec<_>>().chunks(a) {
                // d/dlogit of E[s], s = g · r − β log(π/π_0).
                let gain = |i: usize| {
                    direction[0] * rewards[0][i] + direction[1] * rewards[1][i]
                        - beta * (policy[i] * a as f64).max(1e-300).ln()
                };
                let mean: f64 = cells.iter().map(|&i| policy[i] * gain(i)).sum();
                for &i in cells {
                    let slope = policy[i] * (gain(i) - mean) / contexts;
                    let [first, second] = &mut moments[k * c + i];
                    *first = 0.9 * *first + 0.1 * slope;
                    *second = 0.999 * *second + 1e-3 * slope * slope;
                    logits[k][i] += rate * *first / fix[0] / ((*second / fix[1]).sqrt() + 1e-8);
                }
            }
            for (row, logits) in policy.chunks_mut(a).zip(logits[k].chunks(a)) {
                let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = logits.iter().map(|l| (l - most).exp()).sum();
                for (p, l) in row.iter_mut().zip(logits) {
                    *p = (l - most).exp() / total;
                }
            }
        }
    }
    policies
}

/// Over all cells; all zero where the rewards do not differ.
fn z_scores(rewards: &[f64]) -> Vec<f64> {
    let n = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let std = (rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / n).sqrt();
    rewards.iter().map(|r| if std > 0.0 { (r - mean) / std } else { 0.0 }).collect()
}
