//! Exports of a run: their content, output and errors.

use std::fs;
use std::path::Path;

use crate::common::{fail, mopo, stderr, succeed, tiny};

const PROMPT: &str = "\n\nHuman: How do I make tea?\n\nAssistant:";

fn export(source: &Path, out: &Path, extra: &[&str]) -> std::process::Command {
    let mut command = mopo(&["export"]);
    command.arg(source).arg("--out").arg(out).args(extra);
    command
}

/// The greedy response of a model or policy, at most 16 tokens.
fn ask(model: &Path, extra: &[&str]) -> String {
    ask_for(16, model, extra)
}

fn ask_for(n_tokens: usize, model: &Path, extra: &[&str]) -> String {
    let mut command = mopo(&["generate"]);
    command.arg(model).args(["--prompt", PROMPT, "--temperature", "0", "--max-new-tokens"]);
    let said = succeed(command.arg(n_tokens.to_string()).args(extra));
    said.split_once('→').unwrap().1.trim_end().to_string()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

fn same(a: &Path, b: &Path, file: &str) {
    assert!(fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(), "{file}");
}

#[test]
fn exports_say_what_the_run_says() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let run = at("run");
    succeed(tiny(&run).args(["--set", "training.steps=6", "--set", "training.learning_rate=0.05"]));

    // One policy, by name, by index, and from the policy's directory.
    let one = at("one");
    let said = succeed(&mut export(&run, &one, &["--policy", "harmless"]));
    assert!(said.contains("harmless") && said.contains("float32"), "{said}");
    let files = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&one), files);
    succeed(&mut export(&run, &at("by-index"), &["--policy", "1"]));
    succeed(&mut export(&run.join("policy"), &at("by-policy"), &["--policy", "1"]));
    for file in files {
        same(&one, &at("by-index"), file);
        same(&one, &at("by-policy"), file);
    }
    let of_run = ask(&run, &["--policy", "harmless"]);
    let of_export = ask(&one, &[]);
    assert!(!of_export.is_empty() && of_export.starts_with(&of_run), "{of_export:?} {of_run:?}");
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(one.join("config.json")).unwrap()).unwrap();
    let end = config["eos_token_id"].as_u64().unwrap();
    assert!(end < config["vocab_size"].as_u64().unwrap());

    // All policies, and one from that export.
    let all = at("all");
    succeed(&mut export(&run, &all, &[]));
    let files = ["base", "generation_config.json", "policy", "tokenizer.json"];
    assert!(files.iter().all(|name| names(&all).contains(&(*name).to_string())));
    for policy in ["helpful", "humor", "warm-start"] {
        assert_eq!(ask(&all, &["--policy", policy]), ask(&run, &["--policy", policy]));
    }
    assert_eq!(ask(&all, &["--weights", "0.2,0.3,0.5"]), ask(&run, &["--weights", "0.2,0.3,0.5"]));
    succeed(&mut export(&all, &at("again"), &["--policy", "harmless"]));
    same(&one, &at("again"), "model.safetensors");

    // In half the size.
    succeed(&mut export(&run, &at("half"), &["--policy", "harmless", "--dtype", "bf16"]));
    let size = |dir: &str| fs::metadata(at(dir).join("model.safetensors")).unwrap().len();
    assert!(size("half") < size("one") * 3 / 5);
    let config = fs::read_to_string(at("half").join("config.json")).unwrap();
    assert!(config.contains("bfloat16"), "{config}");

    // Existing files are not overwritten, except an earlier export on request.
    let before = fs::read(one.join("model.safetensors")).unwrap();
    let said = fail(&mut export(&run, &one, &["--policy", "helpful"]));
    assert!(said.contains("not empty") && said.contains("--force"), "{said}");
    assert_eq!(fs::read(one.join("model.safetensors")).unwrap(), before);
    succeed(&mut export(&run, &one, &["--policy", "helpful", "--force"]));
    assert_ne!(fs::read(one.join("model.safetensors")).unwrap(), before);
    fs::write(one.join("notes.txt"), "mine").unwrap();
    let said = fail(&mut export(&run, &one, &["--policy", "harmless", "--force"]));
    assert!(said.contains("notes.txt"), "{said}");
    assert_eq!(fs::read(one.join("notes.txt")).unwrap(), b"mine");
    let said = fail(&mut export(&run, &run, &["--force"]));
    assert!(said.contains("not part of an export"), "{said}");

    // Wrong names, and directories without policies.
    let nowhere = at("nowhere");
    let said = fail(&mut export(&run, &nowhere, &["--policy", "kind"]));
    assert!(said.contains("helpful, harmless, humor"), "{said}");
    let said = fail(&mut export(&run, &nowhere, &["--policy", "3"]));
    assert!(said.contains("0 to 2"), "{said}");
    let said = fail(&mut export(&at("half"), &nowhere, &[]));
    assert!(said.contains("no policies"), "{said}");
    fs::remove_file(all.join("base/config.json")).unwrap();
    let said = fail(&mut export(&all, &nowhere, &[]));
    assert!(said.contains("base model"), "{said}");
    // A damaged file stops the export halfway: nothing is left, hidden or not (except for the cache
    // of the runs).
    fs::write(run.join("policy/heads.safetensors"), "cut").unwrap();
    let said = fail(&mut export(&run, &nowhere, &["--policy", "helpful"]));
    assert!(said.contains("heads.safetensors"), "{said}");
    assert!(!nowhere.exists());
    assert!(names(dir.path()).iter().all(|name| name == ".cache" || !name.starts_with('.')));
    plain_models(&at("by-index"));
}

/// `generate` on a Hugging Face model directory: its own settings, and errors in them.
fn plain_models(hub: &Path) {
    let file = hub.join("generation_config.json");
    let mut generate = mopo(&["generate"]);
    generate.arg(hub).args(["--prompt", PROMPT]);
    let text = r#"{"max_new_tokens": 3, "eos_token_id": [0, 256], "length_penalty": 1.5}"#;
    fs::write(&file, text).unwrap();
    let output = generate.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("length_penalty: 1.5") && said.contains("generation_config.json"));
    // Greedy, with three tokens, as in the file.
    let three = ask_for(3, hub, &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.split_once('→').unwrap().1.trim_end(), three);

    fs::write(&file, "{\"max_new_tokens\": ").unwrap();
    assert!(fail(&mut generate).contains("generation_config.json"));
    fs::remove_file(&file).unwrap();
    succeed(&mut generate);
    let said = fail(generate.args(["--policy", "helpful"]));
    assert!(said.contains("no policies"), "{said}");
    let said = fail(&mut mopo(&["generate", "no-such-model", "--prompt", "x"]));
    assert!(said.contains("no-such-model") && said.contains("config.json"), "{said}");
}
