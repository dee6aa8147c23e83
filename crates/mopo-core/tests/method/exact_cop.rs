//! The exact solver on tables: an independent solver's results, the conditions of optimality, and
//! the corners of feasibility.

use mopo_core::dual::{Context, TabularProblem, log_weights};
use mopo_core::{Error, lower_bound};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{numbers, vectors};

fn single(
    reference: Vec<f64>,
    preference: Vec<Vec<f64>>,
    primary: usize,
    tau: f64,
    thresholds: Vec<Option<f64>>,
) -> TabularProblem {
    let contexts = vec![Context { weight: 1.0, reference, preference }];
    TabularProblem { contexts, primary, tau, thresholds }
}

/// Thresholds of the secondary objectives, in order, as one per objective.
fn spread(primary: usize, n: usize, secondary: &serde_json::Value) -> Vec<Option<f64>> {
    let mut given = secondary.as_array().into_iter().flatten().map(|b| b.as_f64());
    (0..n).map(|k| if k == primary { None } else { given.next().flatten() }).collect()
}

fn close(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
}

#[test]
fn the_independent_solver_found_the_same() {
    let vectors = vectors();
    let mut n = 0;
    for problem in vectors["bandits"].as_array().unwrap() {
        let preference: Vec<Vec<f64>> =
            problem["preference"].as_array().unwrap().iter().map(numbers).collect();
        let tau = problem["tau"].as_f64().unwrap();
        let thresholds = spread(0, 2, &problem["thresholds"]);
        let found = single(vec![1.0; 3], preference, 0, tau, thresholds).solve().unwrap();
        let expected = numbers(&problem["policy"]);
        assert!(close(&found.policy[0], &expected, 1e-6), "{problem}: {found:?}");
        n += 1;
    }
    for problem in vectors["random"].as_array().unwrap() {
        let n_objectives = problem["K"].as_u64().unwrap() as usize;
        let primary = problem["primary"].as_u64().unwrap() as usize;
        let preference: Vec<Vec<f64>> =
            problem["preference_vs_mu"].as_array().unwrap().iter().map(numbers).collect();
        let reference = numbers(&problem["reference"]);
        let found = single(
            reference.clone(),
            preference.clone(),
            primary,
            problem["tau"].as_f64().unwrap(),
            spread(primary, n_objectives, &problem["thresholds"]),
        )
        .solve()
        .unwrap();
        assert!(close(&found.policy[0], &numbers(&problem["policy"]), 1e-6), "{found:?}");
        let dual_value = problem["dual_value"].as_f64().unwrap();
        assert!((found.dual_value - dual_value).abs() < 1e-7, "{found:?}");
        assert!(found.kkt.stationarity < 1e-10, "{:?}", found.kkt);
        for bound in problem["lower_bounds"].as_array().unwrap() {
            let k = bound["objective"].as_u64().unwrap() as usize;
            let gain: Vec<f64> = (0..reference.len())
                .map(|y| found.policy[0][y] / reference[y] * preference[k][y])
                .collect();
            let epsilon = bound["eps"].as_f64().unwrap();
            let value = lower_bound(&reference, &gain, epsilon).unwrap().value;
            let expected = bound["value"].as_f64().unwrap();
            assert!((value - expected).abs() < 1e-6, "{bound}: {value}");
        }
        n += 1;
    }
    assert!(n > 40, "{n} problems");
}

/// A random problem with thresholds that a known policy meets.
fn feasible_problems() -> impl Strategy<Value = TabularProblem> {
    (2_usize..=5, 1_usize..=3, 2_usize..=12, 0.01f64..2.0).prop_flat_map(
        |(n_objectives, n_contexts, n_actions, tau)| {
            let row = move || prop::collection::vec(0.0f64..1.0, n_actions);
            let context = (0.1f64..1.0, row(), prop::collection::vec(row(), n_objectives), row());
            let contexts = prop::collection::vec(context, n_contexts);
            let slack = prop::collection::vec(prop::option::of(0.0f64..0.2), n_objectives);
            (contexts, slack, 0..n_objectives).prop_map(move |(contexts, slack, primary)| {
                let total: f64 = contexts.iter().map(|c| c.0).sum();
                let mut thresholds: Vec<Option<f64>> = slack
                    .iter()
                    .enumerate()
                    .map(|(k, s)| s.filter(|_| k != primary).map(|s| -s))
                    .collect();
                let mut problem = Vec::new();
                for (weight, mut reference, preference, mut witness) in contexts {
                    reference[0] += 0.05;
                    // Some actions are impossible, for the known policy too.
                    reference.iter_mut().skip(1).for_each(|r| {
                        if *r < 0.2 {
                            *r = 0.0
                        }
                    });
                    witness.iter_mut().zip(&reference).for_each(|(w, r)| *w *= f64::from(*r > 0.0));
                    witness[0] += 1e-3;
                    let mass: f64 = witness.iter().sum();
                    for (k, b) in thresholds.iter_mut().enumerate() {
                        if let Some(b) = b {
                            let mean: f64 =
                                witness.iter().zip(&preference[k]).map(|(w, q)| w * q).sum();
                            *b += weight / total * mean / mass;
                        }
                    }
                    problem.push(Context { weight, reference, preference });
                }
                TabularProblem { contexts: problem, primary, tau, thresholds }
            })
        },
    )
}

/// E[p] − τ KL(π ‖ π_ref).
fn primal_value(problem: &TabularProblem, policy: &[Vec<f64>]) -> f64 {
    let total: f64 = problem.contexts.iter().map(|c| c.weight).sum();
    let mut value = 0.0;
    for (context, policy) in problem.contexts.iter().zip(policy) {
        let mass: f64 = context.reference.iter().sum();
        for (y, &p) in policy.iter().enumerate().filter(|(_, p)| **p > 0.0) {
            let kl = (p * mass / context.reference[y]).ln();
            let gain = context.preference[problem.primary][y] - problem.tau * kl;
            value += context.weight / total * p * gain;
        }
    }
    value
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn solutions_are_optimal(problem in feasible_problems()) {
        let found = problem.solve();
        prop_assert!(found.is_ok(), "{found:?}");
        let found = found.unwrap();
        for (k, b) in problem.thresholds.iter().enumerate() {
            prop_assert!(found.lambda[k] >= 0.0);
            match b {
                Some(b) => {
                    let slack = found.attained[k] - b;
                    prop_assert!(slack >= -1e-8, "objective {k} misses {b} by {slack}");
                    prop_assert!((found.lambda[k] * slack).abs() < 1e-6, "{k}: {found:?}");
                }
                None => prop_assert_eq!(found.lambda[k], 0.0),
            }
        }
        for (context, policy) in problem.contexts.iter().zip(&found.policy) {
            prop_assert!((policy.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let impossible = policy.iter().zip(&context.reference).all(|(p, r)| *r > 0.0 || *p == 0.0);
            prop_assert!(impossible);
        }
        // No duality gap: nothing feasible is better.
        let primal = primal_value(&problem, &found.policy);
        prop_assert!((primal - found.dual_value).abs() < 1e-7 * (1.0 + primal.abs()),
            "{primal} and {}", found.dual_value);
    }

    #[test]
    fn multipliers_are_the_price_of_the_thresholds(mut problem in feasible_problems(), which in 0_usize..5) {
        let asked: Vec<usize> =
            (0..problem.thresholds.len()).filter(|&k| problem.thresholds[k].is_some()).collect();
        if asked.is_empty() { return Ok(()); }
        let k = asked[which % asked.len()];
        // Away from the edges of feasibility, and smooth enough for a difference.
        problem.tau += 0.1;
        let h = 1e-5;
        let at = |shift: f64| {
            let mut moved = problem.clone();
            for b in moved.thresholds.iter_mut().flatten() { *b -= 0.02; }
            moved.thresholds[k] = moved.thresholds[k].map(|b| b + shift);
            moved.solve()
        };
        let (Ok(below), Ok(here), Ok(above)) = (at(-h), at(0.0), at(h)) else {
            return Ok(()); // an edge of feasibility in between
        };
        // Twice differentiable where λ does not start or end in between.
        if (below.lambda[k] > 1e-3) != (above.lambda[k] > 1e-3) { return Ok(()); }
        let slope = (above.dual_value - below.dual_value) / (2.0 * h);
        prop_assert!((slope + here.lambda[k]).abs() < 1e-3 * (1.0 + here.lambda[k]),
            "{slope} and λ {}", here.lambda[k]);
    }

    #[test]
    fn both_closed_forms_name_the_same_policy(
        rows in prop::collection::vec((0.01f64..1.0, 0.0f64..3.0), 1..12), tau in 0.05f64..3.0,
    ) {
        let total: f64 = rows.iter().map(|r| r.0).sum();
        let (reference, score): (Vec<f64>, Vec<f64>) =
            rows.iter().map(|r| (r.0 / total, r.1)).unzip();
        let normalised = log_weights(&reference, &score, tau);
        // w = exp(s/τ − 1), as in the paper.
        let raw: Vec<f64> = score.iter().map(|s| s / tau - 1.0).collect();
        let mean: f64 = reference.iter().zip(&raw).map(|(r, w)| r * w.exp()).sum();
        for (n, w) in normalised.iter().zip(&raw) {
            prop_assert!((n - (w - mean.ln())).abs() < 1e-9);
        }
        let one: f64 = reference.iter().zip(&normalised).map(|(r, w)| r * w.exp()).sum();
        prop_assert!((one - 1.0).abs() < 1e-12);
    }
}

#[test]
fn what_is_out_of_reach_is_named_with_the_best_there_is() {
    let q = vec![vec![0.9, 0.2, 0.1], vec![0.1, 0.6, 0.2], vec![0.3, 0.2, 0.8]];
    let problem = |thresholds| single(vec![1.0, 1.0, 1.0], q.clone(), 0, 0.1, thresholds);
    match problem(vec![None, Some(0.3), Some(0.81)]).solve().unwrap_err() {
        Error::Infeasible { objective_idx: 2, attainable, given, .. } => {
            assert_eq!(attainable, 0.8);
            assert!(given.is_empty());
        }
        other => panic!("{other}"),
    }
    // Each alone can be met, both together cannot: with q₁ ≥ 0.5 at most half of … action 2.
    let e = problem(vec![None, Some(0.5), Some(0.5)]).solve().unwrap_err();
    match &e {
        Error::Infeasible { objective_idx: 2, attainable, given, .. } => {
            assert_eq!(given, &[1]);
            // 0.6 a + 0.2 (1 − a) = 0.5 at a = 0.75: q₂ = 0.75·0.2 + 0.25·0.8.
            assert!((attainable - 0.35).abs() < 2e-6, "{attainable}");
        }
        other => panic!("{other}"),
    }
    assert!(
        e.to_string().contains("objective 2") && e.to_string().contains("objectives 1 met"),
        "{e}"
    );
    assert!((problem(vec![None; 3]).best_attainable(1, &[]).unwrap() - 0.6).abs() < 1e-15);
    // An impossible action has no effect.
    let e = single(vec![1.0, 1.0, 0.0], q.clone(), 0, 0.1, vec![None, None, Some(0.5)]).solve();
    assert!(matches!(e, Err(Error::Infeasible { attainable, .. }) if attainable == 0.3), "{e:?}");
}

#[test]
fn edges_end_without_nan_or_hanging() {
    let q = vec![vec![0.9, 0.2, 0.1], vec![0.1, 0.6, 0.2]];
    let solve = |reference: Vec<f64>, q: &[Vec<f64>], tau, b| {
        single(reference, q.to_vec(), 0, tau, vec![None, b]).solve()
    };
    // Exactly attainable: everything on the one action that attains it.
    for tau in [1e-4, 0.08, 5.0] {
        let found = solve(vec![1.0; 3], &q, tau, Some(0.6)).unwrap();
        assert!(close(&found.policy[0], &[0.0, 1.0, 0.0], 1e-7), "τ {tau}: {found:?}");
        assert!(found.lambda[1].is_finite());
        // Slightly above is refused, slightly below is not.
        assert!(solve(vec![1.0; 3], &q, tau, Some(0.6 + 1e-9)).is_err());
        assert!(solve(vec![1.0; 3], &q, tau, Some(0.6 - 1e-9)).is_ok());
    }
    // All rewards equal: the reference, or an error.
    let flat = vec![vec![0.5; 3], vec![0.5; 3]];
    let found = solve(vec![1.0, 2.0, 1.0], &flat, 0.1, Some(0.5)).unwrap();
    assert!(close(&found.policy[0], &[0.25, 0.5, 0.25], 1e-12));
    assert!(solve(vec![1.0; 3], &flat, 0.1, Some(0.500001)).is_err());
    // Two equal objectives: λ is not unique, the policy is.
    let twice = vec![q[0].clone(), q[1].clone(), q[1].clone()];
    let found =
        single(vec![1.0; 3], twice, 0, 0.1, vec![None, Some(0.4), Some(0.4)]).solve().unwrap();
    let once = solve(vec![1.0; 3], &q, 0.1, Some(0.4)).unwrap();
    assert!(close(&found.policy[0], &once.policy[0], 1e-6), "{found:?}");
    // One possible action; one action.
    let found = solve(vec![0.0, 0.0, 1.0], &q, 0.1, Some(0.2)).unwrap();
    assert_eq!(found.policy[0], [0.0, 0.0, 1.0]);
    let tiny = solve(vec![1e-300, 1.0, 1e-12], &q, 0.08, Some(0.3)).unwrap();
    assert!(tiny.policy[0].iter().all(|p| p.is_finite()));
}

#[test]
fn ten_thousand_actions_and_five_objectives() {
    let n = 10_000;
    let q: Vec<Vec<f64>> = (0..5)
        .map(|k| (0..n).map(|y| ((y * (7919 + 31 * k)) % 10_007) as f64 / 10_007.0).collect())
        .collect();
    for tau in [0.005, 0.08, 1.0] {
        let thresholds = vec![Some(0.6), Some(0.55), None, Some(0.6), Some(0.5)];
        let found = single(vec![1.0; n], q.clone(), 2, tau, thresholds).solve().unwrap();
        assert!(found.kkt.stationarity < 1e-9, "τ {tau}: {:?}", found.kkt);
        assert!(found.attained[0] >= 0.6 - 1e-8);
    }
}

#[test]
fn invalid_problems_are_refused() {
    let q = vec![vec![0.1, 0.9], vec![0.5, 0.4]];
    let good = single(vec![1.0, 1.0], q.clone(), 0, 0.1, vec![None, Some(0.45)]);
    assert!(good.solve().is_ok());
    let mut bad = Vec::new();
    for tau in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        bad.push(TabularProblem { tau, ..good.clone() });
    }
    bad.push(TabularProblem { primary: 2, ..good.clone() });
    bad.push(TabularProblem { contexts: vec![], ..good.clone() });
    bad.push(TabularProblem { thresholds: vec![Some(0.1), None], ..good.clone() });
    bad.push(TabularProblem { thresholds: vec![None, Some(f64::NAN)], ..good.clone() });
    bad.push(single(vec![1.0], q.clone(), 0, 0.1, vec![None, None]));
    bad.push(single(vec![0.0, 0.0], q.clone(), 0, 0.1, vec![None, None]));
    bad.push(single(vec![1.0, -1.0], q.clone(), 0, 0.1, vec![None, None]));
    bad.push(single(
        vec![1.0, 1.0],
        vec![vec![f64::NAN, 0.0], q[1].clone()],
        0,
        0.1,
        vec![None; 2],
    ));
    for problem in bad {
        let e = problem.solve().expect_err(&format!("{problem:?}"));
        assert!(!e.to_string().is_empty());
    }
}

/// Thresholds that a known policy on one or two actions attains exactly, or with 1e-9 to spare:
/// corners, where λ may have to be very large, and more constraints than actions.
#[test]
fn corners_of_feasibility_are_solved() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for i in 0..4000 {
        let (n_objectives, n_actions) = (rng.random_range(2..=5), rng.random_range(2..=20));
        let n_contexts = rng.random_range(1..=3);
        let tau = 10f64.powf(rng.random_range(-4.0..1.0));
        let coarse = rng.random_bool(0.3);
        let mut thresholds = vec![Some(0.0); n_objectives];
        let spare = if i % 2 == 0 { 0.0 } else { 1e-9 };
        let mut contexts = Vec::new();
        for _ in 0..n_contexts {
            let mut preference = vec![vec![0.0; n_actions]; n_objectives];
            for q in preference.iter_mut().flatten() {
                let value: f64 = rng.random();
                *q = if coarse { (value * 4.0).round() / 4.0 } else { value };
            }
            let mut reference: Vec<f64> = (0..n_actions)
                .map(|_| if rng.random_bool(0.25) { 0.0 } else { rng.random() })
                .collect();
            reference[0] = 0.5;
            let possible: Vec<usize> = (0..n_actions).filter(|&y| reference[y] > 0.0).collect();
            let [u, v] = [0; 2].map(|_| possible[rng.random_range(0..possible.len())]);
            let share: f64 = if i % 3 == 0 { 1.0 } else { rng.random() };
            for (b, q) in thresholds.iter_mut().zip(&preference) {
                let own = share * q[u] + (1.0 - share) * q[v] - spare;
                *b = b.map(|b| b + own / n_contexts as f64);
            }
            contexts.push(Context { weight: 1.0, reference, preference });
        }
        let primary = rng.random_range(0..n_objectives);
        thresholds[primary] = None;
        let problem = TabularProblem { contexts, primary, tau, thresholds };
        let found = problem.solve().unwrap_or_else(|e| panic!("{i}: {e}\n{problem:?}"));
        for (attained, b) in found.attained.iter().zip(&problem.thresholds) {
            assert!(b.is_none_or(|b| attained - b > -2e-8), "{i}: {attained} below {b:?}");
        }
        assert!(found.policy.iter().flatten().all(|p| p.is_finite()), "{i}");
    }
}
