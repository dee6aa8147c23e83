//! `[data]`: the source of a run's pairs, and their maximum lengths.
//!
//! Sections to start from are in `configs/data/`, one per source: `mopo config tldr` prints one.

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use super::ranges::{self, Checked, MAX_TOKENS};
use super::read::{ConfigFile, PartError, read_part, read_text, read_with};
use super::renamed::RenamedKey;
use super::{SOURCES, SourceConfig};
use crate::{Error, Result};

/// Optional keys of `[data]`, which `--set` may add.
pub(super) const OPTIONAL: &[&str] = &[
    "data.objectives",
    "data.folders",
    "data.stem",
    "data.split",
    "data.post_characters",
    "data.template",
    "data.tie_threshold",
    "data.pairs_per_prompt",
    "data.max_pairs",
    "data.n_prompts",
    "data.sources",
    "data.split_seed",
    "data.streaming",
];

/// The source of the pairs, and their maximum lengths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The source.
    #[serde(flatten)]
    pub source: SourceConfig,
    /// Fraction of the prompts that is held out, in (0, 1).
    pub heldout_fraction: f64,
    /// Seed of the split into training and held-out prompts; by default the run's. Runs that differ in their seed
    /// have the same held-out prompts with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_seed: Option<u64>,
    /// Whether training pairs stay on disk, so that there may be more than memory holds; held-out ones are in memory.
    /// Optional (false).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub streaming: bool,
    /// Maximum number of tokens of a prompt; longer ones are cut from the left.
    pub max_prompt_tokens: usize,
    /// Maximum number of tokens of a response, end of text included; longer ones are cut from the
    /// right.
    pub max_response_tokens: usize,
}

/// A file with only `[data]`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    data: DataConfig,
}

impl ConfigFile for Section {
    fn renamed() -> Vec<RenamedKey> {
        Vec::new()
    }

    fn optional() -> Vec<&'static str> {
        OPTIONAL.to_vec()
    }

    fn alternatives() -> Vec<&'static [&'static str]> {
        Vec::new()
    }

    fn read_parts(document: &DeTable<'_>) -> std::result::Result<(), PartError> {
        read_source(document)
    }
}

/// Reads the keys that `[data]` shares with other configurations.
pub(super) fn read_source(document: &DeTable<'_>) -> std::result::Result<(), PartError> {
    let own = &[
        "heldout_fraction",
        "split_seed",
        "streaming",
        "max_prompt_tokens",
        "max_response_tokens",
    ];
    read_part::<SourceConfig>(document, &["data"], own)
}

impl DataConfig {
    /// The section of a source by its name, as printed by `mopo config`, or that of a preset; with
    /// overrides as for [`RunConfig::parse_with`](super::RunConfig::parse_with).
    ///
    /// # Errors
    /// An unknown name (the error lists the known ones); invalid overrides.
    pub fn named(name: &str, overrides: &[String]) -> Result<Self> {
        match SOURCES.text(name) {
            Some(text) => Self::parse(text, &format!("source `{name}`"), overrides),
            None => {
                let origin = format!("preset `{name}`");
                Ok(super::RunConfig::parse_with(super::preset_text(name)?, &origin, overrides)?
                    .data)
            }
        }
    }

    /// The section in a file, which may be a complete configuration or only `[data]`.
    ///
    /// # Errors
    /// Those of [`RunConfig::parse_with`](super::RunConfig::parse_with).
    pub fn from_file(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = read_text(path)?;
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

    /// Checks ranges, and that each key belongs to the source.
    pub(crate) fn check(&self) -> Checked {
        ranges::fraction("data.heldout_fraction", self.heldout_fraction)?;
        if let Some(seed) = self.split_seed {
            super::check_seed("data.split_seed", seed)?;
        }
        ranges::count("data.max_prompt_tokens", self.max_prompt_tokens, 1..=MAX_TOKENS)?;
        ranges::count("data.max_response_tokens", self.max_response_tokens, 2..=MAX_TOKENS)?;
        self.source.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DataSource;

    #[test]
    fn every_section_is_whole_and_named_as_its_source() {
        for (name, text) in SOURCES.iter() {
            let config = DataConfig::named(name, &[]).unwrap();
            assert_eq!(config.source.kind.name().replace('_', "-"), name);
            assert!(text.contains("--data"), "{name} does not say what to give");
        }
        assert_eq!(DataConfig::named("demo", &[]).unwrap().source.kind, DataSource::Demo);
        let error = DataConfig::named("tldrr", &[]).unwrap_err().to_string();
        assert!(error.contains("hh-small") && error.contains("summeval-op"), "{error}");
    }

    #[test]
    fn keys_of_other_sources_and_wrong_values_are_refused() {
        for (name, assignment, expected) in [
            ("tldr", "data.tie_threshold=1.0", "`data.tie_threshold` does not apply"),
            ("tldr", "data.objectives=[\"a\"]", "\"summeval_op\", \"safe_rlhf\""),
            ("summeval-op", "data.split=train", "it belongs to \"tldr\", \"tldr_axes\""),
            ("summeval-op", "data.tie_threshold=-1", "must be a number ≥ 0"),
            ("summeval-op", "data.pairs_per_prompt=0", "leave it out for all"),
            ("hh", "data.max_pairs=0", "leave it out for all"),
            ("summeval-op", "data.objectives=[\"fluency\",\"fluency\"]", "`data.objectives`"),
            ("summeval-op", "data.source=trl", "`data.template` is missing"),
            ("trl", "data.template=xml", "xml"),
            ("trl", "data.source=helpsteer", "`data.tie_threshold` is missing"),
            ("tldr", "data.post_characters={above=5,below=6}", "impossible"),
            ("tldr", "data.heldout_fraction=2", "between 0 and 1"),
            ("tldr", "data.splitt=train", "did you mean `data.split`?"),
        ] {
            let error = DataConfig::named(name, &[assignment.into()]).unwrap_err().to_string();
            assert!(error.contains(expected), "{name} {assignment}: {error}");
        }
    }

    #[test]
    fn optional_keys_can_be_set() {
        let set =
            |name, assignment: &str| DataConfig::named(name, &[assignment.into()]).unwrap().source;
        assert_eq!(set("tldr", "data.split=valid1").split.as_deref(), Some("valid1"));
        assert_eq!(set("hh-small", "data.stem=test").stem.as_deref(), Some("test"));
        assert_eq!(set("summeval-op", "data.pairs_per_prompt=3").pairs_per_prompt, Some(3));
        assert_eq!(set("helpsteer", "data.objectives=[\"verbosity\"]").objectives, ["verbosity"]);
    }
}
