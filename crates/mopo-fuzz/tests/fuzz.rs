//! The corpus, some inputs of every target, and what the program says of findings.

use std::path::Path;
use std::process::{Command, Output};

fn fuzz(args: &[&str]) -> Output {
    let out = Command::new(env!("CARGO_BIN_EXE_mopo-fuzz")).args(args).output();
    out.expect("the program can be started")
}

fn succeeds(args: &[&str]) -> String {
    let out = fuzz(args);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {}\n{text}\n{errors}", out.status);
    text
}

#[test]
fn nothing_is_wrong_with_the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let corpus = corpus.to_str().expect("a path in UTF-8");
    let text = succeeds(&["--corpus", corpus]);
    assert!(!text.contains("\n0 inputs"), "{text}");
}

#[test]
fn nothing_is_wrong_with_some_inputs_of_every_target() {
    let dir = tempfile::tempdir().expect("a folder");
    let report = dir.path().join("report.json");
    let report = report.to_str().expect("a path in UTF-8");
    succeeds(&["--inputs", "6000", "--seed", "5", "--report", report]);
    let text = std::fs::read(report).expect("the report");
    let report: mopo_fuzz::Report = serde_json::from_slice(&text).expect("a report");
    assert_eq!(report.targets.len(), mopo_fuzz::targets().len());
    for target in &report.targets {
        assert!(target.inputs > 0 && target.found.is_empty(), "{target:?}");
    }
    // Inputs that are refused at once try nothing.
    let n: u64 = report.targets.iter().map(|target| target.inputs).sum();
    let accepted: u64 = report.targets.iter().map(|target| target.accepted).sum();
    assert!(accepted * 10 > n, "{accepted} of {n}");
}

#[test]
fn panics_and_ends_of_processes_are_found() {
    // A target that does what its inputs say, for this test alone.
    let dir = tempfile::tempdir().expect("a folder");
    let of_target = dir.path().join("self-test");
    std::fs::create_dir(&of_target).expect("a folder");
    let inputs = [
        "1-fine",
        "2-panic",
        "3-abort",
        "4-memory",
        "5-wrong",
        "6-fine",
        "7-stack",
        "8-thread",
        "9-refused",
    ];
    for name in inputs {
        std::fs::write(of_target.join(name), name.split_once('-').unwrap().1).expect("a file");
    }
    let report = dir.path().join("report.json");
    let corpus = dir.path().join("self-test").parent().unwrap().to_path_buf();
    let out = Command::new(env!("CARGO_BIN_EXE_mopo-fuzz"))
        .env("MOPO_FUZZ_SELF_TEST", "1")
        .args(["--jobs", "1", "--only", "self-test", "--report"])
        .arg(&report)
        .arg("--corpus")
        .arg(&corpus)
        .output()
        .expect("the program can be started");
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let text = std::fs::read(&report).expect("the report");
    let report: mopo_fuzz::Report = serde_json::from_slice(&text).expect("a report");
    let [target] = &report.targets[..] else { panic!("{report:?}") };
    assert_eq!((target.inputs, target.accepted), (9, 2), "{target:?}");
    let found: Vec<(u64, &str)> =
        target.found.iter().map(|found| (found.number, found.what.as_str())).collect();
    let says = |number: u64, words: &str| {
        assert!(
            found.iter().any(|(at, what)| *at == number && what.contains(words)),
            "{number} {words}: {found:?}"
        );
    };
    assert_eq!(found.len(), 6, "{found:?}");
    says(1, "asked to panic");
    says(2, "signal");
    says(3, "memory allocation");
    says(4, "asked to be wrong");
    says(6, "overflow");
    says(7, "asked to panic in a thread");
}

#[test]
fn inputs_are_repeated_and_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("input");
    let path = file.to_str().expect("a path in UTF-8");
    let text = succeeds(&["--repeat", "gguf:3:17", "--write", path]);
    let n = std::fs::metadata(&file).expect("the input").len();
    assert!(text.contains(&format!("{n} bytes for gguf")), "{text}");
    let again = succeeds(&["--file", &format!("gguf:{path}")]);
    assert_eq!(text, again);
    let out = fuzz(&["--only", "nothing"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("no target is called `nothing`"));
}
