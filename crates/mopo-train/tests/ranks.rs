//! Ranks of a real MPI job: exchanges, and the ends that it can come to. Needs the feature `mpi`.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The example `ranks`, which cargo builds beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let target = test.parent().and_then(|deps| deps.parent()).expect("in target/debug/deps");
    target.join("examples").join("ranks")
}

/// What a job of `n` ranks says, and how long it took; `None` without a launcher.
fn job(n: usize, how: &str) -> Option<(Output, Duration)> {
    let began = Instant::now();
    let output = Command::new("mpirun")
        .args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", &n.to_string()])
        .arg(program())
        .arg(how)
        .output()
        .ok()?;
    Some((output, began.elapsed()))
}

#[test]
fn ranks_exchange_lists_of_any_length() {
    for n in [1, 2, 4] {
        let Some((output, _)) = job(n, "ok") else {
            mopo_testkit::skip!("no program mpirun");
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains(&format!("all {n} ranks")), "{said}");
    }
}

#[test]
fn a_rank_that_fails_in_any_way_ends_the_job_within_seconds() {
    for (how, words) in [
        ("panic", "on purpose"),
        ("thread", "on purpose, in a thread"),
        ("hang", "has waited 2 s"),
        ("error", ""),
        ("leave", ""),
    ] {
        let Some((output, seconds)) = job(3, how) else {
            mopo_testkit::skip!("no program mpirun");
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{how}: {said}");
        assert!(seconds < Duration::from_secs(20), "{how}: {seconds:?}");
        assert!(said.contains(words), "{how}: {said}");
    }
}
