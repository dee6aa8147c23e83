//! The source of pairs and its keys, shared by `[data]` of a run and `[data.pairs]` of a reward
//! model.

use std::path::{Path, PathBuf};

use mopo_core::Objectives;
use mopo_data::demo::N_PROMPTS;
use mopo_data::reddit::{CharacterRange, TldrOptions};
use mopo_data::{ChatTemplate, PairOptions, ReadOptions};
use serde::{Deserialize, Serialize};

use super::ranges::{self, Checked, MAX_COUNT};
use crate::{Error, Result};

/// A source of pairs. A key that belongs to another source is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Which source.
    #[serde(rename = "source")]
    pub kind: DataSource,
    /// For a source with several objectives, only these, in this order; all by default. Pairs
    /// without a label of any of them are skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<String>,
    /// Objective → subfolder of the data directory, with the objectives in order: for `hh`, and for
    /// `tldr` and `trl` if each objective has its own files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<ObjectiveFolder>,
    /// Only files of a folder with this stem, `train` or `test`; by default all files, which mixes
    /// the publisher's splits if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<String>,
    /// Only rows with this value in the column `split` (`tldr`, `tldr_axes`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Only posts with a number of characters between these (`tldr`, `tldr_axes`); by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_characters: Option<CharacterRange>,
    /// Chat template that makes prompts of questions and messages: `dialogue`, `chatml` or `plain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<ChatTemplate>,
    /// Scores that differ by no more than this are a tie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie_threshold: Option<f32>,
    /// Maximum number of pairs per prompt, drawn by the seed; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs_per_prompt: Option<usize>,
    /// Maximum number of pairs in all, drawn by the seed, prompt by prompt; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pairs: Option<usize>,
    /// Prepared sets that are mixed by weight (`prepared` only), instead of one that is given with `--data`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<MixedSource>,
    /// Number of prompts of the demo world (`demo` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_prompts: Option<usize>,
}

/// Kinds of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataSource {
    /// The generated demo world; needs no files.
    Demo,
    /// HH-RLHF files below `--data`.
    Hh,
    /// Reddit TL;DR: comparisons in OpenAI's form or the converted one.
    Tldr,
    /// Reddit TL;DR: summaries with scores on four axes.
    TldrAxes,
    /// SummEval-OP: summaries with seven human scores.
    SummevalOp,
    /// TRL's preference types: `chosen` and `rejected`, as text or messages.
    Trl,
    /// PKU-SafeRLHF: pairs with two labels.
    SafeRlhf,
    /// BeaverTails: responses that are safe or not.
    Beavertails,
    /// UltraFeedback: completions with four ratings.
    #[serde(rename = "ultrafeedback")]
    UltraFeedback,
    /// HelpSteer: responses with five scores.
    #[serde(rename = "helpsteer")]
    HelpSteer,
    /// A prepared set (`mopo prepare`): the file given with `--data`.
    Prepared,
}

/// One of several prepared sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixedSource {
    /// The file.
    pub path: PathBuf,
    /// Share of the training pairs' uses, relative to the other sources' weights; above 0.
    pub weight: f64,
}

/// A folder and the objective that it labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveFolder {
    /// The objective's name.
    pub objective: String,
    /// Folder below the data directory.
    pub folder: String,
}

impl SourceConfig {
    /// Checks ranges, and that each key belongs to the source.
    pub(crate) fn check(&self) -> Checked {
        match self.kind {
            DataSource::Hh if self.folders.is_empty() => {
                return Err(
                    "`data.source` is \"hh\": list `[[data.folders]]` with `objective` and \
                            `folder`"
                        .into(),
                );
            }
            DataSource::Demo if self.n_prompts.is_none_or(|n| !(10..=N_PROMPTS).contains(&n)) => {
                return Err(format!(
                    "`data.source` is \"demo\": give `data.n_prompts`, from 10 to {N_PROMPTS}"
                ));
            }
            _ if self.max_pairs == Some(0) => {
                return Err("`data.max_pairs` is 0; leave it out for all pairs".into());
            }
            _ if !self.sources.is_empty() && self.kind != DataSource::Prepared => {
                return Err(format!(
                    "`data.sources` lists prepared sets, but `data.source` is \"{}\": write its pairs with `mopo prepare`, and \
                     set data.source=prepared",
                    self.kind.name()
                ));
            }
            // A prepared set keeps the keys of the source it was made from.
            DataSource::Prepared => return self.check_sources(),
            _ => {}
        }
        self.check_keys()?;
        if let Some(threshold) = self.tie_threshold {
            ranges::not_negative("data.tie_threshold", threshold.into())?;
        }
        match self.pairs_per_prompt {
            Some(0) => {
                return Err("`data.pairs_per_prompt` is 0; leave it out for all pairs".into());
            }
            Some(n) => ranges::count("data.pairs_per_prompt", n, 1..=MAX_COUNT)?,
            None => {}
        }
        if let Some(CharacterRange { above, below }) = self.post_characters
            && above.saturating_add(1) >= below
        {
            return Err(format!(
                "`data.post_characters` requires more than {above} and fewer than {below} characters, \
                 which is impossible"
            ));
        }
        if !self.objectives.is_empty() {
            Objectives::new(self.objectives.iter().cloned())
                .map_err(|e| format!("`data.objectives`: {e}"))?;
        }
        Ok(())
    }

    fn check_sources(&self) -> Checked {
        for MixedSource { path, weight } in &self.sources {
            if !(weight.is_finite() && *weight > 0.0) {
                return Err(format!(
                    "`data.sources`: `weight` of {} is {weight}; it must be a number above 0: leave the source out for none \
                     of it",
                    path.display()
                ));
            }
        }
        // However they are written; what is not there is an error later.
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let mut paths: Vec<(PathBuf, &PathBuf)> =
            self.sources.iter().map(|source| (real(&source.path), &source.path)).collect();
        paths.sort();
        if let Some([(_, path), _]) = paths.array_windows().find(|[a, b]| a.0 == b.0) {
            return Err(format!(
                "`data.sources` names {} twice, so that each of its pairs would count twice: name it once, with the sum of \
                 both weights",
                path.display()
            ));
        }
        match self.max_pairs {
            Some(_) if !self.sources.is_empty() => Err(
                "`data.max_pairs` does not apply to `data.sources`, whose weights say how often each is used: remove it, or \
                 write smaller sets with `mopo prepare`"
                    .into(),
            ),
            _ => Ok(()),
        }
    }

    fn check_keys(&self) -> Checked {
        use DataSource::{
            Beavertails, Demo, HelpSteer, Hh, SafeRlhf, SummevalOp, Tldr, TldrAxes, Trl,
            UltraFeedback,
        };
        let scored: &[DataSource] = &[TldrAxes, SummevalOp, Beavertails, UltraFeedback, HelpSteer];
        let several: &[DataSource] = &[TldrAxes, SummevalOp, SafeRlhf, UltraFeedback, HelpSteer];
        let asked: &[DataSource] = &[Trl, SafeRlhf, Beavertails, UltraFeedback, HelpSteer];
        let files: &[DataSource] =
            &[Hh, Tldr, TldrAxes, SummevalOp, Trl, SafeRlhf, Beavertails, UltraFeedback, HelpSteer];
        // Key, whether it is present, the sources that need it, the sources that accept it.
        for (key, is_there, is_needed, sources) in [
            ("objectives", !self.objectives.is_empty(), false, several),
            ("folders", !self.folders.is_empty(), false, &[Hh, Tldr, Trl]),
            ("stem", self.stem.is_some(), false, files),
            ("split", self.split.is_some(), false, &[Tldr, TldrAxes]),
            ("post_characters", self.post_characters.is_some(), false, &[Tldr, TldrAxes]),
            ("template", self.template.is_some(), true, asked),
            ("tie_threshold", self.tie_threshold.is_some(), true, scored),
            ("pairs_per_prompt", self.pairs_per_prompt.is_some(), false, scored),
            ("n_prompts", self.n_prompts.is_some(), true, &[Demo]),
        ] {
            let source = self.kind.name();
            let belongs = sources.contains(&self.kind);
            if is_there && !belongs {
                let of: Vec<_> = sources.iter().map(|s| format!("\"{}\"", s.name())).collect();
                return Err(format!(
                    "`data.{key}` does not apply to `data.source` = \"{source}\": remove it; it \
                     belongs to {}",
                    of.join(", ")
                ));
            }
            if is_needed && belongs && !is_there {
                return Err(format!(
                    "`data.{key}` is missing; `data.source` = \"{source}\" needs it"
                ));
            }
        }
        Ok(())
    }

    /// Checks what the source needs from the command line; `name` is the configuration's name in
    /// errors.
    ///
    /// # Errors
    /// It needs a path and none was given, or vice versa.
    pub fn check_path(&self, name: &str, data: Option<&Path>) -> Result<()> {
        let fail = |message: String| Err(Error::Config { origin: format!("`{name}`"), message });
        match (self.kind, data) {
            (DataSource::Demo, Some(_)) => fail(
                "the demo world is generated and reads no files: omit --data, or choose another \
                 preset or source, e.g. `mopo train hh-small --data …`"
                    .into(),
            ),
            (_, Some(_)) if !self.sources.is_empty() => fail(
                "it has `data.sources`, and --data names another set: omit --data, or remove `data.sources`"
                    .into(),
            ),
            (DataSource::Prepared, None) if !self.sources.is_empty() => Ok(()),
            (DataSource::Demo, None) | (_, Some(_)) => Ok(()),
            (DataSource::Hh, None) => fail(
                "it reads HH-RLHF files: pass their folder, e.g. --data path/to/hh-rlhf (with \
                 helpful-base/ and harmless-base/ inside)"
                    .into(),
            ),
            (DataSource::Prepared, None) => {
                fail("it reads a prepared data set: pass the file, e.g. --data pairs.jsonl".into())
            }
            (source, None) => {
                let (files, source) = (source.title(), source.name().replace('_', "-"));
                fail(format!(
                    "it reads files of {files}: pass a file or their folder with --data (see `mopo \
                     config {source}`)"
                ))
            }
        }
    }

    /// Files, strictness and seed for a reader.
    pub(crate) fn read_options(&self, strict: bool, seed: u64) -> ReadOptions {
        ReadOptions { stem: self.stem.clone(), strict, seed, scratch: None }
    }

    /// The same with TL;DR's options.
    pub(crate) fn tldr_options(&self, strict: bool, seed: u64) -> TldrOptions {
        TldrOptions {
            read: self.read_options(strict, seed),
            split: self.split.clone(),
            post_characters: self.post_characters,
        }
    }

    /// Options for making pairs from scores.
    pub(crate) fn pair_options(&self) -> PairOptions {
        PairOptions {
            tie_threshold: self.tie_threshold.unwrap_or_default(),
            pairs_per_prompt: self.pairs_per_prompt,
        }
    }

    /// The chat template, which has been checked to be set where it is needed.
    pub(crate) fn chat_template(&self) -> ChatTemplate {
        self.template.unwrap_or(ChatTemplate::Dialogue)
    }
}

impl DataSource {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Hh => "hh",
            Self::Tldr => "tldr",
            Self::TldrAxes => "tldr_axes",
            Self::SummevalOp => "summeval_op",
            Self::Trl => "trl",
            Self::SafeRlhf => "safe_rlhf",
            Self::Beavertails => "beavertails",
            Self::UltraFeedback => "ultrafeedback",
            Self::HelpSteer => "helpsteer",
            Self::Prepared => "prepared",
        }
    }

    /// The publisher's name for it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Demo => "the demo world",
            Self::Hh => "HH-RLHF",
            Self::Tldr => "Reddit TL;DR",
            Self::TldrAxes => "Reddit TL;DR with axes",
            Self::SummevalOp => "SummEval-OP",
            Self::Trl => "TRL's preference types",
            Self::SafeRlhf => "PKU-SafeRLHF",
            Self::Beavertails => "BeaverTails",
            Self::UltraFeedback => "UltraFeedback",
            Self::HelpSteer => "HelpSteer",
            Self::Prepared => "a prepared set",
        }
    }
}
