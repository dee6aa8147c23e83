//! f-DPO runs.

use super::{assert_close, assert_resumable, finished_with, metric, tiny_method};

#[test]
fn reverse_kl_is_dpo_and_other_divergences_begin_at_ln_2() {
    let of = |kind: &str, more: &[&str]| {
        let (_tmp, run) = finished_with(&tiny_method(kind, more));
        ["loss", "helpful/margin"].map(|key| metric(&run, kind, key))
    };
    let dpo = of("dpo", &[]);
    let reverse = of("f_dpo", &["f_dpo.divergence=reverse_kl"]);
    reverse.iter().zip(&dpo).for_each(|(a, b)| assert_close(a, b));
    for divergence in ["forward_kl", "jensen_shannon", "alpha:0.5", "jeffreys"] {
        let [loss, margin] = of("f_dpo", &[&format!("f_dpo.divergence={divergence}")]);
        assert!((loss[0] - 2f64.ln()).abs() < 1e-5, "{divergence}: {}", loss[0]);
        assert!(loss[7] < loss[0] && margin[7] > margin[0], "{divergence}: {loss:?} {margin:?}");
        assert!((loss[7] - dpo[0][7]).abs() > 1e-7, "{divergence} is DPO");
    }
}

#[test]
fn responses_with_a_cut_exponent_are_counted() {
    let of = |more: &[&str]| {
        let (_tmp, run) = finished_with(&tiny_method("f_dpo", more));
        metric(&run, "f_dpo", "helpful/clamped_responses")
    };
    assert_eq!(of(&["f_dpo.divergence=forward_kl"])[0], 0.0);
    // Steps so large that some response becomes e^30 times less likely.
    let far =
        ["f_dpo.divergence=forward_kl", "training.learning_rate=0.5", "f_dpo.train_head=true"];
    let far = of(&far);
    assert!(
        far.iter().any(|share| *share > 0.0) && far.iter().all(|share| *share <= 1.0),
        "{far:?}"
    );
}

#[test]
fn an_f_dpo_run_that_is_cut_off_ends_bit_for_bit_the_same() {
    assert_resumable(&tiny_method("f_dpo", &["training.batch_size=4", "lora.dropout=0.1"]));
}
