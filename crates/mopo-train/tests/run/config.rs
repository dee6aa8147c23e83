//! Configurations: presets, lost and misspelt keys, ranges, overrides.

use mopo_train::RunConfig;
use mopo_train::config::{PRESETS, preset_text};

fn demo_with(set: &str) -> String {
    RunConfig::parse_with(preset_text("demo").unwrap(), "demo", &[set.to_string()])
        .expect_err(set)
        .to_string()
}

#[test]
fn every_preset_is_complete_and_survives_being_written() {
    assert!(PRESETS.len() >= 3);
    for (name, text) in PRESETS {
        let config = RunConfig::parse(text, name).unwrap();
        assert_eq!(config, RunConfig::preset(name).unwrap());
        let again = RunConfig::parse(&config.to_toml().unwrap(), name).unwrap();
        assert_eq!(again, config, "{name}");
    }
    let e = RunConfig::preset("huge").unwrap_err().to_string();
    assert!(e.contains("huge") && e.contains("demo, hh-small, paper"), "{e}");
}

#[test]
fn every_lost_key_is_an_error() {
    let text = preset_text("demo").unwrap();
    for key in ["seed", "reference_lag", "n_clusters", "every", "policies", "rank"] {
        let line = text.lines().position(|l| l.starts_with(&format!("{key} ="))).expect(key);
        let without: Vec<&str> =
            text.lines().enumerate().filter(|(i, _)| *i != line).map(|(_, l)| l).collect();
        let e = RunConfig::parse(&without.join("\n"), "mine.toml").unwrap_err().to_string();
        assert!(e.contains(key) && e.contains("mine.toml"), "{key}: {e}");
    }
}

#[test]
fn a_misspelt_key_is_named_with_its_line() {
    let text = preset_text("demo").unwrap();
    for (key, wrong) in [("reference_lag", "referense_lag"), ("batch_pairs", "batch_pears")] {
        let start = format!("{key} =");
        let line = text.lines().position(|l| l.starts_with(&start)).unwrap() + 1;
        let bad = text.replacen(&start, &format!("{wrong} ="), 1);
        let e = RunConfig::parse(&bad, "mine.toml").unwrap_err().to_string();
        assert!(e.contains(wrong) && e.contains(&format!("line {line}")), "line {line}: {e}");
    }
}

#[test]
fn values_out_of_range_name_their_key() {
    for (set, key) in [
        ("name=a/b", "name"),
        ("policies=[]", "policies"),
        ("policies=[\"helpful\", \"helpful\"]", "helpful"),
        ("data.heldout_fraction=1.0", "heldout_fraction"),
        ("data.n_prompts=3", "n_prompts"),
        ("data.max_response_tokens=1", "max_response_tokens"),
        ("data.max_response_tokens=1000", "max_position_embeddings"),
        ("data.source=hh", "data.folders"),
        ("data.source=web", "source"),
        ("model.scratch.num_attention_heads=3", "hidden_size"),
        ("warm_start.batch_pairs=0", "warm_start.batch_pairs"),
        ("training.accumulation=0", "training.batch_pairs"),
        ("training.learning_rate=0", "training.learning_rate"),
        ("training.gradient_clip=-1", "training.gradient_clip"),
        ("warm_start.prompt_weight=2", "warm_start.prompt_weight"),
        ("lora.dropout=1.0", "dropout"),
        ("lora.rank=0", "rank"),
        ("mopo.tau=0", "mopo.tau"),
        ("mopo.relaxation=1.5", "mopo.relaxation"),
        ("mopo.reference_lag=0", "mopo.reference_lag"),
        ("mopo.ball={ radius = -1.0 }", "ball.radius"),
        ("mopo.estimator=both", "estimator"),
        ("checkpoints.every=0", "checkpoints.every"),
        ("checkpoints.keep=0", "checkpoints.keep"),
        ("evaluation.n_prompts=0", "evaluation.n_prompts"),
        ("evaluation.rewards=[]", "evaluation.rewards"),
    ] {
        let e = demo_with(set);
        assert!(e.contains(key), "--set {set}: {e}");
    }
}

#[test]
fn overrides_of_keys_that_do_not_exist_list_those_that_do() {
    let e = demo_with("mopo.tua=0.1");
    assert!(e.contains("tua") && e.contains("tau"), "{e}");
    let e = demo_with("mopoo.tau=0.1");
    assert!(e.contains("mopoo"), "{e}");
    let e = demo_with("mopo.tau");
    assert!(e.contains("key.path=value"), "{e}");
    // An integer where a float belongs, a bare word where a string does.
    let set = ["mopo.tau=1", "mopo.estimator=pair"].map(String::from);
    let config = RunConfig::parse_with(preset_text("demo").unwrap(), "demo", &set).unwrap();
    assert_eq!(config.mopo.tau, 1.0);
    assert_eq!(config.mopo.estimator, mopo_core::Estimator::Pair);
}
