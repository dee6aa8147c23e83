//! Errors in a directory, a setting or a text name it, with a remedy.

use std::fs;
use std::path::Path;

use mopo_eval::Reward;
use mopo_eval::reward::{Label, ModelReward, ModelSpec, RewardTokenizer, local_directory};
use mopo_lm::Pooling;
use serde_json::{Value, json};

use super::{B, fixture, load, spec, told};

/// A copy of a fixture, to be damaged.
fn copy(model: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(model)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn settings(model: &str) -> ModelSpec {
    told(model).swap_remove(0).settings
}

fn refusal(settings: &ModelSpec, dir: &Path) -> String {
    let spec = spec(settings, dir);
    ModelReward::<B>::load(&spec, &local_directory, &Default::default()).unwrap_err().to_string()
}

#[track_caller]
fn says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "no `{word}` in: {error}");
    }
}

fn edit(dir: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn settings_that_do_not_fit_the_model() {
    let mut bad = settings("bart");
    bad.label = Some(Label::Index(2));
    says(&refusal(&bad, &fixture("bart")), &["`label` is 2", "0 (A), 1 (B)"]);
    bad.label = Some(Label::Name("FUNNY".into()));
    says(&refusal(&bad, &fixture("bart-bin-shards")), &["`FUNNY`", "1 (FAITHFUL)"]);
    let mut bad = settings("gpt2");
    bad.max_length = Some(129);
    says(&refusal(&bad, &fixture("gpt2")), &["`max_length` is 129", "128"]);
    bad = settings("gpt2");
    bad.pooling = Some(Pooling::Cls);
    says(&refusal(&bad, &fixture("gpt2")), &["`pooling` is cls", "last_non_pad"]);
    bad = settings("gpt2");
    bad.sign = Some(2);
    says(&refusal(&bad, &fixture("gpt2")), &["`sign` is 2", "1 or -1"]);
    bad = settings("gpt2");
    bad.text = Some("{prompt}".into());
    says(&refusal(&bad, &fixture("gpt2")), &["`text`", "{response}"]);
    bad = settings("bart");
    bad.max_length = Some(4);
    says(&refusal(&bad, &fixture("bart")), &["`max_length` is 4", "4 special tokens"]);
    bad = settings("gpt2");
    bad.truncation_side = None;
    says(&refusal(&bad, &fixture("gpt2")), &["`truncation_side` is missing", "reward.toml"]);
}

/// Sizes that no tensor in the file confirms are errors before memory is allocated for them, for
/// every architecture and key.
#[test]
fn absurd_sizes_are_refused() {
    let sizes = [
        ("gpt2", &["vocab_size", "n_embd", "n_inner", "n_layer", "n_head", "n_positions"][..]),
        (
            "distilbert",
            &["vocab_size", "dim", "hidden_dim", "n_layers", "n_heads", "max_position_embeddings"],
        ),
        (
            "bart",
            &[
                "vocab_size",
                "d_model",
                "encoder_layers",
                "decoder_layers",
                "encoder_ffn_dim",
                "decoder_ffn_dim",
                "encoder_attention_heads",
                "decoder_attention_heads",
                "max_position_embeddings",
            ],
        ),
    ];
    for (model, keys) in sizes {
        for key in keys.iter().chain(&["num_labels"]) {
            for size in
                [json!(4_000_000_000_u64), json!(1_000_000_000_000_u64), json!(1e30), json!(-1)]
            {
                let dir = copy(model);
                edit(dir.path(), "config.json", |config| {
                    config[*key] = size.clone();
                    // Labels with names are not counted.
                    if *key == "num_labels" {
                        config.as_object_mut().unwrap().remove("id2label");
                    }
                });
                let error = refusal(&settings(model), dir.path());
                assert!(
                    error.contains(dir.path().to_str().unwrap()),
                    "{model} {key} {size}: {error}"
                );
            }
        }
    }
    // The tensors that could refute a width are missing.
    let dir = copy("gpt2");
    edit(dir.path(), "config.json", |c| (c["n_embd"], c["n_head"]) = (json!(1 << 22), json!(1)));
    fs::copy(fixture("distilbert").join("model.safetensors"), dir.path().join("model.safetensors"))
        .unwrap();
    says(&refusal(&settings("gpt2"), dir.path()), &["lacks at least 1", "wte.weight"]);
}

#[test]
fn a_model_that_is_not_there_or_another_one() {
    says(&refusal(&settings("gpt2"), Path::new("/not/there")), &["/not/there", "download"]);
    let error = ModelReward::<B>::load(
        &ModelSpec::preset("hh-helpful"),
        &local_directory,
        &Default::default(),
    );
    says(
        &error.unwrap_err().to_string(),
        &["Ray2333/gpt2-large-helpful-reward_model", "config.json"],
    );

    let dir = copy("gpt2");
    edit(dir.path(), "config.json", |c| c["model_type"] = json!("opt"));
    says(
        &refusal(&settings("gpt2"), dir.path()),
        &["config.json", "`model_type` is \"opt\"", "gpt2, distilbert and bart", "llama"],
    );
    // A preset knows its architecture.
    let mut other = ModelSpec::preset("humor");
    other.max_length = Some(64);
    says(&refusal(&other, &fixture("gpt2")), &["`model_type` is gpt2", "`distilbert`"]);

    // A base model without a head.
    let dir = copy("gpt2");
    edit(dir.path(), "config.json", |c| c["n_layer"] = json!(3));
    says(&refusal(&settings("gpt2"), dir.path()), &["transformer.h.2.ln_1.weight", "lacks"]);
    edit(dir.path(), "config.json", |c| c["n_layer"] = json!(1));
    says(&refusal(&settings("gpt2"), dir.path()), &["transformer.h.1.", "does not use"]);
    edit(dir.path(), "config.json", |c| c["n_layer"] = json!(2));
    edit(dir.path(), "config.json", |c| c["n_embd"] = json!(28));
    says(&refusal(&settings("gpt2"), dir.path()), &["transformer.wte.weight", "24", "28"]);
    edit(dir.path(), "config.json", |c| c["n_head"] = json!(5));
    says(&refusal(&settings("gpt2"), dir.path()), &["`n_head` is 5", "divide"]);
    fs::remove_file(dir.path().join("config.json")).unwrap();
    says(&refusal(&settings("gpt2"), dir.path()), &["cannot read", "config.json"]);
}

#[test]
fn configurations_with_wrong_keys() {
    let dir = copy("bart");
    for (key, value, words) in [
        ("d_model", json!(0), ["`d_model` is 0", "from 1 to"]),
        ("vocab_size", json!("many"), ["`vocab_size`", "whole number"]),
        ("activation_function", json!("swish"), ["swish", "gelu"]),
        ("scale_embedding", json!(1), ["`scale_embedding` is 1", "true or false"]),
        ("normalize_before", json!(true), ["normalize_before", "not supported"]),
        ("id2label", json!({"0": "a", "2": "b"}), ["id2label", "each once"]),
        ("eos_token_id", json!("</s>"), ["eos_token_id", "token id"]),
    ] {
        let file = dir.path().join("config.json");
        let before = fs::read(&file).unwrap();
        edit(dir.path(), "config.json", |c| c[key] = value);
        says(&refusal(&settings("bart"), dir.path()), &["config.json", words[0], words[1]]);
        fs::write(&file, before).unwrap();
    }
    fs::write(dir.path().join("config.json"), b"{\"model_type\": \"b\xff\"}").unwrap();
    says(&refusal(&settings("bart"), dir.path()), &["config.json", "expected the config.json"]);
}

#[test]
fn sizes_that_no_file_confirms_are_refused_before_memory_is_allocated() {
    for (model, keys) in [
        ("gpt2", &["vocab_size", "n_positions", "n_embd", "n_layer", "n_inner"][..]),
        ("distilbert", &["vocab_size", "max_position_embeddings", "dim", "n_layers", "hidden_dim"]),
        (
            "bart",
            &[
                "vocab_size",
                "max_position_embeddings",
                "d_model",
                "encoder_layers",
                "decoder_layers",
                "encoder_ffn_dim",
                "decoder_ffn_dim",
            ],
        ),
    ] {
        for key in keys {
            for size in [1_u64 << 24, 10_000_000_000, 1_000_000_000_000, u64::MAX] {
                let dir = copy(model);
                edit(dir.path(), "config.json", |c| {
                    c[*key] = json!(size);
                    // One head, which divides every width.
                    for heads in
                        ["n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads"]
                    {
                        c[heads] = json!(1);
                    }
                });
                let error = refusal(&settings(model), dir.path());
                let named = error.contains(&format!("`{key}`"));
                assert!(named || error.contains("tensor") || error.contains("lacks"), "{error}");
            }
        }
        let dir = copy(model);
        edit(dir.path(), "config.json", |c| {
            c.as_object_mut().unwrap().remove("id2label");
            c["num_labels"] = json!(4_000_000_000_u64);
        });
        let error = refusal(&settings(model), dir.path());
        says(&error, &["config.json", "`num_labels` is 4000000000", "from 1 to 65536"]);
    }
}

#[test]
fn weights_that_are_missing_cut_or_not_numbers() {
    let dir = copy("gpt2-shards");
    fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).unwrap();
    says(
        &refusal(&settings("gpt2-shards"), dir.path()),
        &["model.safetensors.index.json", "model-00002-of-00003.safetensors", "fetch"],
    );
    let dir = copy("bart-bin-shards");
    fs::remove_file(dir.path().join("pytorch_model-00003-of-00003.bin")).unwrap();
    says(
        &refusal(&settings("bart-bin-shards"), dir.path()),
        &["pytorch_model.bin.index.json", "pytorch_model-00003-of-00003.bin", "fetch"],
    );
    let dir = copy("gpt2");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    says(&refusal(&settings("gpt2"), dir.path()), &["has no weights", "pytorch_model.bin"]);

    for (model, file) in [
        ("gpt2", "model.safetensors"),
        ("gpt2-shards", "model-00001-of-00003.safetensors"),
        ("distilbert-bin", "pytorch_model.bin"),
    ] {
        let whole = fs::read(fixture(model).join(file)).unwrap();
        for n in [0, 5, 100, whole.len() / 2, whole.len() - 1] {
            let dir = copy(model);
            fs::write(dir.path().join(file), &whole[..n]).unwrap();
            let error = refusal(&settings(model), dir.path());
            says(&error, &[file, &format!("({n} bytes)"), "download"]);
        }
    }

    for (bits, name) in [(f32::NAN, "a NaN"), (f32::NEG_INFINITY, "an infinity")] {
        let dir = copy("gpt2");
        let path = dir.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let n = bytes.len();
        bytes[n - 4..].copy_from_slice(&bits.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let error = refusal(&settings("gpt2"), dir.path());
        says(&error, &["model.safetensors", "tensor `", name, "download or train it again"]);
    }
}

#[test]
fn tokenizers_that_are_missing_or_broken() {
    let dir = copy("gpt2");
    fs::write(dir.path().join("tokenizer.json"), b"{\"model\": \xff}").unwrap();
    says(&refusal(&settings("gpt2"), dir.path()), &["tokenizer.json", "fetch"]);
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    says(&refusal(&settings("gpt2"), dir.path()), &["vocab.json", "tokenizer.json", "fetch"]);
    let dir = copy("bart");
    fs::write(dir.path().join("merges.txt"), "no merge\n").unwrap();
    says(&refusal(&settings("bart"), dir.path()), &["merges.txt", "fetch"]);
    fs::remove_file(dir.path().join("merges.txt")).unwrap();
    says(&refusal(&settings("bart"), dir.path()), &["merges.txt"]);
    let dir = copy("distilbert-bin");
    fs::remove_file(dir.path().join("vocab.txt")).unwrap();
    says(&refusal(&settings("distilbert-bin"), dir.path()), &["vocab.txt"]);

    // From another model: ids beyond the vocabulary.
    let dir = copy("distilbert");
    edit(dir.path(), "tokenizer.json", |t| {
        t["model"]["vocab"]["y"] = json!(1000);
    });
    let reward = load(&settings("distilbert"), dir.path());
    let error = reward.score("", "y").unwrap_err().to_string();
    says(&error, &["1000", "belongs to the model"]);
}

#[test]
fn texts_without_tokens_and_texts_of_very_many() {
    let reward = load(&settings("gpt2"), &fixture("gpt2"));
    let error = reward.score_batch(&[("", "a"), ("", "")]).unwrap_err().to_string();
    says(&error, &["`gpt2`", "text 1 has no tokens", "leave such texts out"]);
    // With special tokens around it there is something to classify, as in transformers.
    let with_ends = load(&settings("distilbert-bin"), &fixture("distilbert-bin"));
    assert!(with_ends.score("", "").unwrap().is_finite());

    assert!(reward.notes().is_empty());
    let long = "a b".repeat(100_000);
    let n = reward.tokenizer().encode(&long, None).unwrap();
    let whole =
        RewardTokenizer::load(fixture("gpt2"), "gpt2", 1 << 20, reward.settings().truncation_side);
    let n_all = whole.unwrap().encode(&long, None).unwrap().0.len();
    assert!(n_all >= 100_000);
    assert_eq!((n.0.len(), n.1), (128, n_all - 128));
    let score = reward.score("", &long).unwrap();
    assert_eq!(score, reward.score("", &long[..1000]).unwrap(), "the same 128 tokens");
    says(&reward.notes()[0], &["2 texts had more than 128 tokens", "end was cut off"]);
}

#[test]
fn another_files_content_is_another_fingerprint() {
    let print = |settings: &ModelSpec, dir: &Path| {
        spec(settings, dir).fingerprint(&local_directory).unwrap()
    };
    let plain = settings("bart-bin-shards");
    let (one, other) = (copy("bart-bin-shards"), copy("bart-bin-shards"));
    let first = print(&plain, one.path());
    assert_eq!(first, print(&plain, other.path()), "another place");
    let signed = ModelSpec { sign: Some(-1), ..plain.clone() };
    assert_ne!(first, print(&signed, one.path()));
    let files = ["config.json", "merges.txt", "vocab.json", "pytorch_model-00002-of-00003.bin"];
    for file in files {
        let path = other.path().join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b" "].concat()).unwrap();
        assert_ne!(first, print(&plain, other.path()), "{file}");
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(first, print(&plain, other.path()));
}
