//! What is printed: a reader that goes away or a full disk ends no work and causes no panic.

use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};

use crate::common::{mopo, stderr, tiny};

/// Runs it with standard output, or standard error, whose reader has gone.
fn unread(command: &mut Command, output: bool) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    match output {
        true => command.stdout(writer).stderr(Stdio::piped()),
        false => command.stderr(writer).stdout(Stdio::piped()),
    };
    command.spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn a_reader_that_goes_away_ends_no_work() {
    for args in [&["config", "demo"][..], &["reward", "config", "helpful"]] {
        let ended = unread(&mut mopo(args), true);
        assert!(ended.status.success() && ended.stderr.is_empty(), "{}", stderr(&ended));
    }
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set.jsonl");
    let mut prepare = mopo(&["prepare", "--set", "data.n_prompts=40", "--out"]);
    let ended = unread(prepare.arg(&set), true);
    assert!(ended.status.success() && set.exists(), "{}", stderr(&ended));
    // Nor does a terminal that was closed end a training.
    let run = dir.path().join("run");
    let mut train = tiny(&run);
    train.args(["--no-cache", "--set", "training.steps=3"]);
    let ended = unread(&mut train, false);
    assert!(ended.status.success() && run.join("result.json").exists());
    // Errors keep their status.
    let ended = unread(&mut mopo(&["config", "no-such-preset"]), false);
    assert_eq!(ended.status.code(), Some(1));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else {
        mopo_testkit::skip!("there is no /dev/full");
    };
    let ended = mopo(&["config", "demo"]).stdout(full).output().unwrap();
    let said = stderr(&ended);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("standard output") && !said.contains("panicked"), "{said}");
}
