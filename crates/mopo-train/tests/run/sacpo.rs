//! SACPO runs.

use mopo_train::{RunConfig, Silent};

use super::resume::cut;
use super::{
    assert_close, assert_resumable, assert_same_artefacts, distance, finished_with, go_on, message,
    metric, metrics, new_run, policy_values, tiny_method,
};

fn sacpo(more: &[&str]) -> RunConfig {
    tiny_method("sacpo", more)
}

#[test]
fn one_objective_is_dpo() {
    let one = ["sacpo.order=[\"helpful\"]", "sacpo.betas=[0.1]"];
    let (_a, own) = finished_with(&sacpo(&one));
    let (_b, dpo) = finished_with(&tiny_method("dpo", &[]));
    for (key, of_dpo) in [
        ("loss", "loss"),
        ("stepwise/margin/helpful", "helpful/margin"),
        ("learning_rate", "learning_rate"),
    ] {
        assert_close(&metric(&own, "sacpo", key), &metric(&dpo, "dpo", of_dpo));
    }
    let (_c, start) = finished_with(&tiny_method("dpo", &["training.steps=0"]));
    let [own, dpo, start] = [own, dpo, start].map(|run| policy_values(&run));
    let apart = distance(&own, &dpo) / distance(&start, &dpo);
    assert!(apart < 1e-3, "{apart}");
}

#[test]
fn each_stage_begins_at_the_policy_of_the_one_before() {
    // Steps so large that the first stage leaves the base clearly behind.
    let more = ["sacpo.shares=[3,5]", "sacpo.betas=[0.1,0.5]", "training.learning_rate=1e-2"];
    let (_tmp, run) = finished_with(&sacpo(&more));
    let of = |key: &str| metric(&run, "sacpo", key);
    assert_eq!(of("stage"), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    let (loss, rate) = (of("loss"), of("learning_rate"));
    // log 2 at the first step of each: the reference is the policy itself.
    for (first, last) in [(0, 2), (3, 7)] {
        assert!((loss[first] - 2f64.ln()).abs() < 1e-5, "{loss:?}");
        assert!(loss[last] < loss[first], "{loss:?}");
        // Each has its own schedule: one step of warmup, then down.
        assert!(rate[first] < rate[first + 1] && rate[last] < rate[first + 1], "{rate:?}");
    }
    for row in metrics(&run).iter().filter(|row| row["phase"] == "sacpo") {
        let second = row["stage"] == 1.0;
        assert_eq!(row.contains_key("stepwise/margin/harmless"), second);
        assert_eq!(row.contains_key("stepwise/margin/helpful"), !second);
    }
    // The second stage starts where the first one left the policy, not at the base.
    let (_b, dpo) = finished_with(&tiny_method("dpo", &["dpo.objective=harmless"]));
    let moved: f64 = ["chosen_log_prob", "rejected_log_prob"]
        .map(|key| {
            let base = metric(&dpo, "dpo", &format!("harmless/{key}"))[0];
            (of_stage(&run, &format!("stepwise/{key}/harmless"))[0] - base).abs()
        })
        .iter()
        .sum();
    assert!(moved > 2e-3, "{moved}");
}

/// A metric of the second stage.
fn of_stage(run: &std::path::Path, key: &str) -> Vec<f64> {
    metrics(run).iter().filter_map(|row| row.get(key)?.as_f64()).collect()
}

#[test]
fn a_sacpo_run_that_is_cut_off_ends_bit_for_bit_the_same() {
    let more = [
        "training.batch_size=4",
        "training.gradient_accumulation_steps=2",
        "lora.dropout=0.1",
        "sacpo.train_head=true",
    ];
    assert_resumable(&sacpo(&more));
    // Also at the last checkpoint before a stage begins, and with a stage of one step.
    let config = sacpo(
        &[
            &more[..],
            &["sacpo.order=[\"helpful\",\"humor\",\"harmless\"]", "sacpo.betas=[0.1,0.2,0.3]"],
            &["sacpo.shares=[4,1,3]"],
        ]
        .concat(),
    );
    let (_tmp, whole) = finished_with(&config);
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &config);
    cut(&run, "sacpo", 4);
    assert!(!run.join("checkpoints/sacpo-step-000004/reference_log_probs.bin").exists());
    cut(&run, "sacpo", 3);
    assert!(run.join("checkpoints/sacpo-step-000006/reference_log_probs.bin").exists());
    go_on(&run, &mut Silent).unwrap();
    assert_same_artefacts(&whole, &run);
}

#[test]
fn unknown_objectives_are_refused_before_any_work() {
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &sacpo(&["sacpo.order=[\"helpful\",\"kind\"]"]));
    let (_, e) = message(go_on(&run, &mut Silent));
    assert!(e.contains("[sacpo]") && e.contains("unknown objective `kind`"), "{e}");
    assert!(!run.join("warm_start").exists());
}

#[test]
fn the_policies_of_all_stages_are_kept_and_averaged_by_their_parameters() {
    let more = ["sacpo.shares=[3,5]", "training.learning_rate=1e-2", "training.eval_steps=4"];
    let merged = sacpo(&[&more[..], &["sacpo.merge=true"]].concat());
    assert_eq!(merged.policies, ["helpful", "harmless"]);
    let (_a, run) = finished_with(&merged);
    let (_b, last) = finished_with(&sacpo(&more));
    // A run that ends with the first stage, whose schedule is that of three steps.
    let one = [
        "sacpo.order=[\"helpful\"]",
        "sacpo.betas=[0.1]",
        "training.learning_rate=1e-2",
        "training.steps=3",
    ];
    let (_c, first) = finished_with(&sacpo(&one));
    let result = |run: &std::path::Path| -> mopo_train::RunResult {
        serde_json::from_str(&std::fs::read_to_string(run.join("result.json")).unwrap()).unwrap()
    };
    let [merged_result, last, first] = [&run, &last, &first].map(|run| result(run).policies);
    assert_eq!(merged_result[0].1, first[0].1, "the first stage's");
    assert_eq!(merged_result[1].1, last[0].1, "the last one's");
    let policy = std::fs::read_to_string(run.join("policy/policy.json")).unwrap();
    assert!(policy.contains("parameters"), "{policy}");
    // Evaluated in the first stage, both are the same.
    let row = metrics(&run).into_iter().find(|row| row.contains_key("eval_accuracy")).unwrap();
    assert!(row.contains_key("harmless/eval_accuracy/helpful"));

    let tmp = tempfile::tempdir().unwrap();
    let again = tmp.path().join("run");
    new_run(&again, &merged);
    cut(&again, "sacpo", 3);
    cut(&again, "sacpo", 4);
    go_on(&again, &mut Silent).unwrap();
    assert_same_artefacts(&run, &again);

    let wrong = sacpo(&more).to_toml().unwrap().replace("[sacpo]", "[sacpo]\nmerge = true");
    let error = RunConfig::parse(&wrong, "test").unwrap_err().to_string();
    assert!(error.contains("policies = [\"helpful\", \"harmless\"]"), "{error}");
}
