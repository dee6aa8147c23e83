//! Several rewards as one.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Reward, RewardSpec};
use crate::{Error, Result};

/// How the scores of an ensemble's members become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// Their arithmetic mean.
    Mean,
    /// The smallest.
    Minimum,
    /// Their mean minus `coefficient` times their standard deviation over n.
    MeanMinusStd,
}

/// [`Combine`] with its coefficient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Combination {
    /// The arithmetic mean.
    Mean,
    /// The smallest score.
    Minimum,
    /// Mean minus `coefficient` times the standard deviation over n.
    MeanMinusStd {
        /// 0 or more.
        coefficient: f64,
    },
}

impl Combination {
    /// One number from those of a text, of which there must be at least one.
    pub fn of(self, scores: &[f64]) -> f64 {
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        match self {
            Self::Mean => mean,
            Self::Minimum => scores.iter().copied().fold(f64::INFINITY, f64::min),
            Self::MeanMinusStd { coefficient } => {
                let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
                mean - coefficient * (squares / n).sqrt()
            }
        }
    }
}

/// Mean and deviation of a member's raw scores: with them it counts as (score − mean) / std.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberStatistics {
    /// Mean of the raw scores.
    pub mean: f64,
    /// Their standard deviation, above 0.
    pub std: f64,
    /// Whose scores they are; only a note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A member: a reward, or `{ reward = …, statistics = … }`.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberSpec {
    /// The reward.
    pub reward: RewardSpec,
    /// What its scores are normalised by.
    pub statistics: Option<MemberStatistics>,
}

/// Its longer form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NormalisedMember {
    reward: RewardSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    statistics: Option<MemberStatistics>,
}

impl<'de> Deserialize<'de> for MemberSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // Not `untagged`, whose errors say nothing of the form that was meant.
        let value = serde_json::Value::deserialize(deserializer)?;
        let read = match value.get("kind") {
            Some(_) => RewardSpec::deserialize(value).map(|reward| (reward, None)),
            None => NormalisedMember::deserialize(value).map(|m| (m.reward, m.statistics)),
        };
        let (reward, statistics) = read.map_err(serde::de::Error::custom)?;
        Ok(Self { reward, statistics })
    }
}

impl Serialize for MemberSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.statistics.clone() {
            None => self.reward.serialize(serializer),
            statistics => {
                NormalisedMember { reward: self.reward.clone(), statistics }.serialize(serializer)
            }
        }
    }
}

/// An ensemble as a configuration describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnsembleSpec {
    /// How the members' scores become one.
    pub combine: Combine,
    /// The weight of the deviation for `mean_minus_std`, 0 or more; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coefficient: Option<f64>,
    /// The name to show; `ensemble` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Two members or more, none of which has an ensemble.
    pub rewards: Vec<MemberSpec>,
}

impl EnsembleSpec {
    /// How scores are combined.
    ///
    /// # Errors
    /// A coefficient that is out of range, or without effect.
    pub fn combination(&self) -> Result<Combination> {
        let invalid =
            |value: f64, expected: &str| Err(Error::invalid("coefficient", value, expected));
        match (self.combine, self.coefficient) {
            (Combine::MeanMinusStd, coefficient) => match coefficient.unwrap_or(1.0) {
                c if c.is_finite() && c >= 0.0 => Ok(Combination::MeanMinusStd { coefficient: c }),
                c => invalid(c, "it must be a number of 0 or more"),
            },
            (_, Some(c)) => invalid(c, "only `combine = \"mean_minus_std\"` has one: remove it"),
            (Combine::Mean, None) => Ok(Combination::Mean),
            (Combine::Minimum, None) => Ok(Combination::Minimum),
        }
    }

    /// Checks everything except for the members' own keys.
    pub(super) fn check(&self) -> Result<()> {
        self.combination()?;
        if self.rewards.len() < 2 {
            let expected = "an ensemble needs two rewards or more";
            return Err(Error::invalid(
                "rewards",
                format!("{} reward(s)", self.rewards.len()),
                expected,
            ));
        }
        for (i, member) in self.rewards.iter().enumerate() {
            if member.reward.has_ensemble() {
                let expected = "an ensemble cannot be a member of another: name its members here";
                return Err(Error::invalid(format!("rewards[{i}]"), "an ensemble", expected));
            }
            if let Some(statistics) = &member.statistics {
                statistics.check(i)?;
            }
        }
        Ok(())
    }
}

impl MemberStatistics {
    fn check(&self, member: usize) -> Result<()> {
        let Self { mean, std, .. } = self;
        if mean.is_finite() && std.is_finite() && *std > 0.0 {
            return Ok(());
        }
        let field = format!("rewards[{member}].statistics");
        let expected = "both must be numbers, `std` above 0";
        Err(Error::invalid(field, format!("mean {mean} and std {std}"), expected))
    }
}

/// Several rewards as one.
pub struct Ensemble {
    name: String,
    members: Vec<(Box<dyn Reward>, Option<MemberStatistics>)>,
    combination: Combination,
}

impl Ensemble {
    /// A reward of these members, each with what its scores are normalised by.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for less than one member, or statistics without a deviation.
    pub fn new(
        name: impl Into<String>,
        members: Vec<(Box<dyn Reward>, Option<MemberStatistics>)>,
        combination: Combination,
    ) -> Result<Self> {
        if members.is_empty() {
            return Err(Error::invalid("rewards", "empty", "an ensemble needs a member"));
        }
        for (i, (_, statistics)) in members.iter().enumerate() {
            statistics.as_ref().map_or(Ok(()), |statistics| statistics.check(i))?;
        }
        Ok(Self { name: name.into(), members, combination })
    }
}

impl Reward for Ensemble {
    fn name(&self) -> &str {
        &self.name
    }

    fn uses_all_cores(&self) -> bool {
        self.members.iter().any(|(member, _)| member.uses_all_cores())
    }

    fn notes(&self) -> Vec<String> {
        self.members.iter().flat_map(|(member, _)| member.notes()).collect()
    }

    fn score(&self, prompt: &str, response: &str) -> Result<f32> {
        Ok(self.score_batch(&[(prompt, response)])?[0])
    }

    fn score_batch(&self, items: &[(&str, &str)]) -> Result<Vec<f32>> {
        let mut rows = vec![Vec::with_capacity(self.members.len()); items.len()];
        for (member, statistics) in &self.members {
            let found = super::checked_scores(member.as_ref(), items)?;
            for (row, score) in rows.iter_mut().zip(found) {
                let score = f64::from(score);
                row.push(statistics.as_ref().map_or(score, |s| (score - s.mean) / s.std));
            }
        }
        Ok(rows.iter().map(|row| self.combination.of(row) as f32).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> std::result::Result<RewardSpec, toml::de::Error> {
        toml::from_str(&format!("kind = 'ensemble'\n{text}"))
    }

    fn scores(text: &str, responses: &[&str]) -> Vec<f32> {
        let reward = spec(text).unwrap().build_function().unwrap();
        let items: Vec<(&str, &str)> = responses.iter().map(|response| ("", *response)).collect();
        let found = reward.score_batch(&items).unwrap();
        let alone: Vec<f32> = items.iter().map(|(p, r)| reward.score(p, r).unwrap()).collect();
        assert_eq!(found, alone);
        found
    }

    /// Words and characters.
    const TWO: &str =
        "rewards = [{ kind = 'length' }, { kind = 'length', unit = 'characters' }]\ncombine = ";

    #[test]
    fn scores_are_combined_by_hand() {
        // Words 2, 1; characters 4, 5.
        let texts = ["ab c", "abcde"];
        assert_eq!(scores(&format!("{TWO}'mean'"), &texts), [3.0, 3.0]);
        assert_eq!(scores(&format!("{TWO}'minimum'"), &texts), [2.0, 1.0]);
        assert_eq!(scores(&format!("{TWO}'mean_minus_std'"), &texts), [2.0, 1.0]);
        assert_eq!(
            scores(&format!("{TWO}'mean_minus_std'\ncoefficient = 0.5"), &texts),
            [2.5, 2.0]
        );
        assert_eq!(scores(&format!("{TWO}'mean_minus_std'\ncoefficient = 0"), &texts), [3.0, 3.0]);
        // Over n, not n − 1: (1, 2, 6) has mean 3 and variance 14/3.
        let found = Combination::MeanMinusStd { coefficient: 1.0 }.of(&[1.0, 2.0, 6.0]);
        assert!((found - (3.0 - (14.0_f64 / 3.0).sqrt())).abs() < 1e-15);
    }

    #[test]
    fn members_with_statistics_count_as_z_scores() {
        let text = "combine = 'minimum'\nname = 'both'\n\
                    rewards = [{ reward = { kind = 'length' }, statistics = { mean = 3, std = 2 } },\n\
                    { reward = { kind = 'length', unit = 'characters' },\n\
                    statistics = { mean = 1.0, std = 4.0, source = 'made up' } }]";
        // (2 − 3)/2 and (4 − 1)/4; (1 − 3)/2 and (5 − 1)/4; (5 − 3)/2 and (9 − 1)/4.
        assert_eq!(scores(text, &["ab c", "abcde", "a b c d e"]), [-0.5, -1.0, 1.0]);
        // Only one of them.
        let text = "combine = 'mean'\nrewards = [{ kind = 'length' }, \
                    { reward = { kind = 'length' }, statistics = { mean = 0, std = 2 } }]";
        assert_eq!(scores(text, &["a b"]), [1.5]);
        let reward = spec(text).unwrap();
        assert_eq!(reward.build_function().unwrap().name(), "ensemble");
    }

    #[test]
    fn both_forms_of_a_member_survive_a_round_trip() {
        let text = "combine = 'mean_minus_std'\ncoefficient = 0.5\nrewards = [\n\
                    { kind = 'http', url = 'http://localhost:1/', timeout = 2 },\n\
                    { reward = { kind = 'model', path = 'x', label = 'a' }, statistics = { mean = 0.1, std = 0.3 } },\n\
                    { kind = 'length_corrected', per_word = 0.1, reward = { kind = 'length' } }]";
        let spec = spec(text).unwrap();
        spec.check().unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<RewardSpec>(&json).unwrap(), spec);
        assert_eq!(toml::from_str::<RewardSpec>(&toml::to_string(&spec).unwrap()).unwrap(), spec);
    }

    #[test]
    fn mistakes_name_member_and_key() {
        let length = "{ kind = 'length' }";
        for (text, part) in [
            (format!("rewards = [{length}]\ncombine = 'mean'"), "`rewards` is 1 reward(s)"),
            ("rewards = []\ncombine = 'mean'".into(), "two rewards or more"),
            (format!("{TWO}'mean'\ncoefficient = 1"), "remove it"),
            (format!("{TWO}'mean_minus_std'\ncoefficient = -1"), "`coefficient` is -1"),
            (
                format!(
                    "combine = 'mean'\nrewards = [{length}, {{ kind = 'regex', pattern = '[' }}]"
                ),
                "`rewards[1]`: `pattern`",
            ),
            (
                format!(
                    "combine = 'mean'\nrewards = [{length}, {{ reward = {length}, statistics = {{ mean = 1, std = 0 }} }}]"
                ),
                "`rewards[1].statistics` is mean 1 and std 0",
            ),
            (
                format!(
                    "combine = 'mean'\nrewards = [{length}, {{ kind = 'length_corrected', per_word = 1, reward = \
                     {{ kind = 'ensemble', combine = 'mean', rewards = [{length}, {length}] }} }}]"
                ),
                "`rewards[1]` is an ensemble",
            ),
        ] {
            let spec = spec(&text).unwrap();
            let said = spec.check().unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
            assert_eq!(spec.build_function().err().unwrap().to_string(), said);
        }
        for (text, part) in [
            (format!("rewards = [{length}, {length}]"), "combine"),
            (format!("{TWO}'median'"), "mean_minus_std"),
            (format!("combine = 'mean'\nrewards = [{length}, {{ kind = 'lenght' }}]"), "lenght"),
            (
                format!("combine = 'mean'\nrewards = [{length}, {{ kind = 'length', targt = 1 }}]"),
                "targt",
            ),
            (
                format!(
                    "combine = 'mean'\nrewards = [{length}, {{ statistics = {{ mean = 1, std = 1 }} }}]"
                ),
                "missing field `reward`",
            ),
        ] {
            let said = spec(&text).unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
    }

    /// Refuses one response, and scores another with a NaN.
    struct Broken;
    impl Reward for Broken {
        fn name(&self) -> &str {
            "broken"
        }
        fn score(&self, _: &str, response: &str) -> Result<f32> {
            let refused = Error::Text { reward: "broken".into(), index: 0, why: "is bad".into() };
            match response {
                "bad" => Err(refused),
                "nan" => Ok(f32::NAN),
                _ => Ok(1.0),
            }
        }
        fn notes(&self) -> Vec<String> {
            vec!["a note".into()]
        }
    }

    #[test]
    fn a_member_that_fails_is_named_with_the_text() {
        let members: Vec<(Box<dyn Reward>, _)> =
            vec![(Box::new(Broken), None), (Box::new(Broken), None)];
        let ensemble = Ensemble::new("both", members, Combination::Minimum).unwrap();
        let error = |bad| ensemble.score_batch(&[("", "a"), ("", bad)]).unwrap_err().to_string();
        assert_eq!(error("bad"), "reward `broken`: text 1 is bad");
        assert!(error("nan").contains("reward `broken`: text 1") && error("nan").contains("NaN"));
        assert_eq!(ensemble.notes().len(), 2);
        assert!(!ensemble.uses_all_cores());
        assert!(Ensemble::new("none", vec![], Combination::Mean).is_err());
    }
}
