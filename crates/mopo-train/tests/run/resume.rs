//! Runs that are interrupted and resumed.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use mopo_train::{Progress, Silent, Unit};

use super::{assert_same_artefacts, finished, go_on, message, metrics, new_run, tiny};

/// Panics after `left` steps of a phase: a killed process, seen from inside.
pub(super) struct Cut {
    phase: &'static str,
    left: usize,
    here: bool,
}

impl Cut {
    pub(super) fn new(phase: &'static str, after: usize) -> Self {
        Self { phase, left: after, here: false }
    }
}

impl Progress for Cut {
    fn begin(&mut self, phase: &str, _: u64, _: u64, _: Unit) {
        self.here = phase == self.phase;
    }
    fn advance(&mut self, _: u64, _: &str) {
        if self.here {
            self.left -= 1;
            assert!(self.left > 0, "cut");
        }
    }
}

pub(super) fn cut(run: &Path, phase: &'static str, after: usize) {
    let mut progress = Cut::new(phase, after);
    let cut = catch_unwind(AssertUnwindSafe(|| go_on(run, &mut progress)));
    assert!(cut.is_err(), "the run was not cut off in {phase}");
    assert!(!run.join("result.json").exists());
}

#[test]
fn a_run_that_is_cut_off_three_times_ends_bit_for_bit_the_same() {
    let (_tmp, whole) = finished(&[]);
    let rows = metrics(&whole);
    assert_eq!(rows.len(), 5 + 8);
    // The reference is refreshed at steps 3 and 6: adaptive thresholds moved before the last cut
    // and after it.
    let threshold = |i: usize| rows[5 + i]["helpful/threshold/harmless"].as_f64().unwrap();
    assert!(threshold(2) == 0.5 && threshold(3) != 0.5 && threshold(6) != threshold(5));

    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &tiny(&[]));
    cut(&run, "warm_start", 4); // the last step has a checkpoint
    cut(&run, "mopo", 3); // one step after the checkpoint of 2, before a refresh
    cut(&run, "mopo", 3); // 2 + 3 = 5: between the refreshes
    // Later than all of its checkpoints: leftovers of a damaged disk are skipped.
    fs::write(run.join("checkpoints/mopo-step-000004/policy.bin"), b"damaged").unwrap();
    go_on(&run, &mut Silent).unwrap();
    assert_same_artefacts(&whole, &run);
}

#[test]
fn data_that_changed_after_the_start_is_named() {
    for name in ["data/train.jsonl", "data/heldout.jsonl", "tokenizer.json"] {
        let tmp = tempfile::tempdir().unwrap();
        let run = tmp.path().join("run");
        new_run(&run, &tiny(&[]));
        cut(&run, "warm_start", 1);
        let mut bytes = fs::read(run.join(name)).unwrap();
        bytes.push(b'\n');
        fs::write(run.join(name), bytes).unwrap();
        let (_, e) = message(go_on(&run, &mut Silent));
        assert!(e.contains(name) && e.contains("SHA-256"), "{e}");
    }
}

#[test]
fn a_cut_inside_a_window_that_meets_pairs_again_changes_no_bit() {
    // Batches of another size than the rest of the epoch, and windows of several epochs: after the
    // interruption pairs are in other batches than those in which the reference's log-probs were
    // computed.
    let windows = [
        "data.n_prompts=12",
        "data.heldout_fraction=0.4",
        "training.batch_size=13",
        "training.steps=14",
        "mopo.reference_lag=6",
        "checkpoints.save_steps=1",
    ];
    let (_tmp, whole) = finished(&windows);
    let text = fs::read_to_string(whole.join("data/train.jsonl")).unwrap();
    let n_pairs = text.lines().filter(|l| l.contains("\"indicators\"")).count();
    assert!(n_pairs.div_ceil(13) == 3, "{n_pairs} pairs: an epoch is not the steps 6 to 8");

    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &tiny(&windows));
    let part = |step: usize| {
        let name = format!("checkpoints/mopo-step-{step:06}/reference_log_probs.bin");
        fs::metadata(run.join(name)).ok().map(|m| m.len())
    };
    cut(&run, "mopo", 5);
    assert_eq!(part(5), None, "there is no reference before the first refresh");
    cut(&run, "mopo", 6); // 5 + 6: the last step of the window has its checkpoint
    // Every pair once, whatever the number of steps: an index and two numbers for each policy.
    let of_a_pair = 8 + 3 * 8;
    assert_eq!(part(11), Some(n_pairs as u64 * of_a_pair));
    cut(&run, "mopo", 2);
    assert!(part(13).is_some_and(|len| len <= 13 * of_a_pair), "a new window begins empty");
    go_on(&run, &mut Silent).unwrap();
    assert_same_artefacts(&whole, &run);
}
