//! Tokenizers: `tokenizer.json`, `tokenizer_config.json`, those of GGUF files and of reward models.

use std::path::Path;

use mopo_data::{ChatTemplate, JinjaTemplate, PromptForm, Tokenizer};
use mopo_eval::reward::{RewardTokenizer, TruncationSide};
use mopo_hub::gguf::GgufWriter;
use serde_json::{Map, Value, json};

use super::files;
use crate::place::write;
use crate::{Form, Outcome, Place, Runner, Target};

const WORDS: &[&str] = &[
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
    "type",
    "BPE",
    "WordPiece",
    "WordLevel",
    "Unigram",
    "ByteLevel",
    "Sequence",
    "normalizers",
    "pretokenizers",
    "NFC",
    "NFKC",
    "Replace",
    "Prepend",
    "Lowercase",
    "StripAccents",
    "Precompiled",
    "precompiled_charsmap",
    "BertNormalizer",
    "Split",
    "pattern",
    "Regex",
    "String",
    "behavior",
    "Isolated",
    "Removed",
    "MergedWithNext",
    "invert",
    "Metaspace",
    "replacement",
    "prepend_scheme",
    "Digits",
    "individual_digits",
    "Punctuation",
    "UnicodeScripts",
    "FixedLength",
    "length",
    "TemplateProcessing",
    "single",
    "pair",
    "SpecialToken",
    "Sequence",
    "ids",
    "tokens",
    "RobertaProcessing",
    "BertProcessing",
    "Fuse",
    "Strip",
    "ByteFallback",
    "CTC",
    "content",
    "start",
    "stop",
    "vocab",
    "merges",
    "unk_token",
    "unk_id",
    "byte_fallback",
    "ignore_merges",
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "max_input_chars_per_word",
    "cache_capacity",
    "special",
    "single_word",
    "lstrip",
    "rstrip",
    "normalized",
    "id",
    "direction",
    "max_length",
    "strategy",
    "stride",
    "LongestFirst",
    "Fixed",
    "pad_to_multiple_of",
    "(a*)*b",
    "(?=x)*",
    "\\\\p{L}+",
    "(?:)",
    "",
    "\u{2581}",
    "\u{120}",
    "add_prefix_space",
    "trim_offsets",
    "use_regex",
    "<|endoftext|>",
    "<|im_end|>",
    "eos_token",
    "bos_token",
    "pad_token",
    "unk_token",
    "add_bos_token",
    "add_eos_token",
    "chat_template",
    "tokenizer_class",
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "model_max_length",
    "clean_up_tokenization_spaces",
    "GPT2Tokenizer",
    "LlamaTokenizer",
    "PreTrainedTokenizerFast",
    "legacy",
    "default",
];

/// Texts with scripts, control characters, white space and names of tokens.
const TEXTS: [&str; 5] = [
    "Tea, or caf\u{e9}?  It's 12345\u{b2} \u{1fad6}\n\n",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "",
    "\0\u{feff}\u{202e}\u{10ffff} \u{2581}\u{120} <0x0A></s>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
];

pub(super) fn targets() -> Vec<Target> {
    let target = |name, reads, form, seeds, start, rate| Target {
        name,
        reads,
        form,
        words: WORDS,
        seeds,
        start,
        rate,
    };
    vec![
        target("tokenizer", "tokenizer.json", Form::Text, tokenizer_seeds, tokenizer, 2.6),
        target(
            "tokenizer-config",
            "tokenizer_config.json",
            Form::Text,
            config_seeds,
            tokenizer_config,
            0.9,
        ),
        target(
            "gguf-tokenizer",
            "tokenizers of GGUF files",
            Form::Binary,
            gguf_seeds,
            |place| {
                let path = place.path().join("tokenizer.gguf");
                Box::new(move |bytes| {
                    write(&path, bytes);
                    used(&path)
                })
            },
            3.1,
        ),
        target(
            "reward-tokenizer",
            "tokenizer.json of reward models",
            Form::Text,
            || {
                files![
                    "mopo-eval/tests/reward/fixtures/distilbert/tokenizer.json",
                    "mopo-eval/tests/reward/fixtures/gpt2/tokenizer.json",
                ]
            },
            |place| {
                let path = place.path().join("tokenizer.json");
                Box::new(move |bytes| {
                    write(&path, bytes);
                    RewardTokenizer::from_file(&path, 16, TruncationSide::Right)
                        .and_then(|tokenizer| all(&tokenizer))
                        .into()
                })
            },
            3.9,
        ),
        target(
            "vocab",
            "vocab.json and merges.txt of reward models",
            Form::Text,
            || {
                files![
                    "mopo-eval/tests/reward/fixtures/gpt2-shards/vocab.json",
                    "mopo-eval/tests/reward/fixtures/gpt2-shards/merges.txt"
                ]
            },
            vocab,
            0.5,
        ),
    ]
}

/// Loads a tokenizer, encodes and decodes.
fn used(path: &Path) -> Outcome {
    let Ok(tokenizer) = Tokenizer::load(path) else { return Outcome::Refused };
    let forms = [None, Some(PromptForm::Template(ChatTemplate::Chatml)), Some(PromptForm::Raw)];
    for form in forms {
        let Ok(tokenizer) =
            form.map_or(Ok(tokenizer.clone()), |form| tokenizer.clone().with_form(form))
        else {
            continue;
        };
        for text in TEXTS {
            let Ok(ids) = tokenizer.encode(text) else { continue };
            let _ = tokenizer.decode(&ids);
            if let Some(id) = ids.iter().find(|id| **id as usize >= tokenizer.vocab_size()) {
                return Outcome::Wrong(format!("id {id} is not below {}", tokenizer.vocab_size()));
            }
            let most = 8;
            if let Ok((ids, _)) = tokenizer.encode_prompt(text, most)
                && ids.len() > most
            {
                return Outcome::Wrong(format!(
                    "{} tokens of a prompt, of at most {most}",
                    ids.len()
                ));
            }
        }
        tokenizer.token_bytes(0);
    }
    Outcome::Accepted
}

fn tokenizer(place: &Place) -> Runner {
    let path = place.path().join("tokenizer.json");
    place.file("tokenizer_config.json", b"{}");
    Box::new(move |bytes| {
        write(&path, bytes);
        used(&path)
    })
}

/// One of each model that the library knows.
fn tokenizer_seeds() -> Vec<Vec<u8>> {
    let words = "tea te ea caf\u{e9} a aa aaa";
    let trained = trained(words);
    let mut with_split: Value = serde_json::from_slice(&trained).expect("what was written");
    let whole = |model: Value, normalizer: Value, pre: Value, post: Value, decoder: Value| {
        // Added tokens have the ids after the model's.
        let n = model["vocab"].as_object().map(Map::len);
        let n = n.or(model["vocab"].as_array().map(Vec::len)).expect("a vocabulary");
        let added = json!([
            { "id": n, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
              "normalized": false, "special": true },
            { "id": n + 1, "content": "<|im_start|>", "single_word": true, "lstrip": true, "rstrip": true,
              "normalized": true, "special": true },
        ]);
        let whole = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model,
        });
        whole.to_string().into_bytes()
    };
    let none = Value::Null;
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<|im_start|>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<|im_start|>": { "id": "<|im_start|>", "ids": [10], "tokens": ["<|im_start|>"] } },
    });
    let split = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": "\\p{N}{1,3}| ?\\p{L}+" }, "behavior": "Isolated", "invert": false },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
    ] });
    with_split["pre_tokenizer"] = split;
    let spaces = json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true });
    let normal = json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "\u{2581}" }, { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" },
        { "type": "NFC" },
    ] });
    let decode = json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " }, { "type": "ByteFallback" },
        { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
    ] });
    let bpe = json!({
        "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": { "<unk>": 0, "t": 1, "e": 2, "a": 3, "\u{2581}": 4, "te": 5, "tea": 6, "\u{2581}tea": 7, "<0x0A>": 8 },
        "merges": [["t", "e"], ["te", "a"], ["\u{2581}", "tea"]],
    });
    let unigram = json!({
        "type": "Unigram", "unk_id": 0, "byte_fallback": false,
        "vocab": [["<unk>", 0.0], ["t", -1.0], ["e", -1.5], ["a", -2.0], ["tea", -3.0], ["\u{2581}", -2.5]],
    });
    let pieces = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": { "[UNK]": 0, "tea": 1, "##s": 2, "a": 3, "[CLS]": 4, "[SEP]": 5 },
    });
    let level = json!({ "type": "WordLevel", "unk_token": "<unk>", "vocab": { "<unk>": 0, "tea": 1, "," : 2 } });
    let bert = json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": true });
    let cls = json!({ "type": "BertProcessing", "sep": ["[SEP]", 5], "cls": ["[CLS]", 4] });
    vec![
        trained,
        whole(bpe, normal, none.clone(), template, decode),
        whole(unigram, none.clone(), spaces.clone(), none.clone(), spaces),
        whole(
            pieces,
            bert,
            json!({ "type": "BertPreTokenizer" }),
            none.clone(),
            json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
        ),
        whole(level, json!({ "type": "Lowercase" }), json!({ "type": "Whitespace" }), cls, none),
        with_split.to_string().into_bytes(),
    ]
}

fn trained(words: &str) -> Vec<u8> {
    let place = Place::new().expect("a folder");
    let path = place.path().join("tokenizer.json");
    let tokenizer = Tokenizer::train([words].into_iter(), 262).expect("a tokenizer");
    tokenizer.save(&path).expect("a folder that can be written");
    std::fs::read(path).expect("what was written")
}

fn config_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = vec![
        br#"{"eos_token": "<|endoftext|>", "bos_token": null, "add_prefix_space": false, "model_max_length": 2048,
            "tokenizer_class": "GPT2Tokenizer", "clean_up_tokenization_spaces": false}"#
            .to_vec(),
        br#"{"eos_token": {"content": "<|endoftext|>", "lstrip": false, "special": true}, "added_tokens_decoder":
            {"0": {"content": "<|endoftext|>", "lstrip": false, "normalized": false, "rstrip": false, "single_word":
            false, "special": true}}, "additional_special_tokens": ["<|endoftext|>"], "add_bos_token": false}"#
            .to_vec(),
    ];
    let template = ChatTemplate::Chatml.jinja();
    let templates =
        json!([{ "name": "default", "template": template }, { "name": "tool", "template": "x" }]);
    for chat_template in
        [template.into(), templates, "{{ bos_token }}{{ messages[0].content }}".into()]
    {
        seeds.push(
            json!({ "eos_token": "<|endoftext|>", "chat_template": chat_template })
                .to_string()
                .into_bytes(),
        );
    }
    seeds
}

fn tokenizer_config(place: &Place) -> Runner {
    let path = place.file("tokenizer.json", &trained("tea te ea"));
    let dir = place.path().to_path_buf();
    Box::new(move |bytes| {
        write(&dir.join("tokenizer_config.json"), bytes);
        let template = JinjaTemplate::load(&dir, None);
        match used(&path) {
            Outcome::Refused => Outcome::from(template),
            outcome => outcome,
        }
    })
}

/// A trained tokenizer of the kind `gpt2`, and a hand-made one of the kind `llama`.
fn gguf_seeds() -> Vec<Vec<u8>> {
    let place = Place::new().expect("a folder");
    let tokenizer = Tokenizer::train(["tea te ea"].into_iter(), 262).expect("a tokenizer");
    let path = place.path().join("tokenizer.gguf");
    let mut writer = GgufWriter::default();
    let n = tokenizer.vocab_size();
    let template = ChatTemplate::Chatml.jinja();
    for (key, value) in tokenizer.gguf_metadata(n, Some(template)).expect("byte-level BPE") {
        writer.value(&key, value);
    }
    writer.write(&path).expect("a folder that can be written");
    let byte_level = std::fs::read(&path).expect("what was written");

    let mut tokens: Vec<String> = ["<pad>", "<eos>", "<bos>", "<unk>"].map(Into::into).into();
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    let n_special = tokens.len();
    tokens.extend(["\u{2581}t", "te", "tea", "\u{2581}", "t", "e", "a", "\n"].map(String::from));
    let mut types = vec![1_i32; tokens.len()];
    types[..4].fill(3);
    types[4..n_special].fill(6);
    let score = |id: usize| if id < n_special { -1000.0 } else { -((id - n_special) as f32) };
    let scores: Vec<f32> = (0..tokens.len()).map(score).collect();
    let mut writer = GgufWriter::default();
    writer.value("tokenizer.ggml.model", "llama");
    writer.value("tokenizer.ggml.pre", "default");
    writer.value("tokenizer.ggml.tokens", tokens);
    writer.value("tokenizer.ggml.token_type", types);
    writer.value("tokenizer.ggml.scores", scores);
    for (key, id) in [("bos", 2_u32), ("eos", 1), ("unknown", 3), ("padding", 0)] {
        writer.value(&format!("tokenizer.ggml.{key}_token_id"), id);
    }
    writer.value("tokenizer.ggml.add_space_prefix", false);
    writer.write(&path).expect("a folder that can be written");
    vec![byte_level, std::fs::read(&path).expect("what was written")]
}

fn all(tokenizer: &RewardTokenizer) -> mopo_eval::Result<()> {
    for text in TEXTS {
        tokenizer.encode(text, None)?;
        tokenizer.encode(text, Some("Yes."))?;
    }
    Ok(())
}

/// Either file of the two: a vocabulary begins with a brace.
fn vocab(place: &Place) -> Runner {
    let vocab = include_bytes!("../../../mopo-eval/tests/reward/fixtures/gpt2-shards/vocab.json");
    let merges = include_bytes!("../../../mopo-eval/tests/reward/fixtures/gpt2-shards/merges.txt");
    let dir = place.path().to_path_buf();
    Box::new(move |bytes| {
        let is_vocab = bytes.first() == Some(&b'{');
        write(&dir.join("vocab.json"), if is_vocab { bytes } else { vocab });
        write(&dir.join("merges.txt"), if is_vocab { merges } else { bytes });
        RewardTokenizer::load(&dir, "gpt2", 16, TruncationSide::Left)
            .and_then(|tokenizer| all(&tokenizer))
            .into()
    })
}
