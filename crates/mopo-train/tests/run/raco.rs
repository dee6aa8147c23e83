//! RACO runs.

use mopo_train::{RunConfig, Silent};

use super::dpo::start_on;
use super::{
    assert_close, assert_resumable, finished_with, go_on, message, metric, metrics, new_run,
    tiny_method, tiny_preset,
};

fn raco(more: &[&str]) -> RunConfig {
    tiny_method("raco", more)
}

#[test]
fn without_a_correction_it_is_the_weighted_loss_of_dpo() {
    let weights = "{helpful=0.7,humor=0.3}";
    let own = [&format!("raco.preference_weights={weights}"), "raco.correction=0"];
    let (_a, own) = finished_with(&raco(&own));
    let dpo = format!("dpo.combination={{weighted_loss={weights}}}");
    let (_b, dpo) = finished_with(&tiny_method("dpo", &[&dpo]));
    // The norms are those of the gradients.
    for key in ["loss", "gradient_norm"] {
        assert_close(&metric(&own, "raco", key), &metric(&dpo, "dpo", key));
    }
    for (name, weight) in [("helpful", 0.7), ("humor", 0.3)] {
        let factor = metric(&own, "raco", &format!("weighted/gradient_factor/{name}"));
        assert!(factor.iter().all(|f| *f == weight), "{factor:?}");
    }
}

#[test]
fn corrections_raise_the_objectives_that_would_lose() {
    let weights = "raco.preference_weights={helpful=0.8,harmless=0.1,humor=0.1}";
    let of = |more: &[&str]| finished_with(&raco(&[&[weights], more].concat()));
    let (_a, run) = of(&[]);
    let (_b, free) = of(&["raco.clip=false"]);
    let names = [("helpful", 0.8), ("harmless", 0.1), ("humor", 0.1)];
    for run in [&run, &free] {
        let all = |name: &str| metric(run, "raco", &format!("weighted/{name}"));
        let mixtures = names.map(|(name, _)| all(&format!("correction_weight/{name}")));
        for step in 0..8 {
            let sum: f64 = mixtures.iter().map(|of| of[step]).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{mixtures:?}");
        }
        for (name, weight) in names {
            let factors = all(&format!("gradient_factor/{name}"));
            assert!(factors.iter().all(|factor| *factor >= weight), "{name}: {factors:?}");
            let cosines = all(&format!("gradient_cosine/{name}"));
            assert!(cosines.iter().all(|c| (-1.0..=1.0 + 1e-9).contains(c)), "{cosines:?}");
            // Log 2 for each at first.
            assert!((all(&format!("loss/{name}"))[0] - 2f64.ln()).abs() < 1e-5);
        }
        let loss = metric(run, "raco", "loss");
        assert!(loss[7] < loss[0], "{loss:?}");
        let weighted: f64 =
            names.iter().map(|(name, weight)| weight * all(&format!("loss/{name}"))[7]).sum();
        assert!((loss[7] - weighted).abs() < 1e-9);
    }
    let [run, free] = [run, free].map(|run| metric(&run, "raco", "loss"));
    assert_ne!(run, free);
}

#[test]
fn a_raco_run_that_is_cut_off_ends_bit_for_bit_the_same() {
    let more = [
        "training.batch_size=4",
        "training.gradient_accumulation_steps=2",
        "lora.dropout=0.1",
        "raco.train_head=true",
    ];
    assert_resumable(&raco(&more));
}

/// The demo with labels of `harmless` on few pairs.
fn sparse(tmp: &std::path::Path, every: usize) -> std::path::PathBuf {
    let (mut set, _) =
        mopo_train::prepare_records(&tiny_preset("demo", &[]).data.source, None, 0, true).unwrap();
    for (i, record) in set.records.iter_mut().enumerate() {
        if every == 0 || i % every != 0 {
            record.indicators[1] = None;
        }
    }
    let path = tmp.join("pairs.jsonl");
    set.write(&path).unwrap();
    path
}

#[test]
fn objectives_without_a_label_in_a_step_are_left_out_of_it() {
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    let config = raco(&["data.source=prepared", "training.batch_size=4", "training.steps=12"]);
    start_on(&sparse(tmp.path(), 7), &run, &config);
    go_on(&run, &mut Silent).unwrap();
    let rows = metrics(&run);
    let rows = || rows.iter().filter(|row| row["phase"] == "raco");
    let is_there = |row: &serde_json::Map<String, serde_json::Value>| {
        row.contains_key("weighted/loss/harmless")
    };
    let n = rows().filter(|row| is_there(row)).count();
    assert!(0 < n && n < 12, "{n}");
    for row in rows().filter(|row| !is_there(row)) {
        // Alone, its gradient is only longer.
        let factor = row["weighted/gradient_factor/helpful"].as_f64().unwrap();
        assert!((factor - 0.5 * 1.4).abs() < 1e-9, "{factor}");
    }
}

#[test]
fn objectives_without_labels_or_unknown_are_refused_before_any_work() {
    let tmp = tempfile::tempdir().unwrap();
    let data = sparse(tmp.path(), 0);
    for (more, expected) in [
        ("raco.clip=true", "`harmless` has no decided training pair"),
        ("raco.preference_weights={helpful=0.5,kind=0.5}", "unknown objective `kind`"),
    ] {
        let run = tmp.path().join("run");
        start_on(&data, &run, &raco(&["data.source=prepared", more]));
        let (_, e) = message(go_on(&run, &mut Silent));
        assert!(e.contains("[raco]") && e.contains(expected), "{e}");
        assert!(!run.join("warm_start").exists());
        std::fs::remove_dir_all(&run).unwrap();
    }
    let run = tmp.path().join("run");
    new_run(&run, &raco(&["raco.preference_weights={kind=1.0}"]));
    assert!(message(go_on(&run, &mut Silent)).1.contains("[raco]"));
}
