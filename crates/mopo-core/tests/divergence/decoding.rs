//! The mixture of policies, and the rewards they stand for, against multi-objective decoding's authors' own code on the
//! same numbers (`make_decoding.py`).

use mopo_core::divergence::{Divergence, mix};
use serde::Deserialize;

use super::{assert_close, log_softmax};

#[derive(Deserialize)]
struct Fixture {
    /// Log-probs, `[n_policies][n_actions]`; a case of two weights has the first two.
    policies: Vec<Vec<f64>>,
    reference: Vec<f64>,
    mixed: Vec<Mixed>,
    /// log π/π_ref of responses.
    log_ratios: Vec<f64>,
    rewards: Vec<Rewards>,
}

#[derive(Deserialize)]
struct Mixed {
    divergence: Divergence,
    weights: Vec<f64>,
    /// What the authors' program takes the largest of, `[n_actions]`.
    scores: Vec<f64>,
}

#[derive(Deserialize)]
struct Rewards {
    divergence: Divergence,
    beta: f64,
    /// Up to a constant.
    rewards: Vec<f64>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("decoding.json")).unwrap()
}

#[test]
fn mixtures_are_those_of_the_authors_up_to_the_normaliser_that_they_leave_out() {
    let fixture = fixture();
    assert!(!fixture.mixed.is_empty());
    for Mixed { divergence, weights, scores } in &fixture.mixed {
        let policies: Vec<&[f64]> =
            fixture.policies[..weights.len()].iter().map(Vec::as_slice).collect();
        let found = mix(*divergence, &policies, &fixture.reference, weights).unwrap();
        let what = format!("{divergence}, α {weights:?}");
        let order = match divergence {
            Divergence::ReverseKl => {
                assert_close(&found, &log_softmax(scores), 1e-9, &what);
                continue;
            }
            Divergence::ForwardKl => 1.0,
            Divergence::Alpha(order) => *order,
            other => panic!("{other} is not there"),
        };
        // Their scores are −log Σ α_k π_k^−a. Ours is u^−a = Σ α_k u_k^−a + c with the same c for every action.
        let normalisers: Vec<f64> = (found.iter().zip(scores).zip(&fixture.reference))
            .map(|((log, score), reference)| {
                (order * (reference - log)).exp() - (order * reference - score).exp()
            })
            .collect();
        let one = vec![normalisers[0]; normalisers.len()];
        assert_close(&normalisers, &one, 1e-8, &what);
    }
}

#[test]
fn differences_of_rewards_are_those_of_the_authors() {
    let fixture = fixture();
    assert!(!fixture.rewards.is_empty());
    for Rewards { divergence, beta, rewards } in &fixture.rewards {
        let own: Vec<f64> =
            fixture.log_ratios.iter().map(|l| beta * divergence.derivative_at_log(*l)).collect();
        let from_first = |values: &[f64]| values.iter().map(|x| x - values[0]).collect::<Vec<_>>();
        let what = format!("{divergence}, β {beta}");
        assert_close(&from_first(&own), &from_first(rewards), 1e-9, &what);
    }
}
