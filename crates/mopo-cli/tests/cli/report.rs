//! Results of runs on one page, and runs that cannot be compared.

use std::fs;

use serde_json::Value;

use crate::common::{TINY, fail, mopo, succeed, tiny};

fn json(path: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn runs_are_compared_on_the_same_prompts_and_refused_on_others() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let report = |args: &[&str]| {
        let mut command = mopo(&["report"]);
        command.args(args).current_dir(dir.path());
        command
    };
    succeed(tiny(&at("mopo")).args(["--set", "training.steps=4"]));
    let mut dpo = mopo(&["train", "demo-dpo", "--out"]);
    dpo.arg(at("dpo"));
    for set in TINY.iter().filter(|set| !set.starts_with("mopo.")) {
        dpo.args(["--set", set]);
    }
    succeed(dpo.args(["--set", "training.steps=4"]));

    let said = fail(&mut report(&["mopo", "dpo"]));
    assert!(said.contains("mopo pareto mopo"), "{said}");

    // Clusters by hidden states, z-scores by the recorded scores of the data.
    let config = fs::read_to_string(at("mopo/config.toml")).unwrap();
    let config = config.replace("z_scores = \"sft\"", "z_scores = \"labels\"");
    fs::write(at("mopo/config.toml"), config).unwrap();
    succeed(mopo(&["pareto", "--embedding", "hidden_state"]).arg(at("mopo")));
    let statistics = json(&at("mopo/pareto/statistics.json"));
    let first = &statistics["statistics"][0];
    let pairs: usize = ["train", "heldout"]
        .map(|side| fs::read_to_string(at("mopo/data").join(format!("{side}.jsonl"))).unwrap())
        .iter()
        .map(|text| text.lines().count() - 1)
        .sum();
    assert_eq!(first["n"], 2 * pairs, "both responses of every pair: {first}");
    assert!(first["source"].as_str().unwrap().contains("recorded"), "{first}");
    let record = json(&at("mopo/pareto/report.json"));
    assert_eq!(record["record"]["configuration"]["evaluation"]["embedding"], "hidden_state");
    // The other run's are given.
    succeed(
        mopo(&["pareto"]).arg(at("dpo")).arg("--statistics").arg(at("mopo/pareto/statistics.json")),
    );
    assert_eq!(json(&at("dpo/pareto/statistics.json")), statistics);

    let said = succeed(&mut report(&["mopo", "dpo/pareto", "--names", "ours,theirs"]));
    assert!(said.contains("ours: heads − theirs: heads"), "{said}");
    let page = fs::read_to_string(at("runs/report/index.html")).unwrap();
    for part in ["<h3>ours</h3>", "<h3>theirs</h3>", "How theirs was made", "ours: humor"] {
        assert!(page.contains(part), "{part}");
    }
    for file in ["front.png", "parallel.svg", "sets.csv", "differences.csv", "samples.jsonl"] {
        assert!(fs::metadata(at("runs/report").join(file)).unwrap().len() > 0, "{file}");
    }

    // A single run, some of whose metrics are not JSON.
    let metrics = fs::read_to_string(at("dpo/metrics.jsonl")).unwrap();
    fs::write(at("dpo/metrics.jsonl"), format!("{{\"step\": 1, \"loss\": NaN}}\n{metrics}"))
        .unwrap();
    succeed(report(&["dpo"]).args(["--out", "one"]));
    assert!(fs::read_to_string(at("one/index.html")).unwrap().contains("<h2>Training</h2>"));

    for (args, parts) in [
        (&["mopo", "nothing"][..], &["nothing", "mopo pareto"][..]),
        (&["mopo", "mopo"], &["two runs are called `mopo`", "--names"]),
        (&["mopo", "dpo", "--names", "a"], &["1 name for 2 runs"]),
        (&["mopo", "--statistics", "mopo/run.json"], &["run.json", "schema"]),
        (&["runs/report"], &["several runs (ours, theirs)"]),
    ] {
        let said = fail(&mut report(args));
        for part in parts {
            assert!(said.contains(part), "{args:?}: `{part}` is not in:\n{said}");
        }
    }
    succeed(mopo(&["pareto", "--n-prompts", "4", "--out"]).arg(at("four")).arg(at("dpo")));
    let said = fail(&mut report(&["mopo", "four"]));
    assert!(said.contains("prompts differ, 6 and 4"), "{said}");
    let config = fs::read_to_string(at("dpo/config.toml")).unwrap();
    fs::write(at("dpo/config.toml"), config.replacen("ref_point = 0.0", "ref_point = -1.0", 1))
        .unwrap();
    succeed(mopo(&["pareto", "--out"]).arg(at("corner")).arg(at("dpo")));
    let said = fail(&mut report(&["mopo", "corner"]));
    assert!(said.contains("ref_point is [0.0, 0.0, 0.0] and [-1.0, 0.0, 0.0]"), "{said}");
}
