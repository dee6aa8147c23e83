//! Rewards in configuration files, and how to build them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use mopo_ops::FusedBackend;

use super::model::LoadedModels;
use super::{
    DemoReward, Ensemble, EnsembleSpec, HttpReward, HttpSpec, Length, LengthCorrected,
    LengthCorrectedSpec, LengthPreference, LengthUnit, MODEL_PRESETS, ModelReward, ModelSpec,
    Pattern, Program, ProgramSpec, Resolver, Reward, WordList, part,
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
    Program(Box<ProgramSpec>),
    /// What an HTTP endpoint computes, see [`HttpReward`].
    Http(Box<HttpSpec>),
    /// A classifier's logit, see [`ModelReward`].
    Model(Box<ModelSpec>),
    /// Several rewards as one, see [`Ensemble`].
    Ensemble(EnsembleSpec),
    /// A reward minus a price for length, see [`LengthCorrected`].
    LengthCorrected(Box<LengthCorrectedSpec>),
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

    /// The rewards that this one consists of, by their key.
    pub(super) fn parts(&self) -> Vec<(String, &Self)> {
        match self {
            Self::Ensemble(spec) => {
                let members = spec.rewards.iter().enumerate();
                members.map(|(i, member)| (format!("rewards[{i}]"), &member.reward)).collect()
            }
            Self::LengthCorrected(spec) => vec![("reward".into(), &spec.reward)],
            _ => vec![],
        }
    }

    /// Whether it is an ensemble, or has one.
    pub(super) fn has_ensemble(&self) -> bool {
        matches!(self, Self::Ensemble(_))
            || self.parts().iter().any(|(_, part)| part.has_ensemble())
    }

    /// The models that it reads: its own, or those of the rewards that it consists of.
    pub fn models(&self) -> Vec<&ModelSpec> {
        match self {
            Self::Model(spec) => vec![spec.as_ref()],
            _ => self.parts().into_iter().flat_map(|(_, part)| part.models()).collect(),
        }
    }

    /// The same reward, with default values for what affects no score: how a program or an endpoint is asked.
    pub fn identity(&self) -> Self {
        match self {
            Self::Http(spec) => Self::Http(Box::new(spec.identity())),
            Self::Program(spec) => Self::Program(Box::new(spec.identity())),
            Self::Ensemble(spec) => {
                let mut spec = spec.clone();
                for member in &mut spec.rewards {
                    member.reward = member.reward.identity();
                }
                Self::Ensemble(spec)
            }
            Self::LengthCorrected(spec) => Self::LengthCorrected(Box::new(LengthCorrectedSpec {
                reward: spec.reward.identity(),
                ..(**spec).clone()
            })),
            _ => self.clone(),
        }
    }

    /// Checks a reward of parts except for them.
    fn check_whole(&self) -> Result<()> {
        match self {
            Self::Ensemble(spec) => spec.check(),
            Self::LengthCorrected(spec) => spec.price().map(drop),
            _ => Ok(()),
        }
    }

    /// Checks a reward of parts, and its parts by `check`.
    fn check_parts(&self, check: impl Fn(&Self) -> Result<()>) -> Result<()> {
        self.check_whole()?;
        self.parts().into_iter().try_for_each(|(place, part)| within(place, check(part)))
    }

    /// Checks as far as possible without reading files or the environment.
    ///
    /// # Errors
    /// Those of [`build`](Self::build).
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Model(spec) => spec.check(),
            Self::Http(spec) => spec.check(),
            Self::Ensemble(_) | Self::LengthCorrected(_) => self.check_parts(Self::check),
            Self::WordList { words, file: Some(_), .. } if words.is_empty() => Ok(()),
            _ => self.build_function().map(drop),
        }
    }

    /// Checks also the files that it names, and the environment variables: a word list, a model's configuration
    /// and tokenizer, an endpoint's token. A model's weights are not read, and an endpoint is not asked.
    ///
    /// # Errors
    /// Those of [`build`](Self::build).
    pub fn check_files(&self, resolve: Resolver<'_>) -> Result<()> {
        match self {
            Self::Model(spec) => spec.check_files(resolve),
            Self::Ensemble(_) | Self::LengthCorrected(_) => {
                self.check_parts(|part| part.check_files(resolve))
            }
            _ => self.build_function().map(drop),
        }
    }

    /// Builds the reward. `resolve` finds the directories of models, which run on
    /// `device`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the field that is out of range, contradicts another or
    /// does
    /// not fit the model; [`Error::Within`] with the part of a reward that consists of several;
    /// [`Error::Io`] if a word list cannot be read; those of [`ModelReward::load`].
    pub fn build<B: FusedBackend>(
        &self,
        device: &B::Device,
        resolve: Resolver<'_>,
    ) -> Result<Box<dyn Reward>> {
        self.build_shared(device, resolve, &mut LoadedModels::<B>::default())
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
        let mut models = LoadedModels::<B>::default();
        specs.into_iter().map(|spec| spec.build_shared(device, resolve, &mut models)).collect()
    }

    fn build_shared<B: FusedBackend>(
        &self,
        device: &B::Device,
        resolve: Resolver<'_>,
        models: &mut LoadedModels<B>,
    ) -> Result<Box<dyn Reward>> {
        self.build_by(&mut |spec| {
            Ok(Box::new(ModelReward::<B>::load_shared(spec, resolve, device, models)?))
        })
    }

    /// Whether two rewards read the same model.
    pub fn shares_model(&self, other: &Self) -> bool {
        let paths = |spec: &Self| -> Vec<String> {
            let whole = spec.models().into_iter().filter_map(|spec| spec.with_preset().ok());
            whole.filter_map(|spec| spec.path).collect()
        };
        let others = paths(other);
        paths(self).iter().any(|path| others.contains(path))
    }

    /// Builds the reward if it is a function of the text, without backend and device.
    ///
    /// # Errors
    /// Those of [`build`](Self::build); [`Error::InvalidParameter`] for a model.
    pub fn build_function(&self) -> Result<Box<dyn Reward>> {
        self.build_by(&mut |_| {
            let expected = "a model needs a device; only functions of the text are supported here";
            Err(Error::invalid("kind", "model", expected))
        })
    }

    /// Builds the reward, its models by `model`.
    fn build_by(&self, model: &mut BuildModel<'_>) -> Result<Box<dyn Reward>> {
        self.check_whole()?;
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
            Self::Program(spec) => Box::new(Program::new(spec)?),
            Self::Http(spec) => Box::new(HttpReward::new(spec)?),
            Self::Model(spec) => model(spec)?,
            Self::Ensemble(spec) => {
                let members = spec.rewards.iter().enumerate().map(|(i, member)| {
                    let place = format!("rewards[{i}]");
                    let reward = within(place.clone(), member.reward.build_by(model))?;
                    Ok((part(place, reward), member.statistics.clone()))
                });
                let members = members.collect::<Result<_>>()?;
                Box::new(Ensemble::new(
                    named(&spec.name, "ensemble"),
                    members,
                    spec.combination()?,
                )?)
            }
            Self::LengthCorrected(spec) => {
                let reward = part("reward", within("reward".into(), spec.reward.build_by(model))?);
                let (name, price) = (spec.name.clone(), spec.price()?);
                Box::new(LengthCorrected::new(name, reward, price, spec.from)?)
            }
        })
    }
}

/// How a model is built.
type BuildModel<'a> = dyn FnMut(&ModelSpec) -> Result<Box<dyn Reward>> + 'a;

/// An error with the key of the part that it is in.
fn within<T>(place: String, result: Result<T>) -> Result<T> {
    result.map_err(|source| Error::Within { place, source: Box::new(source) })
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
            ("kind = 'http'\nurl = 'http://localhost:1/'", "http"),
            ("kind = 'http'\nurl = 'https://a.b/c'\nname = 'd'\nbatch_size = 2\nretries = 0", "d"),
            (
                "kind = 'ensemble'\ncombine = 'mean'\nrewards = [{ kind = 'length' }, { kind = 'length' }]",
                "ensemble",
            ),
            (
                "kind = 'length_corrected'\nper_word = 0.5\nreward = { kind = 'regex', pattern = 'a' }",
                "regex",
            ),
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
    fn what_affects_no_score_is_not_part_of_a_rewards_identity() {
        let within = |reward: &str| {
            let text = format!(
                "kind = 'ensemble'\ncombine = 'mean'\nrewards = [{{ kind = 'length' }}, \
                 {{ kind = 'length_corrected', per_word = 1, reward = {{ {reward} }} }}]"
            );
            parse(&text).unwrap()
        };
        let plain = "kind = 'http', url = 'http://localhost:1/', name = 'a'";
        let asked = format!("{plain}, timeout = 5, retries = 9, batch_size = 1, token_env = 'T'");
        let (one, other) = (within(plain), within(&asked));
        assert_ne!(one, other);
        assert_eq!(one.identity(), other.identity());
        for (from, to) in [("localhost", "elsewhere"), ("'a'", "'b'"), (", name = 'a'", "")] {
            assert_ne!(one.identity(), within(&plain.replace(from, to)).identity(), "{to}");
        }
        let words = parse("kind = 'word_list'\nwords = ['a']\navoid = true").unwrap();
        assert_eq!(words.identity(), words);
    }

    #[test]
    fn models_are_found_and_shared_inside_other_rewards() {
        let model = |path: &str| format!("{{ kind = 'model', path = '{path}' }}");
        let ensemble = |a: &str, b: &str| {
            let text = format!("kind = 'ensemble'\ncombine = 'mean'\nrewards = [{a}, {b}]");
            parse(&text).unwrap()
        };
        let one = ensemble(&model("x"), "{ kind = 'length' }");
        let two = ensemble(
            &model("y"),
            &format!("{{ kind = 'length_corrected', per_word = 1, reward = {} }}", model("x")),
        );
        let none = ensemble("{ kind = 'length' }", "{ kind = 'length' }");
        assert_eq!((one.models().len(), two.models().len(), none.models().len()), (1, 2, 0));
        assert!(one.shares_model(&two) && !none.shares_model(&two) && !none.shares_model(&none));
        assert!(two.shares_model(&parse("kind = 'model'\npath = 'y'").unwrap()));
        let e = two.build_function().err().unwrap().to_string();
        assert!(e.contains("`rewards[0]`") && e.contains("needs a device"), "{e}");
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
