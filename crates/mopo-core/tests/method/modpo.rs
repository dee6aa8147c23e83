//! MODPO's loss and its gradient against its authors' own code on the same numbers (`make_modpo.py`).

use burn::tensor::Tensor;
use mopo_core::pairwise::dpo_loss;
use mopo_testkit::TestAutodiffBackend as AD;
use serde::Deserialize;

use super::close;

const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Fixture {
    chosen: Side,
    rejected: Side,
    cases: Vec<Case>,
}

/// Responses: log-probs of the policy and of the reference, and what the margins are made of.
#[derive(Deserialize)]
struct Side {
    log_probs: Vec<f64>,
    reference: Vec<f64>,
    /// `[n_pairs][n_others]`; a case of two objectives uses only the first of a row.
    others: Vec<[f64; 2]>,
}

#[derive(Deserialize)]
struct Case {
    beta: f64,
    /// α, first that of the objective whose labels are learned.
    weights: Vec<f64>,
    margins: Margins,
    loss: f64,
    /// With respect to the log-probs of the chosen responses, and of the rejected ones.
    gradient: [Vec<f64>; 2],
}

/// As in the configuration.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Margins {
    /// The numbers are m_j.
    Scores,
    /// The numbers are Δ_j, and m_j = β Δ_j.
    Runs,
}

impl Side {
    /// log π_ref + Σ α_j m_j/β, what is taken off log π.
    fn offsets(&self, case: &Case) -> Vec<f64> {
        let margin = |number: &f64| match case.margins {
            Margins::Scores => number / case.beta,
            Margins::Runs => *number,
        };
        let shift = |row: &[f64; 2]| -> f64 {
            case.weights[1..].iter().zip(row).map(|(weight, x)| weight * margin(x)).sum()
        };
        self.reference.iter().zip(&self.others).map(|(own, row)| own + shift(row)).collect()
    }
}

fn tensor(values: &[f64]) -> Tensor<AD, 1> {
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    Tensor::from_data(values.as_slice(), &Default::default())
}

#[test]
fn the_loss_and_its_gradient_are_those_of_the_authors() {
    let fixture: Fixture = serde_json::from_str(include_str!("modpo.json")).unwrap();
    let sides = [&fixture.chosen, &fixture.rejected];
    let n = fixture.chosen.log_probs.len();
    let all = |value: f64| Tensor::<AD, 1>::full([n], value, &Default::default());
    assert!(!fixture.cases.is_empty());
    for case in &fixture.cases {
        let of = format!("β {}, α {:?}", case.beta, case.weights);
        let beta = case.beta / case.weights[0];
        // The chosen response first, and second.
        for (first, label) in [(0, 1.0), (1, 0.0)] {
            let log_probs = sides.map(|side| tensor(&side.log_probs).require_grad());
            let value = |r: usize| log_probs[r].clone() - tensor(&sides[r].offsets(case));
            let mass = all(1.0 / n as f64);
            let loss = dpo_loss(value(first), value(1 - first), all(label), mass, beta);
            let found = f64::from(loss.clone().into_scalar());
            assert!(close(found, case.loss, TOLERANCE), "{of}: {found} and {}", case.loss);

            let gradients = loss.backward();
            // No entry is larger.
            let scale = beta / n as f64;
            for (own, expected) in log_probs.iter().zip(&case.gradient) {
                let found: Vec<f64> = own.grad(&gradients).unwrap().into_data().iter().collect();
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(expected) {
                    let is_close = close(found / scale, expected / scale, TOLERANCE);
                    assert!(is_close, "{of}: slopes {found} and {expected}");
                }
            }
        }
    }
}
