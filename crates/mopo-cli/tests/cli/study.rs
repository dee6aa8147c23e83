//! Runs that start from the SFT model of another, policies that are taken over, and methods compared over seeds.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::common::{TINY, fail, mopo, succeed, tiny};

/// Replaces the first hash of a name in a run's record, whose hash of itself goes.
fn forge(run: &Path, name: &str) {
    let path = run.join("run.json");
    let text = fs::read_to_string(&path).unwrap();
    let text = match text.rsplit_once(",\n  \"sha256\": ") {
        Some((body, _)) => format!("{body}\n}}"),
        None => text,
    };
    let at = text.find(&format!("\"{name}\": \"")).unwrap() + name.len() + 5;
    fs::write(&path, format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..])).unwrap();
}

#[test]
fn a_run_is_compared_with_what_its_command_would_start_now() {
    let dir = tempfile::tempdir().unwrap();
    let study = dir.path().join("study");
    fs::create_dir(&study).unwrap();
    succeed(tiny(&study.join("base")).args(["--set", "training.steps=2"]));
    let dpo = |study: &Path, objective: &str, beta: &str| {
        let sets = [&format!("dpo.objective={objective}"), beta];
        from(&study.join("base"), "dpo", &study.join(objective), &sets)
    };
    let helpful = |study: &Path, beta: &str| dpo(study, "helpful", beta);
    let soup = |study: &Path| {
        let run = |name: &str| format!("{name}={:?}", study.join(name).to_str().unwrap());
        let runs = ["helpful", "harmless"].map(run).join(",");
        let runs = format!("rewarded_soups.runs={{{runs}}}");
        from(&study.join("base"), "rewarded_soups", &study.join("soup"), &[&runs])
    };
    for objective in ["helpful", "harmless"] {
        succeed(&mut dpo(&study, objective, "dpo.beta=0.1"));
    }
    succeed(&mut soup(&study));
    // Also where all of it was moved.
    let moved = dir.path().join("moved");
    fs::rename(&study, &moved).unwrap();
    let said = succeed(helpful(&moved, "dpo.beta=0.1").arg("--verify"));
    assert!(said.contains("was started with these arguments"), "{said}");
    succeed(soup(&moved).arg("--verify"));
    for (change, words) in [
        (&["--set", "evaluation.n_clusters=3"][..], "`evaluation.n_clusters`"),
        (&["--seed", "5"], "`seed` of the run is"),
        (&["--strict"], "`--strict` of the run is false"),
    ] {
        let said = fail(helpful(&moved, "dpo.beta=0.1").arg("--verify").args(change));
        assert!(said.contains(words), "{said}");
    }
    let said = fail(helpful(&moved, "dpo.beta=0.2").arg("--verify"));
    assert!(said.contains("`dpo.beta` of the run is 0.1, and would now be 0.2"), "{said}");
    // Another policy, and another SFT model, in the same place.
    forge(&moved.join("helpful"), "policy/heads.safetensors");
    assert!(fail(soup(&moved).arg("--verify")).contains("which is now another one"));
    forge(&moved.join("base"), "warm_start/model.safetensors");
    let said = fail(helpful(&moved, "dpo.beta=0.1").arg("--verify"));
    assert!(said.contains("SFT model"), "{said}");
}

/// A run from the SFT model of `base`.
fn from(base: &Path, method: &str, out: &Path, more: &[&str]) -> std::process::Command {
    let mut command = mopo(&["train", "demo", "--method", method, "--model"]);
    command.arg(base).arg("--out").arg(out);
    let shared = |set: &&&str| !set.starts_with("mopo.") && !set.starts_with("sft.");
    let own = ["sft.steps=0", "training.steps=2"];
    for set in TINY.iter().filter(shared).chain(&own).chain(more) {
        command.args(["--set", set]);
    }
    command
}

#[test]
fn data_that_has_changed_since_a_run_was_started_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (pairs, run) = (dir.path().join("pairs.jsonl"), dir.path().join("run"));
    let prepare = |seed: &str| {
        let sets = ["--set", "data.n_prompts=40", "--seed", seed, "--out"];
        succeed(mopo(&["prepare", "demo"]).args(sets).arg(&pairs));
    };
    let train = || {
        let mut command = tiny(&run);
        command.args(["--set", "training.steps=2", "--set", "data.source=prepared", "--data"]);
        command.arg(&pairs);
        command
    };
    prepare("0");
    succeed(&mut train());
    succeed(train().arg("--verify"));
    prepare("1");
    let said = fail(train().arg("--verify"));
    assert!(said.contains("pairs.jsonl, which has changed since"), "{said}");
    // The run has its own copy.
    fs::remove_file(&pairs).unwrap();
    succeed(train().arg("--verify"));
}

#[test]
fn methods_are_compared_from_one_sft_model() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let base = at("base");
    succeed(tiny(&base).args(["--set", "training.steps=2"]));
    for objective in ["helpful", "harmless"] {
        let set = format!("dpo.objective={objective}");
        succeed(&mut from(&base, "dpo", &at(objective), &[&set]));
    }
    let runs = format!(
        "rewarded_soups.runs={{helpful={:?},harmless={:?}}}",
        at("helpful").to_str().unwrap(),
        at("harmless").to_str().unwrap()
    );
    succeed(&mut from(&base, "rewarded_soups", &at("soup"), &[&runs]));
    for run in ["helpful", "harmless", "soup"] {
        succeed(mopo(&["pareto", "--n-prompts", "4", "--mixture-steps", "2"]).arg(at(run)));
    }
    // Mixed by parameters, by the worst weights, and not under another divergence.
    let ask = |more: &[&str]| {
        let mut command = mopo(&["generate", "--max-new-tokens", "4", "--prompt", "Hello"]);
        command.args(more).arg(at("soup"));
        command
    };
    succeed(&mut ask(&["--weights", "helpful=0.5,harmless=0.5"]));
    succeed(&mut ask(&["--policy", "worst-case"]));
    let said = fail(&mut ask(&["--weights", "0.5,0.5", "--divergence", "forward_kl"]));
    assert!(said.contains("averaging their parameters"), "{said}");
    let said = fail(&mut ask(&["--targets", "helpful=1"]));
    assert!(said.contains("only a policy trained with the method `ric`"), "{said}");
    let out = ask(&["--targets", "helpful"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("write helpful=1.5,harmless=0"), "{said}");

    let run = |label: &str, run: &str| json!({ "seed": 0, "label": label, "results": format!("{run}/pareto") });
    let study = json!({
        "title": "Which is better",
        "reference": "Soups",
        "methods": [
            { "name": "DPO", "runs": [run("helpful", "helpful"), run("harmless", "harmless")] },
            { "name": "Soups", "runs": [run("", "soup")] },
        ],
    });
    let file = at("compared.json");
    fs::write(&file, study.to_string()).unwrap();
    let compare = |out: &str| {
        let mut command = mopo(&["study", "--resamples", "20", "--out"]);
        command.arg(at(out)).arg(&file);
        command
    };
    let said = succeed(&mut compare("page"));
    assert!(said.contains("Soups") && said.contains("index.html"), "{said}");
    let text = fs::read_to_string(at("page/study.md")).unwrap();
    assert!(
        text.contains("| Soups | mix 0.50/0.50 |") && text.contains("| DPO | harmless |"),
        "{text}"
    );
    assert!(at("page/results.json").exists());

    fs::write(&file, study.to_string().replace("soup/pareto", "nothing")).unwrap();
    let said = fail(&mut compare("other"));
    assert!(said.contains("nothing") && said.contains("compared.json"), "{said}");
    fs::write(&file, "{}").unwrap();
    assert!(fail(&mut compare("other")).contains("is not a study"));
}
