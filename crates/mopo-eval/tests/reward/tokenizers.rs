//! Settings of tokenizers, key by key: tokens as in transformers (fixtures/tokenizers.json, written
//! by make_tokenizers.py), or an error that names the key.

use std::fs;
use std::path::Path;

use mopo_eval::reward::{RewardTokenizer, TruncationSide};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fixture;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<(String, Option<String>)>,
    variants: Vec<Variant>,
}

#[derive(Deserialize)]
struct Variant {
    base: String,
    files: Map<String, Value>,
    #[serde(default)]
    json: Map<String, Value>,
    ids: Vec<Vec<u32>>,
}

const FILES: [&str; 6] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

/// The tokenizer's files of a fixture with other files, and parts of `tokenizer.json`.
fn changed(base: &str, files: &Map<String, Value>, json: &Map<String, Value>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in FILES {
        let from = fixture(base).join(name);
        if from.exists() {
            fs::copy(from, path(name)).unwrap();
        }
    }
    for (name, content) in files {
        match content {
            Value::Null => drop(fs::remove_file(path(name))),
            content => fs::write(path(name), content.to_string()).unwrap(),
        }
    }
    if !json.is_empty() {
        let bytes = fs::read(path("tokenizer.json")).unwrap();
        let mut whole: Map<String, Value> = serde_json::from_slice(&bytes).unwrap();
        whole.extend(json.clone());
        fs::write(path("tokenizer.json"), Value::Object(whole).to_string()).unwrap();
    }
    dir
}

fn load(base: &str, dir: &Path, side: TruncationSide) -> mopo_eval::Result<RewardTokenizer> {
    let architecture = base.split('-').next().unwrap();
    RewardTokenizer::load(dir, architecture, 1000, side)
}

#[test]
fn settings_give_the_tokens_that_transformers_gives() {
    let golden = fs::read(fixture("tokenizers.json")).unwrap();
    let golden: Golden = serde_json::from_slice(&golden).unwrap();
    let mut wrong = vec![];
    for variant in &golden.variants {
        let Variant { base, files, json, ids } = variant;
        let dir = changed(base, files, json);
        let about = format!("{base} with {files:?} {:?}", json.keys().collect::<Vec<_>>());
        let tokenizer = match load(base, dir.path(), TruncationSide::Right) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                wrong.push(format!("{about}: {error}"));
                continue;
            }
        };
        for ((text, pair), expected) in golden.texts.iter().zip(ids) {
            let (found, _) = tokenizer.encode(text, pair.as_deref()).unwrap();
            if found != *expected {
                wrong.push(format!("{about}: {text:?}: {found:?}, not {expected:?}"));
            }
        }
    }
    assert!(golden.variants.len() > 90, "{}", golden.variants.len());
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_is_saved_needs_no_settings() {
    // Lower-cased by the settings alone; as saved, by the file.
    let files = json!({"tokenizer_config.json": {"do_lower_case": true}});
    let dir = changed("distilbert", files.as_object().unwrap(), &Map::new());
    let tokenizer = load("distilbert", dir.path(), TruncationSide::Right).unwrap();
    let saved = tempfile::tempdir().unwrap();
    tokenizer.save(saved.path()).unwrap();
    let path = saved.path().join("tokenizer.json");
    let again = RewardTokenizer::from_file(&path, 1000, TruncationSide::Right).unwrap();
    for text in ["Dog ATE it", "[SEP] é"] {
        assert_eq!(again.encode(text, None).unwrap(), tokenizer.encode(text, None).unwrap());
    }
    assert_ne!(again.encode("Dog", None).unwrap(), {
        let cased = json!({"tokenizer_config.json": {"do_lower_case": false}});
        let dir = changed("distilbert", cased.as_object().unwrap(), &Map::new());
        load("distilbert", dir.path(), TruncationSide::Right).unwrap().encode("Dog", None).unwrap()
    });
    let whole = fs::read(&path).unwrap();
    for n in [0, whole.len() / 2, whole.len() - 3] {
        fs::write(&path, &whole[..n]).unwrap();
        let error = RewardTokenizer::from_file(&path, 1000, TruncationSide::Right).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
    }
}

#[test]
fn files_that_the_library_panics_on_are_errors() {
    let whole = fs::read(fixture("distilbert").join("tokenizer.json")).unwrap();
    let whole: Value = serde_json::from_slice(&whole).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let read = |change: &dyn Fn(&mut Value)| {
        let mut json = whole.clone();
        change(&mut json);
        fs::write(&path, json.to_string()).unwrap();
        RewardTokenizer::from_file(&path, 1000, TruncationSide::Right)
    };
    // A template of pairs that names a token without ids.
    let tokenizer = read(&|json| {
        json["post_processor"]["pair"][0]["SpecialToken"]["id"] = "[NO]".into();
    });
    let error = tokenizer.and_then(|tokenizer| tokenizer.encode("a", Some("b"))).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("tokenizer.json") && error.contains("`tokenizers` library"), "{error}");
    // More tokens around one text than around two.
    let tokenizer = read(&|json| {
        let post = &mut json["post_processor"];
        let one = post["single"][0].clone();
        let around = std::iter::repeat_n(one, 999);
        post["single"].as_array_mut().unwrap().extend(around);
    });
    assert!(tokenizer.unwrap_err().to_string().contains("special tokens"));
    // Ids that the library would list up to, one by one.
    let tokenizer = read(&|json| json["model"]["vocab"]["far"] = u32::MAX.into());
    let error = tokenizer.unwrap_err().to_string();
    assert!(error.contains("`far` is 4294967295"), "{error}");
}

#[track_caller]
fn refused(base: &str, files: Value, json: Value, side: TruncationSide, words: &[&str]) {
    let (files, json) = (files.as_object().unwrap(), json.as_object().unwrap());
    let dir = changed(base, files, json);
    let error = load(base, dir.path(), side).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "no `{word}` in: {error}");
    }
}

#[test]
fn unsupported_settings_are_refused_by_key() {
    let right = TruncationSide::Right;
    for (base, key, value) in [
        ("gpt2", "tokenizer_class", json!("T5Tokenizer")),
        ("gpt2", "tokenizer_class", json!(7)),
        ("gpt2-shards", "tokenizer_class", json!("PreTrainedTokenizerFast")),
        ("gpt2", "truncation_side", json!("left")),
        ("gpt2", "truncation_side", json!("middle")),
        ("gpt2", "add_prefix_space", json!("yes")),
        ("gpt2", "add_special_tokens", json!(false)),
        ("gpt2", "init_inputs", json!(["a"])),
        ("gpt2", "vocab", json!({"a": 0})),
        ("gpt2", "merges", json!(["a b"])),
        ("gpt2-shards", "add_bos_token", json!(1)),
        ("gpt2", "additional_special_tokens", json!("dog")),
        ("gpt2", "extra_special_tokens", json!([3])),
        ("gpt2", "added_tokens_decoder", json!(["dog"])),
        ("gpt2", "added_tokens_decoder", json!({"x": "dog"})),
        ("gpt2", "eos_token", json!({"text": "dog"})),
        ("distilbert", "do_lower_case", json!("true")),
        ("distilbert", "strip_accents", json!(0)),
        ("distilbert", "tokenize_chinese_chars", json!([])),
        ("distilbert", "do_basic_tokenize", json!(false)),
        ("distilbert-bin", "never_split", json!(["dog"])),
        ("distilbert", "split_special_tokens", json!("no")),
    ] {
        let config = json!({ "tokenizer_config.json": { key: value } });
        refused(base, config, json!({}), right, &["tokenizer_config.json", &format!("`{key}`")]);
    }
    // A class that takes tokenizer.json as it is, which has no such token at its start.
    let llama =
        json!({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "add_bos_token": true});
    let config = json!({ "tokenizer_config.json": llama });
    refused("gpt2", config, json!({}), right, &["`add_bos_token`", "does not add `<s>`"]);
    let config = json!({"tokenizer_config.json": {"truncation_side": "right"}});
    refused("gpt2", config, json!({}), TruncationSide::Left, &["`truncation_side`", "\"left\""]);
}

#[test]
fn parts_that_the_class_does_not_have_are_refused() {
    let right = TruncationSide::Right;
    let model = |base: &str, key: &str, value: Value| {
        let whole = fs::read(fixture(base).join("tokenizer.json")).unwrap();
        let mut model = serde_json::from_slice::<Value>(&whole).unwrap()["model"].clone();
        model[key] = value;
        json!({ "model": model })
    };
    for (base, json, word) in [
        ("gpt2", json!({"normalizer": {"type": "Lowercase"}}), "normalizer"),
        ("gpt2", json!({"pre_tokenizer": {"type": "Whitespace"}}), "Whitespace"),
        ("gpt2", model("gpt2", "ignore_merges", json!(true)), "ignore_merges"),
        ("gpt2", model("gpt2", "dropout", json!(0.1)), "dropout"),
        ("gpt2", model("gpt2", "type", json!("WordPiece")), "WordPiece"),
        ("gpt2", json!({"model": null}), "`model`"),
        ("distilbert", json!({"normalizer": {"type": "NFC"}}), "NFC"),
        ("distilbert", json!({"pre_tokenizer": {"type": "Whitespace"}}), "Whitespace"),
        ("distilbert", model("distilbert", "continuing_subword_prefix", json!("@@")), "@@"),
        ("distilbert", model("distilbert", "max_input_chars_per_word", json!(9)), "is 9"),
    ] {
        let words = ["tokenizer.json", word, "PreTrainedTokenizerFast"];
        refused(base, json!({}), json, right, &words);
    }
    // A class that uses the file unchanged, with settings that contradict it.
    for (base, key) in [("gpt2", "add_prefix_space"), ("distilbert", "do_lower_case")] {
        let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", key: true});
        let files = json!({ "tokenizer_config.json": config });
        refused(
            base,
            files,
            json!({}),
            right,
            &[&format!("`{key}`"), "set both to the same value"],
        );
    }
}
