//! Sequence classifiers: one file for each architecture with blocks of its own, and one for all decoders.

mod bart;
mod decoder;
mod distilbert;
mod gpt2;
mod labels;
mod pooling;
mod rows;

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_ops::FusedBackend;

pub use bart::{Bart, BartBlock, BartConfig, BartCross, BartStack};
pub use decoder::DecoderClassifier;
pub use distilbert::{DistilBert, DistilBertBlock, DistilBertConfig};
pub use gpt2::{Gpt2, Gpt2Block, Gpt2Config};
pub use pooling::Pooling;
pub use rows::TokenRow;

use crate::decoder::{SerialFamily, serial_families};
use crate::hub_config::HubConfig;
use crate::{LoadDtype, Result};

/// A classifier's properties according to `config.json`, known before its weights are read.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierShape {
    /// The name in `config.json`: `gpt2`, `distilbert`, `bart`, or that of a decoder.
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
        let hub = read_config(dir.as_ref())?;
        match hub.model_type()? {
            "gpt2" => Ok(Gpt2Config::from_hub(&hub)?.shape()),
            "distilbert" => Ok(DistilBertConfig::from_hub(&hub)?.shape()),
            "bart" => Ok(BartConfig::from_hub(&hub)?.shape()),
            _ => decoder::shape(&hub, serial_family(&hub)?),
        }
    }
}

/// The `config.json` of a model directory.
fn read_config(dir: &Path) -> Result<HubConfig> {
    HubConfig::read(&dir.join("config.json"), "the config.json of a classifier")
}

/// The family of a decoder.
fn serial_family(hub: &HubConfig) -> Result<SerialFamily> {
    let name = hub.model_type()?;
    serial_families().find(|(model_type, _)| *model_type == name).ok_or_else(|| {
        let decoders: Vec<&str> = serial_families().map(|(name, _)| name).collect();
        let expected = format!(
            "only classifiers of gpt2, distilbert and bart, and of the decoders {}, are supported",
            decoders.join(", ")
        );
        hub.invalid("model_type", format!("{name:?}"), &expected)
    })
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
    /// A decoder of any serial family.
    Decoder(DecoderClassifier<B>),
}

/// The same expression for a classifier of any architecture.
macro_rules! any {
    ($this:expr, $model:ident => $value:expr) => {
        match $this {
            Classifier::Gpt2($model) => $value,
            Classifier::DistilBert($model) => $value,
            Classifier::Bart($model) => $value,
            Classifier::Decoder($model) => $value,
        }
    };
}

impl<B: Backend> Classifier<B> {
    /// Loads a classifier from a Hugging Face model directory: `config.json`, whose `model_type`
    /// determines the architecture, and `model.safetensors` or `pytorch_model.bin`, whole or in
    /// shards. Weights become F32, but for the large matrices of decoders, for which `dtype` applies.
    ///
    /// # Errors
    /// An unsupported architecture; a key of the configuration; missing, unexpected or misshapen
    /// tensors, or ones that are not finite, by name; missing or truncated files.
    pub fn load(dir: impl AsRef<Path>, dtype: LoadDtype, device: &B::Device) -> Result<Self> {
        let dir = dir.as_ref();
        let hub = read_config(dir)?;
        match hub.model_type()? {
            "gpt2" => Ok(Self::Gpt2(Gpt2::load(dir, device)?)),
            "distilbert" => Ok(Self::DistilBert(DistilBert::load(dir, device)?)),
            "bart" => Ok(Self::Bart(Bart::load(dir, device)?)),
            _ => Ok(Self::Decoder(DecoderClassifier::load(dir, dtype, device)?)),
        }
    }

    /// Its properties.
    pub fn shape(&self) -> ClassifierShape {
        match self {
            Self::Gpt2(model) => model.config().shape(),
            Self::DistilBert(model) => model.config().shape(),
            Self::Bart(model) => model.config().shape(),
            Self::Decoder(model) => model.shape().clone(),
        }
    }

    /// The name in `config.json`: `gpt2`, `distilbert`, `bart`, or that of a decoder.
    pub fn architecture(&self) -> &'static str {
        self.shape().architecture
    }

    /// Names of the labels, in the order of the logits.
    pub fn labels(&self) -> &[String] {
        match self {
            Self::Gpt2(model) => &model.config().labels,
            Self::DistilBert(model) => &model.config().labels,
            Self::Bart(model) => &model.config().labels,
            Self::Decoder(model) => &model.shape().labels,
        }
    }

    /// The padding token of the configuration.
    pub fn pad_token(&self) -> Option<u32> {
        match self {
            Self::Gpt2(model) => model.config().pad_token_id,
            Self::DistilBert(model) => model.config().pad_token_id,
            Self::Bart(model) => model.config().pad_token_id,
            Self::Decoder(model) => model.pad_token(),
        }
    }

    /// The configuration's end-of-sequence token, if pooling needs it: for BART.
    pub fn eos_token(&self) -> Option<u32> {
        match self {
            Self::Bart(model) => Some(model.config().eos_token_id),
            _ => None,
        }
    }

    /// Size of the vocabulary, and maximum length of a text: for every text, so without a copy of the labels.
    fn limits(&self) -> [usize; 2] {
        match self {
            Self::Gpt2(model) => [model.config().vocab_size, model.config().n_positions],
            Self::DistilBert(model) => {
                [model.config().vocab_size, model.config().max_position_embeddings]
            }
            Self::Bart(model) => {
                [model.config().vocab_size, model.config().max_position_embeddings]
            }
            Self::Decoder(model) => [model.shape().vocab_size, model.shape().max_tokens],
        }
    }

    /// Whether [`forward`](Self::forward) accepts a text.
    ///
    /// # Errors
    /// No tokens, too many of them, or an id beyond the vocabulary; the message completes "the text
    /// …".
    pub fn check(&self, ids: &[u32]) -> std::result::Result<(), String> {
        let [vocab, max_tokens] = self.limits();
        let n = ids.len();
        if n == 0 {
            let what = "has no tokens, and a model needs at least one: leave such texts out, or put a \
                        token of the model's into its `text`, as in \"<|endoftext|>{response}\"";
            return Err(what.into());
        }
        if n > max_tokens {
            return Err(format!(
                "has {n} tokens, but the model has {max_tokens} positions; truncate it"
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
        any!(self, model => model.forward(rows))
    }

    /// Writes `config.json` and `model.safetensors` to `dir` in the form of transformers.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        any!(self, model => model.save(dir))
    }
}
