//! The dual against CAN's authors' own code on the same scores (`tests/method/make_can.py`).

use serde::Deserialize;

use super::{OneShotProblem, ScoredPrompts};

const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Fixture {
    /// `[n_prompts][n_responses]`: what is maximised, and what has a threshold.
    scores: Vec<Vec<[f32; 2]>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    beta: f64,
    threshold: f64,
    /// The multiplier at which the dual is least.
    minimum: f64,
    values: Vec<Value>,
}

#[derive(Deserialize)]
struct Value {
    multiplier: f64,
    dual: f64,
    gradient: f64,
    /// The mean of what is maximised.
    level: f64,
}

#[test]
fn the_dual_its_gradient_and_its_minimum_are_those_of_the_authors() {
    let fixture: Fixture =
        serde_json::from_str(include_str!("../../../tests/method/can.json")).unwrap();
    let prompts: Vec<Vec<&[f32]>> =
        fixture.scores.iter().map(|rows| rows.iter().map(|row| &row[..]).collect()).collect();
    let scored = ScoredPrompts::new(&prompts).unwrap();
    assert!(!fixture.cases.is_empty());
    for Case { beta, threshold, minimum, values } in &fixture.cases {
        let thresholds = [None, Some(*threshold)];
        let problem =
            OneShotProblem { primary: 0, thresholds: &thresholds, beta: *beta, lambda_max: 100.0 };
        let check = |what: &str, found: f64, expected: f64| {
            let is_close = (found - expected).abs() < TOLERANCE;
            assert!(is_close, "{what} of β {beta}, b {threshold}: {found} and {expected}");
        };
        check("λ", scored.dual(&problem).lambda[1], *minimum);
        let constrained = [(1, *threshold)];
        assert!(!values.is_empty());
        for Value { multiplier, dual, gradient, level } in values {
            let local = scored.local(&problem, &constrained, &[*multiplier]);
            check("the dual", local.value, *dual);
            check("the gradient", local.gradient[0], *gradient);
            let levels = scored.prompts.iter().map(|scores| {
                let (weights, _) = scored.weights(&problem, &constrained, &[*multiplier], scores);
                scores.chunks_exact(2).zip(weights).map(|(row, w)| w * row[0]).sum::<f64>()
            });
            check("the mean", levels.sum::<f64>() / scored.prompts.len() as f64, *level);
        }
    }
}
