//! A DPO run from the command line: killed, resumed, evaluated, used to generate; and the log-prob
//! cache.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{TINY, fail, mopo, succeed};
use crate::kill_and_resume::{assert_same_run, kill_once_there};

/// `mopo train demo-dpo --out DIR`, tiny.
fn tiny_dpo(out: &Path) -> Command {
    let mut command = mopo(&["train", "demo-dpo", "--out"]);
    command.arg(out).env_remove("MOPO_CACHE");
    for set in TINY.iter().filter(|set| !set.starts_with("mopo.")) {
        command.args(["--set", set]);
    }
    command
}

#[test]
fn a_killed_dpo_run_ends_at_the_same_bits_and_can_be_evaluated_and_sampled() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    succeed(&mut tiny_dpo(&whole));
    let resume = || {
        let mut command = mopo(&["train", "--resume"]);
        command.arg(&cut);
        command
    };
    kill_once_there(&mut tiny_dpo(&cut), &cut.join("checkpoints/dpo-step-000006"));
    kill_once_there(&mut resume(), &cut.join("checkpoints/dpo-step-000021"));
    succeed(&mut resume());
    assert_same_run(&whole, &cut);

    let said = succeed(mopo(&["pareto"]).arg(&whole));
    assert!(said.contains("helpful") && said.contains("SFT model"), "{said}");
    let page = fs::read_to_string(whole.join("pareto/index.html")).unwrap();
    assert!(page.contains("Accuracy"), "the page draws no accuracy");
    let ask = |policy: &str| {
        let mut command = mopo(&["generate"]);
        command.arg(&whole).args(["--prompt", "How do I make tea?", "--max-new-tokens", "4"]);
        command.args(["--policy", policy]);
        command
    };
    for policy in ["helpful", "warm-start"] {
        assert!(succeed(&mut ask(policy)).contains("How do I make tea?"));
    }
    let said = fail(&mut ask("humor"));
    assert!(said.contains("the policies are helpful, and `sft`"), "{said}");
}

#[test]
fn the_cache_is_where_it_is_asked_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let short = |out: &str| {
        let mut command = tiny_dpo(&at(out));
        command.args(["--set", "training.steps=1"]);
        command
    };
    let train = |command: &mut Command| {
        let output = command.output().unwrap();
        let said = crate::common::stderr(&output);
        assert!(output.status.success(), "{said}");
        said.lines().filter(|l| l.contains("pairs from the cache")).map(String::from).collect()
    };
    // Next to the run, where the next run finds it.
    let first: Vec<String> = train(&mut short("runs/a"));
    assert!(first.len() == 2 && first.iter().all(|l| l.contains(": 0 of ")), "{first:?}");
    assert!(at("runs/.cache/log_probs").is_dir());
    let second: Vec<String> = train(&mut short("runs/b"));
    assert!(second.iter().all(|l| l.ends_with(" 0 computed")), "{second:?}");
    // By flag, by environment (the flag takes precedence), and disabled.
    train(short("c/run").arg("--cache").arg(at("by-flag")).env("MOPO_CACHE", at("unused")));
    train(short("d/run").env("MOPO_CACHE", at("by-environment")));
    let none: Vec<String> = train(short("e/run").arg("--no-cache").env("MOPO_CACHE", at("unused")));
    assert!(none.is_empty(), "{none:?}");
    assert!(at("by-flag").is_dir() && at("by-environment").is_dir() && !at("unused").exists());
    for parent in ["c", "d", "e"] {
        assert!(!at(parent).join(".cache").exists(), "{parent}");
    }
    for file in ["policy/adapter_model.safetensors", "initial_log_probs.safetensors"] {
        let read = |run: &str| fs::read(at(run).join(file)).unwrap();
        assert!(read("runs/a") == read("runs/b") && read("runs/a") == read("e/run"), "{file}");
    }
    // The cache is not taken for a run.
    let said = succeed(mopo(&["pareto"]).current_dir(dir.path()));
    assert!(said.contains("front.svg"), "{said}");
}
