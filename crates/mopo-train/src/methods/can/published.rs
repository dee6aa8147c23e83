//! Labels of pairs against CAN's authors' own code on the same scores (`make_can.py` of mopo-core).

use mopo_core::dual::{OneShotProblem, ScoredPrompts};
use mopo_data::PairTokens;
use serde::Deserialize;

use super::{CanConfig, CanLabels, Solution};
use crate::Pairs;

#[derive(Deserialize)]
struct Fixture {
    /// `[n_prompts][n_responses]`; the pairs are the first two responses to each prompt.
    scores: Vec<Vec<[f32; 2]>>,
    labels: Vec<Labels>,
}

#[derive(Deserialize)]
struct Labels {
    multiplier: f64,
    /// The probability with which the authors' program draws that label, `[n_pairs]`.
    second_is_better: Vec<f64>,
}

#[test]
fn labels_are_the_probabilities_with_which_the_authors_draw_them() {
    let text = include_str!("../../../../mopo-core/tests/method/can.json");
    let fixture: Fixture = serde_json::from_str(text).unwrap();
    let row = |scores: &[f32; 2]| scores.to_vec();
    let tokens = PairTokens { prompt: Vec::new(), first: Vec::new(), second: Vec::new() };
    let pairs = Pairs {
        tokens: vec![tokens; fixture.scores.len()].into(),
        labels: Vec::new(),
        scores: fixture.scores.iter().map(|of| Some([row(&of[0]), row(&of[1])])).collect(),
        mixture: None,
    };
    let config = CanConfig {
        objective: "helpful".into(),
        thresholds: [("harmless".into(), 0.0)].into(),
        relative: false,
        beta: 0.1,
        labels: CanLabels::BradleyTerry,
        lambda_max: 100.0,
        train_head: false,
    };
    let prompts: Vec<Vec<&[f32]>> =
        fixture.scores.iter().map(|rows| rows.iter().map(|row| &row[..]).collect()).collect();
    let scored = ScoredPrompts::new(&prompts).unwrap();
    let thresholds = vec![None, Some(0.0)];
    let problem =
        OneShotProblem { primary: 0, thresholds: &thresholds, beta: 0.1, lambda_max: 100.0 };
    let mut solution = Solution {
        primary: 0,
        means: scored.means(),
        dual: scored.dual(&problem),
        thresholds: thresholds.clone(),
    };
    assert!(!fixture.labels.is_empty());
    for Labels { multiplier, second_is_better } in &fixture.labels {
        solution.dual.lambda[1] = *multiplier;
        let found = config.labels(&pairs, &solution);
        assert_eq!(found.len(), second_is_better.len());
        for (first, second) in found.iter().zip(second_is_better) {
            let first = f64::from(first.unwrap());
            assert!((first + second - 1.0).abs() < 1e-6, "λ {multiplier}: {first} and {second}");
        }
    }
}
