//! The theorem that `examples/no_barrier.rs` shows: no barrier, no decoding.

#[allow(dead_code, unreachable_pub)]
#[path = "../../examples/no_barrier.rs"]
mod no_barrier;

use mopo_core::divergence::{Divergence, mix, optimal_policy};
use no_barrier::{FIRST_REWARDS, SECOND_REWARDS, TAU, distance, worlds};

#[test]
fn without_a_barrier_equal_policies_have_different_optima_of_the_mixed_reward() {
    assert_ne!(FIRST_REWARDS[0], FIRST_REWARDS[1]);
    for divergence in [Divergence::ChiSquared, Divergence::TotalVariation] {
        assert!(!divergence.has_barrier());
        let [a, b] = worlds(divergence).unwrap();
        assert_eq!(a.policies, b.policies, "{divergence}");
        // It is the zero that hides the reward.
        assert_eq!(a.policies[0][2], f64::NEG_INFINITY);
        assert!(distance(&a.optimum, &b.optimum) > 0.2, "{divergence}");
        assert_eq!(a.mixture, None);
    }
}

#[test]
fn with_a_barrier_the_worlds_look_different_and_the_mixture_is_exact_in_both() {
    for divergence in Divergence::ALL.into_iter().filter(Divergence::has_barrier) {
        let [a, b] = worlds(divergence).unwrap();
        let visible = (a.policies[0][2] - b.policies[0][2]).abs();
        assert!(visible > 0.3, "{divergence}: {visible}");
        for world in [a, b] {
            let mixture = world.mixture.unwrap();
            assert!(distance(&mixture, &world.optimum) < 1e-14, "{divergence}");
        }
    }
}

#[test]
fn the_examples_optima_are_optimal() {
    // No policy on a grid over the simplex is better, whatever the divergence.
    const STEPS: usize = 60;
    let uniform = [1.0 / 3.0; 3];
    let log_uniform = uniform.map(f64::ln);
    for divergence in Divergence::ALL {
        for rewards in [FIRST_REWARDS[0], FIRST_REWARDS[1], SECOND_REWARDS] {
            let value = |policy: &[f64]| {
                let reward: f64 = policy.iter().zip(&rewards).map(|(p, r)| p * r).sum();
                reward - TAU * divergence.between(policy, &uniform).unwrap()
            };
            let optimum = optimal_policy(divergence, &log_uniform, &rewards, TAU).unwrap();
            let best = value(&optimum.iter().map(|log| log.exp()).collect::<Vec<_>>());
            for i in 0..=STEPS {
                for j in 0..=STEPS - i {
                    let counts = [i, j, STEPS - i - j];
                    let other = counts.map(|count| count as f64 / STEPS as f64);
                    assert!(value(&other) <= best + 1e-12, "{divergence}: {other:?} is better");
                }
            }
        }
    }
}

#[test]
fn mixing_without_a_barrier_is_refused_with_the_reason() {
    let uniform = [0.5f64.ln(); 2];
    for divergence in [Divergence::ChiSquared, Divergence::TotalVariation] {
        let error = mix(divergence, &[&uniform], &uniform, &[1.0]).unwrap_err().to_string();
        for words in ["`divergence`", "barrier", "A.2", "reverse_kl, forward_kl"] {
            assert!(error.contains(words), "{error}");
        }
        assert!(!error.contains("reverse_kl, chi"), "{error}");
    }
}
