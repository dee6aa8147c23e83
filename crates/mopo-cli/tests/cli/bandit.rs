//! The synthetic experiments from the command line, in small.

use std::fs;

use crate::common::{fail, mopo, succeed};

/// Each experiment with settings that take a moment.
const SMALL: [&[&str]; 7] = [
    &["structures", "--steps", "30", "--seeds", "1", "--taus", "0.2,1"],
    &["fronts", "--steps", "20", "--thresholds", "3", "--n-pairs", "200"],
    &["tau", "--steps", "20", "--thresholds", "3", "--n-pairs", "200", "--taus", "0.1,0.5"],
    &["constraints", "--repetitions", "3", "--responses", "100,1000"],
    &["sensitivity", "--steps", "40", "--relaxations", "0.9,1", "--lags", "20"],
    &["initialisation", "--steps", "40", "--lattice", "10", "--vectors", "20"],
    &[
        "methods",
        "--steps",
        "4",
        "--points",
        "3",
        "--seeds",
        "2",
        "--n-pairs",
        "200",
        "--threshold-steps",
        "4",
        "--threshold-taus",
        "0.2",
    ],
];

#[test]
fn every_experiment_writes_table_figure_and_record_and_repeats_itself() {
    let dir = tempfile::tempdir().unwrap();
    for args in SMALL {
        let name = args[0];
        let run = |folder: &str| {
            let out = dir.path().join(folder).join(name);
            let said = succeed(mopo(&["bandit"]).args(args).arg("--out").arg(&out));
            assert!(said.contains("record"), "{name}: {said}");
            let mut left: Vec<String> = fs::read_dir(&out)
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            left.sort();
            let mut expected = ["csv", "png", "svg"].map(|e| format!("{name}.{e}")).to_vec();
            expected.push("record.json".into());
            expected.sort();
            assert_eq!(left, expected);
            let read = |file: &str| fs::read(out.join(file)).unwrap();
            let record: serde_json::Value = serde_json::from_slice(&read("record.json")).unwrap();
            assert_eq!((&record["experiment"], &record["seed"]), (&name.into(), &0.into()));
            assert!(record["settings"].as_object().is_some_and(|s| !s.is_empty()));
            (read(&format!("{name}.csv")), read(&format!("{name}.svg")))
        };
        let (table, figure) = run("once");
        let text = String::from_utf8(table.clone()).unwrap();
        let columns = text.lines().next().unwrap().split(',').count();
        assert!(text.lines().count() > 2, "{name}: {text}");
        assert!(text.lines().all(|l| l.split(',').count() == columns), "{name}: {text}");
        assert_eq!((table, figure), run("again"), "{name} is not the same twice");
    }
}

#[test]
fn flags_that_make_no_sense_are_named_before_anything_runs() {
    for (args, expected) in [
        (&["structures", "--taus", "0"][..], &["--taus", "above 0"][..]),
        (&["structures", "--taus", "nan"], &["--taus", "above 0"]),
        (&["structures", "--steps", "0"], &["--steps", "above 0"]),
        (&["fronts", "--tau", "-1"], &["--tau", "above 0"]),
        (&["fronts", "--n-pairs", "0"], &["--n-pairs", "above 0"]),
        (&["fronts", "--labels", "soft"], &["--labels", "probability", "sampled"]),
        (&["constraints", "--responses", "7"], &["--responses", "even"]),
        (&["constraints", "--fraction", "1"], &["--fraction", "[0, 1)"]),
        (&["constraints", "--objectives", "6"], &["--objectives", "2..=5"]),
        (&["sensitivity", "--relaxations", "2"], &["--relaxations", "(0, 1]"]),
        (&["sensitivity", "--lags", "0"], &["--lags", "above 0"]),
        (&["initialisation", "--grid", "1"], &["--grid", "above 1"]),
        (&["initialisation", "--vectors", "0"], &["--vectors", "above 0"]),
        (&["methods", "--points", "1"], &["--points", "2..=1000"]),
        (&["methods", "--threshold-taus", "0"], &["--threshold-taus", "above 0"]),
        (&["front"], &["front", "fronts"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let output = mopo(&["bandit"]).args(args).current_dir(dir.path()).output().unwrap();
        let said = crate::common::stderr(&output);
        assert!(!output.status.success(), "{args:?}");
        for part in expected {
            assert!(said.contains(part), "{args:?}: `{part}` is not in:\n{said}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{args:?} left something");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let said = fail(mopo(&["bandit", "constraints", "--out"]).arg(&file));
    assert!(said.contains("--out") && said.contains("file"), "{said}");
}
