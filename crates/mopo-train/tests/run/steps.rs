//! What a step computes: pruning, accumulation, subsets of policies, values that are not finite.

use std::fs;

use mopo_train::Silent;

use super::{
    assert_same_artefacts, distance, finished, go_on, message, metrics, new_run, policy_values,
    tiny,
};

#[test]
fn leaving_out_pruned_responses_changes_nothing() {
    // Hard labels at τ = 0.05: a rejected response has e⁻²⁰ of a preferred one's weight.
    let common = [
        "policies=[\"helpful\"]",
        "mopo.indicator_estimator=pair",
        "mopo.tau=0.05",
        "mopo.lambda_lr=0",
        "lora.dropout=0.0",
    ];
    let of = |more: &[&str]| finished(&[&common[..], more].concat());
    let (_a, every) = of(&["mopo.prune_below=0", "training.steps=3"]);
    let (_b, few) = of(&["mopo.prune_below=1e-5", "training.steps=3"]);
    let (_c, start) = of(&["training.steps=0"]);
    let needed = |run| {
        metrics(run)
            .iter()
            .filter_map(|row| row.get("needed_terms")?.as_f64())
            .collect::<Vec<f64>>()
    };
    assert_eq!(needed(&every), [1.0; 3]);
    assert!(needed(&few).iter().all(|n| *n > 0.0 && *n < 1.0), "{:?}", needed(&few));
    let (every, few, start) = (policy_values(&every), policy_values(&few), policy_values(&start));
    let (apart, moved) = (distance(&every, &few), distance(&every, &start));
    assert!(moved > 0.0 && apart < 0.02 * moved, "{apart} apart after moving {moved}");
}

#[test]
fn two_passes_of_half_a_batch_are_one_of_the_whole() {
    let common =
        ["data.n_prompts=10", "data.heldout_fraction=0.5", "lora.dropout=0.0", "training.steps=1"];
    let of = |batch: usize, accumulation: usize| {
        let batch = format!("training.batch_size={batch}");
        let accumulation = format!("training.gradient_accumulation_steps={accumulation}");
        finished(&[&common[..], &[batch.as_str(), accumulation.as_str()]].concat())
    };
    // One step over every pair there is, so that the order of the batches does not matter.
    let (_a, whole) = of(10_000, 1);
    let text = fs::read_to_string(whole.join("data/train.jsonl")).unwrap();
    let n_pairs = text.lines().filter(|l| l.contains("\"indicators\"")).count();
    assert!(n_pairs >= 4);
    let (_b, halves) = of(n_pairs.div_ceil(2), 2);
    let last = |run| metrics(run).pop().unwrap();
    let (a, b) = (last(&whole), last(&halves));
    for key in ["loss", "gradient_norm", "helpful/plain/harmless", "humor/effective_sample_size"] {
        let (a, b) = (a[key].as_f64().unwrap(), b[key].as_f64().unwrap());
        assert!((a - b).abs() < 1e-3 * a.abs(), "{key}: {a} and {b}");
    }
}

#[test]
fn the_exact_dual_holds_between_refreshes_and_keeps_the_constraints() {
    let exact =
        ["mopo.dual=exact", "mopo.reference_lag=2", "training.steps=6", "mopo.lambda_max=50"];
    let (_tmp, run) = finished(&exact);
    let rows: Vec<_> = metrics(&run).into_iter().filter(|r| r["phase"] == "mopo").collect();
    assert_eq!(rows.len(), 6);
    let mut binding = 0;
    for window in rows.chunks(2) {
        for (key, value) in &window[0] {
            if key.contains("/lambda/") {
                assert_eq!(*value, window[1][key], "{key}");
                binding += usize::from(value.as_f64().unwrap() > 0.0);
            }
            if key.contains("/slack/") {
                let capped = window[0][&key.replace("/slack/", "/lambda_saturated/")] == 1.0;
                assert!(value.as_f64().unwrap() > -1e-6 || capped, "{key}: {value}");
            }
            if key.ends_with("kkt_residual") {
                assert!(value.as_f64().unwrap() < 1e-6, "{key}: {value}");
            }
        }
    }
    assert!(binding > 0, "no threshold binds: the test shows nothing");
    // Interrupted in the middle of a window, it continues with the same multipliers.
    let tmp = tempfile::tempdir().unwrap();
    let cut = tmp.path().join("run");
    new_run(&cut, &tiny(&[&exact[..], &["checkpoints.save_steps=3"]].concat()));
    go_on(&cut, &mut Silent).unwrap();
    fs::remove_dir_all(cut.join("policy")).unwrap();
    fs::remove_file(cut.join("result.json")).unwrap();
    fs::remove_dir_all(cut.join("checkpoints/mopo-step-000006")).unwrap();
    go_on(&cut, &mut Silent).unwrap();
    assert_same_artefacts(&run, &cut);
}

#[test]
fn weights_may_be_normalised_by_prompt() {
    // One step over every pair there is, with the initial model as reference: only the weights differ.
    let common = [
        "data.n_prompts=10",
        "data.heldout_fraction=0.5",
        "training.steps=1",
        "training.batch_size=10000",
        "mopo.tau=0.05",
    ];
    let step = |normalization: &str| {
        let set = format!("mopo.weight_normalization={normalization}");
        let (_tmp, run) = finished(&[&common[..], &[set.as_str()]].concat());
        metrics(&run).into_iter().find(|row| row["phase"] == "mopo").unwrap()
    };
    let (batch, prompt) = (step("batch"), step("prompt"));
    let value =
        |row: &serde_json::Map<String, serde_json::Value>, key: &str| row[key].as_f64().unwrap();
    for policy in ["helpful", "harmless", "humor"] {
        let key = format!("{policy}/effective_sample_size");
        let (batch, prompt) = (value(&batch, &key), value(&prompt, &key));
        assert!((batch - prompt).abs() > 0.02 * batch, "{key}: {batch} and {prompt}");
    }
    let both = ["mopo.weight_normalization=prompt", "mopo.dual=exact"];
    let e = mopo_train::RunConfig::parse_with(
        mopo_train::config::preset_text("demo").unwrap(),
        "demo",
        &both.map(String::from),
    )
    .unwrap_err()
    .to_string();
    assert!(e.contains("mopo.dual") && e.contains("batch"), "{e}");
}

#[test]
fn policies_may_be_a_subset_of_the_objectives() {
    for policies in [&["humor"][..], &["harmless", "helpful"][..]] {
        let set = format!("policies={policies:?}");
        let tmp = tempfile::tempdir().unwrap();
        let run = tmp.path().join("run");
        new_run(&run, &tiny(&[&set, "training.steps=2"]));
        let result = go_on(&run, &mut Silent).unwrap();
        let names: Vec<&str> = result.policies.iter().map(|p| p.0.as_str()).collect();
        assert_eq!(names, policies);
        assert_eq!(result.objectives, ["helpful", "harmless", "humor"]);
        assert_eq!(result.constraints.len(), 2 * policies.len());
        let row = metrics(&run).pop().unwrap();
        for name in result.objectives {
            let there = row.contains_key(&format!("{name}/loss"));
            assert_eq!(there, policies.contains(&name.as_str()), "{name}");
        }
    }
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &tiny(&["policies=[\"helpful\", \"wise\"]"]));
    let (_, e) = message(go_on(&run, &mut Silent));
    assert!(e.contains("wise") && e.contains("helpful, harmless, humor"), "{e}");
}
