//! `generation_config.json` of a Hugging Face model directory: the publisher's defaults of
//! generation. Unsupported settings are named, not dropped silently.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::GenerationConfig;
use crate::{Error, Result};

const FILE: &str = "generation_config.json";
const EXPECTED: &str = "the generation_config.json of a Hugging Face model";

/// Default of top-k sampling, as in transformers.
const DEFAULT_TOP_K: usize = 50;

/// A `generation_config.json`. Absent keys are `None`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HubGeneration {
    /// Tokens that end a response: one id, a list, or null in the file.
    #[serde(default, with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub eos_token_id: Vec<u32>,
    /// The token that begins a text. Not added to prompts here; kept for exports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    /// The padding token in transformers. Not needed here; kept for exports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<u32>,
    /// Maximum number of new tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Maximum length of prompt and new tokens together, if `max_new_tokens` is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// Whether to sample; absent means greedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub do_sample: Option<bool>,
    /// Used only for sampling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Used only for sampling; 0 means all, absent means 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Used only for sampling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Used only for sampling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Used for greedy decoding, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// The file's other keys.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// Keys without effect here.
const HARMLESS: [&str; 12] = [
    "_from_model_config",
    "cache_implementation",
    "decoder_start_token_id",
    "is_assistant",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "return_dict_in_generate",
    "return_legacy_cache",
    "transformers_version",
    "use_cache",
];

/// Values that leave an unsupported feature off. Null, false and empty values leave any feature off
/// too.
const NEUTRAL: [(&str, f64); 14] = [
    ("diversity_penalty", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("guidance_scale", 1.0),
    ("length_penalty", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("num_beam_groups", 1.0),
    ("num_beams", 1.0),
    ("num_return_sequences", 1.0),
    ("typical_p", 1.0),
];

impl HubGeneration {
    /// Reads the file of a Hugging Face model directory; `None` if it does not exist
    /// ([`from_config`](Self::from_config) reads what older models have in `config.json`).
    ///
    /// # Errors
    /// Names the file: it is not JSON, or a value has the wrong type or is out of range.
    pub fn read(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = dir.as_ref().join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let this: Self = mopo_hub::read_json(&path, EXPECTED)?;
        this.config(0)
            .and_then(|config| config.check())
            .map_err(|e| Error::InFile { path, source: e.into() })?;
        Ok(Some(this))
    }

    /// What a directory declares: `generation_config.json`, and for special tokens that it does not
    /// name those of `config.json`. Either file may be absent.
    ///
    /// # Errors
    /// Those of [`read`](Self::read) and [`from_config`](Self::from_config).
    pub fn declared(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        if dir.is_file() {
            // A GGUF file: its special tokens come with its tokenizer.
            return Ok(Self::default());
        }
        let mut this = Self::read(dir)?.unwrap_or_default();
        if dir.join("config.json").exists() {
            let config = Self::from_config(dir)?;
            if this.eos_token_id.is_empty() {
                this.eos_token_id = config.eos_token_id;
            }
            this.bos_token_id = this.bos_token_id.or(config.bos_token_id);
            this.pad_token_id = this.pad_token_id.or(config.pad_token_id);
        }
        Ok(this)
    }

    /// Only the special tokens of `config.json`.
    ///
    /// # Errors
    /// Names the file: it is missing, is not JSON, or has a token that is not an id.
    pub fn from_config(dir: impl AsRef<Path>) -> Result<Self> {
        #[derive(Deserialize)]
        struct SpecialTokens {
            #[serde(default, with = "one_or_many")]
            eos_token_id: Vec<u32>,
            bos_token_id: Option<u32>,
            pad_token_id: Option<u32>,
        }
        let path = dir.as_ref().join("config.json");
        let SpecialTokens { eos_token_id, bos_token_id, pad_token_id } =
            mopo_hub::read_json(&path, "the config.json of a Hugging Face model")?;
        Ok(Self { eos_token_id, bos_token_id, pad_token_id, ..Default::default() })
    }

    /// Writes the file to a directory, atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, dir: impl AsRef<Path>) -> Result<()> {
        Ok(mopo_hub::write_json(&dir.as_ref().join(FILE), self)?)
    }

    /// Settings that generation does not support, as `key: value`.
    pub fn ignored(&self) -> Vec<String> {
        let is_off = |key: &str, value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Number(n) => {
                let neutral = NEUTRAL.iter().find(|(name, _)| *name == key);
                neutral.is_some_and(|(_, neutral)| n.as_f64() == Some(*neutral))
            }
            _ => false,
        };
        let asks = |(key, value): &(&String, &Value)| {
            !HARMLESS.contains(&key.as_str()) && !is_off(key, value)
        };
        self.others.iter().filter(asks).map(|(key, value)| format!("{key}: {value}")).collect()
    }

    /// The settings for prompts of at most `longest_prompt` tokens, on top of the defaults.
    ///
    /// # Errors
    /// `max_length` leaves no room.
    pub fn config(&self, longest_prompt: usize) -> Result<GenerationConfig> {
        let mut config = GenerationConfig { temperature: 0.0, ..Default::default() };
        if self.do_sample == Some(true) {
            config.temperature = self.temperature.unwrap_or(1.0);
            config.top_k = self.top_k.unwrap_or(DEFAULT_TOP_K);
            config.top_p = self.top_p.unwrap_or(1.0);
            config.min_p = self.min_p.unwrap_or(0.0);
        }
        config.repetition_penalty = self.repetition_penalty.unwrap_or(1.0);
        config.max_new_tokens = match (self.max_new_tokens, self.max_length) {
            (Some(n), _) => n,
            (None, Some(n)) if n > longest_prompt => n - longest_prompt,
            (None, Some(n)) => {
                return Err(Error::InvalidParameter {
                    field: "max_length",
                    value: n.to_string(),
                    expected: format!(
                        "a prompt has {longest_prompt} tokens; ask for a number of new tokens"
                    ),
                });
            }
            (None, None) => config.max_new_tokens,
        };
        config.stop = self.eos_token_id.clone();
        Ok(config)
    }
}

/// A list that a file may write as a number or null.
mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize, Serialize)]
    #[serde(untagged)]
    enum Ids {
        One(u32),
        Many(Vec<u32>),
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
        let ids = Option::<Ids>::deserialize(from).map_err(|_| {
            serde::de::Error::custom("`eos_token_id` must be an id or a list of ids")
        })?;
        Ok(match ids {
            None => vec![],
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Many(ids)) => ids,
        })
    }

    pub(super) fn serialize<S: Serializer>(ids: &[u32], to: S) -> Result<S::Ok, S::Error> {
        match ids {
            [id] => Ids::One(*id).serialize(to),
            ids => Ids::Many(ids.to_vec()).serialize(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<HubGeneration>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), text).unwrap();
        HubGeneration::read(dir.path())
    }

    #[test]
    fn absent_is_none_and_empty_is_greedy() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(HubGeneration::read(dir.path()).unwrap(), None);
        let empty = read("{}").unwrap().unwrap();
        let config = GenerationConfig { temperature: 0.0, ..Default::default() };
        assert_eq!((empty.config(7).unwrap(), empty.ignored()), (config, vec![]));
    }

    #[test]
    fn what_the_file_asks_for_is_done_or_named() {
        let file = read(
            r#"{"_from_model_config": true, "eos_token_id": [7, 9], "bos_token_id": 1,
                "do_sample": true, "temperature": 0.7, "top_p": 0.9, "max_length": 30,
                "num_beams": 1, "repetition_penalty": 1.2, "min_p": 0.1, "no_repeat_ngram_size": 0,
                "bad_words_ids": null, "forced_eos_token_id": 3, "transformers_version": "5.23.0"}"#,
        )
        .unwrap()
        .unwrap();
        let config = file.config(10).unwrap();
        assert_eq!((config.temperature, config.top_k, config.top_p), (0.7, 50, 0.9));
        assert_eq!((config.max_new_tokens, config.stop), (20, vec![7, 9]));
        assert_eq!((config.repetition_penalty, config.min_p), (1.2, 0.1));
        assert_eq!(file.ignored(), ["forced_eos_token_id: 3"]);
        let error = file.config(30).unwrap_err().to_string();
        assert!(error.contains("`max_length` is 30") && error.contains("30 tokens"), "{error}");

        let dir = tempfile::tempdir().unwrap();
        file.write(dir.path()).unwrap();
        assert_eq!(HubGeneration::read(dir.path()).unwrap(), Some(file));

        // Without `do_sample`, settings of sampling are not used.
        let greedy = read(r#"{"temperature": 0.7, "top_k": 3, "min_p": 0.1, "eos_token_id": 5}"#);
        let greedy = greedy.unwrap().unwrap().config(1).unwrap();
        assert_eq!((greedy.temperature, greedy.top_k, greedy.min_p), (0.0, 0, 0.0));
        assert_eq!(greedy.stop, [5]);
    }

    #[test]
    fn special_tokens_are_found_in_the_models_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"model_type": "phi", "eos_token_id": 3, "bos_token_id": null, "top_k": 9}"#;
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let found = HubGeneration::from_config(dir.path()).unwrap();
        assert_eq!(found, HubGeneration { eos_token_id: vec![3], ..Default::default() });
        assert_eq!(HubGeneration::declared(dir.path()).unwrap(), found);
        // A list, and settings of other programs.
        let text = r#"{"eos_token_id": [3, 4], "bos_token_id": 1, "temperature": "warm"}"#;
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let declared = || HubGeneration::declared(dir.path()).unwrap();
        assert_eq!((declared().eos_token_id, declared().bos_token_id), (vec![3, 4], Some(1)));
        // `generation_config.json` takes precedence.
        std::fs::write(dir.path().join(FILE), r#"{"max_new_tokens": 5}"#).unwrap();
        assert_eq!(declared().eos_token_id, [3, 4]);
        std::fs::write(dir.path().join(FILE), r#"{"eos_token_id": 7}"#).unwrap();
        assert_eq!((declared().eos_token_id, declared().bos_token_id), (vec![7], Some(1)));
        std::fs::write(dir.path().join("config.json"), r#"{"eos_token_id": -1}"#).unwrap();
        let error = HubGeneration::declared(dir.path()).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("eos_token_id"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_names_the_file_and_the_key() {
        for (text, words) in [
            ("{\"a\": ", "EOF"),
            ("[]", "expected"),
            (r#"{"eos_token_id": "</s>"}"#, "eos_token_id"),
            (r#"{"do_sample": true, "temperature": -1}"#, "generation.temperature"),
            (r#"{"do_sample": true, "top_p": 2}"#, "generation.top_p"),
            (r#"{"max_new_tokens": 0}"#, "generation.max_new_tokens"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains(words), "{error}");
        }
    }
}
