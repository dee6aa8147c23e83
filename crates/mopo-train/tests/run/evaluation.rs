//! Evaluation between steps, early stopping, and the best policies at the end.

use std::fs;
use std::path::Path;

use mopo_train::{RunResult, Silent};
use serde_json::Value;

use super::on_policy::LENGTH;
use super::resume::cut;
use super::{
    assert_same_artefacts, finished_with, go_on, metric, metrics, new_run, policy_files, tiny,
    tiny_method,
};

const EVERY_3: &str = "training.eval_steps=3";

fn result(run: &Path) -> RunResult {
    serde_json::from_str(&fs::read_to_string(run.join("result.json")).unwrap()).unwrap()
}

fn samples(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("eval_samples.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The steps, from 1, whose rows have the key.
fn steps_with(run: &Path, key: &str) -> Vec<usize> {
    let rows = metrics(run).into_iter().filter(|row| row["phase"] == "mopo");
    rows.filter(|row| row.contains_key(key))
        .map(|row| 1 + row["step"].as_u64().unwrap() as usize)
        .collect()
}

#[test]
fn evaluations_are_in_the_metrics_and_change_no_policy() {
    let (_plain_tmp, plain) = finished_with(&tiny(&["lora.dropout=0.1"]));
    let (_tmp, run) = finished_with(&tiny(&["lora.dropout=0.1", EVERY_3]));
    for (a, b) in policy_files(&plain).iter().zip(policy_files(&run)) {
        assert_eq!(fs::read(a).unwrap(), fs::read(&b).unwrap(), "{}", b.display());
    }
    for key in [
        "eval_accuracy",
        "eval_hypervolume",
        "humor/eval_accuracy/helpful",
        "humor/eval_score/humor",
    ] {
        assert_eq!(steps_with(&run, key), [3, 6, 8], "{key}");
    }
    assert!(steps_with(&plain, "eval_accuracy").is_empty());
    // The last evaluation is of the policies that the run ends with.
    let result = result(&run);
    let last = metrics(&run).pop().unwrap();
    let mut own = vec![];
    for (k, (policy, accuracies)) in result.policies.iter().enumerate() {
        for (objective, accuracy) in result.objectives.iter().zip(accuracies) {
            let found = last[&format!("{policy}/eval_accuracy/{objective}")].as_f64().unwrap();
            assert_eq!(found, accuracy.unwrap().share);
        }
        own.push(accuracies[k].unwrap().share);
    }
    let mean = own.iter().sum::<f64>() / 3.0;
    assert!((last["eval_accuracy"].as_f64().unwrap() - mean).abs() < 1e-12);
    let best = result.best.unwrap();
    assert_eq!(best.metric, "eval_accuracy");
    // Three policies' answers to four prompts, three times.
    let samples = samples(&run);
    assert_eq!(samples.len(), 3 * 4 * 3);
    let scores: Vec<f64> = (samples.iter())
        .filter(|row| row["step"] == 8 && row["policy"] == "humor")
        .map(|row| row["scores"]["humor"].as_f64().unwrap())
        .collect();
    let mean = scores.iter().sum::<f64>() / 4.0;
    assert!((last["humor/eval_score/humor"].as_f64().unwrap() - mean).abs() < 1e-6);
}

#[test]
fn a_run_with_evaluations_that_is_cut_off_ends_at_the_same_bits() {
    let config = tiny(&[EVERY_3, "training.load_best_model_at_end=true", "lora.dropout=0.1"]);
    let (_tmp, whole) = finished_with(&config);
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &config);
    // After an evaluation that no checkpoint has, and after one that has been saved.
    cut(&run, "mopo", 3);
    cut(&run, "mopo", 5);
    go_on(&run, &mut Silent).unwrap();
    assert_same_artefacts(&whole, &run);
    assert_eq!(samples(&run), samples(&whole));
    assert_eq!(result(&run).best, result(&whole).best);
    // And after the policies were written.
    fs::remove_file(run.join("result.json")).unwrap();
    go_on(&run, &mut Silent).unwrap();
    assert_eq!(result(&run).best, result(&whole).best);
}

/// A rate at which the policies soon get worse.
const WILD: [&str; 4] =
    ["training.learning_rate=0.3", "training.steps=12", "training.eval_steps=1", "lora.rank=4"];

#[test]
fn training_stops_early_and_ends_with_the_best_policies() {
    let patience = ["training.early_stopping_patience=2", "training.load_best_model_at_end=true"];
    let config = tiny_method("dpo", &[&WILD[..], &patience].concat());
    let (_tmp, run) = finished_with(&config);
    let found = metric(&run, "dpo", "eval_accuracy");
    let best = result(&run).best.unwrap();
    let highest = found.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // The first of several maxima, and two evaluations after it.
    let first = found.iter().position(|value| *value == highest).unwrap();
    assert_eq!((best.step, best.value), (first + 1, highest));
    assert!(found.len() == best.step + 2 && found.len() < 12, "{found:?}");
    assert_eq!(result(&run).policies[0].1[0].unwrap().share, highest);
    assert!(result(&run).tokens.is_some_and(|tokens| tokens.trained > 0));

    let tmp = tempfile::tempdir().unwrap();
    let resumed = tmp.path().join("run");
    new_run(&resumed, &config);
    cut(&resumed, "dpo", best.step + 1);
    go_on(&resumed, &mut Silent).unwrap();
    assert_same_artefacts(&run, &resumed);
}

/// However bad the policies of the first stage, which has not begun the second objective.
#[test]
fn stages_are_not_cut_off_by_early_stopping() {
    let patience = ["training.early_stopping_patience=1", "training.load_best_model_at_end=true"];
    let stages = ["sacpo.order=[\"helpful\", \"harmless\"]", "sacpo.betas=[0.1, 0.1]"];
    let (_tmp, run) =
        finished_with(&tiny_method("sacpo", &[&WILD[..], &patience, &stages].concat()));
    let found = metric(&run, "sacpo", "eval_accuracy");
    // Six steps each.
    assert!(found.len() > 6, "{found:?}");
    let best = result(&run).best.unwrap();
    assert!(best.step > 6 && best.value == found[best.step - 1], "{best:?}, {found:?}");
}

/// The thresholds are those of the window in which the kept policies were.
#[test]
fn constraints_are_those_of_the_step_that_is_kept() {
    let set = [
        "training.load_best_model_at_end=true",
        "training.eval_steps=1",
        "training.learning_rate=0.3",
        "mopo.relaxation=0.5",
        "mopo.reference_lag=2",
    ];
    let (_tmp, run) = finished_with(&tiny(&set));
    let result = result(&run);
    let end = result.best.unwrap().step;
    let first = (end - 1) / 2 * 2;
    assert!(end < 7, "another window than the last: {end}");
    assert_eq!(result.last_steps, end - first);
    for constraint in result.constraints {
        let key = format!("{}/threshold/{}", constraint.policy, constraint.objective);
        let all = metric(&run, "mopo", &key);
        let own = &all[first..end];
        let mean = own.iter().sum::<f64>() / own.len() as f64;
        assert!((constraint.threshold - mean).abs() < 1e-12, "{key}: {all:?}");
    }
}

#[test]
fn tokens_are_counted_pass_by_pass() {
    let of = |config: &mopo_train::RunConfig| {
        let (_tmp, run) = finished_with(config);
        let rows = metrics(&run).into_iter().filter(|row| row["phase"] != "warm_start");
        let sum: f64 = rows.map(|row| row["trained_tokens"].as_f64().unwrap()).sum();
        let tokens = result(&run).tokens.unwrap();
        assert_eq!((tokens.trained, tokens.generated), (sum as u64, 0));
        tokens
    };
    // All pairs in each step, whatever the method; from a refresh of the reference on also without gradients.
    let all = "training.batch_size=10000";
    let shared = of(&tiny(&[all]));
    assert!(shared.trained == of(&tiny_method("dpo", &[])).trained && shared.scored > 0);
    for (method, policies) in [("mopo", 3), ("ham", 2)] {
        let names = [
            "policies=[\"helpful\",\"harmless\",\"humor\"]",
            "policies=[\"helpful\",\"harmless\"]",
        ];
        let own = ["adapters=per_policy", names[3 - policies as usize]];
        assert_eq!(of(&tiny_method(method, &own)).trained, policies * shared.trained, "{method}");
    }
    // One pass for each objective; every pair has all labels here or is left out of it.
    let raco = of(&tiny_method("raco", &["raco.preference_weights={helpful=1.0}"]));
    assert!(raco.trained <= shared.trained && raco.trained > shared.trained / 2);
}

#[test]
fn methods_that_sample_or_tell_prompts_are_evaluated_too() {
    for (kind, more) in
        [("ric", &[][..]), ("grpo", &["training.batch_size=2", "grpo.max_new_tokens=6", LENGTH])]
    {
        let every = ["training.eval_steps=4", "training.eval_prompts=2"];
        let config = tiny_method(kind, &[&every[..], more].concat());
        let (_tmp, run) = finished_with(&config);
        let found = metrics(&run).into_iter().filter(|row| row.contains_key("eval_hypervolume"));
        assert_eq!(found.count(), 2, "{kind}");
        assert_eq!(samples(&run).len(), 2 * 2 * config.policies.len(), "{kind}");
        let tokens = result(&run).tokens.unwrap();
        assert!((tokens.generated > 0) == (kind == "grpo") && tokens.trained > 0, "{tokens:?}");
    }
}

#[test]
fn what_makes_no_sense_is_named_before_training() {
    let refused = |sets: &[&str]| -> String {
        let tmp = tempfile::tempdir().unwrap();
        let run = tmp.path().join("run");
        let set: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let text = mopo_train::config::preset_text("demo").unwrap();
        match mopo_train::RunConfig::parse_with(text, "demo", &set) {
            Err(e) => e.to_string(),
            Ok(_) => {
                new_run(&run, &tiny(sets));
                go_on(&run, &mut Silent).unwrap_err().to_string()
            }
        }
    };
    for (sets, words) in [
        (&["training.early_stopping_patience=2"][..], "set training.eval_steps"),
        (&["training.eval_steps=0"], "training.eval_steps"),
        (&[EVERY_3, "training.early_stopping_patience=0"], "training.early_stopping_patience"),
        (&[EVERY_3, "training.metric_for_best_model=loss"], "eval_hypervolume"),
        (
            &[EVERY_3, "training.metric_for_best_model=x/eval_accuracy/humor"],
            "humor/eval_accuracy/humor",
        ),
        (
            &[
                EVERY_3,
                "training.eval_prompts=0",
                "training.metric_for_best_model=eval_hypervolume",
            ],
            "no evaluation of this run has",
        ),
    ] {
        let error = refused(sets);
        assert!(error.contains(words), "{sets:?}: {error}");
    }
    let text = mopo_train::config::preset_text("demo").unwrap();
    let text = text.replace("[sft]\n", "[sft]\neval_steps = 3\n");
    let error = mopo_train::RunConfig::parse(&text, "demo").unwrap_err().to_string();
    assert!(error.contains("sft.eval_steps") && error.contains("[training]"), "{error}");
}
