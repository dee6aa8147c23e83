//! `[data]`: where the pairs of a run come from, and which keys belong to which source.
//!
//! Sections to start from are in `configs/data/`, one per source: `mopo config tldr` prints one.

use std::path::Path;

use mopo_core::Objectives;
use mopo_data::reddit::{CharacterRange, TldrOptions};
use mopo_data::{ChatTemplate, PairOptions, ReadOptions};
use serde::{Deserialize, Serialize};

use super::ranges::{self, Checked, MAX_COUNT, MAX_TOKENS};
use super::read::{ConfigFile, read_with};
use super::renamed::RenamedKey;
use crate::{Error, Result};

/// The sources' sections that the binary carries: name, text.
const SECTIONS: &[(&str, &str)] = &[
    ("hh", include_str!("../../configs/data/hh.toml")),
    ("tldr", include_str!("../../configs/data/tldr.toml")),
    ("tldr-axes", include_str!("../../configs/data/tldr-axes.toml")),
    ("summeval-op", include_str!("../../configs/data/summeval-op.toml")),
    ("trl", include_str!("../../configs/data/trl.toml")),
    ("safe-rlhf", include_str!("../../configs/data/safe-rlhf.toml")),
    ("beavertails", include_str!("../../configs/data/beavertails.toml")),
    ("ultrafeedback", include_str!("../../configs/data/ultrafeedback.toml")),
    ("helpsteer", include_str!("../../configs/data/helpsteer.toml")),
];

/// Keys of `[data]` that need not be there, which `--set` may add.
pub(super) const OPTIONAL: &[&str] = &[
    "data.objectives",
    "data.folders",
    "data.stem",
    "data.split",
    "data.post_characters",
    "data.template",
    "data.tie_threshold",
    "data.pairs_per_prompt",
    "data.n_prompts",
];

/// Where the pairs come from, and how long they may be. Which keys a source takes is checked: one of
/// another source is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Which source.
    pub source: DataSource,
    /// Of a source with several objectives only these, in this order; without it all. Pairs that
    /// none of them labels are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<String>,
    /// Objective → subfolder of the data directory, the objectives in order: `hh`, and where each
    /// objective has files of its own `tldr` and `trl`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<ObjectiveFolder>,
    /// Of a folder only files of this stem, `train` or `test`; without it all of a folder's files,
    /// which mixes the publisher's splits where both are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<String>,
    /// Only rows whose column `split` says this (`tldr`, `tldr_axes`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Only posts with more and with fewer characters than these (`tldr`, `tldr_axes`); without it
    /// all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_characters: Option<CharacterRange>,
    /// How questions and messages become a prompt: `dialogue`, `chatml` or `plain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<ChatTemplate>,
    /// Scores that differ by no more than this are a tie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie_threshold: Option<f32>,
    /// At most so many pairs of a prompt, drawn by the seed; without it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs_per_prompt: Option<usize>,
    /// Prompts of the demo world (`demo` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_prompts: Option<usize>,
    /// Share of the prompts that is held out, in (0, 1).
    pub heldout_fraction: f64,
    /// Tokens of a prompt; longer ones lose their beginning.
    pub max_prompt_tokens: usize,
    /// Tokens of a response, end of text included; longer ones lose their end.
    pub max_response_tokens: usize,
}

/// The kinds of sources.
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

/// Which folder labels which objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveFolder {
    /// The objective's name.
    pub objective: String,
    /// Folder below the data directory.
    pub folder: String,
}

/// A file of `[data]` alone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    data: DataConfig,
}

impl ConfigFile for Section {
    const RENAMED: &'static [RenamedKey] = &[];
    const OPTIONAL: &'static [&'static str] = OPTIONAL;
    const ALTERNATIVES: &'static [&'static [&'static str]] = &[];
}

impl DataConfig {
    /// A source with no other key set and texts of any length, for readers of configurations that
    /// have keys of their own.
    pub fn whole(source: DataSource, heldout_fraction: f64) -> Self {
        Self {
            source,
            objectives: vec![],
            folders: vec![],
            stem: None,
            split: None,
            post_characters: None,
            template: None,
            tie_threshold: None,
            pairs_per_prompt: None,
            n_prompts: None,
            heldout_fraction,
            max_prompt_tokens: usize::MAX,
            max_response_tokens: usize::MAX,
        }
    }

    /// The section of a source by its name, as `mopo config` prints it, or the one of a preset; with
    /// overrides as [`RunConfig::parse_with`](super::RunConfig::parse_with) takes them.
    ///
    /// # Errors
    /// An unknown name is answered with the known ones; wrong overrides.
    pub fn named(name: &str, overrides: &[String]) -> Result<Self> {
        match SECTIONS.iter().find(|section| section.0 == name) {
            Some((_, text)) => Self::parse(text, &format!("source `{name}`"), overrides),
            None => {
                let origin = format!("preset `{name}`");
                Ok(super::RunConfig::parse_with(super::preset_text(name)?, &origin, overrides)?
                    .data)
            }
        }
    }

    /// The section in a file, which may be a whole configuration or `[data]` alone.
    ///
    /// # Errors
    /// Those of [`RunConfig::parse_with`](super::RunConfig::parse_with).
    pub fn from_file(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("reading", path))?;
        let origin = path.display().to_string();
        let alone = toml::from_str::<toml::Table>(&text)
            .is_ok_and(|table| table.keys().all(|key| key == "data"));
        if alone {
            Self::parse(&text, &origin, overrides)
        } else {
            Ok(super::RunConfig::parse_with(&text, &origin, overrides)?.data)
        }
    }

    fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self> {
        let Section { data } = read_with(text, origin, overrides)?;
        let fail = |message: String| Error::Config { origin: origin.into(), message };
        data.check().map_err(fail)?;
        Ok(data)
    }

    /// Ranges, and that each key belongs to the source.
    pub(crate) fn check(&self) -> Checked {
        ranges::fraction("data.heldout_fraction", self.heldout_fraction)?;
        ranges::count("data.max_prompt_tokens", self.max_prompt_tokens, 1..=MAX_TOKENS)?;
        ranges::count("data.max_response_tokens", self.max_response_tokens, 2..=MAX_TOKENS)?;
        self.check_source()
    }

    /// The keys that say what is read.
    pub(crate) fn check_source(&self) -> Checked {
        match self.source {
            DataSource::Hh if self.folders.is_empty() => {
                return Err(
                    "`data.source` is \"hh\": list `[[data.folders]]` with `objective` and \
                            `folder`"
                        .into(),
                );
            }
            DataSource::Demo if self.n_prompts.is_none_or(|n| !(10..=MAX_COUNT).contains(&n)) => {
                return Err(format!(
                    "`data.source` is \"demo\": give `data.n_prompts`, from 10 to {MAX_COUNT}"
                ));
            }
            // Only labels what it was made with: keys of that source may stay.
            DataSource::Prepared => return Ok(()),
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
                "`data.post_characters` asks for more than {above} and fewer than {below} \
                 characters, which no post has"
            ));
        }
        if !self.objectives.is_empty() {
            Objectives::new(self.objectives.iter().cloned())
                .map_err(|e| format!("`data.objectives`: {e}"))?;
        }
        Ok(())
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
        // Key, whether it is there, whether its sources need it, its sources.
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
            let source = self.source.name();
            let belongs = sources.contains(&self.source);
            if is_there && !belongs {
                let of: Vec<_> = sources.iter().map(|s| format!("\"{}\"", s.name())).collect();
                return Err(format!(
                    "`data.{key}` does nothing with `data.source` = \"{source}\": remove it; it \
                     belongs to {}",
                    of.join(", ")
                ));
            }
            if is_needed && belongs && !is_there {
                return Err(format!(
                    "`data.{key}` is missing, which `data.source` = \"{source}\" needs"
                ));
            }
        }
        Ok(())
    }

    /// Checks what the source needs from the command line; `name` is what errors call the
    /// configuration.
    ///
    /// # Errors
    /// If it needs a path and none was given, or the other way round.
    pub fn check_path(&self, name: &str, data: Option<&Path>) -> Result<()> {
        let fail = |message: String| Err(Error::Config { origin: format!("`{name}`"), message });
        match (self.source, data) {
            (DataSource::Demo, Some(_)) => fail(
                "the demo world is generated and reads no files: leave --data out, or choose \
                 another preset or source, e.g. `mopo train hh-small --data …`"
                    .into(),
            ),
            (DataSource::Demo, None) | (_, Some(_)) => Ok(()),
            (DataSource::Hh, None) => fail(
                "it reads HH-RLHF files: give their folder, e.g. --data path/to/hh-rlhf (with \
                 helpful-base/ and harmless-base/ inside)"
                    .into(),
            ),
            (DataSource::Prepared, None) => {
                fail("it reads a prepared set: give the file, e.g. --data pairs.jsonl".into())
            }
            (source, None) => {
                let (files, source) = (source.title(), source.name().replace('_', "-"));
                fail(format!(
                    "it reads files of {files}: give a file or their folder with --data \
                     (`mopo config {source}` says which)"
                ))
            }
        }
    }

    /// Files, strictness and seed for a reader.
    pub(crate) fn read_options(&self, strict: bool, seed: u64) -> ReadOptions {
        ReadOptions { stem: self.stem.clone(), strict, seed }
    }

    /// The same with what TL;DR has besides.
    pub(crate) fn tldr_options(&self, strict: bool, seed: u64) -> TldrOptions {
        TldrOptions {
            read: self.read_options(strict, seed),
            split: self.split.clone(),
            post_characters: self.post_characters,
        }
    }

    /// How scores become pairs.
    pub(crate) fn pair_options(&self) -> PairOptions {
        PairOptions {
            tie_threshold: self.tie_threshold.unwrap_or_default(),
            pairs_per_prompt: self.pairs_per_prompt,
        }
    }

    /// The chat template, which was checked to be there where it is asked for.
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

    /// What its publisher calls it.
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

/// The names of the sources that have a section of their own.
pub fn section_names() -> Vec<&'static str> {
    SECTIONS.iter().map(|section| section.0).collect()
}

/// The text of a source's section.
pub(super) fn section_text(name: &str) -> Option<&'static str> {
    SECTIONS.iter().find(|section| section.0 == name).map(|section| section.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_whole_and_named_as_its_source() {
        for (name, text) in SECTIONS {
            let config = DataConfig::named(name, &[]).unwrap();
            assert_eq!(config.source.name().replace('_', "-"), *name);
            assert!(text.contains("--data"), "{name} does not say what to give");
        }
        assert_eq!(DataConfig::named("demo", &[]).unwrap().source, DataSource::Demo);
        let error = DataConfig::named("tldrr", &[]).unwrap_err().to_string();
        assert!(error.contains("hh-small") && error.contains("summeval-op"), "{error}");
    }

    #[test]
    fn keys_of_other_sources_and_wrong_values_are_refused() {
        for (name, assignment, expected) in [
            ("tldr", "data.tie_threshold=1.0", "`data.tie_threshold` does nothing"),
            ("tldr", "data.objectives=[\"a\"]", "\"summeval_op\", \"safe_rlhf\""),
            ("summeval-op", "data.split=train", "it belongs to \"tldr\", \"tldr_axes\""),
            ("summeval-op", "data.tie_threshold=-1", "must be a number ≥ 0"),
            ("summeval-op", "data.pairs_per_prompt=0", "leave it out for all"),
            ("summeval-op", "data.objectives=[\"fluency\",\"fluency\"]", "`data.objectives`"),
            ("summeval-op", "data.source=trl", "`data.template` is missing"),
            ("trl", "data.template=xml", "xml"),
            ("trl", "data.source=helpsteer", "`data.tie_threshold` is missing"),
            ("tldr", "data.post_characters={above=5,below=6}", "no post has"),
            ("tldr", "data.heldout_fraction=2", "between 0 and 1"),
            ("tldr", "data.splitt=train", "there is no key `splitt`"),
        ] {
            let error = DataConfig::named(name, &[assignment.into()]).unwrap_err().to_string();
            assert!(error.contains(expected), "{name} {assignment}: {error}");
        }
    }

    #[test]
    fn optional_keys_can_be_set() {
        let set = |name, assignment: &str| DataConfig::named(name, &[assignment.into()]).unwrap();
        assert_eq!(set("tldr", "data.split=valid1").split.as_deref(), Some("valid1"));
        assert_eq!(set("hh-small", "data.stem=test").stem.as_deref(), Some("test"));
        assert_eq!(set("summeval-op", "data.pairs_per_prompt=3").pairs_per_prompt, Some(3));
        assert_eq!(set("helpsteer", "data.objectives=[\"verbosity\"]").objectives, ["verbosity"]);
    }
}
