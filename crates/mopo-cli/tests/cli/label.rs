//! `mopo label`: whole, killed and resumed, sharded and merged; and what it refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{fail, mopo, succeed};
use crate::kill_and_resume::kill_once_there;

const REWARDS: &str = "[[objectives]]\nname = 'helpful'\ntie_threshold = 0.05\n\
                       reward = { kind = 'demo', objective_idx = 0 }\n\
                       [[objectives]]\nname = 'brief'\ntemperature = 5\n\
                       reward = { kind = 'length', prefer = 'shorter' }\n\
                       [[objectives]]\nname = 'careful'\ntie_threshold = 0\n\
                       reward = { kind = 'word_list', file = 'words.txt' }\n";

/// A folder with a prepared set of the demo world and a file of rewards.
fn folder(n_prompts: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("rewards.toml"), REWARDS).unwrap();
    fs::write(dir.path().join("words.txt"), "careful\nnever\nask\n").unwrap();
    let config = succeed(&mut mopo(&["config", "demo"]));
    let config = config.replace("n_prompts = 1200", &format!("n_prompts = {n_prompts}"));
    fs::write(dir.path().join("demo.toml"), config).unwrap();
    let args = ["prepare", "--config", "demo.toml", "--out", "set.jsonl"];
    succeed(mopo(&args).current_dir(dir.path()));
    let path = dir.path().to_path_buf();
    (dir, path)
}

fn label(dir: &Path, out: &str, extra: &[&str]) -> Command {
    let mut command = mopo(&["label", "set.jsonl", "--rewards", "rewards.toml", "--out", out]);
    command.args(extra).current_dir(dir);
    command
}

fn same(dir: &Path, one: &str, other: &str) {
    for end in ["", ".labels.json"] {
        let read = |name: &str| fs::read(dir.join(format!("{name}{end}"))).unwrap();
        assert!(read(one) == read(other), "{one}{end} and {other}{end} differ");
    }
}

#[test]
fn one_process_labels_into_a_file_at_a_time() {
    let (_tmp, dir) = folder(40);
    let progress = dir.join("out.jsonl.progress");
    fs::create_dir(&progress).unwrap();
    let lock = mopo_train::DirLock::acquire(&progress).unwrap();
    let said = fail(&mut label(&dir, "out.jsonl", &[]));
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    assert!(!dir.join("out.jsonl").exists());
    drop(lock);
    succeed(&mut label(&dir, "out.jsonl", &[]));
    assert!(!progress.exists());
}

#[test]
fn killed_resumed_sharded_and_merged_labels_are_the_same_bytes() {
    // Enough pairs that a debug build still has work after its first part.
    let (_tmp, dir) = folder(3000);
    let said = succeed(&mut label(&dir, "whole.jsonl", &[]));
    for part in ["disagreement", "helpful", "brief", "careful", "std. dev.", "ties"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!dir.join("whole.jsonl.progress").exists());

    let first_part = dir.join("cut.jsonl.progress/rows-000000000000");
    kill_once_there(&mut label(&dir, "cut.jsonl", &[]), &first_part);
    assert!(!dir.join("cut.jsonl").exists(), "it was faster than the kill: give it more pairs");
    let output = label(&dir, "cut.jsonl", &[]).output().unwrap();
    let said = crate::common::stderr(&output);
    assert!(said.contains("resuming:"), "{said}");
    same(&dir, "whole.jsonl", "cut.jsonl");
    assert!(!dir.join("cut.jsonl.progress").exists());
    let said = succeed(&mut label(&dir, "cut.jsonl", &[]));
    assert!(said.contains("nothing to do"), "{said}");

    for i in ["1", "2", "3"] {
        let shard = format!("{i}/3");
        succeed(&mut label(&dir, &format!("{i}.shard"), &["--shard", &shard]));
    }
    let merge = |files: &[&str]| {
        let mut command = mopo(&["label", "--out", "merged.jsonl", "--merge"]);
        command.args(files).current_dir(&dir);
        command
    };
    let said = fail(&mut merge(&["3.shard", "1.shard"]));
    assert!(said.contains("missing: 2/3"), "{said}");
    let said = fail(&mut merge(&["3.shard", "1.shard", "2.shard", "1.shard"]));
    assert!(said.contains("duplicate shard 1/3"), "{said}");
    assert!(!dir.join("merged.jsonl").exists());
    succeed(&mut merge(&["3.shard", "1.shard", "2.shard"]));
    same(&dir, "whole.jsonl", "merged.jsonl");

    // The same rewards by name, but with another list of words: another labelling.
    fs::write(dir.join("words.txt"), "never\n").unwrap();
    succeed(&mut label(&dir, "2.shard", &["--shard", "2/3", "--force"]));
    let said = fail(merge(&["1.shard", "2.shard", "3.shard"]).arg("--force"));
    assert!(said.contains("2.shard: shard 2/3 was labelled with other rewards"), "{said}");
    same(&dir, "whole.jsonl", "merged.jsonl");
}

#[test]
fn a_labelled_set_is_one_to_train_on_and_labels_can_be_kept() {
    let (_tmp, dir) = folder(40);
    succeed(&mut label(&dir, "new.jsonl", &[]));
    succeed(&mut label(&dir, "kept.jsonl", &["--keep"]));
    let lines = |name: &str| -> Vec<serde_json::Value> {
        let text = fs::read_to_string(dir.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (before, new, kept) = (lines("set.jsonl"), lines("new.jsonl"), lines("kept.jsonl"));
    assert_eq!(new[0]["objectives"], serde_json::json!(["helpful", "brief", "careful"]));
    let all = ["helpful", "harmless", "humor", "brief", "careful"];
    assert_eq!(kept[0]["objectives"], serde_json::json!(all));
    for i in 1..before.len() {
        for k in 0..3 {
            assert_eq!(kept[i]["indicators"][k], before[i]["indicators"][k]);
        }
        // The demo's own reward is the ground truth, so its scores equal those of the set.
        assert_eq!(new[i]["scores"]["first"][0], before[i]["scores"]["first"][0]);
        assert_eq!(kept[i]["scores"]["second"][1], before[i]["scores"]["second"][1]);
    }
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("kept.jsonl.labels.json")).unwrap()).unwrap();
    let helpful = &record["objectives"][0];
    assert_eq!(helpful["kept"]["agree"], helpful["kept"]["decided"]);
    assert_eq!(helpful["scores"]["n"], 2 * (before.len() - 1));

    // Directly from a source: the same set, so the same bytes.
    let args = ["label", "--config", "demo.toml", "--rewards", "rewards.toml", "--out", "d.jsonl"];
    succeed(mopo(&args).current_dir(&dir));
    same(&dir, "new.jsonl", "d.jsonl");

    let mut train = mopo(&["train", "demo", "--data", "new.jsonl", "--out", "run"]);
    for set in crate::common::TINY.iter().filter(|set| !set.starts_with("data.n_prompts")) {
        train.args(["--set", set]);
    }
    train.args(["--set", "data.source=prepared", "--set", "policies=[\"helpful\",\"brief\"]"]);
    train.args(["--set", "training.steps=2"]);
    succeed(train.current_dir(&dir));
}

#[test]
fn wrong_input_is_refused_and_nothing_is_written() {
    let (_tmp, dir) = folder(20);
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
    write("no-rule.toml", &REWARDS.replace("tie_threshold = 0.05\n", ""));
    write("no-words.toml", &REWARDS.replace("words.txt", "no-words.txt"));
    write("syntax.toml", "[[objectives]\n");
    write("invalid.jsonl", "{\"format\":\"mopo-preferences\",\"schema\":1");
    fs::write(dir.join("latin.toml"), b"[[objectives]]\nname = 'h\xe9'\n").unwrap();
    write("mine.jsonl", "not to be lost");
    let before = fs::read_dir(&dir).unwrap().count();
    for (set, rewards, extra, expected) in [
        ("set.jsonl", "no-rule.toml", &[][..], &["no-rule.toml", "helpful", "temperature"][..]),
        ("set.jsonl", "no-words.toml", &[], &["no-words.txt"]),
        ("set.jsonl", "syntax.toml", &[], &["syntax.toml", "line 1"]),
        ("set.jsonl", "latin.toml", &[], &["latin.toml", "UTF-8"]),
        ("set.jsonl", "nowhere.toml", &[], &["nowhere.toml"]),
        ("nowhere.jsonl", "rewards.toml", &[], &["nowhere.jsonl"]),
        ("invalid.jsonl", "rewards.toml", &[], &["invalid.jsonl:1", "mopo prepare"]),
        ("set.jsonl", "rewards.toml", &["--out", "set.jsonl"], &["the same file", "another file"]),
        ("set.jsonl", "rewards.toml", &["--out", "mine.jsonl"], &["mine.jsonl", "--force"]),
    ] {
        let mut command = mopo(&["label", set, "--rewards", rewards]);
        if extra.is_empty() {
            command.args(["--out", "out.jsonl"]);
        }
        let said = fail(command.args(extra).current_dir(&dir));
        for part in expected {
            assert!(said.contains(part), "{set} {rewards}: `{part}` is not in:\n{said}");
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), before, "{set} {rewards} left something");
    }
    for args in [
        &["label", "--out", "x"][..],
        &["label", "set.jsonl", "--out", "x"],
        &["label", "set.jsonl", "--rewards", "rewards.toml", "--out", "x", "--shard", "3/2"],
        &["label", "set.jsonl", "--merge", "a", "--out", "x"],
    ] {
        let output = mopo(args).current_dir(&dir).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
