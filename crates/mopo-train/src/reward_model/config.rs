//! The configuration of `mopo reward train`: every key must be present, and no other.

use std::path::{Path, PathBuf};

use mopo_eval::reward::TruncationSide;
use mopo_hub::Presets;
use mopo_lm::LoraConfig;
use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use crate::config::{
    BaseFormat, CheckpointConfig, ConfigFile, PartError, RenamedKey, SourceConfig, TokenizerConfig,
    read_part, read_text, read_with, renamed,
};
use crate::{Error, Result};

/// Complete configurations.
pub const REWARD_PRESETS: Presets = mopo_hub::presets!("../../configs/reward-":
    "helpful", "harmless", "humor", "toxicity", "preference", "helpful-lora", "harmless-lora",
);

/// Everything that determines what a training of a reward model computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardTrainConfig {
    /// Name of the kind of run; the run directory starts with it.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// What the model scores; larger is better. With pairs: the objective whose indicators it
    /// learns.
    pub objective: String,
    /// The training examples.
    pub data: RewardData,
    /// The model's input.
    pub input: InputConfig,
    /// The tokenizer. A model from a directory has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerConfig>,
    /// The model.
    pub model: RewardModel,
    /// The adapter that is trained, with `score`, on the frozen weights of `[model.decoder]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// The training loop.
    pub training: TrainingConfig,
    /// When checkpoints are written.
    pub checkpoints: CheckpointConfig,
}

/// The training examples: exactly one of `pairs` and `texts` is present.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardData {
    /// Fraction of the prompts (or texts) that the reported accuracy is measured on, in (0, 1).
    /// `mopo train` holds out the same prompts with the same seed and fraction.
    pub heldout_fraction: f64,
    /// Fraction of the others for early stopping, in (0, 1).
    pub validation_fraction: f64,
    /// Compared pairs, for a Bradley–Terry model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairData>,
    /// Texts of two kinds, for a classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<TextData>,
}

/// Compared pairs: the source, as in a run's `[data]`, and the handling of ties.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairData {
    /// The source; its path is given with `--data`.
    #[serde(flatten)]
    pub source: SourceConfig,
    /// Handling of pairs that the objective does not decide.
    pub ties: Ties,
}

/// Handling of pairs that the objective does not decide (indicator 0.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    /// Their loss pulls both scores together: −½ log σ(d) − ½ log σ(−d).
    Half,
    /// They are skipped.
    LeaveOut,
}

/// Texts in a file with columns (CSV, JSON Lines, Parquet).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextData {
    /// The column of texts.
    pub text: String,
    /// The column of labels.
    pub label: String,
    /// The label whose texts the model scores higher; all others form the other kind.
    pub positive: String,
}

/// The model's input, and its maximum length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputConfig {
    /// The template, with `{prompt}` and `{response}`; a labelled text is a response.
    pub text: String,
    /// Removed from the start of a response that begins with it, so that answers with and without are
    /// the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_prefix: Option<String>,
    /// Maximum length of a text in tokens, special ones included; a model with random weights has
    /// as many positions.
    pub max_length: usize,
    /// Which end of a longer text is cut off.
    pub truncation_side: TruncationSide,
}

/// The model: exactly one of its fields is present.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardModel {
    /// A GPT-2 classifier with random weights.
    Gpt2(Gpt2Shape),
    /// A DistilBERT classifier with random weights.
    Distilbert(DistilbertShape),
    /// A classifier in the layout of Hugging Face with its tokenizer, of which all weights are trained.
    Hub(PathBuf),
    /// A language model with its tokenizer, on which an adapter and a linear layer are trained.
    Decoder(DecoderModel),
}

/// A language model under a reward model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderModel {
    /// As in a run's `[model]`: a model directory, a GGUF file or a model on Hugging Face.
    pub hub: PathBuf,
    /// Its format in memory.
    pub base: BaseFormat,
}

/// GPT-2's shape; names as in its `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpt2Shape {
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Number of attention heads, which divides the width.
    pub n_head: usize,
}

/// DistilBERT's shape; names as in its `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistilbertShape {
    /// Width of the residual stream.
    pub dim: usize,
    /// Width of the feed-forward layers.
    pub hidden_dim: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Number of attention heads, which divides the width.
    pub n_heads: usize,
}

/// A training loop: Adam (0.9, 0.999), a linear schedule to 0, clipping by global norm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Maximum number of optimiser steps, at which the learning rate reaches 0.
    pub steps: usize,
    /// Examples per step.
    pub batch_size: usize,
    /// Learning rate at the first step after the warmup.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises linearly.
    pub warmup_steps: usize,
    /// Maximum global norm of the gradient; 0 disables clipping.
    pub max_grad_norm: f64,
    /// Decoupled weight decay of matrices: each step multiplies them by 1 − learning rate × this.
    pub weight_decay: f64,
    /// Probability with which a token of a training text is dropped, in [0, 1).
    pub token_dropout: f64,
    /// Number of steps between two evaluations on the validation examples.
    pub eval_steps: usize,
    /// Number of evaluations without a better accuracy after which training stops. The best weights
    /// are kept.
    pub early_stopping_patience: usize,
}

impl RewardData {
    /// Number of labels of the model.
    pub(crate) fn n_labels(&self) -> usize {
        1 + self.label()
    }

    /// The index of the logit that is the score: the only one, or that of the positive kind.
    pub fn label(&self) -> usize {
        usize::from(self.texts.is_some())
    }
}

impl RewardModel {
    /// The directory or file of a model that is not made here.
    pub(crate) fn dir(&self) -> Result<Option<PathBuf>> {
        match self {
            Self::Hub(model) => Ok(Some(crate::models::model_dir(model)?)),
            Self::Decoder(model) => Ok(Some(crate::models::decoder_dir(&model.hub)?)),
            Self::Gpt2(_) | Self::Distilbert(_) => Ok(None),
        }
    }

    /// The name in `config.json`; empty for a model that has its own.
    pub(crate) fn architecture(&self) -> &'static str {
        match self {
            Self::Gpt2(_) => "gpt2",
            Self::Distilbert(_) => "distilbert",
            Self::Hub(_) | Self::Decoder(_) => "",
        }
    }
}

impl ConfigFile for RewardTrainConfig {
    fn renamed() -> Vec<RenamedKey> {
        vec![
            renamed("input", "max_tokens", "max_length"),
            renamed("tokenizer", "train", "vocab_size"),
            renamed("training", "batch", "batch_size"),
            renamed("training", "rise_steps", "warmup_steps"),
            renamed("training", "gradient_clip", "max_grad_norm"),
            renamed("training", "evaluate_every", "eval_steps"),
            renamed("training", "patience", "early_stopping_patience"),
            renamed("checkpoints", "every", "save_steps"),
            renamed("checkpoints", "keep", "save_total_limit"),
        ]
    }

    fn optional() -> Vec<&'static str> {
        vec![
            "tokenizer",
            "input.response_prefix",
            "lora",
            "lora.rank_pattern",
            "lora.alpha_pattern",
            "lora.use_rslora",
            "data.pairs.objectives",
            "data.pairs.folders",
            "data.pairs.stem",
            "data.pairs.split",
            "data.pairs.post_characters",
            "data.pairs.template",
            "data.pairs.tie_threshold",
            "data.pairs.pairs_per_prompt",
            "data.pairs.max_pairs",
            "data.pairs.n_prompts",
        ]
    }

    fn alternatives() -> Vec<&'static [&'static str]> {
        vec![
            &["data.pairs", "data.texts"],
            &["tokenizer.file", "tokenizer.vocab_size"],
            &["model.gpt2", "model.distilbert", "model.hub", "model.decoder"],
        ]
    }

    fn read_parts(document: &DeTable<'_>) -> std::result::Result<(), PartError> {
        read_part::<SourceConfig>(document, &["data", "pairs"], &["ties"])
    }
}

impl RewardTrainConfig {
    /// Reads a complete configuration file, with overrides `key.path=value`.
    ///
    /// # Errors
    /// Syntax errors, missing or unknown keys (with their line), and values out of range.
    pub fn from_file(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = read_text(path)?;
        Self::parse_with(&text, &path.display().to_string(), overrides)
    }

    /// A preset by name.
    ///
    /// # Errors
    /// An unknown name; the error lists the known ones.
    pub fn preset(name: &str, overrides: &[String]) -> Result<Self> {
        Self::parse_with(reward_preset_text(name)?, &format!("preset `{name}`"), overrides)
    }

    /// Parses, overrides and checks; `origin` is its name in errors.
    ///
    /// # Errors
    /// Those of [`from_file`](Self::from_file), and an override of a key that does not exist.
    pub fn parse_with(text: &str, origin: &str, overrides: &[String]) -> Result<Self> {
        let config: Self = read_with(text, origin, overrides)?;
        config.check().map_err(|e| e.in_config(origin))?;
        Ok(config)
    }

    /// Checks what a configuration needs from the command line before a run directory is made.
    ///
    /// # Errors
    /// The source needs a path and none was given, or vice versa.
    pub fn check_data_path(&self, data: Option<&Path>) -> Result<()> {
        match &self.data.pairs {
            Some(pairs) => pairs.source.check_path(&self.name, data),
            None if data.is_none() => Err(Error::Config {
                origin: format!("`{}`", self.name),
                message: "it reads labelled texts: pass the file with --data".into(),
            }),
            None => Ok(()),
        }
    }

    /// The configuration in the form that the run records.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self)
            .map_err(|e| Error::Config { origin: self.name.clone(), message: e.to_string() })
    }
}

/// The text of a preset.
///
/// # Errors
/// An unknown name; the error lists the known ones.
pub fn reward_preset_text(name: &str) -> Result<&'static str> {
    REWARD_PRESETS.text(name).ok_or_else(|| Error::Config {
        origin: format!("preset `{name}`"),
        message: format!(
            "unknown preset; the presets are: {}. For your own file use --config FILE",
            REWARD_PRESETS.listed()
        ),
    })
}
