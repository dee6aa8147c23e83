//! SimPO runs.

use super::{assert_resumable, finished_with, metric, tiny_method};

#[test]
fn rewards_are_log_probs_per_token_and_the_margin_is_asked_for() {
    let of = |more: &[&str]| finished_with(&tiny_method("simpo", more));
    let (_tmp, run) = of(&["simpo.beta=2", "simpo.margin=0"]);
    let reward = metric(&run, "simpo", "helpful/chosen_reward");
    let log_prob = metric(&run, "simpo", "helpful/chosen_log_prob");
    // Between that of one token and that of the longest response.
    assert!(reward[0] < 0.0 && 2.0 * log_prob[0] < reward[0], "{reward:?} {log_prob:?}");
    let margin = metric(&run, "simpo", "helpful/margin");
    assert!(margin[7] > margin[0], "{margin:?}");
    // The first policy is the same, so γ only raises the loss.
    let (_tmp, more) = of(&["simpo.beta=2", "simpo.margin=1"]);
    assert!(metric(&more, "simpo", "loss")[0] > metric(&run, "simpo", "loss")[0]);
}

#[test]
fn a_simpo_run_that_is_cut_off_ends_bit_for_bit_the_same() {
    assert_resumable(&tiny_method("simpo", &["training.batch_size=4", "lora.dropout=0.1"]));
}
