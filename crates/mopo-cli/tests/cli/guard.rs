//! Guards of a run, with real processes: locks that end with their holder, changed files, and
//! failures that remove nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{fail, mopo, stderr, succeed, tiny};

fn quietly(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until `is_so` holds.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let patience = Instant::now();
    while !is_so() {
        assert!(patience.elapsed() < Duration::from_secs(300), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn resume(run: &Path) -> Command {
    let mut command = mopo(&["train", "--no-cache", "--resume"]);
    command.arg(run);
    command
}

/// A run that takes longer than any test.
fn endless(run: &Path) -> Command {
    let mut command = tiny(run);
    command.args(["--no-cache", "--set", "training.steps=1000000"]);
    command
}

#[test]
fn one_process_trains_a_run_and_a_killed_one_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut child = quietly(&mut endless(&run));
    until("no checkpoint", || run.join("checkpoints/mopo-step-000006").exists());
    let check_refused = |command: &mut Command, holder: &Child| {
        let said = fail(command);
        assert!(said.contains(&format!("process {}", holder.id())), "{said}");
        assert!(said.contains("mopo train") && said.contains(" UTC"), "{said}");
    };
    check_refused(&mut resume(&run), &child);
    let said = fail(&mut endless(&run));
    assert!(said.contains("already has a run"), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();

    // A copy of the run is another run, whatever its lock's file says.
    let copy = dir.path().join("copy");
    succeed(Command::new("cp").arg("-r").args([&run, &copy]));
    let mut child = quietly(&mut resume(&run));
    let mut other = quietly(&mut resume(&copy));
    for (run, child) in [(&run, &child), (&copy, &other)] {
        let holder = format!("\"pid\":{},", child.id());
        until("nobody took the lock over", || {
            fs::read_to_string(run.join(".lock")).is_ok_and(|text| text.contains(&holder))
        });
        check_refused(&mut resume(run), child);
    }
    for child in [&mut child, &mut other] {
        assert!(child.try_wait().unwrap().is_none(), "the first one ended");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn what_was_trained_stays_whatever_fails() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut child = quietly(&mut endless(&run));
    until("no checkpoint", || run.join("checkpoints/mopo-step-000006").exists());
    // The configuration becomes unreadable, and the next checkpoint cannot be written.
    fs::write(run.join("config.toml"), "oops").unwrap();
    fs::rename(run.join("checkpoints"), run.join("kept")).unwrap();
    fs::write(run.join("checkpoints"), "in the way").unwrap();
    let patience = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(patience.elapsed() < Duration::from_secs(300), "it went on");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(1));
    assert!(run.join("kept").read_dir().unwrap().count() > 0);
    assert!(fs::metadata(run.join("metrics.jsonl")).unwrap().len() > 0);
    // A run without any data yet is removed.
    let other = dir.path().join("other");
    let said = fail(tiny(&other).args(["--set", "policies=[\"wise\"]"]));
    assert!(said.contains("wise") && !other.exists(), "{said}");
}

#[test]
fn every_command_knows_a_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    succeed(tiny(&run).args(["--no-cache", "--set", "training.steps=6"]));
    succeed(mopo(&["pareto"]).arg(&run));
    let out = dir.path().join("out");
    let copy = |name: &str| -> PathBuf {
        let copy = dir.path().join(name);
        succeed(Command::new("cp").arg("-r").args([&run, &copy]));
        copy
    };
    let commands = |run: &Path| -> Vec<Command> {
        let with = |args: &[&str], output: Option<&str>| {
            let mut command = mopo(&args[..1]);
            command.arg(run).args(&args[1..]);
            if let Some(name) = output {
                command.arg("--out").arg(out.join(name));
            }
            command
        };
        vec![
            with(&["pareto"], Some("pareto")),
            with(&["generate", "--prompt", "How?", "--max-new-tokens", "2"], None),
            with(&["export", "--policy", "helpful"], Some("export")),
            with(&["report"], Some("report")),
        ]
    };
    for (i, (file, word)) in [
        ("config.toml", "mopo.tau"),
        ("warm_start/model.safetensors", "warm_start/model.safetensors"),
        ("policy/adapter_model.safetensors", "policy/adapter_model.safetensors"),
        ("policy/heads.safetensors", "policy/heads.safetensors"),
    ]
    .into_iter()
    .enumerate()
    {
        let changed = copy(&i.to_string());
        let path = changed.join(file);
        let mut bytes = fs::read(&path).unwrap();
        match file {
            "config.toml" => {
                let text = String::from_utf8(bytes).unwrap();
                let old = text.lines().find(|line| line.starts_with("tau = ")).unwrap();
                bytes = text.replace(old, "tau = 0.35").into_bytes();
            }
            _ => *bytes.last_mut().unwrap() ^= 1,
        }
        fs::write(&path, bytes).unwrap();
        for mut command in commands(&changed).into_iter().chain([resume(&changed)]) {
            let said = fail(&mut command);
            assert!(said.contains(word), "{command:?}: {said}");
        }
    }
    // Without its configuration it is a damaged run, and nothing else.
    let changed = copy("no-configuration");
    fs::remove_file(changed.join("config.toml")).unwrap();
    for mut command in commands(&changed).into_iter().take(3).chain([resume(&changed)]) {
        let said = fail(&mut command);
        assert!(said.contains("config.toml is missing"), "{command:?}: {said}");
    }
    // Nor is one whose last phase was cut off.
    let changed = copy("no-result");
    fs::remove_file(changed.join("result.json")).unwrap();
    for mut command in commands(&changed).into_iter().take(3) {
        let said = fail(&mut command);
        assert!(said.contains("--resume"), "{command:?}: {said}");
    }
    // Reports stay out of it.
    for command in ["pareto", "report"] {
        let said = fail(mopo(&[command]).arg(&run).arg("--out").arg(&run));
        assert!(said.contains("--out") && !run.join("index.html").exists(), "{said}");
        for own in ["checkpoints", "policy", "data/new"] {
            let out = run.join(own);
            let said = fail(mopo(&[command]).arg(&run).arg("--out").arg(&out));
            assert!(said.contains("belongs to the run") && said.contains(command), "{said}");
            assert!(!out.join("index.html").exists());
        }
    }
    // A report of several runs does not replace what it is made of.
    let results = run.join("pareto");
    let before = fs::read(results.join("report.json")).unwrap();
    let said = fail(mopo(&["report"]).args([&run]).arg("--out").arg(&results));
    assert!(said.contains("the results of one of the runs"), "{said}");
    assert_eq!(fs::read(results.join("report.json")).unwrap(), before);
    // Results of another training do not belong to this run.
    let other = dir.path().join("retrained");
    succeed(tiny(&other).args(["--no-cache", "--set", "training.steps=5"]));
    succeed(Command::new("cp").arg("-r").args([&run.join("pareto"), &other.join("pareto")]));
    let said = fail(mopo(&["report"]).arg(&other).arg("--out").arg(&out));
    assert!(said.contains("policy/") && said.contains("mopo pareto"), "{said}");

    // Defaults of the evaluation may be edited, and missing weights do not prevent a report.
    let text = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(text.contains("mixture_steps = 2"));
    fs::write(run.join("config.toml"), text.replace("mixture_steps = 2", "mixture_steps = 0"))
        .unwrap();
    for mut command in commands(&run) {
        succeed(&mut command);
    }
    fs::remove_dir_all(run.join("warm_start")).unwrap();
    succeed(mopo(&["report"]).arg(&run).arg("--out").arg(&out));
}

#[test]
fn two_evaluations_into_one_place_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    succeed(tiny(&run).args(["--no-cache", "--set", "training.steps=3"]));
    let pareto = || {
        let mut command = mopo(&["pareto", "--mixture-steps", "30"]);
        command.arg(&run);
        command
    };
    let mut first = quietly(&mut pareto());
    until("it never began", || run.join("pareto/.lock").exists());
    let second = pareto().output().unwrap();
    let said = stderr(&second);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("process {}", first.id())), "{said}");
    assert!(first.wait().unwrap().success());
    assert!(!run.join("pareto/.lock").exists());
    succeed(mopo(&["report", "--out"]).arg(dir.path().join("page")).arg(&run));
}
