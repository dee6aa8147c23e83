//! Tokenizers written as metadata and read back, and what has no counterpart.

use serde_json::{Value, json};

use super::super::tests::{Keys, byte_level, load, sentencepiece, with};
use super::*;
use crate::{ChatTemplate, PromptForm};

const TEXTS: [&str; 6] = [
    "1234 12 tea's a'S!\n",
    "abcab bab <b>cab\n\n",
    "  two  spaces \n é! 茶 🫖",
    "<tool> <|im_end|> <eos>",
    "xyz",
    "",
];

/// The metadata that a tokenizer becomes, as the keys of a file.
fn written(tokenizer: &Tokenizer, n_rows: usize, template: Option<&str>) -> Keys {
    tokenizer.gguf_metadata(n_rows, template).unwrap().into_iter().collect()
}

/// From a `tokenizer.json` with the settings beside it.
fn parsed(json: &Value, settings: &Value) -> Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    Tokenizer::load(dir.path().join("tokenizer.json"))
}

fn same(a: &Tokenizer, b: &Tokenizer) {
    for text in TEXTS {
        let ids = a.encode(text).unwrap();
        assert_eq!(b.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(b.decode(&ids).unwrap(), a.decode(&ids).unwrap());
    }
    assert_eq!((b.end_of_text(), b.vocab_size()), (a.end_of_text(), a.vocab_size()));
    assert_eq!((b.form(), b.stops()), (a.form(), a.stops()));
    for role in ["bos_token", "pad_token", "unk_token"] {
        assert_eq!(b.role_id(role), a.role_id(role), "{role}");
    }
}

#[test]
fn what_is_written_is_read_back_with_the_same_ids() {
    let files = ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "default"]
        .map(byte_level)
        .into_iter()
        .chain(
            [true, false].map(|on| with(sentencepiece(), [("ggml.add_space_prefix", on.into())])),
        );
    for keys in files {
        let tokenizer = load(&keys).unwrap();
        let n_rows = tokenizer.vocab_size() + 3;
        let template = match tokenizer.form() {
            PromptForm::Text => None,
            _ => Some(ChatTemplate::Chatml.jinja()),
        };
        let again = written(&tokenizer, n_rows, template);
        let same_keys = ["ggml.model", "ggml.pre", "ggml.merges", "ggml.add_space_prefix"];
        for key in same_keys.map(|key| format!("tokenizer.{key}")) {
            assert_eq!(again.get(&key), keys.get(&key), "{key}");
        }
        let Item::Array(mopo_hub::gguf::Array::String(texts)) = &again[TOKENS] else { panic!() };
        assert_eq!(texts.len(), n_rows);
        assert_eq!(texts[n_rows - 1], format!("[PAD{}]", n_rows - 1));
        same(&tokenizer, &load(&again).unwrap());
    }
}

#[test]
fn a_trained_tokenizer_is_gpt_2s() {
    let tokenizer = Tokenizer::train(TEXTS.into_iter(), 280).unwrap();
    let keys = written(&tokenizer, tokenizer.vocab_size(), None);
    assert_eq!(keys["tokenizer.ggml.pre"], "gpt-2".into());
    assert_eq!(keys[ADD_BOS], false.into());
    let again = load(&keys).unwrap();
    for text in TEXTS {
        assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap(), "{text:?}");
    }
    assert_eq!(again.end_of_text(), tokenizer.end_of_text());
}

#[test]
fn published_forms_of_the_same_tokenizer_are_known() {
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let sequence = |numbers: &str| {
        let split = split(&words.replace("NUMBERS", numbers));
        json!({"type": "Sequence", "pretokenizers": [split, bytes]})
    };
    for (pre, pre_tokenizer, normalizer) in [
        ("llama-bpe", sequence(r"\p{N}{1,3}"), Value::Null),
        ("qwen2", sequence(r"\p{N}"), json!({"type": "NFC"})),
        (
            "gpt-2",
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}),
            Value::Null,
        ),
    ] {
        let tokenizer = load(&byte_level(pre)).unwrap();
        let mut json: Value = serde_json::from_slice(&tokenizer.json).unwrap();
        json["pre_tokenizer"] = pre_tokenizer;
        json["normalizer"] = normalizer;
        // As older files write merges.
        for merge in json["model"]["merges"].as_array_mut().unwrap() {
            *merge =
                format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into();
        }
        let found = parsed(&json, &tokenizer.settings()).unwrap();
        let keys = written(&found, found.vocab_size(), None);
        assert_eq!(keys["tokenizer.ggml.pre"], pre.into());
    }
    for (normalizer, pre_tokenizer, prefix) in [
        (
            Value::Null,
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}),
            true,
        ),
        (
            json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
            false,
        ),
    ] {
        let tokenizer = load(&sentencepiece()).unwrap();
        let mut json: Value = serde_json::from_slice(&tokenizer.json).unwrap();
        json["pre_tokenizer"] = pre_tokenizer;
        json["normalizer"] = normalizer;
        let found = parsed(&json, &json!({"eos_token": "<eos>"})).unwrap();
        let keys = written(&found, found.vocab_size(), None);
        assert_eq!(keys["tokenizer.ggml.add_space_prefix"], prefix.into());
        let again = load(&keys).unwrap();
        assert_eq!(again.encode("ab cab").unwrap(), found.encode("ab cab").unwrap());
    }
}

#[test]
fn what_llama_cpp_cannot_do_is_refused_by_name() {
    let error = |keys: Keys, change: &dyn Fn(&mut Value), settings: Value| {
        let tokenizer = load(&keys).unwrap();
        let mut json: Value = serde_json::from_slice(&tokenizer.json).unwrap();
        change(&mut json);
        let mut all = tokenizer.settings();
        all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let changed = parsed(&json, &all).unwrap();
        let error = changed.gguf_metadata(changed.vocab_size(), None).unwrap_err().to_string();
        assert!(error.contains("Hugging Face instead"), "{error}");
        error
    };
    let none = || json!({});
    let bytes = || byte_level("qwen2");
    let says = |error: String, words: &str| assert!(error.contains(words), "{words}: {error}");
    let change = |json: &mut Value| {
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "x".into()
    };
    says(error(bytes(), &change, none()), "no `tokenizer.ggml.pre`");
    let change = |json: &mut Value| json["model"]["ignore_merges"] = true.into();
    says(error(bytes(), &change, none()), "`ignore_merges`");
    let change = |json: &mut Value| json["normalizer"] = json!({"type": "Lowercase"});
    says(error(bytes(), &change, none()), "Lowercase");
    let change = |json: &mut Value| json["added_tokens"][3]["lstrip"] = true.into();
    says(error(bytes(), &change, none()), "`<tool>`");
    let change = |json: &mut Value| json["model"]["end_of_word_suffix"] = "</w>".into();
    says(error(bytes(), &change, none()), "`model.end_of_word_suffix`");
    let bos = json!({"bos_token": "<|im_start|>", "add_bos_token": true});
    let whole = load(&bytes()).unwrap();
    let json: Value = serde_json::from_slice(&whole.json).unwrap();
    let begins = parsed(&json, &{
        let mut all = whole.settings();
        all.as_object_mut().unwrap().extend(bos.as_object().unwrap().clone());
        all
    });
    let keys = written(&begins.unwrap(), whole.vocab_size(), None);
    assert_eq!((&keys[ADD_BOS], &keys[BOS]), (&true.into(), &1_u32.into()));

    let change = |json: &mut Value| drop(json["model"]["merges"].as_array_mut().unwrap().remove(1));
    says(error(sentencepiece(), &change, none()), "follow from no scores");
    let change = |json: &mut Value| json["normalizer"] = Value::Null;
    says(error(sentencepiece(), &change, none()), "does not replace spaces");
    let change = |json: &mut Value| json["model"]["byte_fallback"] = false.into();
    says(error(sentencepiece(), &change, none()), "neither works on bytes");

    let tokenizer = load(&bytes()).unwrap();
    let error = tokenizer.gguf_metadata(100, None).unwrap_err().to_string();
    assert!(error.contains("100"), "{error}");
}
