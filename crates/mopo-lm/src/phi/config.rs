//! phi's configuration, read from Hugging Face's `config.json` and checked. Not the weights.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::decoder::{DecoderShape, LinearShape};
use crate::hub_config::{
    HubConfig, MAX_LAYERS, MAX_PARAMS, MAX_POSITIONS, MAX_VOCABULARY, MAX_WIDTH,
};
use crate::{Error, Result};

/// The shape of a phi model. Field names are those of Hugging Face's `config.json`; other keys of
/// that file are ignored unless they ask for an unsupported feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhiConfig {
    /// Size of the vocabulary: rows of the embedding and outputs of the output layer.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// The fraction of each head that is rotated, in (0, 1]. Default 0.5.
    #[serde(default = "default_partial_rotary_factor")]
    pub partial_rotary_factor: f64,
    /// The base of the rotary frequencies. Default 10 000.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    /// Maximum length of a sequence, in tokens. Default 2048.
    #[serde(default = "default_max_position_embeddings")]
    pub max_position_embeddings: usize,
    /// Added to the variance in LayerNorm. Default 1e-5.
    #[serde(default = "default_layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Standard deviation of fresh weights. Default 0.02.
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f64,
}

fn default_partial_rotary_factor() -> f64 {
    0.5
}
fn default_rope_theta() -> f64 {
    10_000.0
}
fn default_max_position_embeddings() -> usize {
    2048
}
fn default_layer_norm_eps() -> f64 {
    1e-5
}
fn default_initializer_range() -> f64 {
    0.02
}

/// The fields, and whether they are whole numbers.
const NUMBERS: [(&str, bool); 10] = [
    ("vocab_size", true),
    ("hidden_size", true),
    ("intermediate_size", true),
    ("num_hidden_layers", true),
    ("num_attention_heads", true),
    ("partial_rotary_factor", false),
    ("rope_theta", false),
    ("max_position_embeddings", true),
    ("layer_norm_eps", false),
    ("initializer_range", false),
];

/// The same error, naming the file.
fn in_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Hub(mopo_hub::Error::Json { reason, expected, .. }) => {
            mopo_hub::Error::Json { path: path.into(), reason, expected }.into()
        }
        error => Error::InFile { path: path.into(), source: Box::new(error) },
    }
}

impl PhiConfig {
    /// The published phi-1.5, with 1.4 billion parameters.
    pub fn phi_1_5() -> Self {
        Self {
            vocab_size: 51_200,
            hidden_size: 2048,
            intermediate_size: 8192,
            num_hidden_layers: 24,
            num_attention_heads: 32,
            partial_rotary_factor: default_partial_rotary_factor(),
            rope_theta: default_rope_theta(),
            max_position_embeddings: default_max_position_embeddings(),
            layer_norm_eps: default_layer_norm_eps(),
            initializer_range: default_initializer_range(),
        }
    }

    /// Reads and checks a Hugging Face `config.json`.
    ///
    /// # Errors
    /// Names the file and the key: it cannot be read, is not JSON, has another `model_type`, lacks
    /// a key, has a value that [`check`](Self::check) refuses, or asks for an unsupported feature.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let json: serde_json::Value = mopo_hub::read_json(path, "the config.json of a phi model")?;
        Self::from_hub(json).map_err(|e| in_file(path, e))
    }

    /// From a configuration that has been read.
    pub(crate) fn from_config(config: &HubConfig) -> Result<Self> {
        Self::from_hub(config.json().clone().into()).map_err(|e| in_file(config.path(), e))
    }

    fn from_hub(mut json: serde_json::Value) -> Result<Self> {
        // Features of transformers that are not supported, with the values that leave them off.
        const FIXED: [(&str, &[&str], &str); 6] = [
            ("model_type", &["\"phi\""], "only `phi` models are supported"),
            ("hidden_act", &["\"gelu_new\"", "null"], "only `gelu_new` is supported"),
            ("qk_layernorm", &["false", "null"], "LayerNorm on queries and keys is not supported"),
            ("tie_word_embeddings", &["false", "null"], "tied embeddings are not supported"),
            ("rope_scaling", &["null"], "scaled rotary embeddings are not supported"),
            ("quantization_config", &["null"], "only weights in f32, f16 and bf16 are supported"),
        ];
        for (field, accepted, expected) in FIXED {
            let value = json.get(field).map(|v| v.to_string());
            match value {
                None if field == "model_type" => return Err(missing("model_type")),
                Some(value) if !accepted.contains(&value.as_str()) => {
                    return Err(Error::InvalidParameter {
                        field,
                        value,
                        expected: expected.into(),
                    });
                }
                _ => {}
            }
        }
        let kv_heads = json.get("num_key_value_heads").filter(|v| !v.is_null());
        if let Some(kv_heads) = kv_heads
            && json.get("num_attention_heads") != Some(kv_heads)
        {
            return Err(Error::InvalidParameter {
                field: "num_key_value_heads",
                value: kv_heads.to_string(),
                expected: "it must equal `num_attention_heads`: grouped-query attention is not \
                           supported"
                    .into(),
            });
        }
        // Newer versions of transformers keep the rotary settings in a table of their own.
        if let Some(rope) = json.get("rope_parameters").filter(|rope| !rope.is_null()).cloned() {
            if !rope.is_object() {
                return Err(Error::InvalidParameter {
                    field: "rope_parameters",
                    value: rope.to_string(),
                    expected: "it must be a table".into(),
                });
            }
            let kind = rope.get("rope_type").and_then(|v| v.as_str()).unwrap_or("default");
            if kind != "default" {
                return Err(Error::InvalidParameter {
                    field: "rope_parameters.rope_type",
                    value: kind.into(),
                    expected: "only `default` is supported".into(),
                });
            }
            for key in ["rope_theta", "partial_rotary_factor"] {
                if let Some(value) = rope.get(key) {
                    json[key] = value.clone();
                }
            }
        }
        for (field, is_whole) in NUMBERS {
            let value = json.get(field).unwrap_or(&serde_json::Value::Null);
            let (fits, expected) = match is_whole {
                true => (value.is_u64(), "it must be a whole number of at least 1"),
                false => (value.is_number(), "it must be a number"),
            };
            if !value.is_null() && !fits {
                let (value, expected) = (value.to_string(), expected.into());
                return Err(Error::InvalidParameter { field, value, expected });
            }
        }
        let head_dim = json.get("head_dim").filter(|value| !value.is_null()).cloned();
        let config: Self = serde_json::from_value(json).map_err(|e| mopo_hub::Error::Json {
            path: Default::default(),
            reason: e.to_string(),
            expected: "the config.json of a phi model",
        })?;
        config.check()?;
        if let Some(value) = head_dim
            && value != config.head_dim()
        {
            return Err(Error::InvalidParameter {
                field: "head_dim",
                value: value.to_string(),
                expected: format!(
                    "it must be `hidden_size` / `num_attention_heads`, {}",
                    config.head_dim()
                ),
            });
        }
        Ok(config)
    }

    /// The keys that transformers needs to load the model.
    pub(crate) fn to_hub(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).expect("plain numbers");
        for (key, value) in [
            ("architectures", serde_json::json!(["PhiForCausalLM"])),
            ("model_type", "phi".into()),
            ("hidden_act", "gelu_new".into()),
            ("qk_layernorm", false.into()),
            ("tie_word_embeddings", false.into()),
            ("attention_dropout", 0.0.into()),
            ("embd_pdrop", 0.0.into()),
            ("resid_pdrop", 0.0.into()),
            ("torch_dtype", "float32".into()),
            // If these are absent, transformers assumes 1 and 2.
            ("bos_token_id", serde_json::Value::Null),
            ("eos_token_id", serde_json::Value::Null),
        ] {
            json[key] = value;
        }
        json
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first invalid field.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, value: String, expected: &str| {
            Err(Error::InvalidParameter { field, value, expected: expected.into() })
        };
        for (field, value, most) in [
            ("vocab_size", self.vocab_size, MAX_VOCABULARY),
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_WIDTH),
            ("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS),
        ] {
            if value == 0 {
                return refuse(field, "0".into(), "it must be at least 1");
            }
            if value > most {
                return refuse(field, value.to_string(), &format!("it must be at most {most}"));
            }
        }
        if self.exact_num_params() > MAX_PARAMS {
            return refuse(
                "hidden_size",
                self.hidden_size.to_string(),
                &format!(
                    "with `vocab_size` {}, `num_hidden_layers` {} and `intermediate_size` {} the model \
                     has {:.1e} parameters; it must have fewer than {MAX_PARAMS:.0e}",
                    self.vocab_size,
                    self.num_hidden_layers,
                    self.intermediate_size,
                    self.exact_num_params(),
                ),
            );
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return refuse(
                "num_attention_heads",
                self.num_attention_heads.to_string(),
                &format!("it must divide `hidden_size` ({})", self.hidden_size),
            );
        }
        let factor = self.partial_rotary_factor;
        let rot = self.rotary_dim();
        if !(factor > 0.0 && factor <= 1.0) || rot == 0 || !rot.is_multiple_of(2) {
            return refuse(
                "partial_rotary_factor",
                factor.to_string(),
                &format!(
                    "the rotary part of the head dimension ({}) must be even, positive and at most \
                     the whole",
                    self.head_dim()
                ),
            );
        }
        for (field, value) in [
            ("rope_theta", self.rope_theta),
            ("layer_norm_eps", self.layer_norm_eps),
            ("initializer_range", self.initializer_range),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return refuse(field, value.to_string(), "it must be positive and finite");
            }
        }
        Ok(())
    }

    /// Its sizes, as others need to know them. For a configuration that [`check`](Self::check) accepts.
    pub fn shape(&self) -> DecoderShape {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let linear = |(path, shape, reads_input): (&str, _, _)| LinearShape {
            path: path.into(),
            shape,
            reads_input,
        };
        DecoderShape {
            vocab_size: self.vocab_size,
            hidden_size: d,
            intermediate_size: f,
            num_hidden_layers: self.num_hidden_layers,
            attention_width: d,
            key_value_width: d,
            max_position_embeddings: self.max_position_embeddings,
            num_params: self.num_params(),
            linears: [
                ("self_attn.q_proj", [d, d], true),
                ("self_attn.k_proj", [d, d], true),
                ("self_attn.v_proj", [d, d], true),
                ("self_attn.dense", [d, d], false),
                ("mlp.fc1", [d, f], true),
                ("mlp.fc2", [f, d], false),
            ]
            .map(linear)
            .into(),
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// How many dimensions of a head are rotated: the first ones.
    pub fn rotary_dim(&self) -> usize {
        (self.head_dim() as f64 * self.partial_rotary_factor) as usize
    }

    /// Refuses a number of positions whose rotary tables do not fit into memory; no tensor in the
    /// files confirms it.
    ///
    /// # Errors
    /// Too little memory.
    pub(crate) fn check_rotary_memory(&self) -> Result<()> {
        // Angles, cosines and sines of half as many dimensions, in F32, and a copy while they are made.
        let n_bytes = 12 * (self.max_position_embeddings * self.rotary_dim()) as u64;
        let what =
            || format!("a model with `max_position_embeddings` {}", self.max_position_embeddings);
        Ok(mopo_hub::check_memory(n_bytes, what, "lower it in the model's config.json")?)
    }

    /// Parameters of the model, embedding and output layer included, for a configuration that
    /// [`check`](Self::check) accepts.
    pub fn num_params(&self) -> usize {
        self.exact_num_params() as usize
    }

    /// The same, without overflow.
    fn exact_num_params(&self) -> u128 {
        let [v, d, f, n] =
            [self.vocab_size, self.hidden_size, self.intermediate_size, self.num_hidden_layers]
                .map(|size| size as u128);
        let layer = 2 * d + 4 * (d * d + d) + (d * f + f) + (f * d + d);
        v * d + n * layer + 2 * d + (d * v + v)
    }
}

fn missing(field: &str) -> Error {
    mopo_hub::Error::Json {
        path: Default::default(),
        reason: format!("missing field `{field}`"),
        expected: "the config.json of a phi model",
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny_json() -> serde_json::Value {
        serde_json::json!({
            "model_type": "phi", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "resid_pdrop": 0.0,
        })
    }

    fn read(json: &serde_json::Value) -> Result<PhiConfig> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, json.to_string()).unwrap();
        PhiConfig::from_file(&path)
    }

    #[test]
    fn phi_1_5_has_the_published_number_of_parameters() {
        let config = PhiConfig::phi_1_5();
        config.check().unwrap();
        assert_eq!(config.num_params(), 1_418_270_720);
        assert_eq!(config.rotary_dim(), 32);
    }

    #[test]
    fn a_config_json_is_read_with_defaults_and_unknown_keys() {
        let config = read(&tiny_json()).unwrap();
        assert_eq!((config.max_position_embeddings, config.rope_theta), (2048, 10_000.0));
        let again = read(&config.to_hub()).unwrap();
        assert_eq!(config, again);
    }

    #[test]
    fn rotary_settings_are_found_in_their_own_table() {
        let mut json = tiny_json();
        json["rope_parameters"] = serde_json::json!(
            {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}
        );
        let config = read(&json).unwrap();
        assert_eq!((config.rope_theta, config.partial_rotary_factor), (500.0, 1.0));
    }

    #[test]
    fn errors_name_file_and_key() {
        for (key, value, words) in [
            ("model_type", Some("llama".into()), "`model_type` is \"llama\""),
            ("model_type", None, "missing field `model_type`"),
            ("hidden_size", None, "missing field `hidden_size`"),
            ("hidden_size", Some(30.into()), "`num_attention_heads` is 4"),
            ("hidden_act", Some("relu".into()), "`hidden_act` is \"relu\""),
            ("num_key_value_heads", Some(2.into()), "`num_key_value_heads` is 2"),
            ("partial_rotary_factor", Some(1.5.into()), "`partial_rotary_factor` is 1.5"),
            ("vocab_size", Some(0.into()), "`vocab_size` is 0"),
            ("hidden_size", Some(1_000_000_000_u64.into()), "`hidden_size` is 1000000000"),
            ("hidden_size", Some(1_000_000.into()), "`hidden_size` is 1000000"),
            ("num_hidden_layers", Some(1_000_000_000_000_u64.into()), "`num_hidden_layers` is 1"),
            ("vocab_size", Some(u64::MAX.into()), "`vocab_size` is 18446744073709551615"),
            ("max_position_embeddings", Some(u64::MAX.into()), "`max_position_embeddings` is 1"),
            ("quantization_config", Some(vec![4].into()), "`quantization_config` is [4]"),
            ("rope_parameters", Some(5.into()), "`rope_parameters` is 5"),
            ("head_dim", Some(5.into()), "`head_dim` is 5"),
            ("hidden_size", Some((-1).into()), "`hidden_size` is -1"),
            ("hidden_size", Some(1.5.into()), "`hidden_size` is 1.5"),
            (
                "vocab_size",
                Some("x".into()),
                "`vocab_size` is \"x\", but it must be a whole number",
            ),
            ("rope_theta", Some("x".into()), "`rope_theta` is \"x\", but it must be a number"),
        ] {
            let mut json = tiny_json();
            let value: Option<serde_json::Value> = value;
            match value {
                Some(value) => json[key] = value,
                None => drop(json.as_object_mut().unwrap().remove(key)),
            }
            let message = read(&json).unwrap_err().to_string();
            assert!(message.contains(words) && message.contains("config.json"), "{message}");
            let json = json.as_object().unwrap().clone();
            let read = HubConfig::new(Path::new("dir/config.json"), json, "a config.json");
            let message = PhiConfig::from_config(&read).unwrap_err().to_string();
            let has_both = message.contains(words) && message.contains("dir/config.json");
            assert!(has_both && !message.contains(": :"), "{message}");
        }
    }
}
