//! HaM runs.

use mopo_train::RunConfig;
use mopo_train::config::{Replaced, preset_text};

use super::{assert_close, assert_resumable, finished_with, metric, tiny_method};

const POLICIES: [&str; 3] = ["helpful", "harmless", "humor"];

#[test]
fn the_hypervolume_rises_and_the_policies_part() {
    let more = ["training.steps=30", "training.learning_rate=5e-3", "ham.beta=0"];
    let (_tmp, run) = finished_with(&tiny_method("ham", &more));
    let volume = metric(&run, "ham", "hypervolume");
    // At first all policies are the SFT model, so two of three are copies, and the volume is that of the box
    // between the corner and the mean of the scores.
    assert!((volume[0] - 1.0).abs() < 0.1, "{volume:?}");
    let dominated = POLICIES
        .map(|name| metric(&run, "ham", &format!("{name}/dominated"))[0])
        .iter()
        .sum::<f64>();
    assert_eq!(dominated, 2.0);
    assert!(volume[29] > 1.05 * volume[0], "{volume:?}");
    // Each policy is the best at something.
    let last = |name: &str, of: &str| {
        *metric(&run, "ham", &format!("{name}/mean_reward/{of}")).last().unwrap()
    };
    assert!(POLICIES.iter().any(|of| last("helpful", of) != last("harmless", of)));
    assert!(
        POLICIES.iter().all(|name| metric(&run, "ham", &format!("{name}/dominated"))[29] == 0.0)
    );
}

#[test]
fn a_penalty_keeps_policies_near_the_sft_model() {
    let of = |beta: &str| {
        let (_tmp, run) = finished_with(&tiny_method("ham", &[beta, "training.steps=30"]));
        metric(&run, "ham", "helpful/kl_initial")
    };
    let (free, held) = (of("ham.beta=0"), of("ham.beta=10"));
    assert!(free[0].abs() < 1e-6 && held[29] < 0.5 * free[29], "{free:?} {held:?}");
}

#[test]
fn accumulated_batches_are_one_step() {
    // The same pairs in one batch or in two: only sums are in another order.
    let more = ["ham.normalization=batch", "training.steps=3", "training.learning_rate=1e-3"];
    let (_a, whole) = finished_with(&tiny_method("ham", &more));
    let n = metric(&whole, "ham", "helpful/ratio_sample_size")[0].round() as usize / 2;
    let half = format!("training.batch_size={}", n.div_ceil(2));
    let twice = [&more[..], &[&half, "training.gradient_accumulation_steps=2"]].concat();
    let (_b, halves) = finished_with(&tiny_method("ham", &twice));
    for key in ["hypervolume", "loss", "humor/mean_reward/helpful", "humor/kl_initial"] {
        assert_close(&metric(&whole, "ham", key), &metric(&halves, "ham", key));
    }
}

#[test]
fn a_ham_run_that_is_cut_off_ends_bit_for_bit_the_same() {
    for normalization in ["ham.normalization=batch", "ham.normalization=pair"] {
        let more = ["training.batch_size=4", "lora.dropout=0.1", normalization];
        assert_resumable(&tiny_method("ham", &more));
    }
}

#[test]
fn policies_may_have_any_name_and_number() {
    let more = ["policies=[\"a\", \"b\", \"c\", \"d\"]", "ham.directions=50"];
    let (_tmp, run) = finished_with(&tiny_method("ham", &more));
    assert!(metric(&run, "ham", "d/mean_reward/humor").len() == 8);
}

#[test]
fn senseless_settings_of_ham_name_their_key() {
    for (set, expected) in [
        ("ham.corner=0", "ham.corner"),
        ("ham.corner=nan", "ham.corner"),
        ("ham.beta=-1", "ham.beta"),
        ("ham.ratio_clip=0", "ham.ratio_clip"),
        ("ham.dominated_weight=-1", "ham.dominated_weight"),
        ("ham.directions=0", "ham.directions"),
        ("ham.normalization=prompt", "ham.normalization"),
    ] {
        let parts = Replaced { method: Some("ham"), model: None };
        let set = [set.to_string()];
        let e = RunConfig::parse_replaced(preset_text("demo").unwrap(), "demo", &set, parts)
            .expect_err(&set[0]);
        assert!(e.to_string().contains(expected), "{set:?}: {e}");
    }
}
