//! Runs of PPO and GRPO: what a step sees, resuming within a rollout, what is refused.

use std::path::{Path, PathBuf};

use mopo_train::config::{Replaced, preset_text};
use mopo_train::{RunConfig, Silent};

use super::{
    Notes, TINY, assert_resumable, finished_with, go_on, message, metric, new_run, policy_values,
    resume,
};

/// A tiny run of a method with rollouts: eight steps on answers to four prompts.
fn config(method: &str, more: &[&str]) -> RunConfig {
    tried(method, more).unwrap()
}

fn tried(method: &str, more: &[&str]) -> mopo_train::Result<RunConfig> {
    let own = format!("{method}.max_new_tokens=6");
    let set = TINY.iter().copied().chain(["training.learning_rate=2e-3", &own]);
    let set: Vec<String> = set.chain(more.iter().copied()).map(ToString::to_string).collect();
    let parts = Replaced { method: Some(method), model: None };
    RunConfig::parse_replaced(preset_text("demo").unwrap(), "demo", &set, parts)
}

fn finished(method: &str, more: &[&str]) -> (tempfile::TempDir, PathBuf) {
    finished_with(&config(method, more))
}

/// GRPO on one of them.
const ONE: &str = "grpo.preference_weights={helpful=1.0}";

/// Opposite rewards that see every difference of length.
pub(super) const LENGTH: &str = "evaluation.rewards=[\
    {name=\"helpful\", ref_point=0.0, reward={kind=\"length\", unit=\"characters\"}},\
    {name=\"harmless\", ref_point=0.0, reward={kind=\"length\", unit=\"characters\", prefer=\"shorter\"}}]";

#[test]
fn a_rollout_serves_its_epochs_and_the_first_step_of_each_is_on_policy() {
    let (_tmp, run) = finished("ppo", &["lora.dropout=0.3", "ppo.epochs=2", LENGTH]);
    let of = |key: &str| metric(&run, "ppo", key);
    // Steps in pairs share a rollout, and no two rollouts are the same.
    let scores = of("helpful/score");
    assert_eq!(of("helpful/score/helpful"), scores);
    for pair in scores.chunks(2) {
        assert_eq!(pair[0], pair[1], "{scores:?}");
    }
    assert!(scores[0] != scores[2] && scores[2] != scores[4], "{scores:?}");
    // At first the policy is the reference, and the ratios are 1 in every rollout's first step, dropout or not: the
    // surrogate of whitened advantages is 0, up to lengths that are one token.
    let (loss, clipped) = (of("helpful/policy_loss"), of("helpful/clip_fraction"));
    for step in [0, 2, 4, 6] {
        assert!(loss[step].abs() < 1e-4 && clipped[step] == 0.0, "{loss:?} {clipped:?}");
    }
    assert!(loss[1] < -1e-4, "{loss:?}");
    let kl = of("helpful/kl_initial");
    assert!(kl[0].abs() < 1e-4 && kl[2] != 0.0, "{kl:?}");
    // A KL below its target lowers the coefficient, once for each rollout.
    let coefficient = of("helpful/kl_coefficient");
    assert!(coefficient[0] == 0.2 && coefficient[1] == 0.2 && coefficient[2] < 0.2);
    let length = of("helpful/answer_length");
    assert!(length.iter().all(|n| (1.0..=6.0).contains(n)), "{length:?}");
    let unfinished = of("helpful/unfinished_answers");
    assert!(unfinished.iter().all(|share| (0.0..=1.0).contains(share)), "{unfinished:?}");
    // The reference's scores are the scale.
    assert!(run.join("rewards.json").exists());
}

#[test]
fn one_objective_is_weight_one_on_it() {
    let (_a, one) = finished("ppo", &[LENGTH]);
    let weights = ["ppo.preference_weights={helpful=1.0,harmless=0.0}", LENGTH];
    let (_b, same) = finished_with(&weighted(&weights).unwrap());
    assert_eq!(metric(&one, "ppo", "helpful/score"), metric(&same, "ppo", "weighted/score"));
    // Opposite rewards: their z-scores are opposite, and even weights are worth nothing.
    let other = metric(&same, "ppo", "weighted/score/harmless");
    let own = metric(&same, "ppo", "weighted/score/helpful");
    assert!(own.iter().zip(&other).all(|(a, b)| (a + b).abs() < 1e-9), "{own:?} {other:?}");
    let even = ["ppo.preference_weights={helpful=0.5,harmless=0.5}", LENGTH];
    let (_c, even) = finished_with(&weighted(&even).unwrap());
    assert!(metric(&even, "ppo", "weighted/score").iter().all(|score| score.abs() < 1e-9));
    assert_eq!(policy_values(&one), policy_values(&same));
    assert_ne!(policy_values(&one), policy_values(&even));
}

/// PPO with weights instead of the objective of the section that `mopo config` prints.
fn weighted(more: &[&str]) -> mopo_train::Result<RunConfig> {
    tried("ppo", &[&["policies=[\"weighted\"]"], more].concat())
}

#[test]
fn scores_rise_on_a_reward_that_is_easy() {
    let fast = ["training.steps=120", "training.learning_rate=1e-2", LENGTH];
    for (method, more, policy) in [
        (
            "ppo",
            &["ppo.kl_coef=0.01", "ppo.train_head=true", "training.batch_size=36"][..],
            "helpful",
        ),
        (
            "grpo",
            &[ONE, "grpo.beta=0.001", "grpo.train_head=true", "training.batch_size=8"],
            "weighted",
        ),
    ] {
        let (_tmp, run) = finished(method, &[&fast[..], more].concat());
        let scores = metric(&run, method, &format!("{policy}/score"));
        let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
        let (first, last) = (mean(&scores[..8]), mean(&scores[112..]));
        assert!(last > first + 0.5, "{method}: {first} and {last}");
    }
}

#[test]
fn runs_that_are_cut_off_within_a_rollout_end_bit_for_bit_the_same() {
    // Cuts after 3 and 4 more steps, and checkpoints every second step: within rollouts of four and of six steps.
    let passes = "training.gradient_accumulation_steps=2";
    assert_resumable(&config("ppo", &["ppo.epochs=3", "ppo.minibatches=2", passes, LENGTH]));
    let more = ["grpo.epochs=4", "grpo.group_size=3", "training.batch_size=2", ONE, LENGTH];
    assert_resumable(&config("grpo", &more));
}

#[test]
fn the_forms_of_length_normalization_agree_on_answers_of_one_token() {
    let one = |form: &str| {
        let form = format!("grpo.length_normalization={form}");
        let (_tmp, run) =
            finished("grpo", &["grpo.max_new_tokens=1", "grpo.epochs=4", &form, ONE, LENGTH]);
        metric(&run, "grpo", "loss")
    };
    super::assert_close(&one("token"), &one("answer"));
    let more = |form: &str| {
        let form = format!("grpo.length_normalization={form}");
        let (_tmp, run) = finished("grpo", &["grpo.epochs=4", &form, ONE, LENGTH]);
        metric(&run, "grpo", "loss")
    };
    assert_ne!(more("token"), more("answer"));
}

#[test]
fn a_groups_advantages_have_sum_zero_and_the_kl_begins_at_zero() {
    let (_tmp, run) = finished("grpo", &["grpo.length_normalization=answer", ONE, LENGTH]);
    let of = |key: &str| metric(&run, "grpo", key);
    let (loss, kl) = (of("weighted/policy_loss"), of("weighted/kl_penalty"));
    // On policy and per answer, the surrogate is minus the mean advantage.
    assert!(loss.iter().all(|loss| loss.abs() < 1e-5), "{loss:?}");
    assert!(kl[0].abs() < 1e-6 && kl.iter().all(|kl| *kl > -1e-6) && kl[7] > 0.0, "{kl:?}");
    assert_eq!(of("loss").len(), 8);
}

#[test]
fn senseless_settings_name_their_key() {
    for (method, set, expected) in [
        ("ppo", "ppo.kl_coef=-1", "ppo.kl_coef"),
        ("ppo", "ppo.clip_range=1.0", "ppo.clip_range"),
        ("ppo", "ppo.gae_lambda=1.5", "ppo.gae_lambda"),
        ("ppo", "ppo.epochs=0", "ppo.epochs"),
        ("ppo", "ppo.minibatches=0", "ppo.minibatches"),
        ("ppo", "ppo.target_kl=0.0", "ppo.target_kl"),
        ("ppo", "ppo.rollout_temperature=0.0", "greedy"),
        ("ppo", "policies=[\"helpful\",\"humor\"]", "policies = [\"helpful\"]"),
        ("ppo", "ppo.preference_weights={helpful=0.5,harmless=0.6}", "sum 1"),
        ("grpo", "grpo.group_size=1", "at least 2"),
        ("grpo", "grpo.preference_weights={helpful=0.4}", "sum 1"),
        ("grpo", "grpo.beta=-0.1", "grpo.beta"),
        ("grpo", "grpo.length_normalization=sum", "grpo.length_normalization"),
    ] {
        let e = tried(method, &[set]).expect_err(set).to_string();
        assert!(e.contains(expected), "{set}: {e}");
    }
}

#[test]
fn a_reward_that_is_missing_or_says_nothing_is_refused_before_the_method_begins() {
    let refused = |config: &RunConfig| {
        let tmp = tempfile::tempdir().unwrap();
        let run = tmp.path().join("run");
        new_run(&run, config);
        let message = message(go_on(&run, &mut Silent)).1;
        (message, run.join("data/train.jsonl").exists())
    };
    let (e, has_data) = refused(&config("ppo", &["ppo.objective=kind", "policies=[\"kind\"]"]));
    assert!(e.contains("`ppo.objective`") && e.contains("[[evaluation.rewards]]"), "{e}");
    assert!(!has_data, "refused before any work");
    let (e, _) = refused(&config("grpo", &["grpo.preference_weights={helpful=0.5,kind=0.5}"]));
    assert!(e.contains("`grpo.preference_weights`") && e.contains("`kind`"), "{e}");
    let (e, _) = refused(&config("ppo", &["ppo.max_new_tokens=46"]));
    assert!(e.contains("`ppo.max_new_tokens`") && e.contains("48 positions"), "{e}");
    let flat = "evaluation.rewards=[{name=\"helpful\", ref_point=0.0, reward={kind=\"regex\", pattern=\"qqqqqq\"}}]";
    let (e, _) = refused(&config("ppo", &[flat]));
    assert!(e.contains("`helpful` are 0") && e.contains("statistics"), "{e}");
}

#[test]
fn given_statistics_are_used_and_rewards_cannot_change_within_a_run() {
    let given = |reward: &str| {
        format!(
            "evaluation.rewards=[{{name=\"helpful\", ref_point=0.0, reward={reward}, \
             statistics={{mean=100.0, std=2.0, source=\"x\"}}}}]"
        )
    };
    let characters = given("{kind=\"length\", unit=\"characters\"}");
    let config = config("ppo", &[&characters]);
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    new_run(&run, &config);
    resume::cut(&run, "ppo", 3);
    // Six tokens are far fewer than a hundred characters.
    let scores = metric(&run, "ppo", "helpful/score");
    assert!(scores.iter().all(|score| (-50.0..0.0).contains(score)), "{scores:?}");

    let path = run.join("config.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    edit(&path, &before.replace("\"characters\"", "\"words\""));
    let e = message(go_on(&run, &mut Silent)).1;
    assert!(e.contains("evaluation.rewards") && e.contains("`helpful`"), "{e}");
    edit(&path, &before);
    let mut notes = Notes::default();
    go_on(&run, &mut notes).unwrap();
    assert!(notes.0.iter().any(|note| note.contains("mean 100.0")), "{:?}", notes.0);
}

fn edit(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
