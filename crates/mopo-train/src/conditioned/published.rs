//! The scores that are asked for against RiC's authors' own code on the same numbers (`tests/run/make_ric.py`).

use serde::Deserialize;

use super::{TargetMap, score_note};

#[derive(Deserialize)]
struct Fixture {
    /// In thousandths of a standard deviation; a case of two objectives uses the first two.
    range: Vec<[f64; 2]>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    map: TargetMap,
    weights: Vec<f64>,
    /// Rounded to one decimal.
    targets: Vec<f64>,
}

#[test]
fn targets_are_those_of_the_authors() {
    let fixture: Fixture = serde_json::from_str(include_str!("../../tests/run/ric.json")).unwrap();
    assert!(!fixture.cases.is_empty());
    for Case { map, weights, targets } in &fixture.cases {
        let found = map.targets(weights, &fixture.range[..weights.len()]);
        assert_eq!(score_note(&found), score_note(targets), "{map:?} {weights:?}");
    }
}
