//! Zeros, probabilities far below `f64`'s smallest number, large vocabularies.

use mopo_core::divergence::{Divergence, mix, optimal_policy};
use proptest::prelude::*;

use super::{assert_close, log_softmax, mixable, total};

const NEVER: f64 = f64::NEG_INFINITY;

/// Logits of which some are extreme and some are −∞; the first is not.
fn logits(n: usize) -> impl Strategy<Value = Vec<f64>> {
    let one = prop_oneof![
        6 => -5.0..5.0f64,
        2 => -1000.0..0.0f64,
        1 => Just(-1000.0),
        1 => -40.0..-20.0f64,
        1 => Just(NEVER),
    ];
    proptest::collection::vec(one, n).prop_map(|mut logits| {
        logits[0] = logits[0].max(-1000.0);
        logits
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_breaks_at_the_extremes(
        (reference, policies, weights) in (1..9usize, 1..5usize).prop_flat_map(|(n, k)| (
            logits(n),
            proptest::collection::vec(logits(n), k),
            proptest::collection::vec(prop_oneof![Just(0.0), Just(1e-12), Just(1.0), 0.0..1.0f64], k),
        ))
    ) {
        let sum: f64 = weights.iter().sum();
        if sum == 0.0 {
            return Ok(());
        }
        let weights: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        let reference = log_softmax(&reference);
        let policies: Vec<Vec<f64>> = policies.iter().map(|logits| log_softmax(logits)).collect();
        let slices: Vec<&[f64]> = policies.iter().map(Vec::as_slice).collect();
        for divergence in mixable() {
            let found = mix(divergence, &slices, &reference, &weights).unwrap();
            prop_assert!((total(&found) - 1.0).abs() < 1e-12, "{divergence}: {found:?}");
            for (action, log) in found.iter().enumerate() {
                let active = policies.iter().zip(&weights).filter(|(_, weight)| **weight > 0.0);
                let zero = reference[action] == NEVER
                    || active.clone().any(|(policy, _)| policy[action] == NEVER);
                prop_assert_eq!(zero, *log == NEVER, "{} {:?}", divergence, &found);
                prop_assert!(*log <= 1e-12, "{divergence}: {found:?}");
            }
        }
    }

    #[test]
    fn extreme_rewards_have_an_optimum(
        (reference, rewards) in (1..9usize).prop_flat_map(|n| (
            logits(n),
            proptest::collection::vec(prop_oneof![-3.0..3.0f64, -1e6..1e6f64, Just(1e300)], n),
        )),
        tau in prop_oneof![Just(1e-6), 0.1..10.0f64, Just(1e6)],
    ) {
        let reference = log_softmax(&reference);
        for divergence in mixable().into_iter().chain(Divergence::ALL) {
            let found = optimal_policy(divergence, &reference, &rewards, tau).unwrap();
            prop_assert!((total(&found) - 1.0).abs() < 1e-12, "{divergence}: {found:?}");
            for (log, reference) in found.iter().zip(&reference) {
                prop_assert!(*reference > NEVER || *log == NEVER);
            }
        }
    }
}

#[test]
fn a_zero_of_the_reference_or_of_a_policy_stays() {
    let reference = [NEVER, 0.5f64.ln(), 0.3f64.ln(), 0.2f64.ln()];
    let first = [0.25f64.ln(); 4];
    let second = [NEVER, 0.1f64.ln(), NEVER, 0.9f64.ln()];
    for divergence in mixable() {
        let found = mix(divergence, &[&first, &second], &reference, &[0.6, 0.4]).unwrap();
        assert_eq!((found[0], found[2]), (NEVER, NEVER), "{divergence}");
        assert!((total(&found) - 1.0).abs() < 1e-14);
        // Without weight the second policy's zero has no effect.
        let found = mix(divergence, &[&first, &second], &reference, &[1.0, 0.0]).unwrap();
        assert!(found[0] == NEVER && found[2] > -3.0, "{divergence}: {found:?}");
        assert!((total(&found) - 1.0).abs() < 1e-14);
        // Nor does a zero that both have; the only remaining action gets all probability.
        let alone = mix(divergence, &[&second, &second], &reference, &[0.5, 0.5]).unwrap();
        assert_eq!(alone, second);
        let corner = [NEVER, 0.0, NEVER, NEVER];
        let found = mix(divergence, &[&first, &corner], &reference, &[0.5, 0.5]).unwrap();
        assert_eq!(found, corner, "{divergence}");
    }
}

#[test]
fn a_reference_below_the_smallest_number_keeps_its_ratios() {
    // u is e^800 and e^1000 at the actions that count. Forward KL and, for such u, Jensen-Shannon:
    // 1/π = Σ α/π_k + c/π_ref, where c is visible only at the smaller reference.
    let reference = log_softmax(&[-1000.0, -800.0, 0.0]);
    let first = log_softmax(&[0.4f64.ln(), 0.6f64.ln(), -50.0]);
    let second = log_softmax(&[0.6f64.ln(), 0.4f64.ln(), -50.0]);
    let expected = [0.52f64.ln(), 0.48f64.ln()];
    for divergence in [Divergence::ForwardKl, Divergence::JensenShannon] {
        let found = mix(divergence, &[&first, &second], &reference, &[0.5, 0.5]).unwrap();
        assert_close(&found[..2], &expected, 1e-12, &format!("{divergence}"));
        assert!((-60.0..-40.0).contains(&found[2]), "{divergence}: {found:?}");
    }
}

#[test]
fn logarithms_and_plain_numbers_agree_where_both_work() {
    // Between these two, the reference's first action switches to logarithms; it has no reward.
    for divergence in mixable() {
        let solve = |logit: f64| {
            let reference = log_softmax(&[logit, 0.3, -1.0, -4.0]);
            let first = log_softmax(&[logit - 3.0, 0.0, 2.0, 1.0]);
            let second = log_softmax(&[logit + 3.0, 1.0, -2.0, -7.0]);
            mix(divergence, &[&first, &second], &reference, &[0.3, 0.7]).unwrap()
        };
        let (plain, logs) = (solve(-590.0), solve(-610.0));
        assert_close(&plain[1..], &logs[1..], 1e-13, &format!("{divergence}"));
        assert!((plain[0] - logs[0] - 20.0).abs() < 1e-10, "{divergence}");

        // And between these, the policies' ratios: then only the logarithm of Δ is known.
        let solve = |logit: f64| {
            let reference = log_softmax(&[0.0, 0.3, -1.0, -4.0]);
            let first = log_softmax(&[logit, 0.0, 2.0, 1.0]);
            let second = log_softmax(&[logit + 3.0, 1.0, -2.0, -7.0]);
            mix(divergence, &[&first, &second], &reference, &[0.3, 0.7]).unwrap()
        };
        let (plain, logs) = (solve(-490.0), solve(-510.0));
        assert_close(&plain[1..], &logs[1..], 1e-12, &format!("{divergence}"));
        assert!((plain[0] - logs[0] - 20.0).abs() < 0.2, "{divergence}: {plain:?} {logs:?}");
    }
}

#[test]
fn a_large_vocabulary_is_mixed() {
    const N: usize = 51_200;
    // A fixed sequence without a generator: three different policies, in f32 like a model's.
    let table = |k: usize| {
        let logit = |i: usize| f64::from((((i * (2 * k + 7)) % 1009) as f32 * 0.37).sin() * 6.0);
        log_softmax(&(0..N).map(logit).collect::<Vec<_>>())
    };
    let (reference, policies) = (table(0), [table(1), table(2), table(3)]);
    let slices: Vec<&[f64]> = policies.iter().map(Vec::as_slice).collect();
    for divergence in mixable() {
        let start = std::time::Instant::now();
        let found = mix(divergence, &slices, &reference, &[0.2, 0.5, 0.3]).unwrap();
        println!("{divergence}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        assert!((total(&found) - 1.0).abs() < 1e-11, "{divergence}");
    }
}
