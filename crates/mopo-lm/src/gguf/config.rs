//! The metadata of a GGUF file as the `config.json` that the same model has on Hugging Face.

use mopo_hub::gguf::{GgufFile, Metadata};
use serde_json::{Map, Value, json};

use crate::hub_config::HubConfig;
use crate::{Error, Result};

/// An architecture of llama.cpp, its `model_type` and its class in transformers.
pub(super) struct Architecture {
    pub(super) name: &'static str,
    pub(super) model_type: &'static str,
    class: &'static str,
}

pub(super) const ARCHITECTURES: [Architecture; 5] = [
    Architecture { name: "llama", model_type: "llama", class: "LlamaForCausalLM" },
    Architecture { name: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM" },
    Architecture { name: "qwen3", model_type: "qwen3", class: "Qwen3ForCausalLM" },
    Architecture { name: "gemma3", model_type: "gemma3_text", class: "Gemma3ForCausalLM" },
    Architecture { name: "phi2", model_type: "phi", class: "PhiForCausalLM" },
];

/// Whole numbers: their keys after the architecture's name, and in `config.json`.
const COUNTS: [(&str, &str); 7] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
];

/// Gemma 3's local blocks, of which a file says nothing.
const GEMMA_LOCAL_BASE: f64 = 10_000.0;
pub(super) const GEMMA_PATTERN: usize = 6;
/// Blocks of the largest model, which alone scales queries by its width per head instead of the
/// head's size.
pub(super) const GEMMA_LARGEST: u64 = 62;

/// The configuration of the model in a file.
///
/// # Errors
/// Another architecture; a key that is missing or of another type; features that are not supported.
pub(crate) fn config(file: &GgufFile) -> Result<HubConfig> {
    const ARCHITECTURE: &str = "general.architecture";
    let metadata = file.metadata();
    let name: &str = metadata.get(ARCHITECTURE)?;
    let Some(architecture) = ARCHITECTURES.iter().find(|a| a.name == name) else {
        let names = ARCHITECTURES.map(|a| a.name).join(", ");
        return Err(invalid(
            file,
            ARCHITECTURE,
            format!("{name:?}"),
            format!("only these architectures are supported: {names}"),
        ));
    };
    let keys = Keys { metadata, architecture: name };
    let mut json = Map::new();
    json.insert("model_type".into(), architecture.model_type.into());
    json.insert("architectures".into(), json!([architecture.class]));
    for (key, ours) in COUNTS {
        if let Some(n) = keys.count(key)? {
            json.insert(ours.into(), n.into());
        }
    }
    let tokens = file.find("token_embd.weight").map_or(0, |tensor| tensor.n_rows());
    json.insert("vocab_size".into(), tokens.into());
    let head_dim = json.get("head_dim").and_then(Value::as_u64).or_else(|| {
        let of = |key: &str| json.get(key).and_then(Value::as_u64);
        of("hidden_size")?.checked_div(of("num_attention_heads")?)
    });
    let rotated = keys.count("rope.dimension_count")?;
    if let (Some(dim), Some(rotated)) = (head_dim, rotated)
        && dim > 0
        && rotated as u64 != dim
    {
        json.insert("partial_rotary_factor".into(), (rotated as f64 / dim as f64).into());
    }
    let theta = keys.number("rope.freq_base")?;
    if let Some(theta) = theta {
        json.insert("rope_theta".into(), theta.into());
    }
    if let Some(scaling) = keys.scaling()? {
        json.insert("rope_scaling".into(), scaling);
    }
    match architecture.name {
        "phi2" => {
            // transformers would read grouped heads into it.
            json.remove("num_key_value_heads");
            if let Some(epsilon) = keys.number("attention.layer_norm_epsilon")? {
                json.insert("layer_norm_eps".into(), epsilon.into());
            }
            json.insert("hidden_act".into(), "gelu_new".into());
        }
        _ => {
            if let Some(epsilon) = keys.number("attention.layer_norm_rms_epsilon")? {
                json.insert("rms_norm_eps".into(), epsilon.into());
            }
            json.insert("tie_word_embeddings".into(), file.find("output.weight").is_none().into());
            let has_bias = |name: &str| file.find(&format!("blk.0.{name}.bias")).is_some();
            if architecture.name != "qwen2" {
                json.insert("attention_bias".into(), has_bias("attn_q").into());
            }
            if architecture.name == "llama" {
                json.insert("mlp_bias".into(), has_bias("ffn_up").into());
            }
        }
    }
    match architecture.name {
        "gemma3" => gemma(&keys, &mut json, head_dim)?,
        _ if keys.count("attention.sliding_window")?.is_some_and(|n| n > 0) => {
            return Err(invalid(
                file,
                &keys.name("attention.sliding_window"),
                "set".into(),
                "windows are supported for gemma3 only; take the model's Hugging Face directory"
                    .into(),
            ));
        }
        _ => {}
    }
    if file.find("rope_freqs.weight").is_some() {
        let factors = file.dequantise(file.find("rope_freqs.weight").expect("found"))?;
        let dim = head_dim.unwrap_or_default() as f64;
        let theta = theta.unwrap_or(10_000.0);
        json.insert("rope_scaling".into(), llama_3(file, &factors, theta, dim)?);
    }
    Ok(HubConfig::new(file.path(), json, "a GGUF file"))
}

fn gemma(keys: &Keys<'_>, json: &mut Map<String, Value>, head_dim: Option<u64>) -> Result<()> {
    if let Some(window) = keys.count("attention.sliding_window")? {
        json.insert("sliding_window".into(), window.into());
    }
    json.insert("sliding_window_pattern".into(), GEMMA_PATTERN.into());
    let local = keys.number("rope.freq_base_swa")?.unwrap_or(GEMMA_LOCAL_BASE);
    json.insert("rope_local_base_freq".into(), local.into());
    json.insert("hidden_activation".into(), "gelu_pytorch_tanh".into());
    for (key, ours) in [
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ] {
        if let Some(cap) = keys.number(key)? {
            json.insert(ours.into(), cap.into());
        }
    }
    let of = |key: &str| json.get(key).and_then(Value::as_u64);
    let scalar = match of("num_hidden_layers") {
        Some(GEMMA_LARGEST) => {
            of("hidden_size").zip(of("num_attention_heads")).and_then(|(d, n)| d.checked_div(n))
        }
        _ => head_dim,
    };
    if let Some(scalar) = scalar {
        json.insert("query_pre_attn_scalar".into(), scalar.into());
    }
    Ok(())
}

/// Files have the factor of each frequency of Llama 3's scaling, not its settings: these are the published
/// ones, with the original context (a power of two) that gives the same factors.
fn llama_3(file: &GgufFile, factors: &[f32], theta: f64, dim: f64) -> Result<Value> {
    const KEY: &str = "rope_freqs.weight";
    const PUBLISHED: u32 = 8192;
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let (low, high) = (1.0, 4.0);
    let fits = |context: &u32| {
        factors.len() as f64 == dim / 2.0
            && factors.iter().enumerate().all(|(j, found)| {
                let length = std::f64::consts::TAU * theta.powf(2.0 * j as f64 / dim);
                let smooth = ((f64::from(*context) / length - low) / (high - low)).clamp(0.0, 1.0);
                let expected = 1.0 / ((1.0 - smooth) / factor + smooth);
                (f64::from(*found) - expected).abs() <= 1e-4 * expected
            })
    };
    let others = (4..24).map(|power| 1 << power);
    let Some(context) = [PUBLISHED].into_iter().chain(others).find(fits) else {
        let expected = "its factors are not those of Llama 3's scaling with the published settings; take \
                        the model's Hugging Face directory";
        return Err(invalid(file, KEY, format!("{} factors", factors.len()), expected.into()));
    };
    Ok(json!({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }))
}

/// The keys of an architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        Ok(self.metadata.find(&self.name(key))?)
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.metadata.find::<f32>(&self.name(key))?.map(f64::from))
    }

    /// `rope.scaling` as the table of `config.json`.
    fn scaling(&self) -> Result<Option<Value>> {
        let kind: Option<&str> = self.metadata.find(&self.name("rope.scaling.type"))?;
        let Some(kind) = kind.filter(|kind| *kind != "none") else { return Ok(None) };
        let mut table = Map::new();
        table.insert("rope_type".into(), kind.into());
        for (key, ours) in [
            ("rope.scaling.factor", "factor"),
            ("rope.scaling.original_context_length", "original_max_position_embeddings"),
            ("rope.scaling.yarn_beta_fast", "beta_fast"),
            ("rope.scaling.yarn_beta_slow", "beta_slow"),
        ] {
            let value = match key.ends_with("length") {
                true => self.count(key)?.map(|n| n as f64),
                false => self.number(key)?,
            };
            if let Some(value) = value {
                table.insert(ours.into(), value.into());
            }
        }
        Ok(Some(table.into()))
    }
}

fn invalid(file: &GgufFile, field: &str, value: String, expected: String) -> Error {
    Error::GgufValue { path: file.path().into(), key: field.into(), value, expected }
}
