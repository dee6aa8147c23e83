//! Errors of mixing name the field and the remedy.

use mopo_core::divergence::{Divergence, mix, optimal_policy};

#[test]
fn wrong_input_is_named() {
    let uniform = [0.5f64.ln(); 2];
    let never = f64::NEG_INFINITY;
    let nan = [f64::NAN, 0.0];
    let with = |policies: &[&[f64]], reference: &[f64], weights: &[f64]| {
        mix(Divergence::ForwardKl, policies, reference, weights).unwrap_err().to_string()
    };
    let two = [&uniform[..], &uniform[..]];
    for (error, words) in [
        (with(&[], &uniform, &[]), ["log_policies", "at least one policy"]),
        (with(&two, &[], &[0.5, 0.5]), ["log_reference", "at least one action"]),
        (with(&two, &uniform, &[1.0]), ["preference_weights", "1 long for 2 policies"]),
        (with(&two, &uniform, &[1.5, -0.5]), ["preference_weights", "-0.5 at policy 1"]),
        (with(&two, &uniform, &[f64::NAN, 1.0]), ["preference_weights", "NaN at policy 0"]),
        (with(&two, &uniform, &[0.5, 0.6]), ["preference_weights", "with sum 1.1"]),
        (with(&[&uniform, &[0.0]], &uniform, &[0.5, 0.5]), ["log_policies", "1 long for policy 1"]),
        (with(&[&[0.5, 0.5]], &uniform, &[1.0]), ["log_policies", "log-softmax"]),
        (with(&[&[never; 2]], &uniform, &[1.0]), ["log_policies", "log-softmax"]),
        (with(&[&[f64::INFINITY, never]], &uniform, &[1.0]), ["log_policies", "log-softmax"]),
        (
            with(&[&uniform, &nan], &uniform, &[1.0, 0.0]),
            ["log_policies", "of policy 1 at action 0"],
        ),
        (with(&two, &nan, &[0.5, 0.5]), ["log_reference", "NaN"]),
        (with(&two, &[0.0; 2], &[0.5, 0.5]), ["log_reference", "log-softmax"]),
        (
            with(&[&[0.0, never], &[never, 0.0]], &uniform, &[0.5, 0.5]),
            ["log_policies", "fewer policies"],
        ),
    ] {
        assert!(words.iter().all(|word| error.contains(word)), "{error}: {words:?}");
    }
    let error = mix(Divergence::Alpha(1.5), &two, &uniform, &[0.5, 0.5]).unwrap_err().to_string();
    assert!(error.contains("alpha:1.5") && error.contains("between 0 and 1"), "{error}");
    // The rounding of an f32 softmax and of f32 weights is accepted.
    let nearly = uniform.map(|log| log + 3e-5);
    mix(Divergence::ForwardKl, &[&nearly, &uniform], &uniform, &[0.3, 0.7 + 3e-8]).unwrap();
}

#[test]
fn optima_and_distances_refuse_too() {
    let uniform = [0.5f64.ln(); 2];
    let of = |rewards: &[f64], tau| {
        optimal_policy(Divergence::Jeffreys, &uniform, rewards, tau).unwrap_err().to_string()
    };
    for (error, words) in [
        (of(&[1.0], 1.0), "`rewards` is 1 long"),
        (of(&[1.0, f64::NAN], 1.0), "`rewards` at action 1"),
        (of(&[1.0, 0.0], 0.0), "`tau` is 0"),
        (of(&[1.0, 0.0], f64::NAN), "`tau` is NaN"),
    ] {
        assert!(error.contains(words), "{error}");
    }
    let between =
        |p: &[f64], q: &[f64]| Divergence::ForwardKl.between(p, q).unwrap_err().to_string();
    for (error, words) in [
        (between(&[1.0], &[0.5, 0.5]), "`p` is 1 long"),
        (between(&[0.5, 0.6], &[0.5, 0.5]), "with sum 1.1"),
        (between(&[0.5, 0.5], &[1.5, -0.5]), "`q` is -0.5 at action 1"),
        (between(&[0.5, 0.5], &[f64::NAN, 1.0]), "`q`"),
    ] {
        assert!(error.contains(words), "{error}");
    }
}
