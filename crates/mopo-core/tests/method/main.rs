//! The method against plain `f64` arithmetic and an independent solver's results.

mod bandit;
mod cagrad;
mod dual_state;
mod exact_cop;
mod exact_data;
mod learned;
mod lower_bound;
mod modpo;
mod pairwise;
mod policy_gradient;
mod raco;
mod weights;

use burn::tensor::{Tensor, TensorData};
use mopo_core::mopo::{PolicyDual, importance_weights};
use mopo_core::{BatchStatistics, DualState, MopoConfig, ResponseLabels};
use mopo_testkit::TestBackend as B;

/// `[n_responses]` on the tests' backend.
fn tensor(values: &[f32]) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &device())
}

fn device() -> <B as burn::tensor::backend::BackendTypes>::Device {
    Default::default()
}

/// `importance_weights` on the host: weights and statistics.
fn weights_of_rows(
    config: &MopoConfig,
    dual: &DualState,
    rows: &[Vec<Option<f32>>],
    log_ratio: &[f32],
    radius: f64,
) -> (Vec<f64>, BatchStatistics) {
    let labels = ResponseLabels::<B>::from_rows(rows, &device());
    let radius = vec![radius; dual.lambda.len()];
    let policy = PolicyDual { tau: config.tau, dual, radius: &radius, chi: config.chi };
    let ratio = tensor(log_ratio).unsqueeze();
    let (weights, mut statistics) =
        importance_weights(&[policy], &labels, ratio, config.ratio_clip);
    (weights.into_data().iter().collect(), statistics.remove(0))
}

/// Every label present.
fn all(rows: &[Vec<f32>]) -> Vec<Vec<Option<f32>>> {
    rows.iter().map(|r| r.iter().map(|&i| Some(i)).collect()).collect()
}

/// A state with these multipliers.
fn state(config: &MopoConfig, primary: usize, lambda: &[f64]) -> DualState {
    let mut dual = DualState::new(config, primary, lambda.len());
    dual.lambda.copy_from_slice(lambda);
    dual
}

/// What `importance_weights` computes, response by response in `f64`.
struct Plain {
    a: Vec<f64>,
    w: Vec<f64>,
}

fn plain(tau: f64, primary: usize, lambda: &[f64], rows: &[Vec<f32>], log_r: &[f32]) -> Plain {
    let r: Vec<f64> = log_r.iter().map(|&l| f64::from(l).exp()).collect();
    let a: Vec<f64> = r.iter().map(|x| x / r.iter().sum::<f64>()).collect();
    let score = |row: &Vec<f32>| -> f64 {
        let coefficient = |k| if k == primary { 1.0 } else { lambda[k] };
        row.iter().enumerate().map(|(k, &i)| coefficient(k) * f64::from(i)).sum::<f64>() / tau
    };
    let s: Vec<f64> = rows.iter().map(score).collect();
    let max = s.iter().cloned().fold(f64::MIN, f64::max);
    let z: f64 = a.iter().zip(&s).map(|(a, s)| a * (s - max).exp()).sum();
    let w = s.iter().map(|s| (s - max).exp() / z).collect();
    Plain { a, w }
}

/// −χ log Σ a exp(−w q/χ) − χ ε.
fn bound(a: &[f64], wq: &[f64], chi: f64, epsilon: f64) -> f64 {
    let mean: f64 = a.iter().zip(wq).map(|(a, x)| a * (-x / chi).exp()).sum();
    -chi * (mean.ln() + epsilon)
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * b.abs().max(1.0)
}

/// The exact solutions of an independent convex solver.
fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("vectors.json")).expect("vectors.json is JSON")
}

/// A JSON list of numbers.
fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}
