//! Rewards as data: what a configuration file may say, and the reward that it means.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DemoReward, Length, LengthPreference, LengthUnit, Reward, WordList};
use crate::{Error, Result};

/// Which end of a plain length is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// Longer responses.
    #[default]
    Longer,
    /// Shorter responses.
    Shorter,
}

/// A reward, described. Unknown fields and kinds are refused.
///
/// ```toml
/// [[rewards]]
/// kind = "length"
/// unit = "words"
/// target = 30
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardSpec {
    /// One of the demo world's known rewards.
    Demo {
        /// Which of its objectives, from 0.
        objective_idx: usize,
        /// The name to show; by default the demo's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// The length of the response, see [`Length`].
    Length {
        /// What is counted; words by default.
        #[serde(default)]
        unit: LengthUnit,
        /// The best length; without it, `prefer` says which end is better.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<u32>,
        /// Which end is better; longer by default. Not together with `target`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prefer: Option<Prefer>,
        /// The name to show; `length` by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// The share of words in a list, see [`WordList`]. Either `words` or `file`.
    WordList {
        /// The words themselves.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        words: Vec<String>,
        /// A file with one word a line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<PathBuf>,
        /// Whether fewer are better; false by default.
        #[serde(default)]
        avoid: bool,
        /// The name to show; `word_list` by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
}

impl RewardSpec {
    /// The reward that this describes.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the field that is out of range or contradicts another;
    /// [`Error::Io`] if a word list cannot be read.
    pub fn build(&self) -> Result<Box<dyn Reward>> {
        let named = |name: &Option<String>, default: &str| {
            name.clone().unwrap_or_else(|| default.to_owned())
        };
        Ok(match self {
            Self::Demo { objective_idx, name } => {
                let names = mopo_data::demo::objectives();
                let default = names.names().get(*objective_idx).map_or("demo", String::as_str);
                Box::new(DemoReward::new(named(name, default), *objective_idx)?)
            }
            Self::Length { unit, target, prefer, name } => {
                let preference = match (target, prefer) {
                    (Some(_), Some(_)) => {
                        let expected = "`target` is set as well; keep one of the two";
                        return Err(Error::invalid("prefer", "set", expected));
                    }
                    (Some(target), None) => LengthPreference::Target(*target),
                    (None, Some(Prefer::Shorter)) => LengthPreference::Shorter,
                    (None, _) => LengthPreference::Longer,
                };
                Box::new(Length::new(named(name, "length"), *unit, preference)?)
            }
            Self::WordList { words, file, avoid, name } => {
                let name = named(name, "word_list");
                Box::new(match file {
                    Some(_) if !words.is_empty() => {
                        let expected = "`words` is set as well; keep one of the two";
                        return Err(Error::invalid("file", "set", expected));
                    }
                    Some(file) => WordList::from_file(name, file, *avoid)?,
                    None => WordList::new(name, words, *avoid)?,
                })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<RewardSpec, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn every_kind_parses_builds_and_survives_a_round_trip() {
        for (text, name) in [
            ("kind = 'demo'\nobjective_idx = 1\nname = 'warm'", "warm"),
            ("kind = 'demo'\nobjective_idx = 1", "harmless"),
            ("kind = 'length'", "length"),
            ("kind = 'length'\nunit = 'characters'\ntarget = 80\nname = 'brief'", "brief"),
            ("kind = 'word_list'\nwords = ['please']", "word_list"),
        ] {
            let spec = parse(text).unwrap();
            assert_eq!(spec.build().unwrap().name(), name);
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<RewardSpec>(&json).unwrap(), spec);
            assert_eq!(parse(&toml::to_string(&spec).unwrap()).unwrap(), spec);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let e = parse("kind = 'length'\ntargt = 3").unwrap_err().to_string();
        assert!(e.contains("targt"), "{e}");
        assert!(parse("kind = 'magic'").unwrap_err().to_string().contains("magic"));
        assert!(parse("kind = 'demo'").unwrap_err().to_string().contains("objective_idx"));
        let build = |text| parse(text).unwrap().build().err().unwrap().to_string();
        assert!(build("kind = 'demo'\nobjective_idx = 7").contains("objective_idx"));
        assert!(build("kind = 'length'\ntarget = 3\nprefer = 'shorter'").contains("prefer"));
        assert!(build("kind = 'word_list'\nwords = ['a']\nfile = 'b'").contains("file"));
        assert!(build("kind = 'word_list'").contains("words"));
    }
}
