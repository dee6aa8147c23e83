//! A run's configuration: read, overridden, checked. Only a checked one can run.
//!
//! Every key must be present, and no other: a missing or misspelt key is an error, never a silent
//! default. The presets in `configs/` are complete files to start from.

mod data;
mod evaluation;
mod fit;
mod model;
mod presets;
pub(crate) mod ranges;
mod read;
mod renamed;
mod source;
mod suggest;
mod training;

use std::path::{Path, PathBuf};

use mopo_core::Objectives;
use mopo_lm::{AdapterSharing, DecoderShape, LoraConfig};
use serde::{Deserialize, Serialize};
use toml::de::DeTable;

pub use crate::conditioned::{OnlineRounds, TargetMap};
pub use crate::methods::MethodConfig;
use crate::methods::Sections;
pub use crate::methods::sections::*;
pub use crate::methods::{CanLabels, LengthNormalization, Margins, TargetRange};
pub use crate::pairwise::Combination;
pub use crate::runs::PolicyRuns;
use crate::sample::{WITHOUT_POLICY, WORST_CASE};
pub use data::DataConfig;
pub(crate) use evaluation::build_rewards;
pub use evaluation::{EvaluationConfig, GivenStatistics, RewardAxis, ZScoreSource};
pub(crate) use fit::{BYTES_FROZEN, BYTES_TRAINED, count_of_parameters};
pub use model::{BaseFormat, ModelConfig, ModelSource, PhiShape, TokenizerConfig};
pub use mopo_ops::MatmulPrecision;
pub use presets::{PRESETS, SOURCES, config_names, config_text, preset_text};
pub use read::read_text;
pub(crate) use read::{ConfigFile, PartError, override_with, read_part, read_with};
pub(crate) use renamed::{RenamedKey, renamed};
pub use source::{DataSource, MixedSource, ObjectiveFolder, SourceConfig};
pub use training::{BEST_METRIC, CheckpointConfig, EVAL_PROMPTS, PhaseConfig};

use crate::run_dir::record::BASE;
use crate::{Error, Result, RunDir};

/// Everything that determines what a run computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Name of the kind of run; the run directory starts with it.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// The policies' names. MOPO trains one for each of these objectives, its primary objective; others train
    /// only one.
    pub policies: Vec<String>,
    /// Whether they share an adapter, or each has its own. Optional (`shared`).
    #[serde(default, skip_serializing_if = "is_shared")]
    pub adapters: AdapterSharing,
    /// Rank of the updates that policies' own heads are trained as; without it all of their weights are trained.
    /// Optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_rank: Option<usize>,
    /// Whether policies have trained heads; without them they keep the base's output layer, and differ in their adapters.
    /// Optional (`true`).
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub train_heads: bool,
    /// The source of the pairs.
    pub data: DataConfig,
    /// The tokenizer.
    pub tokenizer: TokenizerConfig,
    /// The base model.
    pub model: ModelConfig,
    /// Supervised fine-tuning (SFT) on both responses, before the method.
    pub sft: PhaseConfig,
    /// LoRA adapters on the frozen base.
    pub lora: LoraConfig,
    /// The method: `[method]` and the section of its kind.
    #[serde(flatten)]
    pub method: MethodConfig,
    /// The training loop of the method.
    pub training: PhaseConfig,
    /// When checkpoints are written.
    pub checkpoints: CheckpointConfig,
    /// Defaults of `mopo pareto` for this run.
    pub evaluation: EvaluationConfig,
}

fn yes() -> bool {
    true
}

fn is_yes(flag: &bool) -> bool {
    *flag
}

fn is_shared(sharing: &AdapterSharing) -> bool {
    *sharing == AdapterSharing::Shared
}

/// The keys of a run's configuration besides `[method]` and its section.
const KEYS: &[&str] = &[
    "name",
    "seed",
    "policies",
    "adapters",
    "head_rank",
    "train_heads",
    "data",
    "tokenizer",
    "model",
    "sft",
    "lora",
    "training",
    "checkpoints",
    "evaluation",
];

impl ConfigFile for RunConfig {
    fn renamed() -> Vec<RenamedKey> {
        let own = [
            renamed("", "warm_start", "sft"),
            renamed("sft", "batch_pairs", "batch_size"),
            renamed("sft", "accumulation", "gradient_accumulation_steps"),
            renamed("sft", "rise_steps", "warmup_steps"),
            renamed("sft", "gradient_clip", "max_grad_norm"),
            renamed("training", "batch_pairs", "batch_size"),
            renamed("training", "accumulation", "gradient_accumulation_steps"),
            renamed("training", "rise_steps", "warmup_steps"),
            renamed("training", "gradient_clip", "max_grad_norm"),
            renamed("tokenizer", "train", "vocab_size"),
            renamed("lora", "targets", "target_modules"),
            renamed("checkpoints", "every", "save_steps"),
            renamed("checkpoints", "keep", "save_total_limit"),
            renamed("evaluation.rewards.statistics", "deviation", "std"),
        ];
        [&own[..], &MethodConfig::renamed()].concat()
    }

    fn optional() -> Vec<&'static str> {
        let own = [
            "adapters",
            "head_rank",
            "train_heads",
            "evaluation.worst_case",
            "lora.rank_pattern",
            "lora.alpha_pattern",
            "lora.use_rslora",
        ];
        [data::OPTIONAL, model::OPTIONAL, training::OPTIONAL, &own, &MethodConfig::optional()]
            .concat()
    }

    fn open() -> Vec<&'static str> {
        MethodConfig::open()
    }

    fn alternatives() -> Vec<&'static [&'static str]> {
        let own: [&[&str]; 2] =
            [&["model.hub", "model.scratch"], &["tokenizer.file", "tokenizer.vocab_size"]];
        [&own[..], &MethodConfig::alternatives()].concat()
    }

    fn read_parts(document: &DeTable<'_>) -> std::result::Result<(), PartError> {
        data::read_source(document)?;
        read_part::<Sections>(document, &[], KEYS)
    }
}

/// Parts of a configuration that others replace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Replaced<'a> {
    /// Another base model and tokenizer than the configured ones, whose limits and files are then ignored. Of a run, or
    /// its `warm_start/`, it is the SFT model with the run's tokenizer.
    pub model: Option<&'a Path>,
    /// Another method: the section that `mopo config` prints of it. A method with one policy names it.
    pub method: Option<&'a str>,
}

impl RunConfig {
    /// A preset by name.
    ///
    /// # Errors
    /// An unknown name; the error lists the known ones.
    pub fn preset(name: &str) -> Result<Self> {
        Self::parse(preset_text(name)?, &format!("preset `{name}`"))
    }

    /// Reads a complete configuration file.
    ///
    /// # Errors
    /// Names the file and, for a wrong key or value, its line.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses and checks; `origin` is its name in errors.
    ///
    /// # Errors
    /// Syntax errors, missing or unknown keys (with their line) and values out of range.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        Self::parse_with(text, origin, &[])
    }

    /// The same with overrides `key.path=value`, with values in TOML syntax (a bare word is a
    /// string).
    ///
    /// ```
    /// use mopo_train::{RunConfig, config::preset_text};
    ///
    /// let preset = preset_text("demo")?;
    /// let config = RunConfig::parse_with(preset, "demo", &["training.steps=10".into()])?;
    /// assert_eq!(config.training.steps, 10);
    /// let error = RunConfig::parse_with(preset, "demo", &["training.step=10".into()]).unwrap_err();
    /// assert!(error.to_string().contains("training.step"));
    /// # Ok::<(), mopo_train::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse), and an override of a key that does not exist.
    pub fn parse_with(text: &str, origin: &str, overrides: &[String]) -> Result<Self> {
        Self::parse_replaced(text, origin, overrides, Replaced::default())
    }

    /// The same with whole parts replaced before the overrides.
    ///
    /// # Errors
    /// Those of [`parse_with`](Self::parse_with), and an unknown method.
    pub fn parse_replaced(
        text: &str,
        origin: &str,
        overrides: &[String],
        parts: Replaced<'_>,
    ) -> Result<Self> {
        let mut config: RunConfig = match parts.method {
            None => read_with(text, origin, overrides)?,
            Some(kind) => {
                let mut config: RunConfig = read_with(text, origin, &[])?;
                config.method = MethodConfig::preset(kind)?;
                let mut config = override_with(config, origin, overrides)?;
                let is_given = overrides
                    .iter()
                    .any(|set| set.split('=').next().is_some_and(|key| key.trim() == "policies"));
                if let Some(policies) = config.method.policies().filter(|_| !is_given) {
                    config.policies = policies;
                }
                config
            }
        };
        if let Some(model) = parts.model {
            let (model, tokenizer) = model_and_tokenizer(model);
            config.tokenizer = TokenizerConfig::File(tokenizer);
            config.model.source = ModelSource::Hub(model);
        }
        config.check().map_err(|e| e.in_config(origin))?;
        Ok(config)
    }

    /// Checks that updates of heads are of lower rank than the heads.
    ///
    /// # Errors
    /// Names the key and the limit.
    pub(crate) fn check_head_rank(&self, model: &DecoderShape) -> Result<()> {
        match self.head_rank {
            Some(rank) if rank >= model.hidden_size.min(model.vocab_size) => Err(Error::Config {
                origin: self.name.clone(),
                message: format!(
                    "`head_rank` is {rank}, but the heads are {} × {}: choose a smaller rank, or leave it out to train \
                     all of their weights",
                    model.hidden_size, model.vocab_size
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Checks what types cannot: ranges, and that sections fit each other.
    ///
    /// # Errors
    /// Names the key and the accepted values.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config { origin: self.name.clone(), message });
        check_head(&self.name, self.seed).or_else(fail)?;
        if self.policies.is_empty() {
            return fail("`policies` is empty; name at least one objective".into());
        }
        Objectives::new(self.policies.iter().cloned())
            .map(drop)
            .or_else(|e| fail(format!("`policies`: {e}")))?;
        let taken = WITHOUT_POLICY.into_iter().chain([WORST_CASE]);
        if let Some(name) = taken.into_iter().find(|name| self.policies.iter().any(|p| p == name)) {
            return fail(format!(
                "`policies` has `{name}`, which names another policy wherever one is chosen (`--policy {name}`); give the \
                 objective another name"
            ));
        }
        self.method.check(&self.policies)?;
        self.lora.check()?;
        let rank = self.head_rank.unwrap_or(1);
        ranges::count("head_rank", rank, 1..=ranges::MAX_COUNT).or_else(fail)?;
        self.check_heads().or_else(fail)?;
        self.data.check().or_else(fail)?;
        self.tokenizer.check().or_else(fail)?;
        self.check_streaming().or_else(fail)?;
        if let ModelSource::Scratch(shape) = &self.model.source {
            let model = shape.shape(1).map_err(|e| Error::Config {
                origin: self.name.clone(),
                message: format!("`model.scratch`: {e}"),
            })?;
            self.lora.check_fits(&model)?;
            let limit = "`model.scratch.max_position_embeddings` is";
            self.check_positions(shape.max_position_embeddings, limit).or_else(fail)?;
        }
        if self.model.base.is_quantised() && self.sft.steps > 0 && !self.sft.lora {
            return fail(format!(
                "`model.base` is \"{}\", but SFT trains the base, which quantised weights cannot \
                 be: set sft.lora=true to train an adapter instead, or sft.steps=0 and give a trained model with `model.hub` (for example the \
                 `warm_start/` of another run), or set model.base=checkpoint",
                self.model.base.name()
            ));
        }
        self.sft.check("sft").or_else(fail)?;
        self.training.check("training").or_else(fail)?;
        self.checkpoints.check().or_else(fail)?;
        self.evaluation.check(self.policies.len()).or_else(fail)
    }

    /// Refuses a new run whose heads of low rank would not be trained.
    ///
    /// # Errors
    /// Names the keys.
    pub(crate) fn check_trained_heads(&self) -> Result<()> {
        let kind = self.method.kind();
        let message = match self.method.train_head() {
            _ if self.head_rank.is_none() || self.method.trains_heads() => return Ok(()),
            Some(true) => return Ok(()),
            Some(false) => {
                format!(
                    "`{kind}.train_head` is false, so that no head is trained: remove `head_rank`, or set {kind}.train_head to true"
                )
            }
            None => format!("`{kind}` trains no head: remove it"),
        };
        Err(Error::Config { origin: "`head_rank`".into(), message })
    }

    /// Refuses policies without heads of their own that would all be the same, or whose method has none anyway.
    fn check_heads(&self) -> std::result::Result<(), String> {
        let kind = self.method.kind();
        let why = if self.train_heads {
            return Ok(());
        } else if !self.method.trains_heads() {
            format!(
                "`{kind}` trains no head for each policy: remove the key (whether its one policy has a trained head, \
                 `{kind}.train_head` says where there is that key)"
            )
        } else if self.head_rank.is_some() {
            "`head_rank` asks for heads: remove one of the two".into()
        } else if self.policies.len() > 1 && is_shared(&self.adapters) {
            "the policies share an adapter and would all be the same: set adapters=\"per_policy\""
                .into()
        } else {
            return Ok(());
        };
        Err(format!("`train_heads` is false, but {why}"))
    }

    /// Refuses what needs all training texts in memory where they are to stay on disk.
    fn check_streaming(&self) -> std::result::Result<(), String> {
        if !self.data.streaming {
            return Ok(());
        }
        let why = if matches!(self.tokenizer, TokenizerConfig::Train(_)) {
            "`tokenizer.vocab_size` trains a tokenizer on all of them: give one with `tokenizer.file`"
        } else if self.data.source.kind == DataSource::Demo {
            "the demo world is generated there: choose another `data.source`"
        } else if self.data.source.max_pairs.is_some() {
            "`data.max_pairs` draws them there: remove it"
        } else {
            return Ok(());
        };
        Err(format!("`data.streaming` leaves training texts on disk, but {why}"))
    }

    /// Refuses a new run whose evaluation would mix policies that it does not have.
    ///
    /// # Errors
    /// Names the key.
    pub(crate) fn check_mixtures(&self) -> Result<()> {
        if !(self.evaluation.worst_case && self.method.changes_prompts()) {
            return Ok(());
        }
        Err(Error::Config {
            origin: "`evaluation.worst_case`".into(),
            message: format!(
                "the method `{}` trains one policy, which is told its aims in the prompt, so there is nothing to mix: leave \
                 it out",
                self.method.kind()
            ),
        })
    }

    /// Checks that the run has the rewards that its method needs during training. A finished run may be evaluated
    /// with others, so this is no part of [`check`](Self::check).
    ///
    /// # Errors
    /// Names the method's key and the reward that is missing.
    pub fn check_rewards(&self) -> Result<()> {
        match self.method.rollouts(&self.policies) {
            Some(settings) => settings.target.check_rewards(&self.evaluation),
            None => Ok(()),
        }
    }

    /// The configuration in the form that the run records.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self)
            .map_err(|e| Error::Config { origin: self.name.clone(), message: e.to_string() })
    }
}

/// Where a model's weights and its tokenizer are: of a run, its SFT model and its own tokenizer.
fn model_and_tokenizer(model: &Path) -> (PathBuf, PathBuf) {
    if RunDir::is_run(model) {
        return (model.join(BASE), model.into());
    }
    let has_own = model.join("tokenizer.json").exists();
    let of_run = |run: &&Path| !has_own && model.ends_with(BASE) && RunDir::is_run(run);
    match model.parent().filter(of_run) {
        Some(run) => (model.into(), run.into()),
        None => (model.into(), model.into()),
    }
}

/// Checks the first keys of a configuration of any kind.
pub(crate) fn check_head(name: &str, seed: u64) -> std::result::Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("`name` is `{name}`; use letters, digits, `-`, `_`, `.`"));
    }
    check_seed("seed", seed)
}

/// TOML's integers are signed: a larger seed could not be recorded.
fn check_seed(key: &str, seed: u64) -> std::result::Result<(), String> {
    if seed > i64::MAX as u64 {
        return Err(format!("`{key}` is {seed}; it must be below 2^63"));
    }
    Ok(())
}
