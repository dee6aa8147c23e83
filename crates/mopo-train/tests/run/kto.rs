//! KTO runs.

use super::{assert_resumable, finished_with, metric, tiny_method};

#[test]
fn the_first_step_is_at_the_reference_and_margins_grow() {
    let (_tmp, run) = finished_with(&tiny_method("kto", &["training.learning_rate=1e-2"]));
    let of = |key: &str| metric(&run, "kto", key);
    // σ(0) for every response, and no divergence yet.
    let (loss, kl) = (of("loss"), of("helpful/kl_initial"));
    assert!((loss[0] - 0.5).abs() < 1e-5 && kl[0].abs() < 1e-3, "{loss:?} {kl:?}");
    assert!(kl.iter().all(|kl| *kl >= 0.0));
    let margin = of("helpful/margin");
    assert!(margin[0].abs() < 1e-4 && margin[7] > margin[1] && margin[7] > 0.0, "{margin:?}");
    assert!(loss[7] < loss[0]);
    // A pass of the policy and one of the base over mismatched pairs, as long as the differentiated one.
    let (trained, scored) = (of("trained_tokens"), of("scored_tokens"));
    assert!(trained.iter().zip(&scored).all(|(a, b)| (2.0 * a - b).abs() < 1e-9), "{scored:?}");
}

#[test]
fn weights_choose_which_responses_are_learned() {
    let of = |desirable: &str, undesirable: &str| {
        let sets = [
            format!("kto.desirable_weight={desirable}"),
            format!("kto.undesirable_weight={undesirable}"),
            "training.learning_rate=1e-2".into(),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        finished_with(&tiny_method("kto", &sets))
    };
    let (_a, chosen) = of("1.0", "0.0");
    let (_b, rejected) = of("0.0", "1.0");
    let last = |run, key: &str| metric(run, "kto", key)[7];
    assert!(last(&chosen, "helpful/chosen_reward") > 0.0);
    assert!(last(&rejected, "helpful/rejected_reward") < 0.0);
    assert!(last(&chosen, "helpful/chosen_reward") > last(&rejected, "helpful/chosen_reward"));
}

#[test]
fn a_kto_run_that_is_cut_off_ends_bit_for_bit_the_same() {
    let odd = ["training.batch_size=3", "lora.dropout=0.1", "kto.train_head=true"];
    assert_resumable(&tiny_method("kto", &odd));
}
