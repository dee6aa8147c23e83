//! DPO runs: the first loss, the effect of the gradient, which pairs are used, interruptions and
//! resuming.

use std::fs;
use std::path::{Path, PathBuf};

use mopo_train::{RunConfig, Silent};

use super::{
    Notes, assert_resumable, distance, finished_with, go_on, message, metric, new_run,
    policy_values, tiny_method, tiny_preset,
};

fn dpo(more: &[&str]) -> RunConfig {
    // Large steps: something must have moved after eight of them.
    let fast = ["dpo.beta=0.1", "training.learning_rate=2e-3"];
    tiny_preset("demo-dpo", &[&fast[..], more].concat())
}

fn of(run: &Path, key: &str) -> Vec<f64> {
    metric(run, "dpo", key)
}

#[test]
fn the_first_loss_is_ln_2_and_steps_raise_the_margin() {
    // Every pair in every step, so that rows of the metrics can be compared.
    let (_tmp, run) = finished_with(&dpo(&["training.batch_size=10000"]));
    let (loss, margin) = (of(&run, "loss"), of(&run, "helpful/margin"));
    assert_eq!(loss.len(), 8);
    assert!((loss[0] - 2f64.ln()).abs() < 1e-5, "{}", loss[0]);
    assert!(margin[0].abs() < 1e-4, "{}", margin[0]);
    assert!(margin.windows(2).all(|m| m[1] > m[0]), "{margin:?}");
    assert!(loss.windows(2).all(|l| l[1] < l[0]), "{loss:?}");
    assert!(*of(&run, "helpful/accuracy").last().unwrap() > 0.6);
    for (i, margin) in margin.iter().enumerate() {
        let apart = of(&run, "helpful/chosen_reward")[i] - of(&run, "helpful/rejected_reward")[i];
        assert!((apart - margin).abs() < 1e-9);
    }
}

#[test]
fn a_dpo_run_that_is_cut_off_ends_bit_for_bit_the_same() {
    // With dropout and two passes per step: nothing random may depend on the interruption.
    let more =
        ["lora.dropout=0.1", "training.gradient_accumulation_steps=2", "dpo.train_head=true"];
    assert_resumable(&dpo(&more));
}

#[test]
fn the_output_layer_moves_only_where_it_is_trained() {
    let head = |run: &Path| fs::read(run.join("policy/heads.safetensors")).unwrap();
    let size = |run: &Path| {
        fs::metadata(run.join("checkpoints/dpo-step-000008/policy.bin")).unwrap().len()
    };
    let (_a, start) = finished_with(&dpo(&["training.steps=0"]));
    let (_b, frozen) = finished_with(&dpo(&[]));
    let (_c, trained) = finished_with(&dpo(&["dpo.train_head=true"]));
    assert!(head(&start) == head(&frozen), "the frozen output layer moved");
    assert!(head(&start) != head(&trained), "the trained output layer did not move");
    assert!(distance(&policy_values(&start), &policy_values(&frozen)) > 0.0);
    // Frozen parameters are in no checkpoint.
    assert!(size(&frozen) + 300 * 16 * 4 < size(&trained));
}

/// A prepared set like the demo's, with changed labels of `helpful`.
fn relabelled(change: impl Fn(usize, Option<f32>) -> Option<f32>) -> (tempfile::TempDir, PathBuf) {
    let tmp = tempfile::tempdir().unwrap();
    let (mut set, _) =
        mopo_train::prepare_records(&tiny_preset("demo", &[]).data.source, None, 0, true).unwrap();
    for (i, record) in set.records.iter_mut().enumerate() {
        record.indicators[0] = change(i, record.indicators[0]);
    }
    let path = tmp.path().join("pairs.jsonl");
    set.write(&path).unwrap();
    (tmp, path)
}

fn run_on(data: &Path, run: &Path, more: &[&str]) -> mopo_train::Result<mopo_train::RunResult> {
    start_on(data, run, &dpo(&[&["data.source=prepared"], more].concat()));
    go_on(run, &mut Silent)
}

/// A new run on a prepared set.
pub(super) fn start_on(data: &Path, run: &Path, config: &RunConfig) {
    new_run(run, config);
    let record = run.join("run.json");
    let mut value: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&record).unwrap()).unwrap();
    value["data"] = data.to_str().unwrap().into();
    fs::write(&record, value.to_string()).unwrap();
}

#[test]
fn pairs_without_a_label_are_left_out_and_ties_are_not_decided() {
    let whole = ["training.batch_size=10000", "training.steps=4"];
    // Two thirds without a label, half of the rest ties.
    let (tmp, data) = relabelled(|i, label| match i % 6 {
        0..=3 => None,
        4 => Some(0.5),
        _ => label,
    });
    let run = tmp.path().join("run");
    run_on(&data, &run, &whole).unwrap();
    let text = fs::read_to_string(run.join("data/train.jsonl")).unwrap();
    let mut labels: Vec<Option<f64>> = Vec::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(indicators) = row.get("indicators") {
            labels.push(indicators[0].as_f64());
        }
    }
    let known: Vec<f64> = labels.iter().flatten().copied().collect();
    let decided = known.iter().filter(|l| **l != 0.5).count();
    assert!(known.len() < labels.len() / 2 && 0 < decided && decided < known.len());
    let share = decided as f64 / known.len() as f64;
    assert!(of(&run, "decided_pairs").iter().all(|s| (s - share).abs() < 1e-12));

    // A tie's loss is ln 2 at first too, and smallest where the margin is 0.
    let loss = of(&run, "loss");
    assert!((loss[0] - 2f64.ln()).abs() < 1e-5 && loss[3] < loss[0], "{loss:?}");

    // Without any decided pair the run is refused before work begins.
    let (tmp, data) = relabelled(|_, _| Some(0.5));
    let (_, e) = message(run_on(&data, &tmp.path().join("run"), &whole));
    assert!(e.contains("helpful") && e.contains("no decided training pair"), "{e}");
}

#[test]
fn smoothed_labels_are_soft_labels() {
    let whole = ["training.batch_size=10000", "training.steps=4"];
    let (tmp, data) = relabelled(|_, label| label.map(|l| 0.8 * l + 0.2 * (1.0 - l)));
    let soft = tmp.path().join("soft");
    run_on(&data, &soft, &whole).unwrap();
    let (tmp2, data) = relabelled(|_, label| label);
    let smooth = tmp2.path().join("smooth");
    run_on(&data, &smooth, &[&whole[..], &["dpo.label_smoothing=0.2"]].concat()).unwrap();
    let hard = tmp2.path().join("hard");
    run_on(&data, &hard, &whole).unwrap();
    let (soft, smooth, hard) = (of(&soft, "loss"), of(&smooth, "loss"), of(&hard, "loss"));
    for step in 0..4 {
        assert!((soft[step] - smooth[step]).abs() < 1e-5, "{soft:?} and {smooth:?}");
    }
    assert!((hard[3] - smooth[3]).abs() > 1e-4, "smoothing changed nothing");
}

#[test]
fn log_probs_of_both_responses_are_reported_and_rewards_follow_from_them() {
    let (_tmp, run) = finished_with(&dpo(&["training.batch_size=10000"]));
    let [chosen, rejected] = ["chosen", "rejected"].map(|which| {
        let log_prob = of(&run, &format!("helpful/{which}_log_prob"));
        let reward = of(&run, &format!("helpful/{which}_reward"));
        // The reference is the first step's policy.
        for (log_prob_i, reward) in log_prob.iter().zip(reward) {
            let expected = 0.1 * (log_prob_i - log_prob[0]);
            assert!((reward - expected).abs() < 1e-3, "{which}: {reward} and {expected}");
        }
        log_prob
    });
    assert!(chosen.iter().chain(&rejected).all(|l| *l < 0.0));
}

#[test]
fn a_robust_loss_corrects_for_the_noise_it_is_told_of() {
    let whole = ["training.batch_size=10000", "training.steps=4", "dpo.label_smoothing=0.2"];
    let robust = [&whole[..], &["dpo.robust=true"]].concat();
    // Labels that are smoothed by as much: the correction undoes it.
    let (tmp, data) = relabelled(|_, label| label.map(|l| 0.8 * l + 0.2 * (1.0 - l)));
    let run = tmp.path().join("run");
    run_on(&data, &run, &robust).unwrap();
    let (tmp2, data) = relabelled(|_, label| label);
    let plain = tmp2.path().join("plain");
    run_on(&data, &plain, &whole[..2]).unwrap();
    let (robust, plain) = (of(&run, "loss"), of(&plain, "loss"));
    for step in 0..4 {
        assert!((robust[step] - plain[step]).abs() < 1e-5, "{robust:?} and {plain:?}");
    }
}

#[test]
fn several_objectives_make_one_preference() {
    let all = tiny_method("dpo", &[]);
    let n_train = {
        let (_tmp, run) = finished_with(&RunConfig { ..all.clone() });
        fs::read_to_string(run.join("data/train.jsonl")).unwrap().lines().count() - 1
    };
    let tmp = tempfile::tempdir().unwrap();
    let train = |name: &str, combination: &str| {
        let run = tmp.path().join(name);
        let set = format!("dpo.combination={combination}");
        new_run(&run, &tiny_method("dpo", &[&set]));
        let mut notes = Notes::default();
        let result = go_on(&run, &mut notes).unwrap();
        let note = notes.0.into_iter().find(|note| note.starts_with("DPO: ")).unwrap();
        (run, result, note)
    };
    let used = |note: &str| note.split(' ').nth(1).unwrap().parse::<usize>().unwrap();
    let (_, result, note) = train("agree", r#"{agreement=["helpful","humor"]}"#);
    assert_eq!(result.policies[0].0, "agreement");
    assert!(note.contains("agree") && (1..n_train).contains(&used(&note)), "{note}");
    assert!(note.contains(&format!("of {n_train} pairs")), "{note}");

    // All weight on one objective is that objective.
    let (one, ..) = train("one", "{weighted_loss={helpful=1.0,humor=0.0}}");
    let (_tmp, helpful) = finished_with(&all);
    assert_eq!(metric(&one, "dpo", "loss"), metric(&helpful, "dpo", "loss"));
    // Half of each: pairs on which they disagree are ties, whose loss is ln 2 at first and stays near it.
    let (half, ..) = train("half", "{weighted_labels={helpful=0.5,humor=0.5}}");
    let decided = metric(&half, "dpo", "decided_pairs")[0];
    assert!(decided < metric(&helpful, "dpo", "decided_pairs")[0], "{decided}");
    // The weighted loss's first gradient is another one: hard labels ignore how strong a majority is.
    let hard = train("hard", "{weighted_labels={helpful=0.7,humor=0.3}}").0;
    let soft = train("soft", "{weighted_loss={helpful=0.7,humor=0.3}}").0;
    let [hard, soft] = [hard, soft].map(|run| metric(&run, "dpo", "gradient_norm")[0]);
    assert!(soft < hard, "{soft} and {hard}");
}

#[test]
fn objectives_that_never_agree_are_refused_before_any_work() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut set, _) =
        mopo_train::prepare_records(&tiny_preset("demo", &[]).data.source, None, 0, true).unwrap();
    for record in &mut set.records {
        record.indicators[2] = record.indicators[0].map(|label| 1.0 - label);
    }
    let data = tmp.path().join("pairs.jsonl");
    set.write(&data).unwrap();
    for (combination, expected) in [
        (r#"{agreement=["helpful","humor"]}"#, "helpful, humor agree"),
        (r#"{agreement=["helpful","kind"]}"#, "kind"),
    ] {
        let config = tiny_method(
            "dpo",
            &["data.source=prepared", &format!("dpo.combination={combination}")],
        );
        let run = tmp.path().join("run");
        start_on(&data, &run, &config);
        let (_, e) = message(go_on(&run, &mut Silent));
        assert!(e.contains(expected) && e.contains("dpo"), "{e}");
        assert!(!run.join("warm_start").exists());
        let _ = fs::remove_dir_all(&run);
    }
}

#[test]
fn a_dpo_loss_that_is_not_finite_names_a_remedy_for_dpo() {
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &dpo(&["training.learning_rate=1e30", "training.max_grad_norm=0"]));
    let (_, e) = message(go_on(&run, &mut Silent));
    assert!(e.contains("dpo step") && e.contains("dpo.beta") && !e.contains("mopo.tau"), "{e}");
}

#[test]
fn the_result_has_one_policy_and_no_constraint() {
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &dpo(&["training.steps=1"]));
    let result = go_on(&run, &mut Silent).unwrap();
    assert_eq!(result.policies.len(), 1);
    assert_eq!(result.policies[0].0, "helpful");
    assert_eq!(result.policies[0].1.len(), 3);
    assert!(result.constraints.is_empty());
}
