//! How a reward model is used: template, pooling, label, sign, length. The public models are
//! presets; what neither a preset, nor a configuration, nor the model's own `reward.toml` sets is
//! never guessed.

use std::path::Path;

use mopo_hub::Presets;
use mopo_lm::{ClassifierShape, Pooling};
use serde::{Deserialize, Serialize};

use super::template::Template;
use super::{Resolver, RewardTokenizer, TruncationSide};
use crate::ScoreStatistics;
use crate::{Error, Result};

/// The file next to a model's weights with its settings: the keys of [`ModelSettings`], in TOML.
pub const SETTINGS_FILE: &str = "reward.toml";

/// Which of a model's logits is the score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    /// By its index, from 0.
    Index(usize),
    /// By its name in the model's `id2label`.
    Name(String),
}

/// Defines [`ModelSettings`], where what decides the scores must be there, and [`ModelSpec`], where every
/// field may be left out. A row: how the field is read in the former, its type there, and in the latter.
macro_rules! model_settings {
    ($(
        $(#[doc = $doc:literal])+
        $([serde($($read:tt)+)])? $field:ident: $whole:ty, $given:ty;
    )+) => {
        /// Everything besides its files that a model's scores depend on.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct ModelSettings {
            /// The name to show if nothing else gives one.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub name: Option<String>,
            $(
                $(#[doc = $doc])+
                $(#[serde($($read)+)])?
                pub $field: $whole,
            )+
        }

        /// A reward model as a configuration describes it. What it leaves out comes from the preset, and
        /// then from the model's own `reward.toml`.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct ModelSpec {
            /// One of [`MODEL_PRESETS`].
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub preset: Option<String>,
            /// A model directory, or a name on Hugging Face; the preset's by default.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub path: Option<String>,
            /// The name to show; by default the preset's, that of the model's own file, or the last
            /// part of `path`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub name: Option<String>,
            /// Refuse models of another architecture than this.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub architecture: Option<String>,
            $(
                $(#[doc = $doc])+
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$given>,
            )+
        }
    };
}

model_settings! {
    /// The model's input, with `{prompt}` and `{response}`; `{{` and `}}` are braces.
    text: String, String;
    /// The second text of a pair, for models that compare two.
    [serde(default, skip_serializing_if = "Option::is_none")] pair: Option<String>, String;
    /// Removed from the start of a prompt that begins with it.
    [serde(default, skip_serializing_if = "Option::is_none")] prompt_prefix: Option<String>, String;
    /// Removed from the end of a prompt that ends with it.
    [serde(default, skip_serializing_if = "Option::is_none")] prompt_suffix: Option<String>, String;
    /// Removed from the start of a response that begins with it.
    [serde(default, skip_serializing_if = "Option::is_none")] response_prefix: Option<String>, String;
    /// Which token's state is classified.
    pooling: Pooling, Pooling;
    /// Which logit is the score.
    label: Label, Label;
    /// 1, or −1 where less is better: the score is the logit times this.
    [serde(default = "plus")] sign: i8, i8;
    /// Maximum length of a text in tokens, special ones included.
    max_length: usize, usize;
    /// Which end of longer texts is cut off.
    truncation_side: TruncationSide, TruncationSide;
    /// The padding token of the pooling rules; that of the model's configuration by default.
    [serde(default, skip_serializing_if = "Option::is_none")] pad_token_id: Option<u32>, u32;
    /// Statistics of the scores of known texts, for z-scores; no effect on scores.
    [serde(default, skip_serializing_if = "Option::is_none")]
    statistics: Option<ScoreStatistics>, ScoreStatistics;
}

fn plus() -> i8 {
    1
}

fn check_sign(sign: i8) -> Result<()> {
    match sign {
        1 | -1 => Ok(()),
        _ => Err(Error::invalid("sign", sign, "it must be 1 or -1")),
    }
}

impl ModelSettings {
    /// The same settings with statistics of scores.
    pub fn with_statistics(self, statistics: ScoreStatistics) -> Self {
        Self { statistics: Some(statistics), ..self }
    }

    /// Writes `reward.toml` to a model's directory, from which [`ModelSpec::settings`] takes what a
    /// configuration does not set.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let text = toml::to_string(self).expect("plain data");
        let path = dir.as_ref().join(SETTINGS_FILE);
        Ok(mopo_hub::write_atomically(&path, text.as_bytes())?)
    }

    /// Checks the settings against a model. Returns the index of the logit.
    ///
    /// # Errors
    /// The field that does not fit, with what the model has.
    pub(crate) fn check(&self, model: &ClassifierShape) -> Result<usize> {
        let known = Pooling::of(model.architecture);
        if !known.contains(&self.pooling) {
            let known: Vec<String> = known.iter().map(|rule| rule.name()).collect();
            let expected = format!("{} has: {}", model.architecture, known.join(", "));
            return Err(Error::invalid("pooling", self.pooling.name(), expected));
        }
        check_sign(self.sign)?;
        if self.max_length == 0 || self.max_length > model.max_tokens {
            let expected = format!("it must lie between 1 and the model's {}", model.max_tokens);
            return Err(Error::invalid("max_length", self.max_length, expected));
        }
        Template::check("text", &self.text)?;
        if let Some(pair) = &self.pair {
            Template::check("pair", pair)?;
        }
        if !self.text.contains("{response}")
            && !self.pair.as_ref().is_some_and(|pair| pair.contains("{response}"))
        {
            let expected = "`{response}` must occur in it, or in `pair`; otherwise all scores \
                            would be equal";
            return Err(Error::invalid("text", format!("`{}`", self.text), expected));
        }
        let labels = &model.labels;
        let index = match &self.label {
            Label::Index(index) => Some(*index).filter(|index| *index < labels.len()),
            Label::Name(name) => labels.iter().position(|label| label == name),
        };
        index.ok_or_else(|| {
            let shown = match &self.label {
                Label::Index(index) => index.to_string(),
                Label::Name(name) => format!("`{name}`"),
            };
            let all = labels.iter().enumerate().map(|(i, name)| format!("{i} ({name})"));
            let expected = format!("the model has: {}", all.collect::<Vec<_>>().join(", "));
            Error::invalid("label", shown, expected)
        })
    }
}

/// The public reward models of the paper's protocol. Each file is the content of a `[[rewards]]`
/// table with `kind = "model"`.
pub const MODEL_PRESETS: Presets = mopo_hub::presets!("presets/":
    "hh-harmless", "hh-helpful", "humor", "tldr-faithful", "tldr-less-hallucination", "tldr-pref1",
);

impl ModelSpec {
    /// A preset without changes.
    pub fn preset(name: impl Into<String>) -> Self {
        Self { preset: Some(name.into()), ..Self::default() }
    }

    /// This specification, completed by its preset.
    ///
    /// # Errors
    /// A preset that does not exist; neither preset nor path.
    pub fn with_preset(&self) -> Result<Self> {
        let preset = match &self.preset {
            None => None,
            Some(name) => {
                let text = MODEL_PRESETS.text(name).ok_or_else(|| {
                    let expected = format!("there are: {}", MODEL_PRESETS.listed());
                    Error::invalid("preset", format!("`{name}`"), expected)
                })?;
                Some(toml::from_str::<Self>(text).expect("a file of our own, tested"))
            }
        };
        let whole = match preset {
            Some(preset) => self.or(&preset)?,
            None => self.clone(),
        };
        if whole.path.is_none() {
            let expected = "give a directory, a model on Hugging Face, or a `preset`";
            return Err(Error::invalid("path", "missing", expected));
        }
        Ok(whole)
    }

    /// Checks what can be checked without the model: the preset's name, templates, the sign.
    ///
    /// # Errors
    /// The invalid field.
    pub fn check(&self) -> Result<()> {
        let whole = self.with_preset()?;
        for (field, template) in [("text", &whole.text), ("pair", &whole.pair)] {
            template.as_deref().map_or(Ok(()), |template| Template::check(field, template))?;
        }
        check_sign(whole.sign.unwrap_or(plus()))
    }

    /// Checks everything that does not need the weights: that the model's files exist, and that the
    /// settings fit them.
    ///
    /// # Errors
    /// Those of [`ModelReward::load`](super::ModelReward::load), except for the weights themselves.
    pub fn check_files(&self, resolve: Resolver<'_>) -> Result<()> {
        let whole = self.with_preset()?;
        let dir = resolve(whole.path.as_deref().expect("checked with the preset"))?;
        let settings = self.settings(&dir)?;
        let shape = ClassifierShape::read(&dir)?;
        whole.check_architecture(&shape, &dir)?;
        settings.check(&shape)?;
        let (length, side) = (settings.max_length, settings.truncation_side);
        RewardTokenizer::load(&dir, shape.architecture, length, side)?;
        mopo_hub::find_files(&dir)?;
        Ok(())
    }

    /// Refuses a model of another architecture than the configured one.
    pub(crate) fn check_architecture(&self, shape: &ClassifierShape, dir: &Path) -> Result<()> {
        match &self.architecture {
            Some(expected) if expected != shape.architecture => {
                let expected =
                    format!("the preset is for a model of `{expected}`; name another `path`");
                let error = Error::invalid("model_type", shape.architecture, expected);
                Err(Error::InFile { path: dir.join("config.json"), source: Box::new(error) })
            }
            _ => Ok(()),
        }
    }

    /// Field by field: this value, or else that of `other`.
    fn or(&self, other: &Self) -> Result<Self> {
        let mut whole = other.fields()?;
        whole.extend(self.fields()?);
        whole.try_into().map_err(unusable)
    }

    /// The fields that are set, by name.
    fn fields(&self) -> Result<toml::Table> {
        toml::Table::try_from(self).map_err(unusable)
    }

    /// The settings for the model in `dir`: from this specification, its preset, and `reward.toml`
    /// there.
    ///
    /// # Errors
    /// The settings that are missing, by name; an invalid `reward.toml`.
    pub fn settings(&self, dir: impl AsRef<Path>) -> Result<ModelSettings> {
        let (mut whole, dir) = (self.with_preset()?, dir.as_ref());
        let path = dir.join(SETTINGS_FILE);
        if path.exists() {
            let text = mopo_hub::read(&path)?;
            let own = std::str::from_utf8(&text).map_err(|e| e.to_string());
            let own = own.and_then(|text| toml::from_str(text).map_err(|e| e.to_string()));
            let own: Self = own.map_err(|reason| mopo_hub::Error::Json {
                path,
                reason: reason.trim_end().to_owned(),
                expected: "the settings of a reward model, in TOML",
            })?;
            whole = whole.or(&own)?;
        }
        let mut fields = whole.fields()?;
        fields.retain(|name, _| !["preset", "path", "architecture"].contains(&name));
        for field in ["text", "pooling", "label", "max_length", "truncation_side"] {
            if !fields.contains_key(field) {
                let none = match dir.join("config.json").exists() {
                    true => "",
                    false => " (which has no config.json either: is it a reward model?)",
                };
                let expected = format!(
                    "it decides the scores and has no default: set it in the configuration or in {}{none}, or use a \
                     `preset`",
                    dir.join(SETTINGS_FILE).display()
                );
                return Err(Error::invalid(field, "missing", expected));
            }
        }
        fields.try_into().map_err(unusable)
    }
}

/// A number out of TOML's range; everything else has its field's type.
fn unusable(reason: impl std::fmt::Display) -> Error {
    Error::invalid("model", reason.to_string(), "its settings must have a form in TOML")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_models_are_complete_presets() {
        let hh = |what| (format!("Ray2333/gpt2-large-{what}-reward_model"), "gpt2");
        let detector = || ("CogComp/bart-faithful-summary-detector".to_owned(), "bart");
        let humor = ("mohameddhiab/humor-no-humor".to_owned(), "distilbert");
        let pref1 = ("Tristan/gpt2_reward_summarization".to_owned(), "gpt2");
        let follow = ("{prompt}{response}", None);
        let summary_first = ("{response} <|endoftext|> {prompt}", None);
        let pair = ("{response}", Some("{prompt}"));
        let (last, non_pad, eos) = (Pooling::LastToken, Pooling::LastNonPad, Pooling::LastEos);
        let expected = [
            ("hh-harmless", "harmless", hh("harmless"), follow, last, 0, 1, 1024),
            ("hh-helpful", "helpful", hh("helpful"), follow, last, 0, 1, 1024),
            ("humor", "humor", humor, ("{response}", None), Pooling::Cls, 1, 1, 512),
            ("tldr-faithful", "faithful", detector(), pair, eos, 1, 1, 1024),
            ("tldr-less-hallucination", "less_hallucination", detector(), pair, eos, 0, -1, 1024),
            ("tldr-pref1", "pref1", pref1, summary_first, non_pad, 0, 1, 1024),
        ];
        let names: Vec<&str> = MODEL_PRESETS.names().collect();
        assert_eq!(names, expected.clone().map(|e| e.0));
        let dir = tempfile::tempdir().unwrap();
        // The template around a post in the reader's prompts.
        let around = mopo_data::reddit::tldr_prompt("POST");
        let around = around.split_once("POST").unwrap();
        for (preset, name, (path, architecture), texts, pooling, label, sign, max) in expected {
            let spec = ModelSpec::preset(preset);
            spec.check().unwrap();
            let whole = spec.with_preset().unwrap();
            let found = (whole.name.unwrap(), whole.path.unwrap(), whole.architecture.unwrap());
            assert_eq!(found, (name.to_owned(), path, architecture.to_owned()));
            let settings = spec.settings(dir.path()).unwrap();
            assert!(Pooling::of(architecture).contains(&pooling), "{preset}");
            let (text, pair) = texts;
            let frame = preset.starts_with("tldr").then_some(around);
            let expected = ModelSettings {
                name: Some(name.to_owned()),
                text: text.into(),
                pair: pair.map(str::to_owned),
                prompt_prefix: frame.as_ref().map(|frame| frame.0.to_owned()),
                prompt_suffix: frame.as_ref().map(|frame| frame.1.to_owned()),
                response_prefix: frame.is_some().then(|| " ".to_owned()),
                pooling,
                label: Label::Index(label),
                sign,
                max_length: max,
                truncation_side: TruncationSide::Right,
                pad_token_id: None,
                statistics: None,
            };
            assert_eq!(settings, expected, "{preset}");
        }
    }

    #[test]
    fn a_configuration_overrides_its_preset_which_overrides_the_models_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let spec = ModelSpec { path: Some("x".into()), ..ModelSpec::default() };
        let e = spec.settings(dir.path()).unwrap_err().to_string();
        assert!(e.contains("`text` is missing") && e.contains("reward.toml"), "{e}");
        let own = ModelSpec::preset("humor").settings(dir.path()).unwrap();
        own.save(dir.path()).unwrap();
        assert_eq!(spec.settings(dir.path()).unwrap(), own);
        let mut spec = ModelSpec::preset("tldr-pref1");
        spec.max_length = Some(77);
        let settings = spec.settings(dir.path()).unwrap();
        assert_eq!((settings.max_length, settings.label.clone()), (77, Label::Index(0)));
        assert_eq!(settings.pooling, Pooling::LastNonPad);

        std::fs::write(dir.path().join(SETTINGS_FILE), "texxt = 'a'").unwrap();
        let e = spec.settings(dir.path()).unwrap_err().to_string();
        assert!(e.contains("reward.toml") && e.contains("texxt"), "{e}");
        let e = ModelSpec::preset("nothing").with_preset().unwrap_err().to_string();
        assert!(e.contains("`nothing`") && e.contains("hh-harmless"), "{e}");
        let e = ModelSpec::default().with_preset().unwrap_err().to_string();
        assert!(e.contains("`path` is missing"), "{e}");
    }
}
