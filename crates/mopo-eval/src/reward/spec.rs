//! Rewards in configuration files, and how to build them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use mopo_ops::FusedBackend;

use super::model::LoadedModels;
use super::{
    DemoReward, Length, LengthPreference, LengthUnit, MODEL_PRESETS, ModelReward, ModelSpec,
    Pattern, Program, Resolver, Reward, WordList,
};
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

/// The specification of a reward. Unknown fields and kinds are refused.
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
        /// The index of the objective, from 0.
        objective_idx: usize,
        /// The name to show; by default the demo's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// The length of the response, see [`Length`].
    Length {
        /// What is counted; by default words.
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
        /// A file with one word per line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<PathBuf>,
        /// Whether fewer are better; false by default.
        #[serde(default)]
        avoid: bool,
        /// The name to show; `word_list` by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// How often a regular expression matches, see [`Pattern`].
    Regex {
        /// The expression, in the syntax of the crate `regex`.
        pattern: String,
        /// Whether fewer are better; false by default.
        #[serde(default)]
        avoid: bool,
        /// The name to show; `regex` by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// What another program computes, see [`Program`].
    Program {
        /// The program and its arguments.
        command: Vec<String>,
        /// The name to show; `program` by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// A classifier's logit, see [`ModelReward`].
    Model(Box<ModelSpec>),
}

impl RewardSpec {
    /// A reward by the name of a preset, or from a TOML file with its keys. The values are not
    /// [checked](Self::check) yet.
    ///
    /// # Errors
    /// A name that is neither, with a list of presets; the file and line that are wrong.
    pub fn from_name_or_file(name: &str) -> Result<Self> {
        if MODEL_PRESETS.text(name).is_some() {
            return Ok(Self::Model(Box::new(ModelSpec::preset(name))));
        }
        let path = Path::new(name);
        if !path.exists() {
            let expected =
                format!("no such file or preset; the presets are: {}", MODEL_PRESETS.listed());
            return Err(Error::invalid("reward", format!("`{name}`"), expected));
        }
        let wrong = |message: String| Error::Config { file: path.into(), message };
        let text = mopo_hub::read(path)?;
        let text = std::str::from_utf8(&text).map_err(|e| wrong(format!("not UTF-8: {e}")))?;
        toml::from_str(text).map_err(|e| wrong(e.to_string().trim_end().into()))
    }

    /// Checks as far as possible without reading files.
    ///
    /// # Errors
    /// Those of [`build`](Self::build).
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Model(spec) => spec.check(),
            Self::WordList { words, file: Some(_), .. } if words.is_empty() => Ok(()),
            _ => self.build_function().map(drop),
        }
    }

    /// Checks also the files that it names: a word list, a model's configuration and tokenizer. A
    /// model's weights are not read.
    ///
    /// # Errors
    /// Those of [`build`](Self::build).
    pub fn check_files(&self, resolve: Resolver<'_>) -> Result<()> {
        match self {
            Self::Model(spec) => spec.check_files(resolve),
            _ => self.build_function().map(drop),
        }
    }

    /// Builds the reward. `resolve` finds the directories of models, which run on
    /// `device`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the field that is out of range, contradicts another or
    /// does
    /// not fit the model; [`Error::Io`] if a word list cannot be read; those of
    /// [`ModelReward::load`].
    pub fn build<B: FusedBackend>(
        &self,
        device: &B::Device,
        resolve: Resolver<'_>,
    ) -> Result<Box<dyn Reward>> {
        match self {
            Self::Model(spec) => Ok(Box::new(ModelReward::<B>::load(spec, resolve, device)?)),
            _ => self.build_function(),
        }
    }

    /// Builds several rewards, in order. Those that differ only in the label, its sign and the template
    /// share one model, which computes the logits of a text once for all of them.
    ///
    /// # Errors
    /// Those of [`build`](Self::build).
    pub fn build_all<'a, B: FusedBackend>(
        specs: impl IntoIterator<Item = &'a Self>,
        device: &B::Device,
        resolve: Resolver<'_>,
    ) -> Result<Vec<Box<dyn Reward>>> {
        let mut models = LoadedModels::default();
        let build = |spec: &Self| -> Result<Box<dyn Reward>> {
            match spec {
                Self::Model(spec) => {
                    let reward = ModelReward::<B>::load_shared(spec, resolve, device, &mut models)?;
                    Ok(Box::new(reward))
                }
                _ => spec.build_function(),
            }
        };
        specs.into_iter().map(build).collect()
    }

    /// Whether two rewards read the same model.
    pub fn shares_model(&self, other: &Self) -> bool {
        let path = |spec: &Self| match spec {
            Self::Model(spec) => spec.with_preset().ok().and_then(|spec| spec.path),
            _ => None,
        };
        path(self).is_some_and(|own| path(other).is_some_and(|other| own == other))
    }

    /// Builds the reward if it is a function of the text, without backend and device.
    ///
    /// # Errors
    /// Those of [`build`](Self::build); [`Error::InvalidParameter`] for a model.
    pub fn build_function(&self) -> Result<Box<dyn Reward>> {
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
            Self::Regex { pattern, avoid, name } => {
                Box::new(Pattern::new(named(name, "regex"), pattern, *avoid)?)
            }
            Self::Program { command, name } => {
                Box::new(Program::new(named(name, "program"), command.clone())?)
            }
            Self::Model(_) => {
                let expected =
                    "a model needs a device; only functions of the text are supported here";
                return Err(Error::invalid("kind", "model", expected));
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
            ("kind = 'regex'\npattern = '[0-9]+'\navoid = true\nname = 'numbers'", "numbers"),
            ("kind = 'program'\ncommand = ['python', 'score.py']\nname = 'own'", "own"),
        ] {
            let spec = parse(text).unwrap();
            assert_eq!(spec.build_function().unwrap().name(), name);
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<RewardSpec>(&json).unwrap(), spec);
            assert_eq!(parse(&toml::to_string(&spec).unwrap()).unwrap(), spec);
        }
    }

    #[test]
    fn models_parse_and_are_checked_without_their_files() {
        for text in [
            "kind = 'model'\npreset = 'humor'",
            "kind = 'model'\npath = 'x'\ntext = '{response}'\nlabel = 'HUMOR'\nsign = -1\n\
             pooling = 'before_first_pad'\nmax_length = 9\ntruncation_side = 'left'",
        ] {
            let spec = parse(text).unwrap();
            spec.check().unwrap();
            assert_eq!(parse(&toml::to_string(&spec).unwrap()).unwrap(), spec);
            assert!(spec.build_function().is_err());
        }
        for (text, words) in [
            ("preset = 'humour'", "humor"),
            ("text = 'a'", "`path` is missing"),
            ("path = 'x'\nsign = 0", "`sign` is 0"),
            ("path = 'x'\ntext = '{responce}'", "{responce}"),
        ] {
            let spec = parse(&format!("kind = 'model'\n{text}")).unwrap();
            let e = spec.check().unwrap_err().to_string();
            assert!(e.contains(words), "{e}");
        }
        let e = parse("kind = 'model'\npath = 'x'\nmax_lenght = 3").unwrap_err().to_string();
        assert!(e.contains("max_lenght"), "{e}");
        let e = parse("kind = 'model'\npath = 'x'\npooling = 'mean'").unwrap_err().to_string();
        assert!(e.contains("mean") && e.contains("last_token"), "{e}");
    }

    #[test]
    fn a_reward_is_named_by_preset_or_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reward.toml");
        let of = |name: &str| RewardSpec::from_name_or_file(name);
        assert_eq!(
            of("hh-helpful").unwrap(),
            RewardSpec::Model(Box::new(ModelSpec::preset("hh-helpful")))
        );
        std::fs::write(&path, "kind = 'length'\ntarget = 3").unwrap();
        let name = path.to_str().unwrap();
        assert!(matches!(of(name).unwrap(), RewardSpec::Length { target: Some(3), .. }));
        for (bytes, words) in
            [(&b"kind = 'length'\ntargt = 3"[..], "targt"), (b"kind = '\xff'", "not UTF-8")]
        {
            std::fs::write(&path, bytes).unwrap();
            let e = of(name).unwrap_err().to_string();
            assert!(e.contains("reward.toml") && e.contains(words), "{e}");
        }
        let e = of("hh-helpfull").unwrap_err().to_string();
        assert!(e.contains("`hh-helpfull`") && e.contains("hh-helpful,"), "{e}");
    }

    #[test]
    fn mistakes_are_named() {
        let e = parse("kind = 'length'\ntargt = 3").unwrap_err().to_string();
        assert!(e.contains("targt"), "{e}");
        assert!(parse("kind = 'magic'").unwrap_err().to_string().contains("magic"));
        assert!(parse("kind = 'demo'").unwrap_err().to_string().contains("objective_idx"));
        let build = |text| parse(text).unwrap().build_function().err().unwrap().to_string();
        assert!(build("kind = 'demo'\nobjective_idx = 7").contains("objective_idx"));
        assert!(build("kind = 'length'\ntarget = 3\nprefer = 'shorter'").contains("prefer"));
        assert!(build("kind = 'word_list'\nwords = ['a']\nfile = 'b'").contains("file"));
        assert!(build("kind = 'word_list'").contains("words"));
        assert!(build("kind = 'regex'\npattern = '['").contains("pattern"));
        assert!(build("kind = 'program'\ncommand = []").contains("command"));
    }
}
