//! RACO's losses and steps against its authors' own code on the same numbers (`make_raco.py`).

use burn::tensor::Tensor;
use mopo_core::conflict::conflict_averse;
use mopo_core::pairwise::dpo_loss;
use mopo_testkit::TestAutodiffBackend as AD;
use serde::Deserialize;

use super::close;

const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Fixture {
    beta: f64,
    batches: Vec<Batch>,
}

/// Pairs, and what was found on them.
#[derive(Deserialize)]
struct Batch {
    /// `[n_parameters]`.
    parameters: Vec<f64>,
    sides: [Side; 2],
    /// `[n_objectives][n_pairs]`.
    prefers_first: Vec<Vec<bool>>,
    /// `[n_objectives]`.
    losses: Vec<f64>,
    /// `[n_objectives][n_parameters]`.
    gradients: Vec<Vec<f64>>,
    cases: Vec<Case>,
}

/// Responses: log-probs of the policy are features times parameters.
#[derive(Deserialize)]
struct Side {
    /// `[n_pairs][n_parameters]`.
    features: Vec<Vec<f64>>,
    /// Log-probs of the reference, `[n_pairs]`.
    reference: Vec<f64>,
}

/// A step; a case of two weights has the first two objectives.
#[derive(Deserialize)]
struct Case {
    weights: Vec<f64>,
    correction: f64,
    clip: bool,
    /// p, and what clipping leaves of it.
    mixture: Vec<f64>,
    clipped: Vec<f64>,
    /// d, `[n_parameters]`.
    direction: Vec<f64>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("raco.json")).unwrap()
}

fn tensor(values: impl Iterator<Item = f64>) -> Tensor<AD, 1> {
    let values: Vec<f32> = values.map(|x| x as f32).collect();
    Tensor::from_data(values.as_slice(), &Default::default())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn assert_close(found: &[f64], expected: &[f64], what: &str) {
    let all = found.iter().zip(expected).all(|(a, b)| close(*a, *b, TOLERANCE));
    assert!(found.len() == expected.len() && all, "{what}: {found:?} and {expected:?}");
}

#[test]
fn losses_and_their_gradients_are_those_of_the_authors() {
    let Fixture { beta, batches } = fixture();
    assert!(!batches.is_empty());
    for batch in &batches {
        let n = batch.prefers_first[0].len();
        for (k, prefers_first) in batch.prefers_first.iter().enumerate() {
            let ratios = batch.sides.each_ref().map(|side| {
                let rows = side.features.iter().zip(&side.reference);
                tensor(rows.map(|(row, reference)| dot(row, &batch.parameters) - reference))
                    .require_grad()
            });
            let labels = tensor(prefers_first.iter().map(|first| f64::from(u8::from(*first))));
            let mass = tensor((0..n).map(|_| 1.0 / n as f64));
            let [first, second] = ratios.clone();
            let loss = dpo_loss(first, second, labels, mass, beta);
            let found = f64::from(loss.clone().into_scalar());
            assert_close(&[found], &batch.losses[k..=k], "loss");

            let gradients = loss.backward();
            let mut gradient = vec![0.0; batch.parameters.len()];
            for (own, side) in ratios.iter().zip(&batch.sides) {
                let slopes: Vec<f64> = own.grad(&gradients).unwrap().into_data().iter().collect();
                for (slope, row) in slopes.iter().zip(&side.features) {
                    gradient.iter_mut().zip(row).for_each(|(sum, x)| *sum += slope * x);
                }
            }
            assert_close(&gradient, &batch.gradients[k], "gradient");
        }
    }
}

#[test]
fn mixtures_and_steps_are_those_of_the_authors() {
    for batch in &fixture().batches {
        assert!(!batch.cases.is_empty());
        for Case { weights, correction, clip, mixture, clipped, direction } in &batch.cases {
            let gradients = &batch.gradients[..weights.len()];
            let gram: Vec<Vec<f64>> =
                gradients.iter().map(|a| gradients.iter().map(|b| dot(a, b)).collect()).collect();
            let found = conflict_averse(&gram, weights, *correction, *clip);
            let of = format!("α {weights:?}, c {correction}, clip {clip}");
            assert_close(&found.mixture, mixture, &format!("p of {of}"));
            assert_close(&found.clipped, clipped, &format!("p̃ of {of}"));
            let step: Vec<f64> = (0..direction.len())
                .map(|i| found.factors.iter().zip(gradients).map(|(c, g)| c * g[i]).sum::<f64>())
                .collect();
            assert_close(&step, direction, &format!("d of {of}"));
        }
    }
}
