//! GRPO on a table, in the limit of large groups: exact means and deviations of each context instead of a group's.

use super::ascent::{Ascent, matched};
use super::problem::Problem;
use crate::bandit::LearnerConfig;

/// Deviations below are of rewards that do not differ, and divide nothing.
const LEAST_STD: f64 = 1e-8;

/// A policy for each weight of the first objective, and β, such that the one for the first objective alone has a KL of
/// `kl`.
pub(super) fn policies(
    problem: &Problem,
    weights: &[f64],
    kl: f64,
    config: &LearnerConfig,
) -> (Vec<Vec<f64>>, f64) {
    let (_, beta) = matched(kl, |beta| {
        let policy = at(problem, &[1.0], beta, config);
        let spent = problem.kl(&policy[0]);
        (policy, spent)
    });
    (at(problem, weights, beta, config), beta)
}

fn at(problem: &Problem, weights: &[f64], beta: f64, config: &LearnerConfig) -> Vec<Vec<f64>> {
    let (uniform, contexts) = (1.0 / problem.n_actions as f64, problem.n_contexts as f64);
    let mut tables = Ascent::new(problem, weights.len(), config);
    for _ in 0..config.steps {
        tables.step(|policy, k, cells, slopes| {
            let advantages = advantages(problem, &policy[cells.clone()], cells.clone(), weights[k]);
            // The estimator k3 of the KL is differentiated, not its mean: of samples from π the gradient is that of
            // KL(π_0 ‖ π).
            let slope = |(i, advantage): (usize, f64)| {
                (policy[i] * advantage - beta * (policy[i] - uniform)) / contexts
            };
            slopes.extend(cells.zip(advantages).map(slope));
        });
    }
    tables.policies
}

/// Σ_k w_k (r_k − mean)/deviation in a context, under the policy there.
fn advantages(
    problem: &Problem,
    policy: &[f64],
    cells: std::ops::Range<usize>,
    weight: f64,
) -> Vec<f64> {
    let mut sums = vec![0.0; policy.len()];
    for (rewards, weight) in problem.rewards.iter().zip([weight, 1.0 - weight]) {
        let rewards = &rewards[cells.clone()];
        let mean: f64 = policy.iter().zip(rewards).map(|(p, r)| p * r).sum();
        let std =
            policy.iter().zip(rewards).map(|(p, r)| p * (r - mean).powi(2)).sum::<f64>().sqrt();
        if std > LEAST_STD {
            sums.iter_mut().zip(rewards).for_each(|(sum, r)| *sum += weight * (r - mean) / std);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bandit::ToySet;
    use crate::bandit::experiments::methods::MethodSettings;

    #[test]
    fn what_is_found_is_the_fixed_point_and_spends_the_divergence() {
        let problem = Problem::of_toy(ToySet::A);
        let config = MethodSettings { steps: 2000, ..Default::default() }.learner();
        let weights = [1.0, 0.5, 0.0];
        let (found, beta) = policies(&problem, &weights, 0.4, &config);
        assert!((problem.kl(&found[0]) - 0.4).abs() < 0.01, "{}", problem.kl(&found[0]));
        let n = problem.n_actions;
        for (policy, weight) in found.iter().zip(weights) {
            for start in (0..problem.n_cells()).step_by(n) {
                let cells = start..start + n;
                let own = &policy[cells.clone()];
                // Where the gradient is 0: π (A − β) + β π_0 = 0.
                for (p, a) in own.iter().zip(advantages(&problem, own, cells.clone(), weight)) {
                    assert!((p * (a - beta) + beta / n as f64).abs() < 2e-3, "{p} {a} {beta}");
                }
            }
        }
        let reward = |i: usize, k: usize| problem.mean(&problem.rewards[k], &found[i]);
        assert!(reward(0, 0) > reward(1, 0) && reward(1, 0) > reward(2, 0));
        assert!(reward(2, 1) > reward(1, 1) && reward(1, 1) > reward(0, 1));
    }
}
