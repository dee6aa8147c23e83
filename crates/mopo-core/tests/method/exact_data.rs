//! The exact dual on data: against the table's solver, against Algorithm 1's own steps, and at the
//! limits.

use mopo_core::dual::{Context, DualProblem, ExactDual, ResponseGroups, TabularProblem};
use mopo_core::{Error, MopoConfig, ThresholdRule};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::{state, weights_of_rows};

type Rows = Vec<Vec<Option<f32>>>;

fn grouped(rows: &Rows, log_ratio: &[f32]) -> ResponseGroups {
    ResponseGroups::new(rows.iter().map(Vec::as_slice).zip(log_ratio.iter().cloned()), 5.0).unwrap()
}

fn problem<'a>(tau: f64, thresholds: &'a [f64], radius: &'a [f64]) -> DualProblem<'a> {
    DualProblem { primary: 0, tau, thresholds, radius, lambda_max: 50.0 }
}

/// Hard and soft labels of three objectives.
fn rows() -> impl Strategy<Value = (Rows, Vec<f32>)> {
    let label = prop_oneof![Just(0.0f32), Just(1.0), Just(0.5), 0.0f32..1.0];
    let row = (prop::collection::vec(label.prop_map(Some), 3), -1.0f32..1.0);
    prop::collection::vec(row, 6..60).prop_map(|rows| rows.into_iter().unzip())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn without_a_ball_it_is_the_tables_solution((rows, log_ratio) in rows(), tau in 0.005f64..1.0,
                                                b in prop::collection::vec(0.2f64..0.7, 3)) {
        let groups = grouped(&rows, &log_ratio);
        let found = groups.solve(&problem(tau, &b, &[0.0; 3]));
        let table = TabularProblem {
            contexts: vec![Context {
                weight: 1.0,
                reference: log_ratio.iter().map(|r| f64::from(*r).exp()).collect(),
                preference: (0..3)
                    .map(|k| rows.iter().map(|r| f64::from(r[k].unwrap())).collect())
                    .collect(),
            }],
            primary: 0,
            tau,
            thresholds: vec![None, Some(b[1]), Some(b[2])],
        };
        match table.solve() {
            Ok(exact) if exact.lambda.iter().all(|l| *l < 49.0) => {
                prop_assert!(found.kkt.stationarity < 1e-8, "{:?}", found.kkt);
                for (k, b) in b.iter().enumerate().skip(1) {
                    // λ may not be unique; what it attains is.
                    let attained = found.plain[k].unwrap();
                    prop_assert!((attained - exact.attained[k]).abs() < 1e-6, "{found:?} {exact:?}");
                    prop_assert_eq!(found.slack[k].unwrap(), found.lower_bound[k].unwrap() - b);
                }
                prop_assert!((found.plain[0].unwrap() - exact.attained[0]).abs() < 1e-6);
            }
            Ok(_) => {}
            Err(Error::Infeasible { .. }) => prop_assert!(found.saturated[1] || found.saturated[2]),
            Err(e) => prop_assert!(false, "{e}"),
        }
    }

    #[test]
    fn constraints_hold_or_their_multiplier_is_at_the_cap(
        (mut rows, log_ratio) in rows(),
        tau in 0.005f64..1.0,
        b in prop::collection::vec(0.1f64..0.6, 3),
        epsilon in 0.0f64..0.1,
        gaps in prop::collection::vec((0_usize..6, 0_usize..3), 0..4),
    ) {
        for (i, k) in gaps {
            rows[i][k] = None;
        }
        let radius = [epsilon; 3];
        let problem = problem(tau, &b, &radius);
        let found = grouped(&rows, &log_ratio).solve(&problem);
        let unsolved = check(&found, &problem);
        prop_assert!(unsolved.is_ok(), "{} {found:?}", unsolved.unwrap_err());
    }
}

/// What holds for every answer: it meets the conditions, or its residual is the largest violation
/// and says so.
fn check(found: &ExactDual, problem: &DualProblem<'_>) -> Result<(), String> {
    let mut residual = 0.0f64;
    for k in 1..3 {
        let (lambda, slack) = (found.lambda[k], found.slack[k].unwrap());
        let free = (lambda - slack).clamp(0.0, problem.lambda_max);
        residual = residual.max((lambda - free).abs());
        if found.is_solved() && slack < -1e-6 && !found.saturated[k] {
            return Err(format!("constraint {k} is violated"));
        }
        if found.is_solved() && lambda * slack.max(0.0) >= 1e-4 {
            return Err(format!("constraint {k} is slack"));
        }
        if found.lower_bound[k].unwrap() > found.plain[k].unwrap() + 1e-9 {
            return Err(format!("bound {k} is above the estimate"));
        }
    }
    if (residual - found.kkt.stationarity).abs() > 1e-9 {
        return Err(format!("the residual is {residual}"));
    }
    if found.is_solved() != (residual <= ExactDual::TOLERANCE) {
        return Err(format!("a residual of {residual} counts as solved or not"));
    }
    Ok(())
}

#[test]
fn small_steps_of_algorithm_1_converge_there() {
    let rows: Rows = (0..90)
        .map(|i| {
            let p = Some((i % 2) as f32);
            let q = Some(if i % 3 == 0 { 1.0 } else { (1 - i % 2) as f32 * 0.4 });
            vec![p, q, if i % 7 == 0 { None } else { Some((i % 5) as f32 / 4.0) }]
        })
        .collect();
    let log_ratio: Vec<f32> = (0..90).map(|i| ((i * 37) % 11) as f32 / 20.0).collect();
    let thresholds = [0.0, 0.5, 0.45];
    for epsilon in [0.0, 0.01] {
        let exact = grouped(&rows, &log_ratio).solve(&problem(0.3, &thresholds, &[epsilon; 3]));
        let config = MopoConfig {
            tau: 0.3,
            lambda_lr: 0.1,
            thresholds: ThresholdRule::Fixed,
            ..MopoConfig::default()
        };
        let mut dual = state(&config, 0, &[0.0; 3]).with_thresholds(&thresholds);
        for _ in 0..3000 {
            let (_, statistics) = weights_of_rows(&config, &dual, &rows, &log_ratio, epsilon);
            dual.step(&config, &statistics);
        }
        for k in 1..3 {
            let (stepped, solved) = (dual.lambda[k], exact.lambda[k]);
            assert!((stepped - solved).abs() < 5e-3, "ε {epsilon}, λ_{k}: {stepped} and {solved}");
        }
        assert!(exact.lambda[1] > 0.05, "the constraint binds: {exact:?}");
    }
}

/// The random problems of the property above, many of them: all but very few are solved.
#[test]
fn nearly_every_problem_is_solved() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let unlabelled = prop::collection::vec((0_usize..6, 0_usize..3), 0..4);
    let thresholds = prop::collection::vec(0.1f64..0.6, 3);
    let problems = (rows(), 0.005f64..1.0, thresholds, 0.0f64..0.1, unlabelled);
    let n = 2000;
    let mut unsolved = 0;
    for _ in 0..n {
        let ((mut rows, log_ratio), tau, b, epsilon, gaps) =
            problems.new_tree(&mut runner).unwrap().current();
        for (i, k) in gaps {
            rows[i][k] = None;
        }
        let found = grouped(&rows, &log_ratio).solve(&problem(tau, &b, &[epsilon; 3]));
        unsolved += usize::from(!found.is_solved());
    }
    assert_eq!(unsolved, 0, "of {n}");
}

/// With λ_2 at its cap, λ_1 must stop on the slope where two groups exchange their weights; on both
/// sides of it F is flat and of opposite sign.
#[test]
fn it_stops_on_the_slope_between_two_plateaus() {
    let mut rows: Rows = vec![vec![Some(0.0); 3]; 3];
    rows.push(vec![Some(1.0), Some(0.085), Some(1.0)]);
    rows.push(vec![Some(0.5), Some(1.0), Some(0.5)]);
    rows.push(vec![Some(0.0); 3]);
    let groups = grouped(&rows, &[0.0, 0.0, 0.75, -0.33, 0.0, -0.83]);
    for tau in [0.2, 0.05, 0.01, 0.001] {
        let found = groups.solve(&problem(tau, &[0.1, 0.1, 0.3226], &[0.0786; 3]));
        assert!(found.kkt.stationarity < 1e-8, "τ {tau}: {found:?}");
        assert_eq!(found.lambda[2], 50.0, "{found:?}");
        assert!((20.0..40.0).contains(&found.lambda[1]), "τ {tau}: {found:?}");
    }
}

#[test]
fn equal_labels_are_one_group_and_ratios_are_clipped() {
    let rows: Rows =
        (0..1000).map(|i| vec![Some((i % 2) as f32), Some((i % 3) as f32 / 2.0), None]).collect();
    let groups = grouped(&rows, &vec![0.0; 1000]);
    assert_eq!((groups.n_responses(), groups.n_groups()), (1000, 6));
    // −0 is 0.
    let zeros: Rows = vec![vec![Some(0.0)], vec![Some(-0.0)]];
    assert_eq!(grouped(&zeros, &[0.0, 0.0]).n_groups(), 1);
    let two: Rows = vec![vec![Some(1.0), Some(1.0)], vec![Some(0.0), Some(0.0)]];
    let clipped = ResponseGroups::new(two.iter().map(Vec::as_slice).zip([1e9, -1e9]), 1.0).unwrap();
    let found = clipped.solve(&problem(1e9, &[0.0; 2], &[0.0; 2]));
    let e2 = 2f64.exp();
    assert!((found.plain[1].unwrap() - e2 / (1.0 + e2)).abs() < 1e-6);
    // An objective without labels moves nothing.
    let found = groups.solve(&problem(0.1, &[0.9; 3], &[0.1; 3]));
    assert_eq!((found.lambda[2], found.slack[2], found.plain[2]), (0.0, None, None));
}

#[test]
fn an_unattainable_threshold_ends_at_the_cap() {
    let rows: Rows =
        (0..40).map(|i| vec![Some((i % 2) as f32), Some(0.1 + (i % 3) as f32 * 0.2)]).collect();
    let groups = grouped(&rows, &[0.0; 40]);
    for radius in [[0.0; 2], [0.15; 2]] {
        let found = groups.solve(&problem(0.1, &[0.0, 0.9], &radius));
        assert_eq!(found.lambda[1], 50.0, "{found:?}");
        assert!(found.saturated[1] && found.slack[1].unwrap() < -0.3);
        assert!(found.lower_bound[1].unwrap().is_finite());
    }
}

#[test]
fn bad_labels_are_errors() {
    let new = |rows: &Rows, ratio: &[f32]| {
        ResponseGroups::new(rows.iter().map(Vec::as_slice).zip(ratio.iter().cloned()), 5.0)
    };
    assert!(matches!(new(&vec![vec![Some(1.5)]], &[0.0]), Err(Error::InvalidIndicator(_))));
    assert!(matches!(new(&vec![vec![Some(f32::NAN)]], &[0.0]), Err(Error::InvalidIndicator(_))));
    assert!(matches!(new(&vec![vec![Some(0.5)]], &[f32::NAN]), Err(Error::NonFinite(_))));
    assert!(new(&vec![vec![Some(0.5)], vec![]], &[0.0, 0.0]).is_err());
    assert!(new(&vec![], &[]).is_err());
}
