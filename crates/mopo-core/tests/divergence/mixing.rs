//! Mixtures are what they are defined to be: stationary, and optimal for the mixed reward.

use mopo_core::divergence::{Divergence, mix, optimal_policy};
use proptest::prelude::*;

use super::{assert_close, log_softmax, mixable, total};

/// A reference, the rewards of some policies, weights and τ.
#[derive(Debug, Clone)]
struct Problem {
    reference: Vec<f64>,
    rewards: Vec<Vec<f64>>,
    weights: Vec<f64>,
    tau: f64,
}

impl Problem {
    fn mixed_reward(&self) -> Vec<f64> {
        let mixed = |action| {
            let rewards = self.rewards.iter().zip(&self.weights);
            rewards.map(|(reward, weight): (&Vec<f64>, _)| weight * reward[action]).sum()
        };
        (0..self.reference.len()).map(mixed).collect()
    }

    /// π_k as [`solve_plainly`] finds them.
    fn policies(&self, divergence: Divergence) -> Vec<Vec<f64>> {
        let of = |rewards: &Vec<f64>| solve_plainly(divergence, &self.reference, rewards, self.tau);
        self.rewards.iter().map(of).collect()
    }
}

fn problems() -> impl Strategy<Value = Problem> {
    (1..6usize, 2..9usize).prop_flat_map(|(k, n)| {
        let table = |size: f64| proptest::collection::vec(-size..size, n);
        let weights = proptest::collection::vec(prop_oneof![4 => 0.01..1.0f64, 1 => Just(0.0)], k);
        (table(4.0), proptest::collection::vec(table(5.0), k), weights, 0.4..3.0f64)
            .prop_filter("all weights are 0", |(_, _, weights, _)| weights.iter().any(|w| *w > 0.0))
            .prop_map(|(logits, rewards, weights, tau)| {
                let sum: f64 = weights.iter().sum();
                let weights = weights.iter().map(|weight| weight / sum).collect();
                Problem { reference: log_softmax(&logits), rewards, weights, tau }
            })
    })
}

/// The optimum of E\[r\] − τ D_f by bisection for λ, using only `inverse_derivative`.
fn solve_plainly(divergence: Divergence, reference: &[f64], rewards: &[f64], tau: f64) -> Vec<f64> {
    let log_ratio = |lambda: f64, reward: &f64| {
        // Out of range above: λ is too small.
        divergence.log_inverse_derivative((reward - lambda) / tau).unwrap_or(f64::INFINITY)
    };
    let mass = |lambda: f64| -> f64 {
        let logs = reference.iter().zip(rewards);
        logs.map(|(reference, reward)| (reference + log_ratio(lambda, reward)).exp()).sum()
    };
    let (mut low, mut high) = (-1e4, 1e4);
    for _ in 0..120 {
        let lambda = 0.5 * (low + high);
        if mass(lambda) > 1.0 { low = lambda } else { high = lambda }
    }
    let logs = reference.iter().zip(rewards).map(|(p, reward)| p + log_ratio(high, reward));
    // λ is only known up to rounding.
    log_softmax(&logs.collect::<Vec<_>>())
}

fn slices(policies: &[Vec<f64>]) -> Vec<&[f64]> {
    policies.iter().map(Vec::as_slice).collect()
}

proptest! {
    #[test]
    fn the_mixture_is_the_optimum_of_the_mixed_reward(problem in problems()) {
        for divergence in mixable() {
            let policies = problem.policies(divergence);
            let found =
                mix(divergence, &slices(&policies), &problem.reference, &problem.weights).unwrap();
            let rewards = problem.mixed_reward();
            let plain = solve_plainly(divergence, &problem.reference, &rewards, problem.tau);
            assert_close(&found, &plain, 1e-9, &format!("{divergence}"));
            prop_assert!((total(&found) - 1.0).abs() < 1e-13);
        }
    }

    #[test]
    fn the_mixture_is_stationary(problem in problems(), k_logits in 0.1..8.0f64) {
        // Any policies, not only optimal ones for some small reward.
        let policies: Vec<Vec<f64>> = problem
            .rewards
            .iter()
            .map(|row| log_softmax(&row.iter().map(|r| r * k_logits / 4.0).collect::<Vec<_>>()))
            .collect();
        for divergence in mixable() {
            let found =
                mix(divergence, &slices(&policies), &problem.reference, &problem.weights).unwrap();
            let derivative = |policy: &[f64], action: usize| {
                divergence.derivative_at_log(policy[action] - problem.reference[action])
            };
            let mut range = (f64::INFINITY, f64::NEG_INFINITY);
            let mut scale = 1.0f64;
            for action in 0..found.len() {
                let parts = policies.iter().zip(&problem.weights);
                let sum: f64 = parts.map(|(policy, w)| w * derivative(policy, action)).sum();
                let difference = derivative(&found, action) - sum;
                scale = scale.max(sum.abs());
                range = (range.0.min(difference), range.1.max(difference));
            }
            let spread = range.1 - range.0;
            prop_assert!(spread <= 1e-9 + 1e-12 * scale, "{divergence}: {spread:e} of {scale:e}");
        }
    }

    #[test]
    fn optimal_policies_agree_with_bisection_and_are_not_beaten(
        problem in problems(),
        direction in proptest::collection::vec(-1.0..1.0f64, 9),
    ) {
        let rewards = &problem.rewards[0];
        let reference: Vec<f64> = problem.reference.iter().map(|log| log.exp()).collect();
        for divergence in mixable().into_iter().chain([Divergence::ChiSquared, Divergence::TotalVariation]) {
            let found =
                optimal_policy(divergence, &problem.reference, rewards, problem.tau).unwrap();
            if divergence.has_barrier() {
                let plain = solve_plainly(divergence, &problem.reference, rewards, problem.tau);
                assert_close(&found, &plain, 1e-9, &format!("{divergence}"));
            }
            let value = |policy: &[f64]| {
                let reward: f64 = policy.iter().zip(rewards).map(|(p, r)| p * r).sum();
                reward - problem.tau * divergence.between(policy, &reference).unwrap()
            };
            let policy: Vec<f64> = found.iter().map(|log| log.exp()).collect();
            for size in [1e-3, 0.1, 1.0] {
                // Towards another policy: it may be near the corner that `direction` points to.
                let other = log_softmax(&direction[..policy.len()].iter().map(|d| 9.0 * d).collect::<Vec<_>>());
                let between: Vec<f64> =
                    policy.iter().zip(&other).map(|(p, o)| p + size * (o.exp() - p)).collect();
                prop_assert!(value(&between) <= value(&policy) + 1e-12, "{divergence} at {size}");
            }
        }
    }

    #[test]
    fn equal_policies_and_vertices_come_back(problem in problems(), k in 0..5usize) {
        for divergence in mixable() {
            let policies = problem.policies(divergence);
            let vertex = k % policies.len();
            let mut weights = vec![0.0; policies.len()];
            weights[vertex] = 1.0;
            let found = mix(divergence, &slices(&policies), &problem.reference, &weights).unwrap();
            prop_assert_eq!(&found, &policies[vertex]);

            let equal = vec![policies[0].clone(); policies.len()];
            let found =
                mix(divergence, &slices(&equal), &problem.reference, &problem.weights).unwrap();
            prop_assert_eq!(&found, &policies[0]);

            // Nearly equal: solved by the equation, not by the exception for equal policies.
            let nudged: Vec<Vec<f64>> = equal
                .iter()
                .enumerate()
                .map(|(k, p)| p.iter().map(|log| log + 1e-15 * k as f64 * log).collect())
                .collect();
            let found =
                mix(divergence, &slices(&nudged), &problem.reference, &problem.weights).unwrap();
            assert_close(&found, &policies[0], 1e-12, "nearly equal policies");
        }
    }

    #[test]
    fn reverse_kl_is_the_geometric_mean_and_small_orders_approach_it(problem in problems()) {
        let policies = problem.policies(Divergence::ReverseKl);
        let of = |divergence| {
            mix(divergence, &slices(&policies), &problem.reference, &problem.weights).unwrap()
        };
        let mean = |action: usize| {
            policies.iter().zip(&problem.weights).map(|(policy, w)| w * policy[action]).sum()
        };
        let logits: Vec<f64> = (0..problem.reference.len()).map(mean).collect();
        let reverse = of(Divergence::ReverseKl);
        assert_close(&reverse, &log_softmax(&logits), 1e-12, "reverse KL");
        assert_close(&of(Divergence::Alpha(1e-7)), &reverse, 1e-3, "order 1e-7");
        let forward = of(Divergence::ForwardKl);
        assert_close(&of(Divergence::Alpha(1.0 - 1e-9)), &forward, 1e-5, "order 1 - 1e-9");
    }
}

#[test]
fn a_mixture_by_hand() {
    // Forward KL, π_1 and π_2 mirror images: 1/u = Σ α/u_k + c is `outer` + c at both ends and 1 + c
    // in the middle, where the reference has half of the mass. With c = −x
    // ½/(outer − x) + ½/(1 − x) = 1, so that x² − outer x + ½ (outer − 1) = 0.
    let reference = [0.25f64, 0.5, 0.25].map(f64::ln);
    let first = [0.3f64, 0.5, 0.2].map(f64::ln);
    let second = [0.2f64, 0.5, 0.3].map(f64::ln);
    let found = mix(Divergence::ForwardKl, &[&first, &second], &reference, &[0.5, 0.5]).unwrap();
    let outer: f64 = 0.5 * (0.25 / 0.3 + 0.25 / 0.2);
    let x = (outer - (outer * outer - 2.0 * (outer - 1.0)).sqrt()) / 2.0;
    let expected = [0.25 / (outer - x), 0.5 / (1.0 - x), 0.25 / (outer - x)].map(f64::ln);
    assert_close(&found, &expected, 1e-14, "by hand");
}
