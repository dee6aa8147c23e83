//! Configurations: presets, missing and misspelt keys, ranges, overrides.

use mopo_train::config::{MethodConfig, PRESETS, Replaced, preset_text};
use mopo_train::{RunConfig, Silent};

use super::{go_on, message, new_run, tiny_method};

fn demo_with(set: &str) -> String {
    RunConfig::parse_with(preset_text("demo").unwrap(), "demo", &[set.to_string()])
        .expect_err(set)
        .to_string()
}

#[test]
fn every_preset_is_complete_and_survives_being_written() {
    assert!(PRESETS.names().count() >= 3);
    for (name, text) in PRESETS.iter() {
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
    for key in ["seed", "reference_lag", "n_clusters", "save_steps", "policies", "rank"] {
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
    for (key, wrong) in [("reference_lag", "referense_lag"), ("batch_size", "batch_sise")] {
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
        ("model.base=nf4", "sft.steps"),
        ("model.base=int4", "nf4-double"),
        ("model={}", "`hub` or `scratch`"),
        ("sft.batch_size=0", "sft.batch_size"),
        ("training.gradient_accumulation_steps=0", "training.gradient_accumulation_steps"),
        ("training.learning_rate=0", "training.learning_rate"),
        ("training.max_grad_norm=-1", "training.max_grad_norm"),
        ("sft.prompt_weight=2", "sft.prompt_weight"),
        ("lora.dropout=1.0", "dropout"),
        ("lora.rank=0", "rank"),
        ("mopo.tau=0", "mopo.tau"),
        ("mopo.relaxation=1.5", "mopo.relaxation"),
        ("mopo.reference_lag=0", "mopo.reference_lag"),
        ("mopo.ball={ radius = -1.0 }", "ball.radius"),
        ("mopo.indicator_estimator=both", "mopo.indicator_estimator=both"),
        ("mopo.contrast_weight=-1", "mopo.contrast_weight"),
        ("mopo.contrast_loss=logistic", "contrast_weight"),
        ("mopo.contrast_loss=hinge", "contrast_loss"),
        ("mopo.fresh={prompts=0,answers=2,max_new_tokens=8}", "mopo.fresh.prompts"),
        ("mopo.fresh={prompts=1,answers=2,max_new_tokens=8}", "`mopo.fresh.prompts` to 2"),
        ("dpo.beta=0.1", "dpo"),
        ("checkpoints.save_steps=0", "checkpoints.save_steps"),
        ("checkpoints.save_total_limit=0", "checkpoints.save_total_limit"),
        ("evaluation.n_prompts=0", "evaluation.n_prompts"),
        ("evaluation.rewards=[]", "evaluation.rewards"),
        ("evaluation.embedding=words", "hidden_state"),
        ("evaluation.z_scores=mean", "`sft`"),
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
    let set = ["mopo.tau=1", "mopo.indicator_estimator=pair"].map(String::from);
    let config = RunConfig::parse_with(preset_text("demo").unwrap(), "demo", &set).unwrap();
    let mopo = super::mopo(&config.method);
    assert_eq!(mopo.tau, 1.0);
    assert_eq!(mopo.indicator_estimator, mopo_core::IndicatorEstimator::Pair);
}

#[test]
fn every_method_has_a_page_and_every_page_a_method() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/methods");
    let mut pages: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .map(|file| file.trim_end_matches(".md").replace('-', "_"))
        // Every run of a method has it.
        .filter(|name| name != "sft")
        .collect();
    pages.sort();
    let mut kinds = MethodConfig::KINDS.to_vec();
    kinds.sort_unstable();
    assert_eq!(pages, kinds);
}

#[test]
fn a_run_trains_exactly_one_method() {
    let (mopo, dpo) = (preset_text("demo").unwrap(), preset_text("demo-dpo").unwrap());
    let section = |text: &str, name: &str| {
        let start = text.find(&format!("[{name}]")).unwrap();
        text[start..start + text[start..].find("\n\n").unwrap()].to_string()
    };
    let refuse = |text: &str| RunConfig::parse(text, "mine.toml").unwrap_err().to_string();
    let (table, own) = (section(dpo, "method"), section(dpo, "dpo"));
    let e = refuse(&dpo.replace(&own, ""));
    assert!(e.contains("mine.toml") && e.contains("no section `[dpo]`"), "{e}");
    let e = refuse(&dpo.replace(&own, "").replace(&table, ""));
    assert!(e.contains("[method]") && e.contains("\"mopo\", \"dpo\""), "{e}");
    for (kind, expected) in [("ipo", "section there is `[dpo]`"), ("dqo", "the methods are")] {
        let e = refuse(&dpo.replace("kind = \"dpo\"", &format!("kind = \"{kind}\"")));
        assert!(e.contains(expected) && e.contains(&format!("\"{kind}\"")), "{e}");
    }
    // Files of earlier versions have only the section.
    let old = RunConfig::parse(&dpo.replace(&table, ""), "mine.toml").unwrap();
    assert_eq!(old, RunConfig::preset("demo-dpo").unwrap());
    let e = refuse(&format!("{dpo}\n{}\n", section(mopo, "mopo")));
    assert!(e.contains("both") && e.contains("one method"), "{e}");
    // Each key of the section is required.
    for line in section(dpo, "dpo").lines().filter(|l| l.contains(" = ")) {
        let key = line.split(' ').next().unwrap();
        let e = refuse(&dpo.replace(&format!("{line}\n"), ""));
        assert!(e.contains(key) && e.contains("missing"), "{key}: {e}");
    }
}

#[test]
fn another_method_can_replace_the_configured_one() {
    let text = preset_text("demo").unwrap();
    let replaced = |method, set: &[&str]| {
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        let parts = Replaced { method: Some(method), model: None };
        RunConfig::parse_replaced(text, "demo", &set, parts)
    };
    let config = replaced("ipo", &["ipo.beta=0.5", "training.steps=3"]).unwrap();
    assert_eq!((config.method.kind(), config.training.steps), ("ipo", 3));
    assert_eq!(config.policies, ["helpful"]);
    // One key instead of its alternative; the policy gets its name.
    let both = "dpo.combination={agreement=[\"helpful\",\"humor\"]}";
    assert_eq!(replaced("dpo", &[both]).unwrap().policies, ["agreement"]);
    let named = replaced("dpo", &[both, "policies=[\"kind\"]"]).unwrap();
    assert_eq!(named.policies, ["kind"]);
    // A section of the former method is there no more.
    for (method, set, expected) in [
        ("ipo", &["mopo.tau=1"][..], "[ipo]"),
        ("dqo", &[], "the methods are"),
        ("f-dpo", &["f_dpo.divergence=chi_squared"], "forward_kl"),
        ("f_dpo", &["f_dpo.divergence=alpha:2"], "between 0 and 1"),
        ("f_dpo", &["f_dpo.divergence=kl"], "f_dpo.divergence=kl"),
        ("simpo", &["simpo.margin=-1"], "simpo.margin"),
        ("ipo", &["ipo.beta=0"], "ipo.beta"),
        ("modpo", &["modpo.preference_weights={helpful=0.01,humor=0.99}"], "at least 0.05"),
        ("modpo", &["modpo.preference_weights.humor=0.5"], "sum 1"),
        ("modpo", &["modpo.margins={runs={humor=\"runs/a\"}}"], "no run for `harmless`"),
        ("dpo", &["dpo.combination={weighted_loss={helpful=0.5,humor=0.6}}"], "sum 1"),
        ("can", &["can.beta=0"], "can.beta"),
        ("can", &["can.lambda_max=-1"], "can.lambda_max"),
        ("can", &["can.thresholds={}"], "`can.thresholds` is empty"),
        ("can", &["can.thresholds={helpful=0.1}"], "which is `can.objective`"),
        ("can", &["can.thresholds={humor=nan}"], "can.thresholds.humor"),
        ("can", &["can.labels=hard"], "can.labels"),
        ("can", &["policies=[\"humor\"]"], "policies = [\"helpful\"]"),
        ("sacpo", &["sacpo.order=[\"helpful\",\"helpful\"]"], "duplicate name `helpful`"),
        ("sacpo", &["sacpo.order=[]"], "it is empty"),
        ("sacpo", &["sacpo.betas=[0.1]"], "`sacpo.betas` has 1 numbers"),
        ("sacpo", &["sacpo.betas=[0.1,0]"], "`sacpo.betas` is 0"),
        ("sacpo", &["sacpo.shares=[1,2,3]"], "`sacpo.shares` has 3 numbers"),
        ("sacpo", &["sacpo.shares=[1,-1]"], "`sacpo.shares` is -1"),
        ("sacpo", &["policies=[\"a\",\"b\"]"], "policies = [\"stepwise\"]"),
        ("raco", &["raco.correction=1"], "[0, 1)"),
        ("raco", &["raco.preference_weights.humor=0.5"], "sum 1"),
        ("raco", &["raco.beta=0"], "raco.beta"),
        ("raco", &["policies=[\"a\",\"b\"]"], "policies = [\"weighted\"]"),
    ] {
        let e = replaced(method, set).unwrap_err().to_string();
        assert!(e.contains(expected), "{method} {set:?}: {e}");
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
    assert!(config.training.gradient_checkpointing && !config.sft.gradient_checkpointing);
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
    let config = given("{ mean = -0.947, std = 1.92, source = \"a paper\" }").unwrap();
    let statistics = config.evaluation.rewards[0].given_statistics().unwrap();
    assert_eq!((statistics.objective.as_str(), statistics.mean), ("helpful", -0.947));
    assert!(config.evaluation.rewards[1].given_statistics().is_none());
    let again = RunConfig::parse(&config.to_toml().unwrap(), "mine").unwrap();
    assert_eq!(again, config);
    let e = given("{ mean = 0.0, std = 0.0, source = \"x\" }").unwrap_err().to_string();
    assert!(e.contains("`helpful`") && e.contains("above 0"), "{e}");
    assert!(given("{ mean = 0.0, std = 1.0 }").unwrap_err().to_string().contains("source"));
}

/// The demo with the keys of earlier versions.
fn old_demo() -> String {
    let mut text = preset_text("demo").unwrap().to_string();
    for (new, old) in [
        ("[sft]", "[warm_start]"),
        ("batch_size =", "batch_pairs ="),
        ("gradient_accumulation_steps =", "accumulation ="),
        ("warmup_steps =", "rise_steps ="),
        ("max_grad_norm =", "gradient_clip ="),
        ("vocab_size =", "train ="),
        ("target_modules =", "targets ="),
        ("threshold_statistic =", "statistic ="),
        ("indicator_estimator =", "estimator ="),
        ("weight_normalization =", "normaliser ="),
        ("save_steps =", "every ="),
        ("save_total_limit =", "keep ="),
        ("z_scores = \"sft\"", "z_scores = \"warm_start\""),
    ] {
        assert!(text.contains(new), "{new}");
        text = text.replace(new, old);
    }
    let axis = "reward = { kind = \"demo\", objective_idx = 0 }";
    let statistics = "statistics = { mean = 1.0, deviation = 2.0, source = \"x\" }";
    text.replace(axis, &format!("{axis}\n{statistics}"))
}

#[test]
fn old_keys_mean_what_the_new_ones_do_and_are_written_as_the_new_ones() {
    let old = RunConfig::parse(&old_demo(), "old.toml").unwrap();
    let new = old.to_toml().unwrap();
    assert_eq!(RunConfig::parse(&new, "new.toml").unwrap(), old);
    for gone in ["warm_start", "batch_pairs", "accumulation =", "rise_steps", "gradient_clip"] {
        let line = new.lines().find(|line| line.starts_with(gone) || line.contains("[warm_start"));
        assert_eq!(line, None, "{gone}");
    }
    let mut demo = RunConfig::preset("demo").unwrap();
    demo.evaluation.rewards[0].statistics = old.evaluation.rewards[0].statistics.clone();
    assert_eq!(old, demo);
    // Dotted keys are the same keys.
    let section = old_demo();
    let start = section.find("[warm_start]").unwrap();
    let end = start + section[start..].find("\n\n").unwrap();
    let dotted: String =
        section[start..end].lines().skip(1).map(|line| format!("warm_start.{line}\n")).collect();
    let text = format!("{dotted}{}{}", &section[..start], &section[end..]);
    assert_eq!(RunConfig::parse(&text, "dotted.toml").unwrap(), old);
}

#[test]
fn overrides_take_old_keys_too() {
    let parse = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        RunConfig::parse_with(preset_text("demo").unwrap(), "demo", &set)
    };
    let whole = "warm_start={steps=3,batch_pairs=2,accumulation=1,learning_rate=0.1,rise_steps=0,\
                 gradient_clip=1.0}";
    for (old, new) in [
        (&["warm_start.batch_pairs=3"][..], &["sft.batch_size=3"][..]),
        (&["warm_start.batch_size=3"], &["sft.batch_size=3"]),
        (&["sft.rise_steps=3"], &["sft.warmup_steps=3"]),
        (&["training.gradient_clip=2"], &["training.max_grad_norm=2.0"]),
        (&["tokenizer.train=300"], &["tokenizer.vocab_size=300"]),
        (&["checkpoints.keep=5"], &["checkpoints.save_total_limit=5"]),
        (&["mopo.normaliser=prompt"], &["mopo.weight_normalization=prompt"]),
        (&["evaluation.z_scores=warm_start"], &["evaluation.z_scores=sft"]),
        (
            &[whole],
            &[
                "sft.steps=3",
                "sft.batch_size=2",
                "sft.learning_rate=0.1",
                "sft.warmup_steps=0",
                "sft.max_grad_norm=1.0",
            ],
        ),
    ] {
        assert_eq!(parse(old).unwrap(), parse(new).unwrap(), "{old:?}");
    }
    // The last of two assignments counts, but an old and a new name of one key conflict.
    assert_eq!(parse(&["sft.steps=1", "sft.steps=2"]).unwrap().sft.steps, 2);
    for both in [
        ["training.batch_pairs=3", "training.batch_size=4"],
        ["training.batch_size=4", "training.batch_pairs=3"],
        ["warm_start.steps=4", "sft.steps=4"],
    ] {
        let e = parse(&both).unwrap_err().to_string();
        let (a, b) = (both[0].split('=').next(), both[1].split('=').next());
        for name in [a, b].map(|path| path.unwrap().to_string()) {
            let name = name.strip_suffix(".steps").unwrap_or(&name);
            assert!(e.contains(name), "{both:?}: `{name}` is not in {e}");
        }
    }
}

#[test]
fn a_key_under_both_names_is_refused_by_both() {
    let text = preset_text("demo").unwrap();
    for (new, old, at) in [
        ("batch_size = 16", "batch_pairs = 16", "`sft.batch_pairs` and `sft.batch_size`"),
        (
            "save_total_limit = 2",
            "keep = 2",
            "`checkpoints.keep` and `checkpoints.save_total_limit`",
        ),
        ("vocab_size = 768", "train = 768", "`tokenizer.train` and `tokenizer.vocab_size`"),
        ("[sft]", "[warm_start]\nsteps = 1", "`warm_start` and `sft`"),
    ] {
        let bad = text.replacen(new, &format!("{old}\n{new}"), 1);
        let e = RunConfig::parse(&bad, "mine.toml").unwrap_err().to_string();
        assert!(e.contains("mine.toml") && e.contains(at), "{e}");
    }
}

#[test]
fn errors_in_old_files_name_their_line() {
    let text = old_demo();
    let line = text.lines().position(|l| l.starts_with("batch_pairs =")).unwrap() + 1;
    let e =
        RunConfig::parse(&text.replacen("batch_pairs = 16", "batch_pairs = \"x\"", 1), "old.toml")
            .unwrap_err()
            .to_string();
    assert!(e.contains(&format!("line {line}")) && e.contains("old.toml"), "{e}");
}

#[test]
fn unknown_keys_are_answered_with_the_nearest() {
    for (set, nearest) in [
        ("mopo.tua=0.1", "did you mean `mopo.tau`"),
        ("tau=0.1", "did you mean `mopo.tau`"),
        ("training.learning_rte=0.1", "did you mean `training.learning_rate`"),
        ("trianing.steps=1", "did you mean `training.steps`"),
        ("data.tie_treshold=1", "did you mean `data.tie_threshold`"),
        ("warm_start.stepz=1", "did you mean `sft.steps`"),
        ("evaluation.temprature=1", "did you mean `evaluation.temperature`"),
        ("model.scratch.hiddensize=1", "did you mean `model.scratch.hidden_size`"),
        ("model.hubb=1", "did you mean `model.hub`"),
    ] {
        let e = demo_with(set);
        assert!(e.contains(nearest) && e.contains(set), "--set {set}: {e}");
    }
    let text = preset_text("demo").unwrap();
    let bad = text.replacen("warmup_steps", "warmup_step", 1);
    let e = RunConfig::parse(&bad, "mine.toml").unwrap_err().to_string();
    assert!(e.contains("did you mean `warmup_steps`"), "{e}");
}

#[test]
fn a_wrong_value_names_the_assignment_that_has_it() {
    let text = preset_text("demo").unwrap();
    for (set, says) in [
        ("training.steps=abc", "training.steps"),
        ("training.steps=-1", "-1"),
        ("training.steps=1.5", "1.5"),
        ("training.steps=99999999999999999999", "training.steps"),
        ("mopo.tau=much", "mopo.tau"),
        ("evaluation.rewards=3", "evaluation.rewards"),
        ("evaluation.rewards=[{name=\"a\"", "not valid TOML"),
        ("model.scratch=3", "model.scratch"),
        ("lora.target_modules=3", "a list of modules"),
    ] {
        let sets = ["seed=3".to_string(), set.to_string(), "training.batch_size=2".to_string()];
        let e = RunConfig::parse_with(text, "demo", &sets).expect_err(set).to_string();
        assert!(e.contains(&format!("--set {set}")) && e.contains(says), "{e}");
        assert!(!e.contains("seed=3"), "{e}");
    }
}

#[test]
fn a_target_that_the_model_does_not_have_is_named_with_those_that_it_has() {
    let set = ["lora.target_modules=[\"q_proj\", \"fc3\"]".to_string()];
    let e = RunConfig::parse_with(preset_text("demo").unwrap(), "demo", &set).unwrap_err();
    let e = e.to_string();
    assert!(e.contains("`lora.target_modules` is \"fc3\"") && e.contains("mlp.fc1"), "{e}");
    for set in
        ["lora.target_modules=all-linear", "lora.rank_pattern={fc1=2}", "lora.use_rslora=true"]
    {
        RunConfig::parse_with(preset_text("demo").unwrap(), "demo", &[set.into()]).unwrap();
    }
}

#[test]
fn alternatives_take_each_others_place() {
    let parse = |set: &str| {
        RunConfig::parse_with(preset_text("demo").unwrap(), "demo", &[set.to_string()]).unwrap()
    };
    let hub = mopo_train::config::ModelSource::Hub("org/name".into());
    assert_eq!(parse("model.hub=org/name").model.source, hub);
    let file = mopo_train::config::TokenizerConfig::File("tokenizer.json".into());
    assert_eq!(parse("tokenizer.file=tokenizer.json").tokenizer, file);
}

#[test]
fn no_value_is_too_large_too_small_or_no_number() {
    let numbers: &[(&str, &[&str])] = &[
        ("data.heldout_fraction", &["nan", "-1", "0", "1", "1e30"]),
        ("data.max_prompt_tokens", &["-1", "0", "1000000000000"]),
        ("data.max_response_tokens", &["-1", "0", "9223372036854775807"]),
        ("data.n_prompts", &["-1", "0", "9223372036854775807"]),
        ("tokenizer.vocab_size", &["-1", "0", "10", "1000000000"]),
        ("model.scratch.hidden_size", &["-1", "0", "10000000", "9223372036854775807"]),
        ("model.scratch.intermediate_size", &["0", "100000000000"]),
        ("model.scratch.num_hidden_layers", &["0", "1000000000000"]),
        ("model.scratch.num_attention_heads", &["0", "1000000000000"]),
        ("model.scratch.max_position_embeddings", &["0", "10", "1000000000000"]),
        ("sft.steps", &["-1", "1e30", "1000000000000"]),
        ("sft.batch_size", &["0", "1000000000000"]),
        ("sft.prompt_weight", &["nan", "-1", "1e30"]),
        ("training.steps", &["-1", "9223372036854775807"]),
        ("training.batch_size", &["-1", "0", "9223372036854775807"]),
        ("training.gradient_accumulation_steps", &["0", "9223372036854775807"]),
        ("training.learning_rate", &["nan", "-1", "0", "inf", "1e39", "1e-60"]),
        ("training.warmup_steps", &["-1", "9223372036854775807"]),
        ("training.max_grad_norm", &["nan", "-1", "inf"]),
        ("lora.rank", &["-1", "0", "1000000000", "9223372036854775807"]),
        ("lora.alpha", &["nan", "-1", "0", "1e39"]),
        ("lora.dropout", &["nan", "-1", "1", "1e30"]),
        ("mopo.tau", &["nan", "-1", "0", "inf", "1e39"]),
        ("mopo.relaxation", &["nan", "-1", "0", "1e30"]),
        ("mopo.lambda_lr", &["nan", "-1", "1e39"]),
        ("mopo.chi_lr", &["nan", "-1", "inf"]),
        ("mopo.chi", &["best", "0.5"]),
        ("mopo.lambda_max", &["nan", "-1"]),
        ("mopo.initial_chi", &["nan", "0"]),
        ("mopo.ratio_clip", &["nan", "0", "-1"]),
        ("mopo.initial_threshold", &["nan", "-1", "2"]),
        ("mopo.prune_below", &["nan", "-1", "1"]),
        ("checkpoints.save_steps", &["-1", "0", "9223372036854775807"]),
        ("checkpoints.save_total_limit", &["-1", "0"]),
        ("evaluation.n_prompts", &["-1", "0", "9223372036854775807"]),
        ("evaluation.n_clusters", &["-1", "0", "9223372036854775807"]),
        ("evaluation.max_new_tokens", &["-1", "0", "9223372036854775807"]),
        ("evaluation.temperature", &["nan", "-1", "inf", "1e30"]),
        ("evaluation.top_p", &["nan", "-1", "0", "7.0"]),
        ("evaluation.mixture_steps", &["-1", "1000000", "9223372036854775807"]),
    ];
    for (key, values) in numbers {
        let name = key.rsplit('.').next().unwrap();
        for value in *values {
            let e = demo_with(&format!("{key}={value}"));
            assert!(e.contains(name), "{key}={value}: {e}");
        }
    }
}

/// The demo's evaluation with other axes.
fn with_axes(axes: &str) -> mopo_train::Result<RunConfig> {
    let set = [format!("evaluation.rewards=[{axes}]")];
    RunConfig::parse_with(preset_text("demo").unwrap(), "demo", &set)
}

#[test]
fn axes_are_checked_to_the_last_key() {
    let demo = "reward={kind=\"demo\",objective_idx=0}";
    for (axis, says) in [
        ("ref_pointt=3.0,reward={kind=\"demo\",objective_idx=0}", "ref_pointt"),
        ("reward={kind=\"demo\",objective_idx=0,objektive=1}", "objektive"),
        ("reward={kind=\"length\",targt=3}", "targt"),
        ("reward={kind=\"regex\",pattern=\"a\",flags=\"i\"}", "flags"),
        ("reward={kind=\"word_list\",words=[\"a\"],wordz=[]}", "wordz"),
        ("reward={kind=\"model\",preset=\"humor\",max_lenght=3}", "max_lenght"),
        ("reward={kind=\"magic\"}", "magic"),
        ("reward={kind=\"regex\",pattern=\"(\"}", "pattern"),
        ("reward={kind=\"demo\",objective_idx=9}", "objective_idx"),
        ("reward={kind=\"model\",preset=\"humour\"}", "humor"),
    ] {
        let e = with_axes(&format!("{{name=\"a\",ref_point=0.0,{axis}}}")).unwrap_err().to_string();
        assert!(e.contains(says), "{axis}: {e}");
    }
    for (statistics, says) in [
        ("{mean=nan,std=1.0,source=\"x\"}", "mean"),
        ("{mean=0.0,std=-1.0,source=\"x\"}", "std"),
        ("{mean=0.0,std=1.0,source=\"x\",sdt=1.0}", "sdt"),
    ] {
        let axis = format!("{{name=\"a\",ref_point=0.0,{demo},statistics={statistics}}}");
        let e = with_axes(&axis).unwrap_err().to_string();
        assert!(e.contains(says), "{statistics}: {e}");
    }
    let e = with_axes(&format!("{{name=\"a\",ref_point=nan,{demo}}}")).unwrap_err().to_string();
    assert!(e.contains("ref_point"), "{e}");
}

#[test]
fn what_a_new_run_cannot_do_is_said_before_sft() {
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    let two = "policies=[\"helpful\",\"harmless\"]";
    for (method, set, words) in [
        (
            "sacpo",
            &["training.steps=1", "sacpo.merge=true", two][..],
            "none is left for `harmless`",
        ),
        (
            "dpa",
            &[
                "dpa.online={rounds=3,share=0.01,prompts=3,answers=2,temperature=1.0,max_new_tokens=8}",
            ],
            "each round needs a step",
        ),
        (
            "mopo",
            &["mopo.fresh={prompts=4,answers=2,max_new_tokens=8}", "mopo.reference_lag=100"],
            "from the first refresh on",
        ),
        ("ric", &["evaluation.worst_case=true"], "there is nothing to mix"),
        ("dpo", &["head_rank=2"], "`dpo.train_head` is false"),
        (
            "dpo",
            &["training.eval_steps=2", "training.metric_for_best_model=foo"],
            "which no evaluation of this run has",
        ),
    ] {
        let _ = std::fs::remove_dir_all(&run);
        new_run(&run, &tiny_method(method, set));
        let error = message(go_on(&run, &mut Silent)).1;
        assert!(error.contains(words), "{method}: {error}");
        assert!(!run.join("warm_start/config.json").exists(), "{method}");
    }
}
