//! `[model]` and `[tokenizer]` of a run's configuration: their origin, and the format of the base
//! model in memory.

use std::path::PathBuf;

use burn::tensor::backend::Backend;
use mopo_lm::{CausalLm, DecoderShape, LoadOptions, PhiConfig, QuantFormat};
use mopo_ops::MatmulPrecision;
use serde::{Deserialize, Serialize};

use super::ranges::{self, Checked, MAX_VOCABULARY};

/// The base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ModelTable", into = "ModelTable")]
pub struct ModelConfig {
    /// Its origin.
    pub source: ModelSource,
    /// Its format once it is frozen.
    pub base: BaseFormat,
    /// In what products are computed, on burn-flex only: SFT, training and the reference's log-probabilities.
    pub matmul_precision: MatmulPrecision,
}

/// Optional keys, which `--set` may add.
pub(super) const OPTIONAL: &[&str] = &["model.matmul_precision"];

/// A Hugging Face model, or phi of a given shape with random weights.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelSource {
    /// Random weights; the vocabulary is the tokenizer's.
    Scratch(PhiShape),
    /// A directory with `config.json` and `model.safetensors`, or a model on Hugging Face:
    /// `org/name` or `org/name@revision` ([`mopo_hub::locate`]).
    Hub(PathBuf),
}

/// The format of the frozen base: of the linear layers of its blocks, and, unless they are
/// quantised, also of embedding and output layer. LayerNorms and biases are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseFormat {
    /// f32, whatever the type in the file.
    F32,
    /// bfloat16, whatever the type in the file: half of f32's memory.
    Bf16,
    /// The type in the file: that of the model directory, or f32 after SFT.
    #[default]
    Checkpoint,
    /// Linear layers in 8 bits, one scale per output; the rest as in the file.
    Int8,
    /// The output layer in 8 bits as well; where it is tied to the embedding, this too.
    Int8Output,
    /// Linear layers in 4 bits (NF4, blocks of 64); the rest as in the file.
    Nf4,
    /// The same with double quantisation.
    Nf4Double,
}

impl BaseFormat {
    /// Options for loading such a base.
    pub fn load_options(self) -> LoadOptions {
        match self {
            Self::F32 => LoadOptions::f32(),
            Self::Bf16 => LoadOptions::bf16(),
            Self::Checkpoint => LoadOptions::default(),
            Self::Int8 => LoadOptions::quantised(QuantFormat::Int8),
            Self::Int8Output => LoadOptions::quantised(QuantFormat::Int8).with_output(),
            Self::Nf4 => LoadOptions::quantised(QuantFormat::Nf4 { double_quant: false }),
            Self::Nf4Double => LoadOptions::quantised(QuantFormat::Nf4 { double_quant: true }),
        }
    }

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Checkpoint => "checkpoint",
            Self::Int8 => "int8",
            Self::Int8Output => "int8-output",
            Self::Nf4 => "nf4",
            Self::Nf4Double => "nf4-double",
        }
    }

    /// Whether its linear layers are quantised, so that they cannot be trained.
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::Int8 | Self::Int8Output | Self::Nf4 | Self::Nf4Double)
    }
}

impl std::str::FromStr for BaseFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [
            Self::F32,
            Self::Bf16,
            Self::Checkpoint,
            Self::Int8,
            Self::Int8Output,
            Self::Nf4,
            Self::Nf4Double,
        ];
        all.into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| format!("the formats are: {}", all.map(Self::name).join(", ")))
    }
}

/// The section in a file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelTable {
    /// Runs from before this key had the base in the type of its file; they can be resumed.
    #[serde(default)]
    base: BaseFormat,
    #[serde(default, skip_serializing_if = "MatmulPrecision::is_f32")]
    matmul_precision: MatmulPrecision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hub: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scratch: Option<PhiShape>,
}

impl TryFrom<ModelTable> for ModelConfig {
    type Error = String;

    fn try_from(table: ModelTable) -> Result<Self, String> {
        let ModelTable { base, matmul_precision, hub, scratch } = table;
        let source = match (hub, scratch) {
            (Some(dir), None) => ModelSource::Hub(dir),
            (None, Some(shape)) => ModelSource::Scratch(shape),
            (None, None) => return Err("`model` needs `hub` or `scratch`".into()),
            (Some(_), Some(_)) => {
                return Err("`model` has both `hub` and `scratch`: keep one".into());
            }
        };
        Ok(Self { source, base, matmul_precision })
    }
}

impl From<ModelConfig> for ModelTable {
    fn from(config: ModelConfig) -> Self {
        let ModelConfig { source, base, matmul_precision } = config;
        let (hub, scratch) = match source {
            ModelSource::Hub(dir) => (Some(dir), None),
            ModelSource::Scratch(shape) => (None, Some(shape)),
        };
        Self { base, matmul_precision, hub, scratch }
    }
}

/// phi's shape without the vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhiShape {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Maximum length of a sequence.
    pub max_position_embeddings: usize,
}

impl PhiShape {
    /// The sizes with a vocabulary.
    ///
    /// # Errors
    /// A size that no model can be built from.
    pub fn shape(&self, vocab_size: usize) -> mopo_lm::Result<DecoderShape> {
        Ok(self.config(vocab_size)?.shape())
    }

    /// A fresh model, deterministic after `B::seed`.
    ///
    /// # Errors
    /// As of [`shape`](Self::shape).
    pub fn init<B: Backend>(
        &self,
        vocab_size: usize,
        device: &B::Device,
    ) -> mopo_lm::Result<CausalLm<B>> {
        Ok(self.config(vocab_size)?.init(device).into())
    }

    fn config(&self, vocab_size: usize) -> mopo_lm::Result<PhiConfig> {
        let config = PhiConfig {
            vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            max_position_embeddings: self.max_position_embeddings,
            ..PhiConfig::phi_1_5()
        };
        config.check().map(|()| config)
    }
}

/// A tokenizer from a file, or one trained on the training set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TokenizerTable", into = "TokenizerTable")]
pub enum TokenizerConfig {
    /// Byte-level BPE of this size, trained on the training pairs.
    Train(usize),
    /// A `tokenizer.json`, or a model as in `model.hub` with its tokenizer.
    File(PathBuf),
}

/// The section as it is written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenizerTable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vocab_size: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

impl TryFrom<TokenizerTable> for TokenizerConfig {
    type Error = &'static str;

    fn try_from(table: TokenizerTable) -> Result<Self, Self::Error> {
        match (table.vocab_size, table.file) {
            (Some(size), None) => Ok(Self::Train(size)),
            (None, Some(file)) => Ok(Self::File(file)),
            (None, None) => Err("`tokenizer` needs `vocab_size` or `file`"),
            (Some(_), Some(_)) => Err("`tokenizer` has both `vocab_size` and `file`: keep one"),
        }
    }
}

impl From<TokenizerConfig> for TokenizerTable {
    fn from(config: TokenizerConfig) -> Self {
        match config {
            TokenizerConfig::Train(size) => Self { vocab_size: Some(size), file: None },
            TokenizerConfig::File(file) => Self { vocab_size: None, file: Some(file) },
        }
    }
}

impl TokenizerConfig {
    pub(crate) fn check(&self) -> Checked {
        match self {
            // Byte-level BPE has a token for each byte, and the end of text.
            Self::Train(size) => ranges::count("tokenizer.vocab_size", *size, 257..=MAX_VOCABULARY),
            Self::File(_) => Ok(()),
        }
    }
}
