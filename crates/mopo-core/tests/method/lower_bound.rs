//! The lower bound q̲ and its gradient in log χ.

use mopo_core::{ChiUpdate, MopoConfig};
use proptest::prelude::*;

use super::{all, bound, numbers, plain, state, vectors, weights_of_rows};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_is_the_formula_and_its_gradient_a_finite_difference(
        responses in prop::collection::vec((prop::collection::vec(0.0f32..1.0, 3), -2.0f32..2.0), 3..20),
        log_chi in -2.0f64..3.0,
        epsilon in 0.0f64..0.3,
        lambda in 0.0f64..2.0,
    ) {
        let (rows, log_r): (Vec<_>, Vec<_>) = responses.into_iter().unzip();
        let config = MopoConfig { tau: 0.4, ..MopoConfig::default() };
        let lambda = [0.0, lambda, 0.5];
        let mut dual = state(&config, 0, &lambda);
        dual.log_chi.fill(log_chi);
        let (_, statistics) = weights_of_rows(&config, &dual, &all(&rows), &log_r, epsilon);
        let p = plain(config.tau, 0, &lambda, &rows, &log_r);
        for k in 0..3 {
            let wq: Vec<f64> = (0..rows.len()).map(|i| p.w[i] * f64::from(rows[i][k])).collect();
            let at = |log_chi: f64| bound(&p.a, &wq, log_chi.exp(), epsilon);
            let found = statistics.lower_bound[k].unwrap();
            prop_assert!((found - at(log_chi)).abs() < 1e-4, "{found} and {}", at(log_chi));
            let difference = (at(log_chi + 1e-5) - at(log_chi - 1e-5)) / 2e-5;
            let found = statistics.chi_gradient[k].unwrap();
            prop_assert!((found - difference).abs() < 2e-4, "{found} and {difference}");
            // It is a bound: never above the plain estimate.
            prop_assert!(at(log_chi) <= statistics.plain[k].unwrap() + 1e-4);
        }
    }
}

#[test]
fn without_a_ball_and_with_a_large_chi_it_is_the_plain_estimate() {
    let config = MopoConfig { tau: 0.5, ..MopoConfig::default() };
    let rows: Vec<Vec<f32>> = (0..40).map(|i| vec![(i % 2) as f32, (i % 7) as f32 / 6.0]).collect();
    let mut dual = state(&config, 0, &[0.0, 0.4]);
    dual.log_chi.fill(1e3f64.ln());
    let (_, s) = weights_of_rows(&config, &dual, &all(&rows), &[0.0; 40], 0.0);
    let (bound, plain) = (s.lower_bound[1].unwrap(), s.plain[1].unwrap());
    assert!((bound - plain).abs() < 2e-3 && plain > 0.1, "{bound} and {plain}");
}

/// Without a ball χ grows without limit, and χ times the logarithm of an f32 mean near 1 is noise:
/// the result must remain an estimate wherever the steps lead.
#[test]
fn stepping_chi_without_a_ball_never_leads_into_rounding_noise() {
    let config = MopoConfig { tau: 0.5, chi_lr: 1e9, lambda_lr: 0.0, ..MopoConfig::default() };
    let rows: Vec<Vec<f32>> = (0..40).map(|i| vec![(i % 2) as f32, (i % 7) as f32 / 6.0]).collect();
    let mut dual = state(&config, 0, &[0.0, 0.4]);
    let (_, s) = weights_of_rows(&config, &dual, &all(&rows), &[0.0; 40], 1e-12);
    dual.step(&config, &s);
    assert!(dual.chi(1) > 1e3, "as far as it may go: {}", dual.chi(1));
    let (_, s) = weights_of_rows(&config, &dual, &all(&rows), &[0.0; 40], 1e-12);
    let (bound, plain) = (s.lower_bound[1].unwrap(), s.plain[1].unwrap());
    assert!((bound - plain).abs() < 2e-3, "{bound} and {plain} at χ = {}", dual.chi(1));
}

#[test]
fn stepping_chi_ends_at_the_bounds_of_the_independent_solver() {
    let vectors = vectors();
    let mut checked = 0;
    for problem in vectors["random"].as_array().unwrap() {
        let primary = problem["primary"].as_u64().unwrap() as usize;
        let q: Vec<Vec<f64>> =
            problem["preference_vs_mu"].as_array().unwrap().iter().map(numbers).collect();
        let reference = numbers(&problem["reference"]);
        let rows: Vec<Vec<f32>> =
            (0..reference.len()).map(|y| q.iter().map(|of_k| of_k[y] as f32).collect()).collect();
        let log_r: Vec<f32> = reference.iter().map(|r| r.ln() as f32).collect();
        let config = MopoConfig {
            tau: problem["tau"].as_f64().unwrap(),
            ratio_clip: 100.0,
            lambda_lr: 0.0,
            chi_lr: 3.0,
            ..MopoConfig::default()
        };
        let mut lambda = numbers(&problem["lam"]);
        lambda.insert(primary, 0.0);
        // The weights are those of the solver's policy.
        let (weights, _) =
            weights_of_rows(&config, &state(&config, primary, &lambda), &all(&rows), &log_r, 0.0);
        for (weight, policy) in weights.iter().zip(numbers(&problem["policy"])) {
            assert!((weight - policy).abs() < 1e-3, "{weight} and {policy}");
        }
        let bounds = problem["lower_bounds"].as_array().unwrap();
        let mut radii: Vec<f64> = bounds.iter().map(|b| b["eps"].as_f64().unwrap()).collect();
        radii.sort_by(f64::total_cmp);
        radii.dedup();
        for epsilon in radii {
            let mut dual = state(&config, primary, &lambda);
            let mut last = None;
            for _ in 0..250 {
                let (_, s) = weights_of_rows(&config, &dual, &all(&rows), &log_r, epsilon);
                dual.step(&config, &s);
                last = Some(s);
            }
            let last = last.unwrap();
            // The same in one step.
            let at_once = MopoConfig { chi: ChiUpdate::Optimum, ..config.clone() };
            let mut solved = state(&at_once, primary, &lambda);
            let (_, best) = weights_of_rows(&at_once, &solved, &all(&rows), &log_r, epsilon);
            solved.step(&at_once, &best);
            for b in bounds.iter().filter(|b| b["eps"] == epsilon) {
                let k = b["objective"].as_u64().unwrap() as usize;
                if k == primary {
                    continue; // its χ never moves
                }
                let (found, expected) =
                    (last.lower_bound[k].unwrap(), b["value"].as_f64().unwrap());
                assert!(
                    (found - expected).abs() < 1e-3,
                    "{found}, {expected}, {b}, χ {}",
                    dual.chi(k)
                );
                let exact = best.lower_bound[k].unwrap();
                assert!((exact - expected).abs() < 1e-5, "{exact}, {expected}, {b}");
                assert!(exact > found - 1e-5, "no χ has a higher bound: {exact}, {found}");
                let again = best.best_chi[k].unwrap();
                let limit = again.ln().clamp(-20.0, 8.0);
                assert!((solved.chi(k).ln() - limit).abs() < 1e-9, "{} and {again}", solved.chi(k));
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "only {checked} bounds were checked");
}

/// The problem of docs/math.md, section 3: at the best χ = 0.016 the bound is above 0.
#[test]
fn a_small_best_chi_is_found_at_once() {
    let config = MopoConfig { tau: 0.5, lambda_lr: 0.0, ..MopoConfig::default() };
    let rows: Vec<Vec<f32>> = (0..60).map(|i| vec![1.0, 0.01 * ((i % 5) as f32)]).collect();
    let bound = |config: &MopoConfig, steps: usize| {
        let mut dual = state(config, 0, &[0.0, 0.0]);
        let mut bounds = vec![];
        for _ in 0..steps {
            let (_, s) = weights_of_rows(config, &dual, &all(&rows), &[0.0; 60], 0.5);
            dual.step(config, &s);
            bounds.push(s.lower_bound[1].unwrap());
        }
        bounds
    };
    let stepped = bound(&config, 40);
    let at_once = bound(&MopoConfig { chi: ChiUpdate::Optimum, ..config.clone() }, 2);
    assert_eq!(at_once[0], at_once[1]);
    let p = [1.0 / 60.0; 60];
    let x: Vec<f64> = rows.iter().map(|row| f64::from(row[1])).collect();
    let exact = mopo_core::lower_bound(&p, &x, 0.5).unwrap().value;
    assert!((at_once[0] - exact).abs() < 1e-7, "{} and {exact}", at_once[0]);
    assert!(exact > 0.0 && stepped[39] < 0.0, "{exact}, {}", stepped[39]);
}
