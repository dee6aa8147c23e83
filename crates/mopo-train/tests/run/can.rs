//! CAN runs.

use mopo_train::{RunConfig, Silent};

use super::dpo::start_on;
use super::{
    Notes, assert_close, assert_resumable, finished_with, go_on, message, metric, new_run,
    tiny_method, tiny_preset,
};

fn can(more: &[&str]) -> RunConfig {
    tiny_method("can", more)
}

#[test]
fn a_constraint_that_holds_anyway_leaves_dpo_on_the_primary_scores() {
    // The demo's labels are the signs of its scores' differences.
    let slack = ["can.thresholds={harmless=-10.0}", "can.labels=sign"];
    let (_a, own) = finished_with(&can(&slack));
    let (_b, dpo) = finished_with(&tiny_method("dpo", &[]));
    for key in ["loss", "helpful/margin", "gradient_norm"] {
        assert_close(&metric(&own, "can", key), &metric(&dpo, "dpo", key));
    }
    assert!(metric(&own, "can", "helpful/lambda/harmless").iter().all(|lambda| *lambda == 0.0));
    // Soft labels are another loss from the second step on.
    let (_c, soft) = finished_with(&can(&slack[..1]));
    let loss = metric(&soft, "can", "loss");
    assert!((loss[0] - 2f64.ln()).abs() < 1e-5 && loss[7] < loss[0], "{loss:?}");
    assert!((loss[7] - metric(&own, "can", "loss")[7]).abs() > 1e-4);
}

#[test]
fn a_constraint_that_binds_has_a_multiplier_and_is_met_by_the_closed_form() {
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &can(&["can.thresholds={harmless=0.05}", "can.labels=sign"]));
    let mut notes = Notes::default();
    go_on(&run, &mut notes).unwrap();
    let of = |name: &str| metric(&run, "can", &format!("helpful/{name}/harmless"));
    let (lambda, slack, threshold) = (of("lambda"), of("slack"), of("threshold"));
    assert!(lambda[0] > 0.01 && lambda.iter().all(|l| l.to_bits() == lambda[0].to_bits()));
    assert!(slack[0].abs() < 1e-8, "{slack:?}");
    let note = notes.0.iter().find(|note| note.contains("λ of harmless")).unwrap();
    for number in [lambda[0], threshold[0], threshold[0] - 0.05] {
        assert!(note.contains(&format!("{number:.4}")), "{number}: {note}");
    }
    // Thresholds that are not relative are scores.
    let absolute = format!("can.thresholds={{harmless={}}}", threshold[0]);
    let (_a, same) = finished_with(&can(&[&absolute, "can.relative=false", "can.labels=sign"]));
    assert_close(&metric(&same, "can", "helpful/lambda/harmless"), &lambda);
    // The labels are others than the primary's.
    let (_b, dpo) = finished_with(&tiny_method("dpo", &[]));
    let [own, dpo] = [(&run, "can"), (&dpo, "dpo")].map(|(run, kind)| metric(run, kind, "loss"));
    assert!((own[7] - dpo[7]).abs() > 1e-4, "{own:?} and {dpo:?}");
}

#[test]
fn a_threshold_out_of_reach_ends_at_the_cap_with_a_warning() {
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &can(&["can.thresholds={harmless=5.0}", "can.lambda_max=7", "training.steps=1"]));
    let mut notes = Notes::default();
    go_on(&run, &mut notes).unwrap();
    let warning = notes.0.iter().find(|note| note.starts_with("warning: λ of harmless")).unwrap();
    assert!(warning.contains("`can.lambda_max` (7)"), "{warning}");
    assert!(warning.contains("can.thresholds.harmless"), "{warning}");
    let of = |name: &str| metric(&run, "can", &format!("helpful/{name}/harmless"))[0];
    assert_eq!((of("lambda"), of("lambda_saturated")), (7.0, 1.0));
    assert!(of("slack") < -3.0);
}

#[test]
fn a_can_run_that_is_cut_off_ends_bit_for_bit_the_same() {
    let more = ["can.thresholds={harmless=0.05,humor=0.0}", "training.batch_size=4"];
    assert_resumable(&can(&[&more[..], &["lora.dropout=0.1", "can.train_head=true"]].concat()));
}

#[test]
fn data_that_do_not_fit_are_refused_before_any_work() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut set, _) =
        mopo_train::prepare_records(&tiny_preset("demo", &[]).data.source, None, 0, true).unwrap();
    set.records.iter_mut().for_each(|record| record.scores = None);
    let data = tmp.path().join("pairs.jsonl");
    set.write(&data).unwrap();
    for (more, expected) in [
        (&[][..], "`mopo label`"),
        (&["can.thresholds={kind=0.1}"], "`can.thresholds`: unknown objective `kind`"),
        (&["can.objective=kind"], "`can.objective`: unknown objective `kind`"),
    ] {
        let run = tmp.path().join("run");
        start_on(&data, &run, &can(&[&["data.source=prepared"], more].concat()));
        let (_, e) = message(go_on(&run, &mut Silent));
        assert!(e.contains(expected) && e.contains("[can]"), "{e}");
        assert!(!run.join("warm_start").exists());
        std::fs::remove_dir_all(&run).unwrap();
    }
}
