//! MODPO runs: closed forms at the edges, margins from scores and from other runs.

use std::path::{Path, PathBuf};

use mopo_train::config::{Replaced, preset_text};
use mopo_train::{RunConfig, Silent};

use super::{
    TINY, assert_close, assert_resumable, finished_with, go_on, message, metric, new_run,
    tiny_method,
};

fn modpo(more: &[&str]) -> RunConfig {
    tiny_method("modpo", more)
}

fn margins_of(run: &Path) -> String {
    format!("modpo.margins={{runs={{harmless=\"{}\"}}}}", run.display())
}

/// A DPO run on `harmless`, with the same base as the others here.
fn harmless(more: &[&str]) -> (tempfile::TempDir, PathBuf) {
    finished_with(&tiny_method("dpo", &[&["dpo.objective=harmless"], more].concat()))
}

#[test]
fn all_weight_on_one_objective_is_dpo() {
    let (_a, own) = finished_with(&modpo(&["modpo.preference_weights={helpful=1.0}"]));
    let (_b, dpo) = finished_with(&tiny_method("dpo", &[]));
    assert_close(&metric(&own, "modpo", "loss"), &metric(&dpo, "dpo", "loss"));
    // A margin that is zero everywhere leaves DPO with β/α.
    let (_c, untrained) = harmless(&["training.steps=0"]);
    let (_d, zero) = finished_with(&modpo(&[&margins_of(&untrained)]));
    let (_e, twice) = finished_with(&tiny_method("dpo", &["dpo.beta=0.2"]));
    assert_close(&metric(&zero, "modpo", "loss"), &metric(&twice, "dpo", "loss"));
}

#[test]
fn margins_of_runs_and_of_scores_shift_the_first_loss() {
    let (_a, trained) = harmless(&["training.steps=20"]);
    let (_b, run) = finished_with(&modpo(&[&margins_of(&trained)]));
    let first = |run: &Path, key: &str| metric(run, "modpo", key)[0];
    assert!((first(&run, "loss") - 2f64.ln()).abs() > 1e-4);
    // At first Δ = 0, so only the margins are left: R = −(α_j/α_0) m_j, with equal weights minus the margin
    // that the other run reports of its last step but on another objective's labels.
    let (_c, scores) = finished_with(&modpo(&[]));
    assert!((first(&scores, "loss") - 2f64.ln()).abs() > 1e-4);
    assert!(first(&scores, "helpful/margin").abs() > 1e-4);
    // What was computed under the other run is kept.
    assert!(run.join("other_log_probs/harmless.safetensors").exists());
    let loss = metric(&run, "modpo", "loss");
    assert!(loss.last() < loss.first(), "{loss:?}");
}

#[test]
fn a_modpo_run_that_is_cut_off_needs_its_margin_run_no_more() {
    let (_a, trained) = harmless(&[]);
    assert_resumable(&modpo(&["training.batch_size=4", &margins_of(&trained)]));
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &modpo(&[&margins_of(&trained)]));
    super::resume::cut(&run, "modpo", 3);
    std::fs::remove_dir_all(&trained).unwrap();
    go_on(&run, &mut Silent).unwrap();
}

#[test]
fn margins_that_do_not_fit_are_refused_with_the_key() {
    let (_a, trained) = harmless(&[]);
    let tmp = tempfile::tempdir().unwrap();
    let refused = |set: &[&str]| {
        let run = tmp.path().join("run");
        let _ = std::fs::remove_dir_all(&run);
        new_run(&run, &modpo(set));
        message(go_on(&run, &mut Silent)).1
    };
    // Another SFT model, which is known before it is trained, and one that only comes out otherwise.
    let base = tmp.path().join("run/warm_start/config.json");
    for (set, words, is_trained) in [
        ("seed=5", "with another `seed`", false),
        ("sft.steps=2", "with another `[sft]`", false),
        ("data.max_response_tokens=20", "on another base model", true),
    ] {
        let e = refused(&[&margins_of(&trained), set]);
        assert!(e.contains("modpo.margins.runs.harmless") && e.contains(words), "{e}");
        assert_eq!(base.exists(), is_trained, "{set}");
    }
    let e = refused(&[&margins_of(&tmp.path().join("nothing"))]);
    assert!(e.contains("modpo.margins.runs.harmless") && e.contains("nothing"), "{e}");
    // One that was trained on another objective, and one that nothing asks for.
    let (_b, helpful) = finished_with(&tiny_method("dpo", &[]));
    let e = refused(&[&margins_of(&helpful)]);
    assert!(e.contains("modpo.margins.runs.harmless") && e.contains("policy `helpful`"), "{e}");
    let unasked = margins_of(&trained).replace("harmless=", "kind=\"x\", harmless=");
    let set: Vec<String> = TINY.iter().chain([&&*unasked]).map(|set| (*set).to_string()).collect();
    let parts = Replaced { method: Some("modpo"), model: None };
    let e =
        RunConfig::parse_replaced(preset_text("demo").unwrap(), "demo", &set, parts).unwrap_err();
    assert!(e.to_string().contains("for `kind`"), "{e}");
    let e = refused(&["modpo.preference_weights={helpful=0.5,kind=0.5}"]);
    assert!(e.contains("kind"), "{e}");
}
