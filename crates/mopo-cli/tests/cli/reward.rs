//! `mopo reward train`: killed and resumed, loaded by `mopo label` and by transformers, and
//! what it refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{fail, mopo, succeed, tiny};
use crate::kill_and_resume::kill_once_there;

/// Overrides that make a training tiny.
const TINY: &[&str] = &[
    "tokenizer.vocab_size=300",
    "input.max_length=48",
    "training.steps=24",
    "training.batch_size=6",
    "training.eval_steps=4",
    "training.early_stopping_patience=6",
    "checkpoints.save_steps=5",
];

const PAIRS: &str = r#"
name = "reward-demo"
seed = 3
objective = "humor"
[data]
heldout_fraction = 0.2
validation_fraction = 0.2
[data.pairs]
source = "demo"
n_prompts = 40
ties = "half"
[input]
text = "{prompt}{response}"
max_length = 96
truncation_side = "left"
[tokenizer]
vocab_size = 300
[model.gpt2]
n_embd = 16
n_layer = 2
n_head = 2
[training]
steps = 24
batch_size = 4
learning_rate = 1e-2
warmup_steps = 2
max_grad_norm = 1.0
weight_decay = 0.1
token_dropout = 0.1
eval_steps = 4
early_stopping_patience = 6
[checkpoints]
save_steps = 3
save_total_limit = 2
"#;

/// Texts of two kinds that differ in one word.
fn texts(n: usize) -> String {
    let mut csv = String::from("text,kind\n");
    for i in 0..n {
        let (word, kind) = if i % 2 == 0 { ("sunny", "good") } else { ("rainy", "bad") };
        csv += &format!("\"A {word} day, the {i}th of {}\",{kind}\n", n + i * 7 % 31);
    }
    csv
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// `mopo reward train --config pairs.toml --out OUT`.
fn pairs(dir: &Path, out: &str) -> Command {
    write(dir, "pairs.toml", PAIRS);
    let mut command = mopo(&["reward", "train", "--config", "pairs.toml", "--out", out]);
    command.current_dir(dir);
    command
}

/// The preset `humor` on texts that differ in one word.
fn humor(dir: &Path, out: &str) -> Command {
    write(dir, "texts.csv", &texts(120));
    let mut command = mopo(&["reward", "train", "humor", "--data", "texts.csv", "--out", out]);
    for set in TINY {
        command.args(["--set", set]);
    }
    for set in ["data.texts.label=kind", "data.texts.positive=good", "objective=sunny"] {
        command.args(["--set", set]);
    }
    command.current_dir(dir);
    command
}

fn result(run: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(run.join("result.json")).unwrap()).unwrap()
}

#[test]
fn a_killed_training_ends_at_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let said = succeed(&mut pairs(dir.path(), "whole"));
    for part in ["held out", "validation", "the longer response", "whole/model"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    kill_once_there(
        &mut pairs(dir.path(), "cut"),
        &cut.join("checkpoints/reward_model-step-000003"),
    );
    let resume = || {
        let mut command = mopo(&["reward", "train", "--resume", "cut"]);
        command.current_dir(dir.path());
        command
    };
    kill_once_there(&mut resume(), &cut.join("checkpoints/reward_model-step-000012"));
    succeed(&mut resume());
    for file in ["config.json", "model.safetensors", "tokenizer.json", "reward.toml"] {
        let read = |run: &Path| fs::read(run.join("model").join(file)).unwrap();
        assert!(read(&whole) == read(&cut), "{file} differs");
    }
    for key in ["heldout_accuracy", "train_accuracy", "best_step", "steps", "scores"] {
        assert_eq!(result(&whole)[key], result(&cut)[key], "{key}");
    }
    assert!(succeed(&mut resume()).contains("nothing to do"));

    // No prompt is in two parts.
    let mut sides = std::collections::BTreeMap::new();
    for side in ["train", "validation", "heldout"] {
        let text = fs::read_to_string(whole.join(format!("data/{side}.jsonl"))).unwrap();
        for line in text.lines().skip(1) {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let prompt = record["prompt"].as_str().unwrap().to_owned();
            assert_eq!(*sides.entry(prompt).or_insert(side), side);
        }
    }
}

#[test]
fn what_is_learned_is_kept_and_early_stopping_stops() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = humor(dir.path(), "run");
    for set in [
        "training.steps=600",
        "training.warmup_steps=10",
        "training.learning_rate=5e-3",
        "training.eval_steps=10",
        "training.early_stopping_patience=10",
        "checkpoints.save_steps=50",
    ] {
        command.args(["--set", set]);
    }
    succeed(&mut command);
    let result = result(&dir.path().join("run"));
    let accuracy = |key: &str| result[key]["accuracy"].as_f64().unwrap();
    assert!(accuracy("heldout_accuracy") > 0.9, "{result}");
    assert!(accuracy("baseline") < 0.8, "{result}");
    assert!(result["steps"].as_u64().unwrap() < 600, "it never stopped: {result}");
    assert!(result["best_step"].as_u64() < result["steps"].as_u64(), "{result}");
}

/// A set of made-up pairs to score, and a file of rewards with this model.
fn label(dir: &Path, objective: &str, model: &str) -> PathBuf {
    let prepare = ["prepare", "demo", "--out", "set.jsonl", "--seed", "5"];
    succeed(mopo(&prepare).current_dir(dir));
    let text = fs::read_to_string(dir.join("set.jsonl")).unwrap();
    let few: Vec<String> = text.lines().take(31).map(str::to_owned).collect();
    let few = few.join("\n").replacen("\"records\":4800", "\"records\":30", 1);
    write(dir, "few.jsonl", &few);
    let rewards = format!(
        "[[objectives]]\nname = '{objective}'\ntie_threshold = 0\n\
         reward = {{ kind = 'model', path = '{model}' }}\n"
    );
    write(dir, "rewards.toml", &rewards);
    let out = format!("{objective}.jsonl");
    let args = ["label", "few.jsonl", "--rewards", "rewards.toml", "--out", &out];
    succeed(mopo(&args).current_dir(dir));
    dir.join(out)
}

#[test]
fn trained_models_label_and_transformers_agrees() {
    let dir = tempfile::tempdir().unwrap();
    succeed(&mut pairs(dir.path(), "pairs"));
    succeed(&mut humor(dir.path(), "texts"));
    let labelled = [("humor", "pairs"), ("sunny", "texts")].map(|(objective, run)| {
        (objective, run, label(dir.path(), objective, &format!("{run}/model")))
    });
    // Training starts from a model directory.
    let mut again = pairs(dir.path(), "again");
    let config = PAIRS.replace("[tokenizer]\nvocab_size = 300\n", "");
    let (head, tail) = config.split_once("[model.gpt2]").unwrap();
    let tail = tail.split_once("[training]").unwrap().1;
    let config = format!("{head}[model]\nhub = \"pairs/model\"\n[training]{tail}");
    write(dir.path(), "pairs.toml", &config);
    succeed(&mut again);

    let Some(python) = std::env::var_os("MOPO_REFERENCE_PYTHON") else {
        mopo_testkit::skip_rest!(
            "name a Python with transformers and torch in MOPO_REFERENCE_PYTHON"
        );
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/check_reward.py");
    for (objective, run, set) in labelled {
        let said = succeed(
            Command::new(&python)
                .arg(&script)
                .arg(dir.path().join(run).join("model"))
                .arg(set)
                .arg(objective)
                .env("HF_HUB_OFFLINE", "1"),
        );
        println!("{said}");
    }
}

#[test]
fn wrong_input_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, "texts.csv", &texts(40));
    write(dir, "one-kind.csv", &texts(40).replace(",bad", ",good"));
    for (args, expected) in [
        (&["humour", "--data", "texts.csv"][..], &["humour", "helpful, harmless, humor"][..]),
        (&["humor"], &["--data"]),
        (&["humor", "--data", "no.csv"], &["no.csv"]),
        (&["humor", "--data", "texts.csv"], &["`humor`", "`text`, `kind`"]),
        (
            &["humor", "--data", "one-kind.csv", "--set", "data.texts.label=kind"],
            &["one-kind.csv", "True"],
        ),
        (&["humor", "--data", "texts.csv", "--set", "training.pattience=1"], &["pattience"]),
        (&["humor", "--data", "texts.csv", "--set", "training.token_dropout=1"], &["[0, 1)"]),
        (&["humor", "--data", "texts.csv", "--set", "input.text={prompt}"], &["{response}"]),
        (&["humor", "--data", "texts.csv", "--set", "data.heldout_fraction=1"], &["between"]),
        (&["helpful", "--data", "no-dir"], &["no-dir"]),
        (&["--resume", "no-run"], &["no-run", "mopo reward train"]),
    ] {
        let said = fail(mopo(&["reward", "train"]).args(args).current_dir(dir));
        for part in expected {
            assert!(said.contains(part), "{args:?}: `{part}` is not in:\n{said}");
        }
        let left = fs::read_dir(dir.join("runs/rewards")).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "{args:?} left a run behind");
    }
    // Runs of one kind are refused by commands for the other.
    succeed(&mut pairs(dir, "rewards"));
    succeed(&mut tiny(&dir.join("policies")));
    for (args, expected) in [
        (&["train", "--resume", "rewards"][..], "a run of `mopo reward train`"),
        (&["pareto", "rewards"], "a run of `mopo reward train`"),
        (&["reward", "train", "--resume", "policies"], "a run of `mopo train`"),
    ] {
        let said = fail(mopo(args).current_dir(dir));
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    let printed = succeed(&mut mopo(&["reward", "config", "helpful"]));
    assert!(printed.contains("[data.pairs]"));
}
