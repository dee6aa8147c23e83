//! Reward models from the command line: `mopo score`, labels, an axis of a front; and errors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{fail, mopo, succeed, tiny};

/// A small random classifier that the tests of `mopo-eval` compare with transformers.
fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mopo-eval/tests/reward/fixtures").join(name)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The fixture's settings, as in a configuration.
const GPT2: &str = "kind = 'model'\ntext = '{prompt}{response}'\npooling = 'last_token'\nlabel = 0\n\
                    max_length = 128\ntruncation_side = 'right'\n";

/// A folder with a reward file and texts, and their scores.
fn folder() -> (tempfile::TempDir, Vec<f64>) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("reward.toml"), format!("name = 'kind'\n{GPT2}")).unwrap();
    let told = read_json(&model("gpt2").join("told.json"));
    let (mut lines, mut expected) = (String::new(), vec![]);
    for (i, case) in told[0]["cases"].as_array().unwrap().iter().enumerate() {
        let row = json!({ "id": i, "prompt": case["prompt"], "response": case["response"] });
        lines += &format!("{row}\n");
        expected.push(case["logits"][0].as_f64().unwrap());
    }
    fs::write(dir.path().join("texts.jsonl"), lines).unwrap();
    (dir, expected)
}

fn score(dir: &Path, args: &[&str]) -> Command {
    let mut command = mopo(&["score", "--out", "scores.jsonl"]);
    command.args(args).arg("--model").arg(model("gpt2")).current_dir(dir);
    command
}

#[test]
fn texts_come_back_with_the_scores_of_transformers() {
    let (dir, expected) = folder();
    let dir = dir.path();
    let said = succeed(&mut score(dir, &["--reward", "reward.toml", "texts.jsonl"]));
    assert!(said.contains("kind: 9 scores, mean"), "{said}");
    let lines = fs::read_to_string(dir.join("scores.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), expected.len());
    for (i, (line, expected)) in lines.iter().zip(&expected).enumerate() {
        let found = line["scores"]["kind"].as_f64().unwrap();
        assert!((found - expected).abs() <= 1e-4 * expected.abs().max(0.1), "{found} {expected}");
        assert_eq!(line["id"], i);
    }
    let record = read_json(&dir.join("scores.jsonl.record.json"));
    assert_eq!(record["n_texts"], 9);
    let scored = &record["rewards"][0];
    assert_eq!((&scored["name"], scored["sha256"].as_str().unwrap().len()), (&json!("kind"), 64));
    assert_eq!(scored["reward"]["kind"], "model");

    // An existing file stays, or is replaced on request; scores of other rewards stay.
    let said = fail(&mut score(dir, &["--reward", "reward.toml", "texts.jsonl"]));
    assert!(said.contains("scores.jsonl exists; replace it with --force"), "{said}");
    fs::write(dir.join("length.toml"), "kind = 'length'").unwrap();
    let mut more =
        mopo(&["score", "--reward", "length.toml", "scores.jsonl", "--out", "more.jsonl"]);
    succeed(more.current_dir(dir));
    let more = fs::read_to_string(dir.join("more.jsonl")).unwrap();
    let first: Value = serde_json::from_str(more.lines().next().unwrap()).unwrap();
    assert_eq!(first["scores"]["kind"], lines[0]["scores"]["kind"]);
    assert_eq!(first["scores"]["length"], 5.0);
}

#[test]
fn what_cannot_be_scored_is_named_and_nothing_is_written() {
    let (dir, _) = folder();
    let dir = dir.path();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
    write("label.toml", GPT2.replace("label = 0", "label = 1").as_bytes());
    write("long.toml", GPT2.replace("128", "4096").as_bytes());
    write("empty.jsonl", b"{\"response\": \"a\"}\n{\"response\": \"\"}\n");
    write("latin.jsonl", b"{\"response\": \"a\"}\n{\"response\": \"caf\xe9\"}\n");
    write("none.jsonl", b"{\"prompt\": \"a\"}\n");
    write("taken.jsonl", b"{\"response\": \"a\", \"scores\": [1]}\n");
    let good = ["--reward", "reward.toml"];
    for (args, parts) in [
        (&["--reward", "label.toml", "texts.jsonl"][..], &["`label` is 1", "0 (LABEL_0)"][..]),
        (&["--reward", "long.toml", "texts.jsonl"], &["`max_length` is 4096", "128"]),
        (&["--reward", "humor", "texts.jsonl"], &["config.json", "`model_type` is gpt2"]),
        (&["--reward", "nothing", "texts.jsonl"], &["`nothing`", "hh-helpful"]),
        (&["texts.jsonl"], &["`text` is missing", "reward.toml"]),
        (&[good[0], good[1], "not-there.jsonl"], &["not-there.jsonl"]),
        (&[good[0], good[1], "empty.jsonl"], &["empty.jsonl: line 2", "`kind`", "no tokens"]),
        (&[good[0], good[1], "latin.jsonl"], &["latin.jsonl: line 2 is not UTF-8"]),
        (&[good[0], good[1], "none.jsonl"], &["none.jsonl: line 1 has no `response`"]),
        (&[good[0], good[1], "taken.jsonl"], &["taken.jsonl: line 1 has `scores`"]),
        (&[good[0], good[1], "--reward", "humor", "texts.jsonl"], &["--model", "one reward"]),
    ] {
        let said = fail(&mut score(dir, args));
        for part in parts {
            assert!(said.contains(part), "{args:?}: no `{part}` in:\n{said}");
        }
        let written = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
        let written: Vec<_> =
            written.filter(|n| n.to_string_lossy().starts_with("scores")).collect();
        assert!(written.is_empty(), "{args:?}: {written:?}");
    }
    // A missing model: the error says what to download.
    let mut command =
        mopo(&["score", "--reward", "hh-helpful", "texts.jsonl", "--out", "scores.jsonl"]);
    let said = fail(command.current_dir(dir).env("HF_HUB_OFFLINE", "1"));
    assert!(said.contains("Ray2333/gpt2-large-helpful-reward_model"), "{said}");
}

#[test]
fn texts_of_very_many_tokens_are_cut_and_counted() {
    let (dir, _) = folder();
    let dir = dir.path();
    let long = "a b".repeat(100_000);
    let lines: String = [long.as_str(), "short", &long[..900]]
        .map(|response| format!("{}\n", json!({ "response": response })))
        .concat();
    fs::write(dir.join("long.jsonl"), lines).unwrap();
    let output = score(dir, &["--reward", "reward.toml", "long.jsonl"]).output().unwrap();
    let said = crate::common::stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("`kind`: 2 texts had more than 128 tokens; their end"), "{said}");
    let scores = fs::read_to_string(dir.join("scores.jsonl")).unwrap();
    let scores: Vec<Value> = scores.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(scores[0]["scores"], scores[2]["scores"]);
    let record = read_json(&dir.join("scores.jsonl.record.json"));
    assert!(record["rewards"][0]["notes"][0].as_str().unwrap().contains("128 tokens"), "{record}");
}

#[test]
fn a_model_labels_pairs_and_is_the_axis_of_a_front() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let path = model("gpt2");
    let reward = format!(
        "{{ kind = 'model', path = '{}', text = '{{prompt}}{{response}}', pooling = 'last_token', \
         label = 0, max_length = 128, truncation_side = 'left' }}",
        path.display()
    );
    succeed(tiny(&at("run")).args(["--set", "training.steps=4"]));
    let rewards = format!("[[objectives]]\nname = 'kind'\ntie_threshold = 0\nreward = {reward}\n");
    fs::write(at("rewards.toml"), &rewards).unwrap();
    let label = |out: &str, extra: &[&str]| {
        let mut command = mopo(&["label", "run/data/heldout.jsonl", "--rewards", "rewards.toml"]);
        command.args(["--out", out]).args(extra).current_dir(dir.path());
        command
    };
    succeed(&mut label("whole.jsonl", &[]));
    succeed(&mut label("1.shard", &["--shard", "1/2"]));
    succeed(&mut label("2.shard", &["--shard", "2/2"]));
    let merge = ["label", "--merge", "1.shard", "2.shard", "--out", "merged.jsonl"];
    succeed(mopo(&merge).current_dir(dir.path()));
    assert!(fs::read(at("whole.jsonl")).unwrap() == fs::read(at("merged.jsonl")).unwrap());
    let labelled = fs::read_to_string(at("whole.jsonl")).unwrap();
    let pair: Value = serde_json::from_str(labelled.lines().nth(1).unwrap()).unwrap();
    let side = |side: &str| pair["scores"][side][0].as_f64().unwrap();
    let expected = if side("first") > side("second") { 1.0 } else { 0.0 };
    assert_ne!(side("first"), side("second"));
    assert_eq!(pair["indicators"][0], expected);

    let config = fs::read_to_string(at("run/config.toml")).unwrap();
    let position = config.find("[[evaluation.rewards]]").unwrap();
    let axes = format!(
        "[[evaluation.rewards]]\nname = 'kind'\nref_point = -9.0\nreward = {reward}\n\
         [[evaluation.rewards]]\nname = 'words'\nref_point = 0.0\nreward = {{ kind = 'length' }}\n"
    );
    let rest = config[position..].find("\n[checkpoints]").map_or("", |i| &config[position + i..]);
    fs::write(at("run/config.toml"), format!("{}{axes}{rest}", &config[..position])).unwrap();
    succeed(mopo(&["pareto"]).arg(at("run")));
    let report = fs::read_to_string(at("run/pareto/report.json")).unwrap();
    assert!(report.contains("last_token") && report.contains("\"kind\""), "{report}");

    // A wrong one is found before generation.
    let wrong = axes.replace("kind = 'model',", "kind = 'model', preset = 'nothing',");
    fs::write(at("run/config.toml"), format!("{}{wrong}{rest}", &config[..position])).unwrap();
    let said = fail(mopo(&["pareto"]).arg(at("run")));
    assert!(
        said.contains("`preset` is `nothing`") && said.contains("the reward of `kind`"),
        "{said}"
    );
}
