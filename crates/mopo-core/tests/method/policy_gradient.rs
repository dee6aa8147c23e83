//! PPO and GRPO against TRL's own code on the same numbers (`make_policy_gradient.py`).

use burn::tensor::Tensor;
use mopo_core::policy_gradient::{
    AdaptiveKl, clipped_surrogate, clipped_value_loss, gae, group_normalized, k3_penalty,
    token_rewards, whiten,
};
use mopo_testkit::TestBackend as B;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    group_size: usize,
    log_probs: Vec<Vec<f64>>,
    old: Vec<Vec<f64>>,
    reference: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
    old_values: Vec<Vec<f64>>,
    /// `[n_answers][n_objectives]`.
    scores: Vec<[f64; 2]>,
    ppo: Vec<Ppo>,
    controller: Controller,
    weights: [f64; 2],
    advantages: Vec<f64>,
    normalized_advantages: Vec<f64>,
    grpo: Vec<Grpo>,
}

#[derive(Deserialize)]
struct Ppo {
    gamma: f64,
    lambda: f64,
    kl_coef: f64,
    value_coef: f64,
    advantages: Vec<Vec<f64>>,
    returns: Vec<Vec<f64>>,
    policy_loss: f64,
    weighted_value_loss: f64,
}

#[derive(Deserialize)]
struct Controller {
    coefficient: f64,
    target: f64,
    horizon: f64,
    steps: Vec<(f64, usize)>,
    values: Vec<f64>,
}

#[derive(Deserialize)]
struct Grpo {
    beta: f64,
    loss_type: String,
    loss: f64,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("policy_gradient.json")).unwrap()
}

fn tensor(values: &[f64]) -> Tensor<B, 1> {
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    Tensor::from_data(values.as_slice(), &Default::default())
}

fn tokens(rows: &[Vec<f64>]) -> Tensor<B, 1> {
    tensor(&rows.concat())
}

fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert!(!found.is_empty() && found.len() == expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs() / (1.0 + expected.abs());
        assert!(error < tolerance, "{what}: {found} and {expected}");
    }
}

fn value(tensor: Tensor<B, 1>) -> f64 {
    f64::from(tensor.into_scalar())
}

#[test]
fn ppo_is_that_of_trl() {
    let f = fixture();
    for case in &f.ppo {
        let mut advantages = Vec::new();
        for (i, score) in f.scores.iter().enumerate() {
            let ratios: Vec<f64> =
                f.old[i].iter().zip(&f.reference[i]).map(|(own, other)| own - other).collect();
            let rewards = token_rewards(&ratios, case.kl_coef, score[0]);
            let own = gae(&rewards, &f.old_values[i], case.gamma, case.lambda);
            let returns: Vec<f64> = own.iter().zip(&f.old_values[i]).map(|(a, v)| a + v).collect();
            assert_close("returns", &returns, &case.returns[i], 1e-5);
            advantages.extend(own);
        }
        whiten(&mut advantages);
        assert_close("advantages", &advantages, &case.advantages.concat(), 1e-5);

        let n = advantages.len();
        let mass = || Tensor::<B, 1>::full([n], 1.0 / n as f64, &Default::default());
        let policy = clipped_surrogate(
            tokens(&f.log_probs),
            tokens(&f.old),
            tensor(&advantages),
            mass(),
            0.2,
        );
        let values = clipped_value_loss(
            tokens(&f.values),
            tokens(&f.old_values),
            tokens(&case.returns),
            mass(),
            0.2,
        );
        assert_close("policy loss", &[value(policy)], &[case.policy_loss], 1e-5);
        let weighted = case.value_coef * value(values);
        assert_close("value loss", &[weighted], &[case.weighted_value_loss], 1e-5);
    }
}

#[test]
fn the_controller_is_that_of_trl() {
    let Controller { coefficient, target, horizon, steps, values } = fixture().controller;
    let mut kl = AdaptiveKl { coefficient, target, horizon };
    for ((found, n), expected) in steps.into_iter().zip(values) {
        kl.update(found, n);
        assert_close("coefficient", &[kl.coefficient], &[expected], 1e-12);
    }
}

#[test]
fn grpo_is_that_of_trl() {
    let f = fixture();
    let mut advantages = vec![0.0; f.scores.len()];
    for (k, weight) in f.weights.iter().enumerate() {
        let scores: Vec<f64> = f.scores.iter().map(|row| row[k]).collect();
        for (sum, own) in advantages.iter_mut().zip(group_normalized(&scores, f.group_size)) {
            *sum += weight * own;
        }
    }
    assert_close("advantages", &advantages, &f.advantages, 1e-5);
    let again = group_normalized(&advantages, advantages.len());
    assert_close("normalised again", &again, &f.normalized_advantages, 1e-5);

    let lengths: Vec<usize> = f.old.iter().map(Vec::len).collect();
    let n_tokens: usize = lengths.iter().sum();
    let each = |of: &dyn Fn(usize) -> f64| -> Tensor<B, 1> {
        let all = (0..lengths.len()).flat_map(|i| std::iter::repeat_n(of(i), lengths[i]));
        tensor(&all.collect::<Vec<f64>>())
    };
    for case in &f.grpo {
        let mass = || match case.loss_type.as_str() {
            "dapo" => each(&|_| 1.0 / n_tokens as f64),
            "grpo" => each(&|i| 1.0 / (lengths.len() * lengths[i]) as f64),
            other => panic!("{other}"),
        };
        let advantages = each(&|i| advantages[i]);
        let policy =
            clipped_surrogate(tokens(&f.log_probs), tokens(&f.old), advantages, mass(), 0.2);
        let kl = k3_penalty(tokens(&f.log_probs), tokens(&f.reference), mass());
        let loss = value(policy) + case.beta * value(kl);
        assert_close(&case.loss_type, &[loss], &[case.loss], 1e-5);
    }
}
