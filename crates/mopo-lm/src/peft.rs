//! An adapter as a directory in the layout of PEFT: `adapter_config.json` and
//! `adapter_model.safetensors`. The rest of a policy is in `adapter`.

use std::path::Path;

use burn::tensor::backend::Backend;
use indexmap::IndexMap;
use mopo_hub::{TensorFiles, TensorWriter};
use serde::Deserialize;

use crate::lora::module_name;
use crate::{DecoderShape, Error, LoraAdapter, LoraConfig, Result, TargetModules};

pub(crate) const TENSORS: &str = "adapter_model.safetensors";
pub(crate) const CONFIG: &str = "adapter_config.json";

/// The keys of `adapter_config.json` that are honoured; for the others see [`NEUTRAL`].
#[derive(Deserialize)]
struct Stored {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    target_modules: TargetModules,
    rank_pattern: Option<IndexMap<String, usize>>,
    alpha_pattern: Option<IndexMap<String, f64>>,
    #[serde(default)]
    use_rslora: bool,
}

/// Keys that do not affect how the adapter's tensors are used: where it came from, how it was
/// initialised and trained, and settings of features that another key switches on. Any other key
/// that is not honoured must be off: absent, null, false or empty.
const NEUTRAL: [&str; 26] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// Initialisations that change the base model too, so that the adapter does not fit the published
/// base.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "loftq", "corda", "lora_ga"];

/// Whether a model directory has an adapter beside its weights.
pub fn has_adapter(dir: &Path) -> bool {
    dir.join(CONFIG).exists()
}

/// Loads an adapter for a model of this shape, written by PEFT or [`save_adapter`]; the
/// parameters are trainable. Dropout is the file's.
///
/// # Errors
/// Names the file and the key: not LoRA, an unsupported target layer or feature; or missing,
/// unexpected or misshapen tensors, by name.
pub fn load_adapter<B: Backend>(
    dir: impl AsRef<Path>,
    model: &DecoderShape,
    device: &B::Device,
) -> Result<(LoraAdapter<B>, LoraConfig)> {
    let dir = dir.as_ref();
    let lora = read_config(dir)?;
    let adapter = read_tensors(dir, &lora, model, device)?;
    Ok((adapter, lora))
}

/// The settings of `adapter_config.json`.
///
/// # Errors
/// Names the file and the key: not LoRA, an unsupported target layer or feature.
pub(crate) fn read_config(dir: &Path) -> Result<LoraConfig> {
    let path = dir.join(CONFIG);
    const EXPECTED: &str = "the adapter_config.json of a LoRA adapter";
    let json: serde_json::Value = mopo_hub::read_json(&path, EXPECTED)?;
    supported(&json).map_err(|e| Error::InFile { path: path.clone(), source: e.into() })?;
    // From the text, which has the patterns in their order: the first one that matches counts.
    let stored: Stored = mopo_hub::read_json(&path, EXPECTED)?;
    stored.lora().map_err(|e| Error::InFile { path, source: e.into() })
}

/// Writes an adapter of a model of this shape as PEFT does to `dir`, which is created if needed.
///
/// # Errors
/// `lora` does not match the adapter; a file cannot be written.
pub fn save_adapter<B: Backend>(
    adapter: &LoraAdapter<B>,
    model: &DecoderShape,
    lora: &LoraConfig,
    dir: impl AsRef<Path>,
) -> Result<()> {
    lora.check()?;
    let updates = lora.updates(model)?;
    let fits = |(pairs, updates): (&crate::LoraLayer<B>, &Vec<_>)| {
        let pairs = pairs.pairs.iter().map(Option::is_some);
        pairs.eq(updates.iter().map(Option::is_some))
    };
    let same_depth = adapter.layers.len() == updates.len();
    if !(same_depth && adapter.layers.iter().zip(&updates).all(fits)) {
        return Err(Error::InvalidParameter {
            field: "lora.target_modules",
            value: lora.target_modules.to_string(),
            expected: "it must be the configuration that the adapter was made with".into(),
        });
    }
    let dir = dir.as_ref();
    mopo_hub::create_dir(dir)?;
    let mut out = TensorWriter::default().finite_only();
    for (i, layer) in adapter.layers.iter().enumerate() {
        for (pair, linear) in layer.pairs.iter().zip(&model.linears) {
            let Some(pair) = pair else { continue };
            out.transposed(&tensor_name(i, &linear.path, "A"), pair.a.val());
            out.transposed(&tensor_name(i, &linear.path, "B"), pair.b.val());
        }
    }
    out.write(&dir.join(TENSORS))?;
    let json = serde_json::json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none",
        "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout,
        "target_modules": lora.target_modules.listed(model), "inference_mode": true,
        "rank_pattern": lora.rank_pattern, "alpha_pattern": lora.alpha_pattern,
        "use_rslora": lora.use_rslora,
    });
    Ok(mopo_hub::write_json(&dir.join(CONFIG), &json)?)
}

/// The tensors of an adapter of that size.
pub(crate) fn read_tensors<B: Backend>(
    dir: &Path,
    lora: &LoraConfig,
    model: &DecoderShape,
    device: &B::Device,
) -> Result<LoraAdapter<B>> {
    let path = dir.join(TENSORS);
    let mut files = TensorFiles::open(&path)?;
    let adapter = lora.build(model, |i, path, [d_in, rank, d_out]| {
        let a = files.transposed(&tensor_name(i, path, "A"), [d_in, rank], false, device)?;
        let b = files.transposed(&tensor_name(i, path, "B"), [rank, d_out], false, device)?;
        Ok((a, b))
    })?;
    files.finish()?;
    Ok(adapter)
}

fn tensor_name(block: usize, path: &str, matrix: &str) -> String {
    format!("base_model.model.{}.lora_{matrix}.weight", module_name(block, path))
}

/// Refuses keys that would change the model's results if they were ignored.
fn supported(json: &serde_json::Value) -> Result<()> {
    let refuse = |field: &str, value: &serde_json::Value, expected: &str| {
        Err(Error::AdapterKey {
            key: field.into(),
            value: value.to_string(),
            expected: expected.into(),
        })
    };
    let value = |key: &str| json.get(key).unwrap_or(&serde_json::Value::Null);
    let kind = value("peft_type");
    if kind != "LORA" {
        return refuse("peft_type", kind, "only \"LORA\" is supported");
    }
    let bias = value("bias");
    if !bias.is_null() && bias != "none" {
        return refuse("bias", bias, "trained biases are not supported: use \"none\"");
    }
    let init = value("init_lora_weights");
    if let Some(name) = init.as_str().map(|name| name.to_lowercase())
        && CHANGES_BASE.iter().any(|start| name.starts_with(start))
    {
        let expected = "it changes the base model; let PEFT convert the adapter to plain LoRA";
        return refuse("init_lora_weights", init, expected);
    }
    for (key, value) in json.as_object().into_iter().flatten() {
        let is_off = match value {
            serde_json::Value::Null | serde_json::Value::Bool(false) => true,
            serde_json::Value::Array(list) => list.is_empty(),
            serde_json::Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !is_off && !NEUTRAL.contains(&key.as_str()) {
            return refuse(key, value, "this is not supported; train the adapter without it");
        }
    }
    Ok(())
}

impl Stored {
    fn lora(self) -> Result<LoraConfig> {
        let lora = LoraConfig {
            rank: self.r,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
            target_modules: self.target_modules,
            rank_pattern: self.rank_pattern.unwrap_or_default(),
            alpha_pattern: self.alpha_pattern.unwrap_or_default(),
            use_rslora: self.use_rslora,
        };
        lora.check()?;
        Ok(lora)
    }
}

#[cfg(test)]
mod tests {
    use mopo_testkit::TestBackend;
    use serde_json::json;

    use super::*;
    use crate::{Decoder, fixtures};

    type B = TestBackend;

    #[test]
    fn a_saved_adapter_loads_with_its_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let base = fixtures::base::<B>(1);
        let params = fixtures::policies(&base, 1, 2);
        save_adapter(params.adapter(0), &base.shape(), &fixtures::lora(), dir.path()).unwrap();
        let (loaded, lora) =
            load_adapter::<B>(dir.path(), &base.shape(), &Default::default()).unwrap();
        let target_modules =
            TargetModules::names(["dense", "fc1", "fc2", "k_proj", "q_proj", "v_proj"]);
        assert_eq!(lora, LoraConfig { target_modules, ..fixtures::lora() });
        for (a, b) in params.adapters[0].layers.iter().zip(&loaded.layers) {
            for (a, b) in a.pairs.iter().flatten().zip(b.pairs.iter().flatten()) {
                let all = |pair: &crate::LoraPair<B>| {
                    let [a, b] = [&pair.a, &pair.b].map(|x| fixtures::values(x.val()));
                    ([a, b].concat(), pair.scale)
                };
                assert_eq!(all(a), all(b));
            }
        }
    }

    #[test]
    fn what_would_change_the_results_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let base = fixtures::base::<B>(1);
        let params = fixtures::policies(&base, 1, 2);
        save_adapter(params.adapter(0), &base.shape(), &fixtures::lora(), dir.path()).unwrap();
        let path = dir.path().join(CONFIG);
        let whole: serde_json::Value = mopo_hub::read_json(&path, "").unwrap();
        let load_with = |changes: serde_json::Value| {
            let mut json = whole.clone();
            for (key, value) in changes.as_object().unwrap() {
                json[key] = value.clone();
            }
            mopo_hub::write_json(&path, &json).unwrap();
            load_adapter::<B>(dir.path(), &base.shape(), &Default::default())
        };
        for (key, value) in [
            ("peft_type", json!("IA3")),
            ("bias", json!("all")),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("use_dora", json!(true)),
            ("rank_pattern", json!({ "fc1": 0 })),
            ("modules_to_save", json!(["lm_head"])),
            ("layers_to_transform", json!(0)),
            ("alpha_pattern", json!({ "fc1": -2 })),
            ("fan_in_fan_out", json!(true)),
            ("lora_bias", json!(true)),
            ("exclude_modules", json!(["fc1"])),
            ("trainable_token_indices", json!([0])),
            ("bias", json!("lora_only")),
            // From some future version of PEFT.
            ("use_something_new", json!(true)),
            ("something_new", json!("on")),
            ("lora_alpha", json!(-1.0)),
            ("lora_alpha", json!("16")),
            ("target_modules", json!(["q_proj", "lm_head"])),
            ("target_modules", json!("no_such_layer")),
            ("r", json!(0)),
            ("r", json!(3)),
        ] {
            let error = match load_with(json!({ key: value })) {
                Ok(_) => panic!("{key}: it loaded"),
                Err(e) => e.to_string(),
            };
            let words = match (key, value.as_u64(), value.is_string()) {
                ("r", Some(0), _) => "lora.rank",
                ("lora_alpha", _, true) => "adapter_config.json",
                ("lora_alpha", ..) => "lora.alpha",
                ("r", ..) => "lora_A.weight` has shape [4, 24]",
                _ => key,
            };
            assert!(error.contains(words), "{error}");
        }
        let (_, lora) = load_with(json!({
            "use_rslora": true, "rank_pattern": {}, "modules_to_save": null,
            "init_lora_weights": "gaussian", "peft_version": "0.21.0", "megatron_core": "megatron.core",
            "loftq_config": {}, "qalora_group_size": 16, "something_new": false,
            "target_modules": ["fc2", "mlp.fc2", "q_proj", "k_proj", "v_proj", "dense", "fc1"],
        }))
        .unwrap();
        assert!(lora.use_rslora && lora.alpha == 6.0);
        for (target_modules, rank_pattern) in
            [(json!("all-linear"), json!(null)), (json!(r".*"), json!({}))]
        {
            let changes = json!({ "target_modules": target_modules, "rank_pattern": rank_pattern });
            load_with(changes).unwrap();
        }
    }
}
