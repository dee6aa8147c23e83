//! Models written as GGUF files and read back. Files that llama.cpp reads are tested with tokenizers, in
//! mopo-train.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mopo_hub::gguf::{GgufFile, TensorType};
use mopo_lm::{CausalLm, Decoder, LoadOptions, OutputLayer, export_gguf, merge};
use serde_json::{Value, json};

use crate::exports::heads;
use crate::{B, Case, cases, fixtures, logits_of};

/// Keys of a `config.json` with other values.
type Changes = &'static [(&'static str, Value)];

/// Fixtures that llama.cpp has no architecture for, the keys of `config.json` that say why, and values with which
/// it has one.
const CHANGES: [(&str, &str, Changes); 6] = [
    ("mistral", "sliding_window", &[("sliding_window", Value::Null)]),
    (
        "qwen2",
        "sliding_window",
        &[("use_sliding_window", Value::Bool(false)), ("layer_types", Value::Null)],
    ),
    ("gemma2", "model_type", &[]),
    ("gemma3", "layer_types", &[("layer_types", Value::Null)]),
    ("starcoder2", "model_type", &[]),
    ("phi3", "model_type", &[]),
];

fn load(place: &Path) -> CausalLm<B> {
    CausalLm::load(place, LoadOptions::f32(), &Default::default()).unwrap()
}

/// The fixture with other values in its `config.json`.
fn changed(name: &str, changes: &[(&str, Value)], dir: &Path) -> PathBuf {
    let (from, to) = (fixtures().join(name), dir.join(name));
    std::fs::create_dir_all(&to).unwrap();
    for file in std::fs::read_dir(&from).unwrap().map(|entry| entry.unwrap()) {
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let path = to.join("config.json");
    let mut config: Value = mopo_hub::read_json(&path, "").unwrap();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    mopo_hub::write_json(&path, &config).unwrap();
    to
}

/// The largest difference of logits, relative to the largest logit.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / largest);
    differences.fold(0.0, |max, x| if x.is_nan() { x } else { max.max(x) })
}

/// Writes a model in each type, reads it back and compares the logits.
fn check(name: &str, model: &CausalLm<B>, lm_head: Option<&OutputLayer<B>>, ids: &[Vec<u32>]) {
    use TensorType::*;
    let dir = tempfile::tempdir().unwrap();
    let own = model.lm_head();
    let expected = logits_of(model, None, lm_head.unwrap_or(&own), ids).concat();
    for (kind, tolerance) in [(F32, 1e-5), (F16, 3e-3), (Bf16, 3e-2), (Q8_0, 6e-2)] {
        let path = dir.path().join(format!("{kind}.gguf"));
        let counts = export_gguf(model, lm_head, kind, [], &path).unwrap();
        let back = load(&path);
        assert_eq!(back.shape().num_hidden_layers, model.shape().num_hidden_layers);
        assert_eq!(back.is_tied(), model.is_tied() && lm_head.is_none(), "{name}");
        let file = GgufFile::open(&path).unwrap();
        let mut found = BTreeMap::new();
        for tensor in file.tensors() {
            match tensor.shape.len() {
                1 => assert_eq!(tensor.tensor_type, F32, "{name}: {}", tensor.name),
                _ => *found.entry(tensor.tensor_type.name()).or_insert(0) += 1,
            }
        }
        assert_eq!(found, counts);
        let found = logits_of(&back, None, &back.lm_head(), ids).concat();
        let error = error(&found, &expected);
        println!("{name}, {kind}: logits differ by {error:.1e} of the largest; {counts:?}");
        assert!(error <= tolerance, "{name}, {kind}: {error:.1e}");
    }
}

#[test]
fn every_architecture_is_read_back_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    for case in cases().iter().filter(|case| case.name.ends_with("base")) {
        let name = case.name.split(',').next().unwrap();
        let ids = &case.told.sequences;
        let Some((_, field, changes)) = CHANGES.into_iter().find(|(other, ..)| *other == name)
        else {
            check(name, &case.model, None, ids);
            continue;
        };
        let path = dir.path().join("refused.gguf");
        let refused = export_gguf(&case.model, None, TensorType::F32, [], &path).unwrap_err();
        let refused = refused.to_string();
        assert!(refused.starts_with(&format!("`{field}` is ")), "{name}: {refused}");
        assert!(refused.contains("Hugging Face instead") && !path.exists(), "{refused}");
        if name == "gemma3" {
            let model = load(&changed(name, changes, dir.path()));
            let refused = export_gguf(&model, None, TensorType::F32, [], &path).unwrap_err();
            assert!(refused.to_string().contains("`query_pre_attn_scalar` is 5"), "{refused}");
            let scale = ("query_pre_attn_scalar", json!(8));
            let changes: Vec<_> = changes.iter().cloned().chain([scale]).collect();
            check(name, &load(&changed(name, &changes, dir.path())), None, ids);
        } else if !changes.is_empty() {
            check(name, &load(&changed(name, changes, dir.path())), None, ids);
        }
    }
}

#[test]
fn a_policy_is_written_with_its_head_and_its_adapter_merged() {
    let with_adapter = |case: &&Case| {
        let names = ["half, adapter", "llama3, adapter", "qwen3, adapter"];
        names.contains(&&*case.name)
    };
    let cases = cases();
    assert_eq!(cases.iter().filter(with_adapter).count(), 3);
    for case in cases.iter().filter(with_adapter) {
        let merged = merge(&case.model, case.adapter().unwrap()).unwrap();
        let heads = heads(&case.model);
        check(&case.name, &merged, Some(heads.get(1).unwrap()), &case.told.sequences);
    }
}
