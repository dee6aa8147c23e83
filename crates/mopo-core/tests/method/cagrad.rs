//! Directions of conflict-averse gradient descent against those of its authors' own code on the same gradients
//! (`make_cagrad.py`).

use mopo_core::conflict::conflict_averse;
use serde::Deserialize;

/// Their minimisers' own, relative to the length of the mean gradient.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    program: Program,
    /// c.
    correction: f64,
    /// `[n_objectives][n_parameters]`.
    gradients: Vec<Vec<f64>>,
    /// `[n_parameters]`.
    direction: Vec<f64>,
}

/// Each divides d by something else.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Program {
    /// By 1 + c.
    Toy,
    /// By nothing.
    Images,
    /// By 1 + c ‖g_0‖/‖g_p‖, the sum of the gradients' factors.
    Robots,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Σ_k c_k g_k.
fn combined(factors: &[f64], gradients: &[Vec<f64>]) -> Vec<f64> {
    let entry = |i: usize| factors.iter().zip(gradients).map(|(c, g)| c * g[i]).sum::<f64>();
    (0..gradients[0].len()).map(entry).collect()
}

#[test]
fn directions_are_those_of_the_authors() {
    let fixture: Fixture = serde_json::from_str(include_str!("cagrad.json")).unwrap();
    assert!(!fixture.cases.is_empty());
    for Case { program, correction, gradients, direction } in &fixture.cases {
        let gram: Vec<Vec<f64>> =
            gradients.iter().map(|a| gradients.iter().map(|b| dot(a, b)).collect()).collect();
        let weights = vec![1.0 / gradients.len() as f64; gradients.len()];
        let factors = conflict_averse(&gram, &weights, *correction, false).factors;
        let divisor = match program {
            Program::Toy => 1.0 + correction,
            Program::Images => 1.0,
            Program::Robots => factors.iter().sum::<f64>(),
        };
        let mean = combined(&weights, gradients);
        let allowed = TOLERANCE * dot(&mean, &mean).sqrt();
        let found = combined(&factors, gradients);
        assert_eq!(found.len(), direction.len());
        for (found, expected) in found.iter().zip(direction) {
            let is_close = (found - divisor * expected).abs() < allowed;
            assert!(is_close, "{program:?}, c {correction}: {found} and {divisor} × {expected}");
        }
    }
}
