//! HaM on a table: exact means instead of ratios, otherwise the language model's step.

use super::ascent::{Ascent, matched};
use super::problem::Problem;
use crate::bandit::LearnerConfig;
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
) -> (Vec<Vec<f64>>, f64) {
    matched(kl, |beta| {
        let policies = at(problem, n, beta, config);
        let spent = policies.iter().map(|p| problem.kl(p)).sum::<f64>() / n as f64;
        (policies, spent)
    })
}

fn at(problem: &Problem, n: usize, beta: f64, config: &LearnerConfig) -> Vec<Vec<f64>> {
    let rewards = problem.rewards.each_ref().map(|r| z_scores(r));
    let (a, contexts) = (problem.n_actions, problem.n_contexts as f64);
    let corner = [CORNER; 2];
    let own = spread_weights(n, 2);
    let mut tables = Ascent::new(problem, n, config);
    for _ in 0..config.steps {
        let mean = |p: &Vec<f64>| rewards.iter().map(|r| problem.mean(r, p)).collect();
        let points: Vec<Vec<f64>> = tables.policies.iter().map(mean).collect();
        let mut volume = volume_gradient(&points, &corner, 0, 0);
        volume.gradient.iter_mut().flatten().for_each(|g| *g /= CORNER * CORNER);
        let directions = ascent(&points, &corner, &volume, &own, 1.0);
        tables.step(|policy, k, cells, slopes| {
            let direction = &directions[k];
            // d/dlogit of E[s], s = g · r − β log(π/π_0).
            let gain = |i: usize| {
                direction[0] * rewards[0][i] + direction[1] * rewards[1][i]
                    - beta * (policy[i] * a as f64).max(1e-300).ln()
            };
            let mean: f64 = cells.clone().map(|i| policy[i] * gain(i)).sum();
            slopes.extend(cells.map(|i| policy[i] * (gain(i) - mean) / contexts));
        });
    }
    tables.policies
}

/// Over all cells; all zero where the rewards do not differ.
fn z_scores(rewards: &[f64]) -> Vec<f64> {
    let n = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let std = (rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / n).sqrt();
    rewards.iter().map(|r| if std > 0.0 { (r - mean) / std } else { 0.0 }).collect()
}
