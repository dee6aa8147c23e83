//! A run's configuration: read, overridden, checked. Only the checked form runs.
//!
//! Every key must be there and no other may be: a key that is lost or misspelt is an error, never
//! a silent default. The presets in `configs/` are complete files to start from.

mod data;
mod evaluation;
mod model;

use std::path::{Path, PathBuf};

use mopo_core::{Estimator, MopoConfig, Objectives};
use mopo_lm::LoraConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use data::{DataConfig, DataSource, ObjectiveFolder, section_names};
pub use evaluation::{EvaluationConfig, GivenStatistics, RewardAxis, ZScoreSource};
pub use model::{BaseFormat, ModelConfig, ModelSource, PhiShape};

use crate::{Error, Result};

/// The presets that the binary carries: name, text.
pub const PRESETS: &[(&str, &str)] = &[
    ("demo", include_str!("../configs/demo.toml")),
    ("hh-small", include_str!("../configs/hh-small.toml")),
    ("paper-hh", include_str!("../configs/paper-hh.toml")),
    ("paper-tldr", include_str!("../configs/paper-tldr.toml")),
    ("demo-dpo", include_str!("../configs/demo-dpo.toml")),
];

/// Everything that decides what a run computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Name of the run's kind; the run directory starts with it.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// One policy for each of these objectives, which is its primary. DPO has one alone.
    pub policies: Vec<String>,
    /// Where the pairs come from.
    pub data: DataConfig,
    /// The tokenizer.
    pub tokenizer: TokenizerConfig,
    /// The base model.
    pub model: ModelConfig,
    /// Supervised training on both responses, before the method.
    pub warm_start: PhaseConfig,
    /// LoRA adapters on the frozen base.
    pub lora: LoraConfig,
    /// MOPO. A run trains one method: exactly one of `[mopo]` and `[dpo]` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mopo: Option<MopoConfig>,
    /// DPO on one objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpo: Option<DpoConfig>,
    /// The loop of the method.
    pub training: PhaseConfig,
    /// When checkpoints are written.
    pub checkpoints: CheckpointConfig,
    /// Defaults of `mopo pareto` on this run.
    pub evaluation: EvaluationConfig,
}

/// The method that a run trains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MethodConfig<'a> {
    /// `[mopo]`.
    Mopo(&'a MopoConfig),
    /// `[dpo]`.
    Dpo(&'a DpoConfig),
}

impl MethodConfig<'_> {
    /// What a term's indicator stands for. DPO takes each pair as it was labelled.
    pub fn estimator(self) -> Estimator {
        match self {
            Self::Mopo(mopo) => mopo.estimator,
            Self::Dpo(_) => Estimator::Pair,
        }
    }
}

/// DPO with one objective against the frozen base ([`mopo_core::dpo`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpoConfig {
    /// The objective whose labels are learned; `policies` names it and no other.
    pub objective: String,
    /// β > 0, strength of the KL term (the field's usual value: 0.1).
    pub beta: f64,
    /// Probability with which a label is taken to be wrong, in [0, 0.5): I becomes
    /// (1 − ε) I + ε (1 − I), as conservative DPO has it. 0 takes labels as they are.
    pub label_smoothing: f64,
    /// Whether the output layer is trained beside the adapter. False: it stays the base's.
    pub train_head: bool,
}

impl DpoConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Config`] names the key, its value and what would be accepted.
    pub fn check(&self) -> Result<()> {
        let fail = |message| Err(Error::Config { origin: "`[dpo]`".into(), message });
        if !(self.beta.is_finite() && self.beta > 0.0) {
            return fail(format!("`dpo.beta` is {}; it must be a number > 0", self.beta));
        }
        if !(0.0..0.5).contains(&self.label_smoothing) {
            return fail(format!(
                "`dpo.label_smoothing` is {}; it must lie in [0, 0.5): from 0.5 on nothing is \
                 preferred",
                self.label_smoothing
            ));
        }
        Ok(())
    }
}

/// A tokenizer from a file, or one trained on the training texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenizerConfig {
    /// Byte-level BPE of this many entries, trained on the training pairs.
    Train(usize),
    /// A `tokenizer.json`, or a model as in `model.hub`, whose tokenizer it is.
    File(PathBuf),
}

/// A loop of optimiser steps. Adam (0.9, 0.999), linear schedule to 0, clipping by global norm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseConfig {
    /// Optimiser steps; 0 leaves the phase out.
    pub steps: usize,
    /// Pairs of one forward and backward pass.
    pub batch_pairs: usize,
    /// Passes per optimiser step; the weights of MOPO are normalised over all of them.
    pub accumulation: usize,
    /// Learning rate at the first step after the rise.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises linearly.
    pub rise_steps: usize,
    /// Largest global norm of the gradient; 0 does not clip.
    pub gradient_clip: f64,
    /// Weight of the prompt's own tokens in the warm start's loss (0: responses alone). Unused by
    /// the methods.
    #[serde(default)]
    pub prompt_weight: f64,
    /// Keep no activations inside of the blocks for the backward pass; compute them again there.
    /// Costs time and lowers the peak of memory; values do not change. May be left out (false), so
    /// that configurations from before it was there stay valid; it changes no result.
    #[serde(default)]
    pub gradient_checkpointing: bool,
}

/// When checkpoints are written and how many stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between two checkpoints.
    pub every: usize,
    /// How many of each phase stay on disk, at least 1.
    pub keep: usize,
}

impl RunConfig {
    /// A preset by name.
    ///
    /// # Errors
    /// An unknown name is answered with the known ones.
    pub fn preset(name: &str) -> Result<Self> {
        Self::parse(preset_text(name)?, &format!("preset `{name}`"))
    }

    /// Reads a complete configuration file.
    ///
    /// # Errors
    /// Names the file and, for a wrong key or value, its line.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("reading", path))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses and checks; `origin` is what errors call it.
    ///
    /// # Errors
    /// Syntax, lost or unknown keys (with their line) and values out of range.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        Self::parse_with(text, origin, &[])
    }

    /// The same with overrides `key.path=value`, the value in TOML's syntax (a bare word is taken
    /// as a string).
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and an override of a key that does not exist.
    pub fn parse_with(text: &str, origin: &str, overrides: &[String]) -> Result<Self> {
        let config: RunConfig = read_with(text, origin, overrides)?;
        config.check().map_err(|e| e.in_config(origin))?;
        Ok(config)
    }

    /// Checks what types cannot: ranges, and that sections fit each other.
    ///
    /// # Errors
    /// Names the key and what would be accepted.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config { origin: self.name.clone(), message });
        check_head(&self.name, self.seed).or_else(fail)?;
        if self.policies.is_empty() {
            return fail("`policies` is empty; name at least one objective".into());
        }
        Objectives::new(self.policies.iter().cloned())?;
        match self.method()? {
            MethodConfig::Mopo(mopo) => mopo.check()?,
            MethodConfig::Dpo(dpo) => {
                dpo.check()?;
                if self.policies != [dpo.objective.clone()] {
                    return fail(format!(
                        "`policies` is {:?}, but DPO trains one policy, that of `dpo.objective`: \
                         write policies = [{:?}]",
                        self.policies, dpo.objective
                    ));
                }
            }
        }
        self.lora.check()?;
        self.data.check().or_else(fail)?;
        let d = &self.data;
        if let ModelSource::Scratch(shape) = &self.model.source {
            shape.with_vocab(1).check()?;
            let longest = d.max_prompt_tokens + d.max_response_tokens;
            if longest > shape.max_position_embeddings {
                return fail(format!(
                    "prompts of {} and responses of {} tokens need {longest} positions, but \
                     `model.scratch.max_position_embeddings` is {}",
                    d.max_prompt_tokens, d.max_response_tokens, shape.max_position_embeddings
                ));
            }
        }
        if self.model.base.is_quantised() && self.warm_start.steps > 0 {
            return fail(format!(
                "`model.base` is \"{}\", but the warm start trains the base, which quantised weights \
                 cannot be: set warm_start.steps=0 and give a trained model with `model.hub` (the \
                 `warm_start/` of another run will do), or set model.base=checkpoint",
                self.model.base.name()
            ));
        }
        for (section, p) in [("warm_start", &self.warm_start), ("training", &self.training)] {
            p.check(section).or_else(fail)?;
        }
        if self.checkpoints.every == 0 || self.checkpoints.keep == 0 {
            return fail("`checkpoints.every` and `checkpoints.keep` must be at least 1".into());
        }
        self.evaluation.check().or_else(fail)?;
        Ok(())
    }

    /// The method whose section is there.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn method(&self) -> Result<MethodConfig<'_>> {
        let message = match (&self.mopo, &self.dpo) {
            (Some(mopo), None) => return Ok(MethodConfig::Mopo(mopo)),
            (None, Some(dpo)) => return Ok(MethodConfig::Dpo(dpo)),
            (None, None) => "no method is chosen: give the section `[mopo]` or `[dpo]`",
            (Some(_), Some(_)) => {
                "both `[mopo]` and `[dpo]` are there; a run trains one method: remove the other \
                 section"
            }
        };
        Err(Error::Config { origin: self.name.clone(), message: message.into() })
    }

    /// The configuration as it is recorded in the run.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self)
            .map_err(|e| Error::Config { origin: self.name.clone(), message: e.to_string() })
    }
}

impl PhaseConfig {
    fn check(&self, section: &str) -> std::result::Result<(), String> {
        if self.batch_pairs == 0 || self.accumulation == 0 {
            return Err(format!("`{section}.batch_pairs` and `.accumulation` must be at least 1"));
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(format!(
                "`{section}.learning_rate` is {}; it must be a number > 0",
                self.learning_rate
            ));
        }
        if !(self.gradient_clip.is_finite() && self.gradient_clip >= 0.0) {
            return Err(format!(
                "`{section}.gradient_clip` is {}; it must be a number ≥ 0 (0: no clipping)",
                self.gradient_clip
            ));
        }
        if !(0.0..=1.0).contains(&self.prompt_weight) {
            return Err(format!(
                "`{section}.prompt_weight` is {}; it must lie in [0, 1]",
                self.prompt_weight
            ));
        }
        Ok(())
    }

    /// Learning rate of step `step` (from 0): a linear rise, then linear to 0 at the end.
    pub fn learning_rate_at(&self, step: usize) -> f64 {
        let rise = self.rise_steps.min(self.steps);
        if step < rise {
            return self.learning_rate * (step + 1) as f64 / (rise + 1) as f64;
        }
        let left = (self.steps - step.min(self.steps)) as f64;
        self.learning_rate * left / (self.steps - rise).max(1) as f64
    }
}

/// The text of a preset.
///
/// # Errors
/// An unknown name is answered with the known ones.
pub fn preset_text(name: &str) -> Result<&'static str> {
    if let Some((_, text)) = PRESETS.iter().find(|preset| preset.0 == name) {
        return Ok(text);
    }
    let presets = PRESETS.iter().map(|preset| preset.0).collect::<Vec<_>>().join(", ");
    let message = if data::section_text(name).is_some() {
        format!(
            "it is a source of data, not a whole configuration (presets: {presets}); put the section \
             that `mopo config {name}` prints in the place of another `[data]`, and give the file \
             with --config"
        )
    } else {
        format!(
            "there is no such preset; the presets are: {presets}. For a file of your own give \
             --config FILE. Sources of data, for `mopo prepare` and `mopo config`: {}",
            section_names().join(", ")
        )
    };
    Err(Error::Config { origin: format!("preset `{name}`"), message })
}

/// The text of a preset or of a source's `[data]` section.
///
/// # Errors
/// Those of [`preset_text`].
pub fn config_text(name: &str) -> Result<&'static str> {
    data::section_text(name).map_or_else(|| preset_text(name), Ok)
}

/// Checks what a configuration of any kind begins with.
pub(crate) fn check_head(name: &str, seed: u64) -> std::result::Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("`name` is `{name}`; use letters, digits, `-`, `_`, `.`"));
    }
    // TOML's integers are signed: a larger seed could not be written into the run's record.
    if seed > i64::MAX as u64 {
        return Err(format!("`seed` is {seed}; it must be below 2^63"));
    }
    Ok(())
}

/// A configuration from a complete text, with overrides `key.path=value`.
pub(crate) fn read_with<T: Serialize + DeserializeOwned>(
    text: &str,
    origin: &str,
    overrides: &[String],
) -> Result<T> {
    let fail = |message: String| Error::Config { origin: origin.into(), message };
    let config: T = toml::from_str(text).map_err(|e| fail(e.to_string().trim_end().to_string()))?;
    if overrides.is_empty() {
        return Ok(config);
    }
    let mut table = toml::Table::try_from(&config).map_err(|e| fail(e.to_string()))?;
    for o in overrides {
        set(&mut table, o)?;
    }
    table.try_into().map_err(|e: toml::de::Error| Error::Config {
        origin: format!("{origin} with --set {}", overrides.join(" --set ")),
        message: e.message().to_string(),
    })
}

fn sections(table: &toml::Table) -> String {
    let named = table.iter().filter(|(_, value)| value.is_table());
    named.map(|(name, _)| format!("[{name}]")).collect::<Vec<_>>().join(", ")
}

fn set(table: &mut toml::Table, assignment: &str) -> Result<()> {
    let fail = |message: String| Error::Config { origin: format!("--set {assignment}"), message };
    let (path, text) = assignment
        .split_once('=')
        .ok_or_else(|| fail("write it as key.path=value, e.g. mopo.tau=0.1".into()))?;
    let keys: Vec<&str> = path.trim().split('.').collect();
    let value = toml::from_str::<toml::Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.trim().into()));
    let (last, parents) = keys.split_last().expect("split gives at least one part");
    let mut here = table;
    for key in parents {
        let known = sections(here);
        here = here
            .get_mut(*key)
            .and_then(toml::Value::as_table_mut)
            .ok_or_else(|| fail(format!("there is no section `{key}` here; there are: {known}")))?;
    }
    let known = here.keys().cloned().collect::<Vec<_>>().join(", ");
    match here.get_mut(*last) {
        // 1 for 1.0 is what people type.
        Some(toml::Value::Float(f)) if value.is_integer() => {
            *f = value.as_integer().expect("checked") as f64;
        }
        Some(slot) => *slot = value,
        None if matches!(parents, ["data"] | ["data", "pairs"])
            && data::OPTIONAL.contains(last) =>
        {
            here.insert((*last).into(), value);
        }
        None => return Err(fail(format!("there is no key `{last}` here; there are: {known}"))),
    }
    Ok(())
}
