//! IPO runs.

use super::{assert_resumable, finished_with, metric, tiny_method};

#[test]
fn the_loss_begins_at_the_squared_target_and_margins_stop_at_it() {
    // Without noise in the labels the margin of β Δ aims at ½.
    let (_tmp, run) = finished_with(&tiny_method("ipo", &["ipo.beta=0.25", "training.steps=40"]));
    let (loss, margin) = (metric(&run, "ipo", "loss"), metric(&run, "ipo", "helpful/margin"));
    assert!((loss[0] - 4.0).abs() < 1e-3, "{}", loss[0]);
    assert!(margin[0].abs() < 1e-4 && margin[39] > 0.05, "{margin:?}");
    assert!(margin.iter().all(|m| *m < 0.6), "{margin:?}");
    assert!(loss[39] < loss[0], "{loss:?}");
}

#[test]
fn per_token_margins_are_smaller() {
    let of = |set: &str| {
        let (_tmp, run) = finished_with(&tiny_method("ipo", &[set]));
        *metric(&run, "ipo", "helpful/margin").last().unwrap()
    };
    let (sum, mean) = (of("ipo.length_normalized=false"), of("ipo.length_normalized=true"));
    assert!(0.0 < mean && 2.0 * mean < sum, "{mean} and {sum}");
}

#[test]
fn an_ipo_run_that_is_cut_off_ends_bit_for_bit_the_same() {
    let more = ["lora.dropout=0.1", "training.batch_size=4", "ipo.train_head=true"];
    assert_resumable(&tiny_method("ipo", &more));
}
