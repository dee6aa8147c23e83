//! Runs that start from the SFT model of another, policies that are taken over, and methods compared over seeds.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::common::{TINY, fail, mopo, succeed, tiny};

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
