//! The metadata of a model as llama.cpp reads it: the counterpart of `config`.

use burn::tensor::backend::Backend;
use mopo_hub::gguf::Value;

use super::config::{ARCHITECTURES, GEMMA_LARGEST, GEMMA_PATTERN};
use super::names::Naming;
use crate::decoder::Architecture;
use crate::layers::{Rotary, Scaling};
use crate::serial::SerialConfig;
use crate::{Error, PhiConfig, Result};

/// What a file says of a model besides its weights.
pub(super) struct Description {
    pub(super) naming: Naming,
    /// Keys with the architecture's name before them.
    pub(super) values: Vec<(String, Value)>,
    /// `rope_freqs.weight`: what each frequency of the rotary embedding is divided by.
    pub(super) divisors: Option<Vec<f32>>,
}

/// Describes a model.
///
/// # Errors
/// [`Error::InvalidParameter`] for a family without an architecture, or a feature that its architecture lacks: the
/// key of `config.json` and its value.
pub(super) fn describe<B: Backend>(model: &Architecture<B>) -> Result<Description> {
    match model {
        Architecture::Phi(phi) => Ok(phi_2(&phi.config)),
        Architecture::Serial(model) => serial(model.config()),
    }
}

/// Keys of one architecture.
struct Keys {
    architecture: &'static str,
    values: Vec<(String, Value)>,
}

impl Keys {
    fn add(&mut self, key: &str, value: impl Into<Value>) {
        self.values.push((format!("{}.{key}", self.architecture), value.into()));
    }

    fn add_counts<const N: usize>(&mut self, counts: [(&str, usize); N]) {
        for (key, n) in counts {
            self.add(key, n as u32);
        }
    }

    fn described(self, heads: [usize; 2], divisors: Option<Vec<f32>>) -> Description {
        let naming = Naming { architecture: self.architecture.into(), heads };
        Description { naming, values: self.values, divisors }
    }
}

fn phi_2(config: &PhiConfig) -> Description {
    let mut keys = Keys { architecture: "phi2", values: vec![] };
    let heads = config.num_attention_heads;
    keys.add_counts([
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("block_count", config.num_hidden_layers),
        ("attention.head_count", heads),
        ("attention.head_count_kv", heads),
        ("rope.dimension_count", config.rotary_dim()),
    ]);
    keys.add("attention.layer_norm_epsilon", config.layer_norm_eps as f32);
    keys.add("rope.freq_base", config.rope_theta as f32);
    keys.described([heads; 2], None)
}

/// An error about a feature that the file could not express.
fn refused(field: &'static str, value: impl ToString, why: &str) -> Error {
    let expected = format!("{why}; export the model in the layout of Hugging Face instead");
    Error::InvalidParameter { field, value: value.to_string(), expected }
}

fn serial(config: &SerialConfig) -> Result<Description> {
    let family = config.hub.get("model_type").and_then(|name| name.as_str()).unwrap_or_default();
    // Without a window, Mistral's blocks are Llama's.
    let model_type = if family == "mistral" { "llama" } else { family };
    let Some(known) = ARCHITECTURES.iter().find(|known| known.model_type == model_type) else {
        let families = ARCHITECTURES.map(|known| known.model_type).join(", ");
        let why = format!("GGUF files are written for {families} and mistral without a window");
        return Err(refused("model_type", format!("{family:?}"), &why));
    };
    let is_gemma = model_type == "gemma3_text";
    check_biases(config, model_type)?;
    let mut keys = Keys { architecture: known.name, values: vec![] };
    let (dim, heads) = (config.head_dim, [config.heads.queries, config.heads.keys]);
    keys.add_counts([
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("block_count", config.layers.len()),
        ("attention.head_count", heads[0]),
        ("attention.head_count_kv", heads[1]),
        ("attention.key_length", dim),
        ("attention.value_length", dim),
        ("rope.dimension_count", dim),
    ]);
    keys.add("attention.layer_norm_rms_epsilon", config.epsilon as f32);
    let rotary = &config.rotaries[0];
    keys.add("rope.freq_base", rotary.theta() as f32);
    if config.rotaries.iter().any(|rotary| rotary.rotated() != dim) {
        let why = "llama.cpp rotates whole heads in this architecture";
        return Err(refused("partial_rotary_factor", rotary.rotated() as f64 / dim as f64, why));
    }
    let windows = config.layers.iter().filter_map(|layer| layer.window);
    match windows.max() {
        _ if is_gemma => gemma(config, &mut keys)?,
        Some(window) => {
            let why = "llama.cpp has no windows in this architecture";
            return Err(refused("sliding_window", window, why));
        }
        None => {}
    }
    let divisors = scaling(rotary, &mut keys)?;
    Ok(keys.described(heads, divisors))
}

/// Refuses biases for which the architecture has no tensors.
fn check_biases(config: &SerialConfig, model_type: &str) -> Result<()> {
    let [inner, outer] = config.attention_biases;
    let fits = match model_type {
        "llama" => true,
        "qwen2" => inner && !outer,
        _ => !inner && !outer,
    };
    if !fits {
        return Err(refused(
            "attention_bias",
            inner || outer,
            "llama.cpp has no such biases in this architecture",
        ));
    }
    Ok(())
}

/// What only Gemma has: windows, two rotary embeddings, the scale of queries.
fn gemma(config: &SerialConfig, keys: &mut Keys) -> Result<()> {
    let is_local = |i: usize| !(i + 1).is_multiple_of(GEMMA_PATTERN);
    let windows: Vec<bool> = config.layers.iter().map(|layer| layer.window.is_some()).collect();
    if windows.iter().enumerate().any(|(i, has_window)| *has_window != is_local(i)) {
        let kinds = windows.iter().map(|has_window| if *has_window { "sliding" } else { "full" });
        let kinds: Vec<&str> = kinds.collect();
        let why = "llama.cpp takes every sixth block as global and the others as local";
        return Err(refused("layer_types", kinds.join(", "), why));
    }
    if let Some(cap) = config.output_soft_cap {
        let why = "llama.cpp does not cap logits in this architecture";
        return Err(refused("final_logit_softcapping", cap, why));
    }
    let scaled_by = match config.layers.len() as u64 {
        GEMMA_LARGEST => config.hidden_size / config.heads.queries,
        _ => config.head_dim,
    };
    let scale = f64::from(config.heads.scale.unwrap_or(1.0));
    if (scale * (scaled_by as f64).sqrt() - 1.0).abs() > 1e-5 {
        let why = format!("llama.cpp scales queries by {scaled_by}^-½ in a model of this size");
        return Err(refused("query_pre_attn_scalar", scale.powi(-2), &why));
    }
    if let Some(window) = config.layers.iter().find_map(|layer| layer.window) {
        keys.add("attention.sliding_window", window as u32);
    }
    keys.add("rope.freq_base_swa", config.rotaries[1].theta() as f32);
    Ok(())
}

/// Adds the scaling of the rotary embedding (in Gemma, that of its global blocks); returns the divisors of its
/// frequencies if they are a tensor.
fn scaling(rotary: &Rotary, keys: &mut Keys) -> Result<Option<Vec<f32>>> {
    const FIELD: &str = "rope_scaling";
    let architecture = keys.architecture;
    match rotary.scaling() {
        Scaling::None => {}
        Scaling::Linear(factor) => {
            keys.add("rope.scaling.type", "linear");
            keys.add("rope.scaling.factor", factor as f32);
        }
        Scaling::Llama3 if architecture == "llama" => return Ok(Some(rotary.divisors())),
        Scaling::Llama3 => {
            let why = "llama.cpp has it in the architecture `llama` only";
            return Err(refused(FIELD, "\"llama3\"", why));
        }
        Scaling::Yarn { is_plain: false, .. } => {
            let why =
                "llama.cpp computes `attention_factor` and the rounded ends of its ramp itself";
            return Err(refused(FIELD, "\"yarn\" with settings of its own", why));
        }
        Scaling::Yarn { .. } if architecture == "gemma3" => {
            let why = "llama.cpp would apply it in local blocks too";
            return Err(refused(FIELD, "\"yarn\"", why));
        }
        Scaling::Yarn { factor, context, fast, slow, .. } => {
            keys.add("rope.scaling.type", "yarn");
            keys.add("rope.scaling.factor", factor as f32);
            keys.add("rope.scaling.original_context_length", context as u32);
            keys.add("rope.scaling.yarn_beta_fast", fast as f32);
            keys.add("rope.scaling.yarn_beta_slow", slow as f32);
        }
    }
    Ok(None)
}
