//! The Pareto tools against moocore's results (fixtures.json, written by make_fixtures.py, which
//! describes where the two differ).

use mopo_pareto::{
    Direction, epsilon_additive, hypervolume, hypervolume_contributions, igd_plus, non_dominated,
    non_dominated_sort,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixtures {
    moocore: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    maximise: Vec<bool>,
    ref_point: Vec<f64>,
    points: Vec<Vec<f64>>,
    reference_front: Vec<Vec<f64>>,
    hypervolume: f64,
    contributions: Vec<f64>,
    igd_plus: f64,
    epsilon_additive: f64,
    non_dominated: Vec<usize>,
    ranks: Vec<usize>,
}

impl Case {
    fn name(&self) -> String {
        format!("{} in {} dimensions", self.kind, self.maximise.len())
    }

    fn directions(&self) -> Vec<Direction> {
        self.maximise
            .iter()
            .map(|&m| if m { Direction::Maximize } else { Direction::Minimize })
            .collect()
    }
}

fn cases() -> Vec<Case> {
    let fixtures: Fixtures = serde_json::from_str(include_str!("fixtures.json")).unwrap();
    assert_eq!(fixtures.moocore, "0.3.2", "the version that the documentation names");
    fixtures.cases
}

/// Two ways of summing the same volume differ by rounding relative to the whole, not to the part.
fn assert_close(ours: f64, theirs: f64, whole: f64, what: &str) {
    assert!((ours - theirs).abs() <= 1e-13 * whole, "{what}: {ours} against {theirs}");
}

#[test]
fn the_fixtures_cover_what_they_are_for() {
    let cases = cases();
    for d in 2..=8 {
        assert_eq!(cases.iter().filter(|c| c.maximise.len() == d).count(), 6, "{d} dimensions");
    }
    let mixed = |c: &&Case| c.maximise.contains(&true) && c.maximise.contains(&false);
    assert!(cases.iter().filter(mixed).count() >= 5);
    let copies = |c: &&Case| (1..c.points.len()).any(|i| c.points[..i].contains(&c.points[i]));
    assert!(cases.iter().filter(copies).count() >= 6);
    let outside = |c: &&Case| {
        let d = c.directions();
        c.points.iter().any(|p| (0..d.len()).any(|k| d[k].gain(p[k], c.ref_point[k]) <= 0.0))
    };
    assert!(cases.iter().filter(outside).count() >= 10);
}

#[test]
fn hypervolumes_agree_with_moocore() {
    for case in cases() {
        let ours = hypervolume(&case.points, &case.ref_point, &case.directions()).unwrap();
        assert_close(ours, case.hypervolume, case.hypervolume, &case.name());
    }
}

#[test]
fn contributions_agree_with_moocore() {
    for case in cases() {
        let ours =
            hypervolume_contributions(&case.points, &case.ref_point, &case.directions()).unwrap();
        assert_eq!(ours.len(), case.contributions.len());
        for (i, (&ours, &theirs)) in ours.iter().zip(&case.contributions).enumerate() {
            // moocore computes differences of hypervolumes, so its error is relative to these.
            let what = format!("{}, point {i}", case.name());
            assert_close(ours, theirs, case.hypervolume, &what);
        }
    }
}

#[test]
fn distances_to_a_reference_front_agree_with_moocore() {
    for case in cases() {
        let (d, name) = (case.directions(), case.name());
        let igd = igd_plus(&case.points, &case.reference_front, &d).unwrap();
        assert_close(igd, case.igd_plus, case.igd_plus, &name);
        // Nothing is summed, so the bits agree.
        let epsilon = epsilon_additive(&case.points, &case.reference_front, &d).unwrap();
        assert_eq!(epsilon, case.epsilon_additive, "{name}");
    }
}

#[test]
fn fronts_and_layers_agree_with_moocore() {
    for case in cases() {
        let (d, name) = (case.directions(), case.name());
        assert_eq!(non_dominated(&case.points, &d), case.non_dominated, "{name}");
        let layers = non_dominated_sort(&case.points, &d);
        for (rank, layer) in layers.iter().enumerate() {
            for &i in layer {
                assert_eq!(case.ranks[i], rank, "{name}, point {i}");
            }
        }
        assert_eq!(layers.iter().map(Vec::len).sum::<usize>(), case.points.len(), "{name}");
    }
}
