//! Configurations of reward models: keys of earlier versions, unknown keys, ranges, files that must fit.

use mopo_train::reward_model::{REWARD_PRESETS, RewardTrainConfig, reward_preset_text};

use super::*;

fn parse(name: &str, set: &[&str]) -> mopo_train::Result<RewardTrainConfig> {
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    RewardTrainConfig::preset(name, &set)
}

fn refused(name: &str, set: &str) -> String {
    parse(name, &[set]).expect_err(set).to_string()
}

#[test]
fn every_preset_survives_being_written_and_being_old() {
    for (name, text) in REWARD_PRESETS.iter() {
        let config = parse(name, &[]).unwrap();
        let written = config.to_toml().unwrap();
        assert_eq!(RewardTrainConfig::parse_with(&written, name, &[]).unwrap(), config);
        let mut old = text.to_string();
        for (new, former) in [
            ("batch_size =", "batch ="),
            ("warmup_steps =", "rise_steps ="),
            ("max_grad_norm =", "gradient_clip ="),
            ("eval_steps =", "evaluate_every ="),
            ("early_stopping_patience =", "patience ="),
            ("max_length =", "max_tokens ="),
            ("vocab_size =", "train ="),
            ("save_steps =", "every ="),
            ("save_total_limit =", "keep ="),
        ] {
            // A language model has its own tokenizer.
            assert!(old.contains(new) || name.ends_with("-lora"), "{name}: {new}");
            old = old.replace(new, former);
        }
        assert_eq!(RewardTrainConfig::parse_with(&old, "old", &[]).unwrap(), config, "{name}");
    }
    let same = [
        ("training.batch=3", "training.batch_size=3"),
        ("training.patience=3", "training.early_stopping_patience=3"),
        ("input.max_tokens=30", "input.max_length=30"),
    ];
    for (old, new) in same {
        assert_eq!(parse("helpful", &[old]).unwrap(), parse("helpful", &[new]).unwrap());
        let e = parse("helpful", &[old, new]).unwrap_err().to_string();
        assert!(e.contains("former name"), "{e}");
    }
}

#[test]
fn a_template_in_braces_is_a_string() {
    let config = parse("helpful", &["input.text={response} {prompt}"]).unwrap();
    assert_eq!(config.input.text, "{response} {prompt}");
    assert!(refused("helpful", "input.text={prompt}").contains("{response}"));
    assert!(refused("helpful", "model.gpt2={n_embd=").contains("not valid TOML"));
}

#[test]
fn unknown_keys_are_refused_everywhere() {
    let text = reward_preset_text("helpful").unwrap();
    for (key, wrong) in [
        ("seed", "sed"),
        ("heldout_fraction", "heldout_fractio"),
        ("source", "sourcee"),
        ("stem", "stemm"),
        ("ties", "tiess"),
        ("truncation_side", "truncation_sidee"),
        ("n_embd", "n_embdd"),
        ("patience", "patiense"),
        ("save_steps", "save_step"),
    ] {
        let key = if key == "patience" { "early_stopping_patience" } else { key };
        let start = format!("\n{key} =");
        assert!(text.contains(&start), "{key}");
        let bad = text.replacen(&start, &format!("\n{wrong} ="), 1);
        let line = bad.lines().position(|l| l.starts_with(&format!("{wrong} ="))).unwrap() + 1;
        let e = RewardTrainConfig::parse_with(&bad, "mine.toml", &[]).unwrap_err().to_string();
        let says = e.contains(wrong) && e.contains(&format!("line {line}"));
        assert!(says || e.contains("missing field"), "{wrong}: {e}");
        assert!(e.contains("mine.toml"), "{e}");
        // Next to the right key the wrong one is still unknown.
        let both = text.replacen(&start, &format!("\n{wrong} = 1\n{key} ="), 1);
        let e = RewardTrainConfig::parse_with(&both, "mine.toml", &[]).unwrap_err().to_string();
        assert!(e.contains(wrong) && e.contains(&format!("line {line}")), "{wrong}: {e}");
    }
    let e = refused("helpful", "data.pairs.sourse=tldr");
    assert!(e.contains("did you mean `data.pairs.source`"), "{e}");
    assert!(refused("humor", "data.texts.possitive=x").contains("`data.texts.positive`"));
}

#[test]
fn no_value_is_too_large_too_small_or_no_number() {
    for (key, values) in [
        ("training.steps", &["-1", "0", "9223372036854775807"][..]),
        ("training.batch_size", &["0", "1000000000000"]),
        ("training.learning_rate", &["nan", "-1", "0", "1e39"]),
        ("training.warmup_steps", &["-1", "9223372036854775807"]),
        ("training.max_grad_norm", &["nan", "-1"]),
        ("training.weight_decay", &["nan", "-1", "1e30"]),
        ("training.token_dropout", &["nan", "-1", "1"]),
        ("training.eval_steps", &["0"]),
        ("training.early_stopping_patience", &["0", "-1"]),
        ("input.max_length", &["0", "2", "1000000000000"]),
        ("tokenizer.vocab_size", &["0", "1000000000000"]),
        ("model.gpt2.n_embd", &["0", "10000000", "9223372036854775807"]),
        ("model.gpt2.n_layer", &["0", "1000000000000"]),
        ("model.gpt2.n_head", &["0", "3", "9223372036854775807"]),
        ("data.heldout_fraction", &["nan", "0", "1"]),
        ("data.validation_fraction", &["nan", "-1", "1e30"]),
        ("checkpoints.save_steps", &["0"]),
    ] {
        let name = key.rsplit('.').next().unwrap();
        for value in values {
            let e = refused("helpful", &format!("{key}={value}"));
            assert!(e.contains(name), "{key}={value}: {e}");
        }
    }
    let large = ["model.gpt2.n_embd=1048576", "model.gpt2.n_layer=100"];
    assert!(parse("helpful", &large).unwrap_err().to_string().contains("model.gpt2"));
    let large = parse("helpful", &["model.gpt2.n_embd=8192", "model.gpt2.n_layer=24"]).unwrap();
    let e = large.check_files(Some(4 << 30)).unwrap_err().to_string();
    assert!(e.contains("[model.gpt2]") && e.contains("GB"), "{e}");
    parse("helpful", &[]).unwrap().check_files(Some(1 << 30)).unwrap();
}

#[test]
fn a_model_to_continue_from_must_fit() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mopo-eval/tests/reward/fixtures");
    let of = |model: &Path, set: &[&str]| {
        let text = reward_preset_text("helpful").unwrap();
        let (head, tail) = text.split_once("[tokenizer]").unwrap();
        let tail = tail.split_once("[training]").unwrap().1;
        let text =
            format!("{head}[model]\nhub = {:?}\n\n[training]{tail}", model.to_str().unwrap());
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        RewardTrainConfig::parse_with(&text, "mine", &set).unwrap()
    };
    let gpt2 = fixtures.join("gpt2");
    let said = |config: &RewardTrainConfig| config.check_files(None).unwrap_err().to_string();
    assert!(
        said(&of(&gpt2, &["input.max_length=100000"])).contains("`input.max_length` is 100000")
    );
    let missing = said(&of(&fixtures.join("no-such-model"), &[]));
    assert!(missing.contains("no-such-model"), "{missing}");
    let shape = mopo_lm::ClassifierShape::read(&gpt2).unwrap();
    let max_length = format!("input.max_length={}", shape.max_tokens);
    match of(&gpt2, &[&max_length]).check_files(None) {
        Ok(()) => assert_eq!(shape.labels.len(), 1),
        Err(e) => assert!(e.to_string().contains("labels") && shape.labels.len() != 1, "{e}"),
    }
}
