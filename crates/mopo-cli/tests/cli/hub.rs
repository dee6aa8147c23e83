//! Models by their names on Hugging Face, wherever a command takes a model.

use std::fs;
use std::path::Path;
use std::process::Command;

use mopo_testkit::LoopbackHub;

use crate::common::{TINY, fail, mopo, succeed, tiny};

/// Publishes all files below a directory.
pub(crate) fn publish(server: &LoopbackHub, repo: &str, dir: &Path) -> String {
    let mut files = vec![];
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let inner = match entry.is_dir() {
            true => fs::read_dir(&entry).unwrap().map(|entry| entry.unwrap().path()).collect(),
            false => vec![entry],
        };
        files.extend(inner.into_iter().map(|path| {
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_string();
            (name, fs::read(path).unwrap())
        }));
    }
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    server.publish(repo, "main", &files)
}

#[test]
fn generate_export_and_train_take_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let server = LoopbackHub::start();
    let with_hub = |mut command: Command| {
        command.current_dir(dir.path()).env("HF_HOME", at("home"));
        command.env("HF_ENDPOINT", server.endpoint());
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        command
    };
    let run = |args: &[&str]| with_hub(mopo(args));

    succeed(&mut tiny(&at("run")));
    succeed(&mut run(&["export", "run", "--policy", "helpful", "--out", "one"]));
    succeed(&mut run(&["export", "run", "--out", "all"]));
    let commit = publish(&server, "me/one", &at("one"));
    publish(&server, "me/all", &at("all"));

    let ask = ["--prompt", "What is tea?", "--max-new-tokens", "4"];
    let answer = |model: &[&str]| succeed(&mut run(&[&["generate"], model, &ask].concat()));
    let expected = answer(&["one"]);
    assert_eq!(answer(&["--model", "me/one"]), expected);
    assert_eq!(answer(&["--model", "me/one", "--revision", &commit]), expected);
    assert_eq!(answer(&[&format!("me/one@{commit}")]), expected);
    assert_eq!(answer(&["me/all"]), answer(&["all"]));
    let again = ["export", "--model", "me/all", "--policy", "helpful", "--out", "again"];
    succeed(&mut run(&again));
    assert_eq!(
        fs::read(at("again/model.safetensors")).unwrap(),
        fs::read(at("one/model.safetensors")).unwrap()
    );

    // A run on it: its configuration has the commit, and the tokenizer comes along.
    let mut train = run(&["train", "demo", "--model", "me/one", "--out", "second"]);
    for set in
        TINY.iter().filter(|set| !set.starts_with("model.") && !set.starts_with("tokenizer."))
    {
        train.args(["--set", set]);
    }
    succeed(&mut train);
    let config = fs::read_to_string(at("second/config.toml")).unwrap();
    let name = format!("\"me/one@{commit}\"");
    assert_eq!(config.matches(&name).count(), 2, "{config}");
    assert_eq!(
        fs::read(at("second/tokenizer.json")).unwrap(),
        fs::read(at("one/tokenizer.json")).unwrap()
    );

    // Cached files need no network; for others the error says what to do.
    let mut offline = run(&[&["generate", "me/one"][..], &ask].concat());
    assert_eq!(succeed(offline.env("HF_HUB_OFFLINE", "1")), expected);
    let mut offline = run(&[&["train", "--model", "me/other"][..]].concat());
    let said = fail(offline.env("HF_HUB_OFFLINE", "1"));
    for words in ["me/other", "HF_HUB_OFFLINE", "config.json", "models--me--other", "/tree/main"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!at("runs").exists());
    let said = fail(&mut run(&[&["generate", "me/other"][..], &ask].concat()));
    assert!(said.contains("me/other") && said.contains("no model of that name"), "{said}");
    let said =
        fail(&mut run(&[&["generate", "--model", "one", "--revision", "v1"][..], &ask].concat()));
    assert!(said.contains("no revision `v1`"), "{said}");
    let said = fail(&mut run(&["train", "--model", "nowhere"]));
    assert!(said.contains("nowhere") && said.contains("org/name"), "{said}");
}

#[test]
fn a_reward_model_is_scored_with_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = LoopbackHub::start();
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../mopo-eval/tests/reward/fixtures/gpt2");
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(fixture.join(name), copy.join(name)).unwrap();
    }
    let settings = "text = '{prompt}{response}'\npooling = 'last_token'\nlabel = 0\n\
                    max_length = 128\ntruncation_side = 'right'\n";
    fs::write(copy.join("reward.toml"), settings).unwrap();
    let commit = publish(&server, "me/kind", &copy);
    fs::write(dir.path().join("texts.jsonl"), "{\"prompt\": \"a\", \"response\": \"b\"}\n")
        .unwrap();
    let scores = |model: &str| {
        let mut command = mopo(&["score", "texts.jsonl", "--out", "scores.jsonl", "--force"]);
        command.args(["--model", model]).current_dir(dir.path());
        command.env("HF_HOME", dir.path().join("home")).env("HF_ENDPOINT", server.endpoint());
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        command
    };
    let read = |name: &str| {
        let text = fs::read_to_string(dir.path().join("scores.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        line["scores"][name].as_f64().unwrap_or_else(|| panic!("{name}: {line}"))
    };
    succeed(&mut scores("copy"));
    let expected = read("copy");
    succeed(&mut scores("me/kind"));
    assert_eq!(read("kind"), expected);
    let pinned = format!("me/kind@{commit}");
    succeed(scores(&pinned).env("HF_HUB_OFFLINE", "1"));
    assert_eq!(read(&format!("kind@{commit}")), expected);
    let said = fail(scores("me/other").env("HF_HUB_OFFLINE", "1"));
    assert!(said.contains("me/other") && said.contains("HF_HUB_OFFLINE"), "{said}");
}
