//! What is labelled, as data: objectives, their rewards, and the rule from scores to an indicator.

use std::path::Path;

use mopo_core::Objectives;
use mopo_data::{indicator_of_scores, sha256_hex};
use mopo_hub::Presets;
use mopo_ops::FusedBackend;
use serde::{Deserialize, Serialize};

use crate::reward::Resolver;
use crate::{Error, Result, Reward, RewardSpec};

/// A rewards file: one entry per objective.
///
/// ```toml
/// [[objectives]]
/// name = "brief"
/// tie_threshold = 2.0        # hard labels: 1, 0, or 0.5 within the threshold
/// reward = { kind = "length", prefer = "shorter" }
///
/// [[objectives]]
/// name = "polite"
/// temperature = 0.1          # soft labels: sigmoid((first - second) / temperature)
/// reward = { kind = "word_list", words = ["please", "thanks"] }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelConfig {
    /// In the order of the labelled set's objectives.
    pub objectives: Vec<LabelledObjective>,
}

/// One objective with its reward and the rule from scores to an indicator. Exactly one of
/// `tie_threshold` and `temperature` is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelledObjective {
    /// The objective's name in the labelled set.
    pub name: String,
    /// Hard labels: scores that differ by no more than this are a tie. In the reward's unit, 0 or
    /// more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie_threshold: Option<f32>,
    /// Soft labels: σ((r_first − r_second) / temperature). In the reward's unit, above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// The reward that scores the responses.
    pub reward: RewardSpec,
}

/// The rule from two scores to an indicator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LabelRule {
    /// 1, 0, or 0.5 within the tie threshold.
    Hard {
        /// Largest difference that counts as a tie.
        tie_threshold: f32,
    },
    /// σ((r_first − r_second) / temperature): a probability under the Bradley–Terry model.
    Soft {
        /// The difference that gives a preference of σ(1) = 0.73.
        temperature: f32,
    },
}

impl LabelRule {
    /// The indicator of two finite scores, in [0, 1]. Swapping the scores gives 1 minus it (up to
    /// rounding for soft labels).
    pub fn indicator(self, first: f32, second: f32) -> f32 {
        match self {
            Self::Hard { tie_threshold } => indicator_of_scores(first, second, tie_threshold),
            Self::Soft { temperature } => {
                // In f64, where the difference of two f32 cannot overflow.
                let difference = (f64::from(first) - f64::from(second)) / f64::from(temperature);
                (1.0 / (1.0 + (-difference).exp())) as f32
            }
        }
    }
}

impl LabelledObjective {
    /// The rule from scores to an indicator.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the objective and the field if both or neither of
    /// `tie_threshold` and `temperature` are set, or if one is out of range.
    pub fn rule(&self) -> Result<LabelRule> {
        let field = |field: &str| format!("{field}` of objective `{}", self.name);
        match (self.tie_threshold, self.temperature) {
            (Some(tie_threshold), None) => {
                if !(tie_threshold.is_finite() && tie_threshold >= 0.0) {
                    let expected = "it must be a number of 0 or more, in the unit of the reward";
                    return Err(Error::invalid(field("tie_threshold"), tie_threshold, expected));
                }
                Ok(LabelRule::Hard { tie_threshold })
            }
            (None, Some(temperature)) => {
                if !(temperature.is_finite() && temperature > 0.0) {
                    let expected = "it must be a number above 0; for hard labels set \
                                    `tie_threshold` instead";
                    return Err(Error::invalid(field("temperature"), temperature, expected));
                }
                Ok(LabelRule::Soft { temperature })
            }
            (Some(_), Some(_)) => {
                let expected = "`tie_threshold` is set as well: keep one of the two (tie_threshold \
                                for hard labels, temperature for soft ones)";
                Err(Error::invalid(field("temperature"), "set", expected))
            }
            (None, None) => {
                let expected = "one of the two is needed: tie_threshold for hard labels (0: only \
                                equal scores are a tie), temperature for soft ones";
                Err(Error::invalid(field("tie_threshold` or `temperature"), "missing", expected))
            }
        }
    }
}

/// Rewards files included in the crate.
pub const LABEL_PRESETS: Presets = mopo_hub::presets!("": "paper-hh", "paper-tldr");

impl LabelConfig {
    /// A preset by its name, or else a file.
    ///
    /// # Errors
    /// Those of [`LabelConfig::from_file`]; if there is neither, the presets are listed.
    pub fn from_name_or_file(name: &Path) -> Result<Self> {
        if let Some(text) = name.to_str().and_then(|name| LABEL_PRESETS.text(name)) {
            return Self::parse(text);
        }
        if !name.exists() {
            let expected =
                format!("no such file or preset; the presets are: {}", LABEL_PRESETS.listed());
            return Err(Error::invalid("rewards", format!("`{}`", name.display()), expected));
        }
        Self::from_file(name)
    }

    /// Reads and checks a TOML file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`] with file, line and field for an invalid file; those of
    /// [`LabelConfig::check`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            action: "read",
            path: path.into(),
            source,
        })?;
        Self::parse(&text).map_err(|e| match e {
            Error::Config { message, .. } => Error::Config { file: path.into(), message },
            other => Error::Config { file: path.into(), message: other.to_string() },
        })
    }

    /// Like [`LabelConfig::from_file`], from a text.
    ///
    /// # Errors
    /// Those of [`LabelConfig::from_file`].
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|e| Error::Config {
            file: "rewards".into(),
            message: e.to_string().trim_end().to_owned(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks names, rules, and rewards as far as possible without their files.
    ///
    /// # Errors
    /// Names the objective and the field.
    pub fn check(&self) -> Result<()> {
        self.objectives()?;
        self.objectives.iter().try_for_each(|objective| {
            objective.rule()?;
            objective.reward.check()
        })
    }

    /// The objectives, in order.
    ///
    /// # Errors
    /// An empty list, a duplicate or invalid name.
    pub fn objectives(&self) -> Result<Objectives> {
        Ok(Objectives::new(self.objectives.iter().map(|objective| objective.name.as_str()))?)
    }

    /// The same objectives, with the [identity](RewardSpec::identity) of their rewards.
    pub(super) fn identity(&self) -> Self {
        let mut config = self.clone();
        for objective in &mut config.objectives {
            objective.reward = objective.reward.identity();
        }
        config
    }

    /// SHA-256 of the objectives, their rules and rewards. `contents` are hashes of the files that
    /// rewards read (word lists, models), so that a changed file makes another labelling. How an
    /// endpoint is asked makes no difference.
    pub fn hash(&self, contents: &[String]) -> String {
        let json = serde_json::to_string(&(&self.identity().objectives, contents))
            .expect("plain structs of strings and numbers are always JSON");
        sha256_hex(json.as_bytes())
    }

    /// The rewards, in order. `resolve` finds the directories of models, which run on `device`.
    ///
    /// # Errors
    /// Those of [`RewardSpec::build`].
    pub fn build<B: FusedBackend>(
        &self,
        device: &B::Device,
        resolve: Resolver<'_>,
    ) -> Result<Vec<Box<dyn Reward>>> {
        let specs = self.objectives.iter().map(|objective| &objective.reward);
        RewardSpec::build_all::<B>(specs, device, resolve)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_whole_and_go_before_files() {
        for name in LABEL_PRESETS.names() {
            let config = LabelConfig::from_name_or_file(Path::new(name)).unwrap();
            assert_eq!(config.objectives.len(), 3, "{name}");
        }
        let e = LabelConfig::from_name_or_file(Path::new("paper-hhh")).unwrap_err().to_string();
        assert!(e.contains("paper-hhh") && e.contains("paper-hh, paper-tldr"), "{e}");
    }

    use crate::reward::local_directory;
    use mopo_testkit::TestBackend;
    use proptest::prelude::*;

    const TWO: &str = "[[objectives]]\nname = 'brief'\ntie_threshold = 1\n\
                       reward = { kind = 'length', prefer = 'shorter' }\n\
                       [[objectives]]\nname = 'long'\ntemperature = 0.5\n\
                       reward = { kind = 'length' }\n";

    #[test]
    fn a_file_becomes_rules_and_rewards() {
        let config = LabelConfig::parse(TWO).unwrap();
        assert_eq!(config.objectives().unwrap().names(), ["brief", "long"]);
        assert_eq!(config.objectives[0].rule().unwrap(), LabelRule::Hard { tie_threshold: 1.0 });
        assert_eq!(config.objectives[1].rule().unwrap(), LabelRule::Soft { temperature: 0.5 });
        let rewards = config.build::<TestBackend>(&Default::default(), &local_directory);
        assert_eq!(rewards.unwrap().len(), 2);
        let again = LabelConfig::parse(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        assert_eq!(again.hash(&[]), config.hash(&[]));
        assert_ne!(again.hash(&["other words".into()]), config.hash(&[]));
        let other = LabelConfig::parse(&TWO.replace("0.5", "0.25")).unwrap();
        assert_ne!(other.hash(&[]), config.hash(&[]));
    }

    #[test]
    fn mistakes_name_objective_field_and_remedy() {
        for (from, to, expected) in [
            ("tie_threshold = 1\n", "", "`tie_threshold` or `temperature` of objective `brief`"),
            ("tie_threshold = 1\n", "tie_threshold = 1\ntemperature = 1\n", "keep one of the two"),
            ("tie_threshold = 1\n", "tie_threshold = -1\n", "`tie_threshold` of objective `brief`"),
            ("temperature = 0.5", "temperature = 0", "`temperature` of objective `long` is 0"),
            ("temperature = 0.5", "temperature = nan", "above 0"),
            ("temperature", "temprature", "temprature"),
            ("'long'", "'brief'", "duplicate name `brief`"),
            ("'long'", "'too long'", "too long"),
            ("'length' }", "'magic' }", "magic"),
            ("reward = { kind = 'length' }", "", "reward"),
        ] {
            assert!(TWO.contains(from), "{from}");
            let e = LabelConfig::parse(&TWO.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(e.contains(expected), "{to}: {e}");
        }
        assert!(LabelConfig::parse("objectives = []").is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rewards.toml");
        assert!(LabelConfig::from_file(&path).unwrap_err().to_string().contains("rewards.toml"));
        std::fs::write(&path, TWO.replace("= 0.5", "= 0")).unwrap();
        assert!(LabelConfig::from_file(&path).unwrap_err().to_string().contains("rewards.toml"));
    }

    #[test]
    fn rules_by_hand() {
        let hard = LabelRule::Hard { tie_threshold: 1.0 };
        assert_eq!(hard.indicator(2.0, 1.0), 0.5);
        assert_eq!(hard.indicator(2.5, 1.0), 1.0);
        assert_eq!(hard.indicator(0.0, 1.5), 0.0);
        let soft = LabelRule::Soft { temperature: 2.0 };
        assert_eq!(soft.indicator(3.0, 3.0), 0.5);
        assert!((soft.indicator(2.0, 0.0) - 0.731_058_6).abs() < 1e-6);
        assert_eq!(soft.indicator(f32::MAX, f32::MIN), 1.0);
        assert_eq!(soft.indicator(f32::MIN, f32::MAX), 0.0);
    }

    proptest! {
        #[test]
        fn indicators_are_probabilities_and_antisymmetric(
            first: f32, second: f32, width in 1e-3f32..1e3,
        ) {
            prop_assume!(first.is_finite() && second.is_finite());
            for rule in [
                LabelRule::Hard { tie_threshold: width }, LabelRule::Soft { temperature: width },
            ] {
                let (one, other) = (rule.indicator(first, second), rule.indicator(second, first));
                prop_assert!((0.0..=1.0).contains(&one));
                prop_assert!((one + other - 1.0).abs() < 1e-6);
            }
        }
    }
}
