//! Initial thresholds against a known front.

use mopo_core::bandit::experiments::{Initialisation, InitialisationSettings, initialisation};
use mopo_testkit::TestAutodiffBackend as AD;

use super::device;

fn found() -> Initialisation {
    let mut settings =
        InitialisationSettings { grid: 30, n_vectors: 600, ..InitialisationSettings::default() };
    settings.learner.steps = 1000;
    initialisation::<AD>(&settings, &device(), &mut |_, _| {}).unwrap()
}

fn apart(a: (f64, f64), b: (f64, f64)) -> f64 {
    (a.0 - b.0).abs().max((a.1 - b.1).abs())
}

#[test]
fn the_front_tells_which_starts_can_be_kept_and_where_they_land() {
    let found = found();
    let (inside, beyond): (Vec<_>, Vec<_>) =
        found.starts.iter().partition(|s| s.start_primary.is_some());
    assert_eq!((inside.len(), beyond.len()), (7, 3));
    for s in inside {
        let (Some(predicted), Some(exact)) = (s.predicted, s.exact) else {
            panic!("refused: {s:?}");
        };
        assert!(s.index < s.front_points);
        // Within the front's spacing.
        assert!(predicted.0 >= s.threshold && apart(predicted, exact) < 0.01, "{s:?}");
        assert!(apart(s.learned, exact) < 2e-3, "{s:?}");
        assert!(!s.at_cap && (s.lambda - s.exact_lambda.unwrap()).abs() < 0.1, "{s:?}");
        // A start policy below the front is improved without loss on the secondary.
        assert!(exact.1 >= s.start_primary.unwrap() - 1e-9, "{s:?}");
    }
    for s in beyond {
        assert_eq!((s.index, s.predicted, s.exact), (s.front_points, None, None), "{s:?}");
        assert!(s.at_cap && s.learned.0 < s.threshold, "{s:?}");
    }

    // Three objectives: what the front accepts can be met; what it refuses cannot, except within
    // the spacing of its points.
    let count = |each: bool, together: bool, feasible: bool| {
        let of = |v: &&_| {
            let v: &mopo_core::bandit::experiments::VectorRow = v;
            (v.each, v.together, v.feasible) == (each, together, Some(feasible))
        };
        found.vectors.iter().filter(of).count()
    };
    let n = found.vectors.len();
    assert_eq!(n, 600);
    assert_eq!(count(true, true, false), 0);
    assert!(count(true, true, true) > n / 2);
    // The indices are not sufficient.
    assert!(count(true, false, false) > n / 50);
    assert!(count(false, false, false) > n / 20);
    let refused = count(true, false, true) + count(false, false, true);
    assert!(refused < n / 50, "{refused} of {n}");
    // The end point is attainable, hence never better than the optimum.
    for v in &found.vectors {
        if let (Some(predicted), Some(exact)) = (v.predicted, v.exact) {
            assert!(predicted <= exact + 1e-9, "{v:?}");
        }
    }
}
