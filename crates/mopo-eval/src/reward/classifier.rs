//! A classifier of one of the supported architectures, and what they have in common.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_ops::FusedBackend;

use super::config::HubConfig;
use super::{Bart, BartConfig, DistilBert, DistilBertConfig, Gpt2, Gpt2Config, TokenRow};
use crate::Result;

/// A classifier's properties according to `config.json`, known before its weights are read.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierShape {
    /// The name in `config.json`: `gpt2`, `distilbert`, `bart`.
    pub architecture: &'static str,
    /// Names of the labels, in the order of the logits.
    pub labels: Vec<String>,
    /// Maximum length of a text, in tokens.
    pub max_tokens: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
}

impl ClassifierShape {
    /// Reads `config.json` of a directory in the layout of transformers.
    ///
    /// # Errors
    /// An unsupported architecture; a key that is missing, out of range, or asks for an unsupported
    /// feature.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let hub = HubConfig::read(dir)?;
        let (architecture, labels, max_tokens, vocab_size) = match hub.model_type()? {
            "gpt2" => {
                let config = Gpt2Config::from_hub(&hub)?;
                ("gpt2", config.labels, config.n_positions, config.vocab_size)
            }
            "distilbert" => {
                let config = DistilBertConfig::from_hub(&hub)?;
                let positions = config.max_position_embeddings;
                ("distilbert", config.labels, positions, config.vocab_size)
            }
            "bart" => {
                let config = BartConfig::from_hub(&hub)?;
                ("bart", config.labels, config.max_position_embeddings, config.vocab_size)
            }
            other => return Err(unknown_architecture(&hub, other)),
        };
        Ok(Self { architecture, labels, max_tokens, vocab_size })
    }
}

fn unknown_architecture(hub: &HubConfig, found: &str) -> crate::Error {
    hub.refused("model_type", found, "only classifiers of gpt2, distilbert and bart are supported")
}

/// A sequence classifier. Every parameter is trainable.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there are few of them, and burn has no modules in boxes
pub enum Classifier<B: Backend> {
    /// GPT-2.
    Gpt2(Gpt2<B>),
    /// DistilBERT.
    DistilBert(DistilBert<B>),
    /// BART.
    Bart(Bart<B>),
}

impl<B: Backend> Classifier<B> {
    /// Loads a classifier from a Hugging Face model directory: `config.json`, whose `model_type`
    /// determines the architecture, and `model.safetensors` or `pytorch_model.bin`, whole or in
    /// shards. Weights become
    /// F32.
    ///
    /// # Errors
    /// An unsupported architecture; a key of the configuration; missing, unexpected or misshapen
    /// tensors,
    /// or ones that are not finite, by name; missing or truncated files.
    pub fn load(dir: impl AsRef<Path>, device: &B::Device) -> Result<Self> {
        let dir = dir.as_ref();
        let config = HubConfig::read(dir)?;
        match config.model_type()? {
            "gpt2" => Ok(Self::Gpt2(Gpt2::load(dir, device)?)),
            "distilbert" => Ok(Self::DistilBert(DistilBert::load(dir, device)?)),
            "bart" => Ok(Self::Bart(Bart::load(dir, device)?)),
            other => Err(unknown_architecture(&config, other)),
        }
    }

    /// Its properties, known without its weights.
    pub fn shape(&self) -> ClassifierShape {
        ClassifierShape {
            architecture: self.architecture(),
            labels: self.labels().to_vec(),
            max_tokens: self.max_tokens(),
            vocab_size: self.vocab_size(),
        }
    }

    /// Writes `config.json` and `model.safetensors` to `dir` in the form of transformers.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        match self {
            Self::Gpt2(model) => model.save(dir),
            Self::DistilBert(model) => model.save(dir),
            Self::Bart(model) => model.save(dir),
        }
    }

    /// The name in `config.json`: `gpt2`, `distilbert`, `bart`.
    pub fn architecture(&self) -> &'static str {
        match self {
            Self::Gpt2(_) => "gpt2",
            Self::DistilBert(_) => "distilbert",
            Self::Bart(_) => "bart",
        }
    }

    /// Names of the labels, in the order of the logits.
    pub fn labels(&self) -> &[String] {
        match self {
            Self::Gpt2(model) => &model.config().labels,
            Self::DistilBert(model) => &model.config().labels,
            Self::Bart(model) => &model.config().labels,
        }
    }

    /// Size of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Gpt2(model) => model.config().vocab_size,
            Self::DistilBert(model) => model.config().vocab_size,
            Self::Bart(model) => model.config().vocab_size,
        }
    }

    /// Maximum length of a text, in tokens.
    pub fn max_tokens(&self) -> usize {
        match self {
            Self::Gpt2(model) => model.config().n_positions,
            Self::DistilBert(model) => model.config().max_position_embeddings,
            Self::Bart(model) => model.config().max_position_embeddings,
        }
    }

    /// The padding token of the configuration.
    pub fn pad_token(&self) -> Option<u32> {
        match self {
            Self::Gpt2(model) => model.config().pad_token_id,
            Self::DistilBert(model) => model.config().pad_token_id,
            Self::Bart(model) => model.config().pad_token_id,
        }
    }

    /// The configuration's end-of-sequence token, if pooling needs it: for BART.
    pub fn eos_token(&self) -> Option<u32> {
        match self {
            Self::Bart(model) => Some(model.config().eos_token_id),
            _ => None,
        }
    }

    /// Whether [`forward`](Self::forward) accepts a text.
    ///
    /// # Errors
    /// No tokens, too many of them, or an id beyond the vocabulary; the message completes "the text
    /// …".
    pub fn check(&self, ids: &[u32]) -> std::result::Result<(), String> {
        let (n, vocab) = (ids.len(), self.vocab_size());
        if n == 0 {
            let what = "has no tokens, and a model needs at least one: leave such texts out, or put a \
                        token of the model's into its `text`, as in \"<|endoftext|>{response}\"";
            return Err(what.into());
        }
        if n > self.max_tokens() {
            return Err(format!(
                "has {n} tokens, but the model has {} positions; truncate it",
                self.max_tokens()
            ));
        }
        match ids.iter().find(|id| **id as usize >= vocab) {
            Some(id) => Err(format!(
                "has the token id {id}, but the model's vocabulary ends before {vocab}; use the \
                 tokenizer that belongs to the model"
            )),
            None => Ok(()),
        }
    }
}

impl<B: FusedBackend> Classifier<B> {
    /// Logits of texts, `[n_rows, n_labels]`. Panics where [`check`](Self::check) would refuse.
    pub fn forward(&self, rows: &[TokenRow]) -> Tensor<B, 2> {
        match self {
            Self::Gpt2(model) => model.forward(rows),
            Self::DistilBert(model) => model.forward(rows),
            Self::Bart(model) => model.forward(rows),
        }
    }
}
