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
    assert!(
        e.contains("huge") && e.contains("demo, hh-small, paper-hh, paper-tldr, demo-dpo"),
        "{e}"
    );
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
        ("model.base=nf4", "warm_start.steps"),
        ("model.base=int4", "nf4-double"),
        ("model={}", "`hub` or `scratch`"),
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
        ("dpo.beta=0.1", "dpo"),
        ("checkpoints.every=0", "checkpoints.every"),
        ("checkpoints.keep=0", "checkpoints.keep"),
        ("evaluation.n_prompts=0", "evaluation.n_prompts"),
        ("evaluation.rewards=[]", "evaluation.rewards"),
        ("evaluation.embedding=words", "hidden_state"),
        ("evaluation.z_scores=mean", "warm_start"),
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
    let mopo = config.mopo.unwrap();
    assert_eq!(mopo.tau, 1.0);
    assert_eq!(mopo.estimator, mopo_core::Estimator::Pair);
}

#[test]
fn a_run_trains_exactly_one_method() {
    let (mopo, dpo) = (preset_text("demo").unwrap(), preset_text("demo-dpo").unwrap());
    let section = |text: &str, name: &str| {
        let start = text.find(&format!("[{name}]")).unwrap();
        text[start..start + text[start..].find("\n\n").unwrap()].to_string()
    };
    let refuse = |text: &str| RunConfig::parse(text, "mine.toml").unwrap_err().to_string();
    let e = refuse(&dpo.replace(&section(dpo, "dpo"), ""));
    assert!(e.contains("mine.toml") && e.contains("[mopo]") && e.contains("[dpo]"), "{e}");
    let e = refuse(&format!("{dpo}\n{}\n", section(mopo, "mopo")));
    assert!(e.contains("both") && e.contains("one method"), "{e}");
    // Each key of the section must be there.
    for line in section(dpo, "dpo").lines().filter(|l| l.contains(" = ")) {
        let key = line.split(' ').next().unwrap();
        let e = refuse(&dpo.replace(&format!("{line}\n"), ""));
        assert!(e.contains(key) && e.contains("missing"), "{key}: {e}");
    }
}

#[test]
fn senseless_settings_of_dpo_name_their_key() {
    for (set, key) in [
        ("dpo.beta=0", "dpo.beta"),
        ("dpo.beta=-1", "dpo.beta"),
        ("dpo.label_smoothing=0.5", "dpo.label_smoothing"),
        ("dpo.label_smoothing=-0.1", "dpo.label_smoothing"),
        ("dpo.objective=humor", "policies = [\"humor\"]"),
        ("policies=[\"helpful\", \"humor\"]", "one policy"),
        ("dpo.train_head=1", "boolean"),
        ("mopo.tau=1", "mopo"),
    ] {
        let text = preset_text("demo-dpo").unwrap();
        let e = RunConfig::parse_with(text, "demo-dpo", &[set.to_string()]).expect_err(set);
        assert!(e.to_string().contains(key), "--set {set}: {e}");
    }
}

#[test]
fn gradient_checkpointing_is_off_where_a_configuration_does_not_name_it() {
    let text = preset_text("demo").unwrap();
    assert!(!text.contains("gradient_checkpointing"));
    assert!(!RunConfig::preset("demo").unwrap().training.gradient_checkpointing);
    let set = ["training.gradient_checkpointing=true".to_string()];
    let config = RunConfig::parse_with(text, "demo", &set).unwrap();
    assert!(config.training.gradient_checkpointing && !config.warm_start.gradient_checkpointing);
}

#[test]
fn evaluations_from_before_embedding_and_z_scores_stay_valid_and_given_statistics_are_checked() {
    let text = preset_text("demo").unwrap();
    let old: String = text
        .lines()
        .filter(|l| !l.starts_with("embedding =") && !l.starts_with("z_scores ="))
        .map(|l| format!("{l}\n"))
        .collect();
    assert_eq!(RunConfig::parse(&old, "old").unwrap(), RunConfig::preset("demo").unwrap());

    let given = |statistics: &str| {
        let axis = "reward = { kind = \"demo\", objective_idx = 0 }";
        RunConfig::parse(&text.replace(axis, &format!("{axis}\nstatistics = {statistics}")), "mine")
    };
    let config = given("{ mean = -0.947, deviation = 1.92, source = \"a paper\" }").unwrap();
    let statistics = config.evaluation.rewards[0].given_statistics().unwrap();
    assert_eq!((statistics.objective.as_str(), statistics.mean), ("helpful", -0.947));
    assert!(config.evaluation.rewards[1].given_statistics().is_none());
    let again = RunConfig::parse(&config.to_toml().unwrap(), "mine").unwrap();
    assert_eq!(again, config);
    let e = given("{ mean = 0.0, deviation = 0.0, source = \"x\" }").unwrap_err().to_string();
    assert!(e.contains("`helpful`") && e.contains("above 0"), "{e}");
    assert!(given("{ mean = 0.0, deviation = 1.0 }").unwrap_err().to_string().contains("source"));
}
