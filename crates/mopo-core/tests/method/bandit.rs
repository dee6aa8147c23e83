//! A softmax policy over three actions: cloning with these weights finds the exact solution
//! (docs/math.md, the section on bandits).

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use mopo_core::bandit::total_variation;
use mopo_core::mopo::{PolicyDual, cloning_loss, importance_weights};
use mopo_core::{ChiUpdate, DualState, MopoConfig, ResponseLabels, ThresholdRule};
use mopo_testkit::{TestAutodiffBackend as AD, TestBackend as B};

use super::{device, numbers, tensor, vectors};

/// The responses of a bandit problem: the action of each, and the mean indicators of that action.
fn responses(problem: &serde_json::Value) -> (Vec<i32>, Vec<Vec<Option<f32>>>) {
    let mut found: Vec<(usize, Vec<f64>)> = Vec::new();
    for pair in problem["pairs"].as_array().unwrap() {
        let indicators = numbers(&pair[2]);
        found.push((pair[0].as_u64().unwrap() as usize, indicators.clone()));
        let second = indicators.iter().map(|i| 1.0 - i).collect();
        found.push((pair[1].as_u64().unwrap() as usize, second));
    }
    let mean = |action: usize, k: usize| {
        let of: Vec<f64> = found.iter().filter(|t| t.0 == action).map(|t| t.1[k]).collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    let preference: Vec<Vec<f64>> =
        problem["preference"].as_array().unwrap().iter().map(numbers).collect();
    let rows = found
        .iter()
        .map(|(action, _)| {
            (0..2)
                .map(|k| {
                    assert!((mean(*action, k) - preference[k][*action]).abs() < 1e-12);
                    Some(mean(*action, k) as f32)
                })
                .collect()
        })
        .collect();
    (found.iter().map(|t| t.0 as i32).collect(), rows)
}

/// Gradient descent on the cloning loss together with the multipliers' steps, full batch, with the
/// uniform distribution as a fixed reference.
fn learn(
    config: &MopoConfig,
    mut dual: DualState,
    actions: &[i32],
    rows: &[Vec<Option<f32>>],
    steps: usize,
) -> (Vec<f64>, DualState) {
    let labels = ResponseLabels::<B>::from_rows(rows, &device());
    let radius: Vec<f64> = vec![config.ball.radius(rows.len()); 2];
    let actions = Tensor::<AD, 1, Int>::from_data(actions, &device());
    let mut logits = Tensor::<AD, 1>::from_data(TensorData::from([0.0f32; 3]), &device());
    for _ in 0..steps {
        logits = logits.require_grad();
        let log_ratio = tensor(&vec![0.0; rows.len()]).unsqueeze();
        let policy =
            PolicyDual { tau: config.tau, dual: &dual, radius: &radius, chi: ChiUpdate::Step };
        let (weights, statistics) =
            importance_weights(&[policy], &labels, log_ratio, config.ratio_clip);
        dual.step(config, &statistics[0]);
        let log_probs = log_softmax(logits.clone(), 0).select(0, actions.clone());
        let gradients =
            cloning_loss(Tensor::from_inner(weights.squeeze_dim(0)), log_probs).backward();
        let gradient = logits.grad(&gradients).expect("the logits are in the loss");
        logits = Tensor::from_inner(logits.inner() - gradient.mul_scalar(1.0));
    }
    (log_softmax(logits, 0).exp().into_data().iter().collect(), dual)
}

fn config(tau: f64) -> MopoConfig {
    MopoConfig {
        tau,
        // Practically none: it lowers the estimate by about √(2ε Var) = 0.001.
        ball: mopo_core::Ball::Radius(1e-6),
        lambda_lr: 0.3,
        thresholds: ThresholdRule::Fixed,
        ..MopoConfig::default()
    }
}

#[test]
fn it_finds_the_exact_solutions() {
    let vectors = vectors();
    let mut checked = 0;
    for problem in vectors["bandits"].as_array().unwrap() {
        let name = problem["name"].as_str().unwrap();
        let tau = problem["tau"].as_f64().unwrap();
        if !(tau == 0.2 && ["total", "antichain"].contains(&name)) {
            continue;
        }
        let (actions, rows) = responses(problem);
        let config = config(tau);
        let threshold = problem["thresholds"][0].as_f64().unwrap_or(0.0);
        let dual = DualState::new(&config, 0, 2).with_thresholds(&[0.0, threshold]);
        let (policy, dual) = learn(&config, dual, &actions, &rows, 1500);
        let exact = numbers(&problem["policy"]);
        let distance = total_variation(&policy, &exact);
        assert!(distance < 0.02, "{name}: {policy:?} instead of {exact:?}");
        let lambda = numbers(&problem["lam"])[0];
        assert!(
            (dual.lambda[1] - lambda).abs() < 0.03,
            "{name}: λ {} not {lambda}",
            dual.lambda[1]
        );
        checked += 1;
    }
    assert_eq!(checked, 2);
}

#[test]
fn a_large_temperature_keeps_the_policy_at_the_reference() {
    let actions = [0, 1, 0, 2, 1, 2];
    let rows: Vec<Vec<Option<f32>>> =
        [1.0, 0.5, 1.0, 0.0, 0.5, 0.0].iter().map(|&i| vec![Some(i), Some(i)]).collect();
    let learned = |tau| {
        let config = config(tau);
        let dual = DualState::new(&config, 0, 2).with_thresholds(&[0.0, 0.0]);
        learn(&config, dual, &actions, &rows, 300).0
    };
    let policy = learned(1e3);
    assert!(policy.iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-2), "{policy:?}");
    // The same at a small one does leave it.
    assert!(learned(0.1)[0] > 0.8);
}
