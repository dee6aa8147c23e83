//! Policies that are told in the prompt what to aim at: one policy for all preference weights. A method says what the
//! prompt of a response was told in training; here are the notes, the steps, and what a run keeps of it.

mod online;
#[cfg(test)]
mod published;
mod scores;
mod training;

use std::path::Path;

use mopo_core::Objectives;
use serde::{Deserialize, Serialize};

pub use online::OnlineRounds;
pub(crate) use online::{Online, Rule, statistics_of, training_quantile};
pub use scores::TargetMap;
pub(crate) use scores::{ScoreStatistics, direction, normal_extremes};
pub(crate) use training::{ConditionedTraining, Told};

use crate::{Error, Result};

/// Beside `policy.json`.
pub(crate) const FILE: &str = "conditioning.json";
const FORMAT: u32 = 1;

/// What the prompts of a policy say, and how preference weights become that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Conditioning {
    format: u32,
    /// In the order of the note.
    objectives: Vec<String>,
    aim: Aim,
}

/// What a note says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Aim {
    /// The score that the answer reaches on each objective, in standard deviations from the mean (RiC).
    Scores {
        /// Mean and deviation of each objective's scores in the training set.
        statistics: Vec<ScoreStatistics>,
        /// The lowest and the highest score to ask for, of each objective.
        range: Vec<[f64; 2]>,
        /// From weights to scores in the ranges.
        map: TargetMap,
    },
    /// The unit vector along which the answer is to be as far as possible (DPA).
    Direction,
}

impl Conditioning {
    pub(crate) fn new(objectives: &[String], aim: Aim) -> Self {
        Self { format: FORMAT, objectives: objectives.to_vec(), aim }
    }

    /// The objectives, in the order of weights.
    pub(crate) fn objectives(&self) -> &[String] {
        &self.objectives
    }

    /// The note for preference weights on the simplex, one for each objective.
    pub(crate) fn note(&self, weights: &[f32]) -> String {
        let weights: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
        match &self.aim {
            Aim::Scores { range, map, .. } => score_note(&map.targets(&weights, range)),
            Aim::Direction => direction_note(&weights),
        }
    }

    /// The note for all weight on one objective.
    pub(crate) fn corner(&self, objective: usize) -> String {
        let mut weights = vec![0.0; self.objectives.len()];
        weights[objective] = 1.0;
        self.note(&weights)
    }

    /// The note that asks for these scores, in standard deviations from the training set's mean; one for each
    /// objective, by name.
    ///
    /// # Errors
    /// A policy that is not told scores; an unknown or a missing objective; a score outside the range.
    pub(crate) fn targets(&self, given: &[(String, f64)]) -> Result<String> {
        let wrong = |message: String| Error::Config { origin: "--targets".into(), message };
        let Aim::Scores { range, .. } = &self.aim else {
            return Err(wrong("this policy is told directions, not scores; use --weights".into()));
        };
        let known = || self.objectives.join(", ");
        for (name, _) in given {
            if !self.objectives.contains(name) {
                return Err(wrong(format!("`{name}` is not one of its objectives ({})", known())));
            }
        }
        let of = |(name, [low, high]): (&String, &[f64; 2])| {
            let mut found = given.iter().filter(|(of, _)| of == name).map(|(_, score)| *score);
            match (found.next(), found.next()) {
                (Some(score), None) if (*low..=*high).contains(&score) => Ok(score),
                (Some(score), None) => Err(wrong(format!(
                    "{name}={score} is outside of what the policy has learnt to aim at: give a score from {low:.2} \
                     to {high:.2}, in standard deviations from the mean of the training set"
                ))),
                (None, _) => {
                    Err(wrong(format!("`{name}` is missing; give a score for each of {}", known())))
                }
                (Some(_), Some(_)) => Err(wrong(format!("`{name}` has two scores"))),
            }
        };
        let scores = self.objectives.iter().zip(range).map(of).collect::<Result<Vec<f64>>>()?;
        Ok(score_note(&scores))
    }

    /// Writes it beside a policy.
    pub(crate) fn write(&self, policy: &Path) -> Result<()> {
        mopo_hub::create_dir(policy)?;
        Ok(mopo_hub::write_json(&policy.join(FILE), self)?)
    }

    /// That of a saved policy, if its prompts are conditioned.
    ///
    /// # Errors
    /// A damaged file, or one of another version.
    pub(crate) fn read(policy: &Path) -> Result<Option<Self>> {
        let path = policy.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let this: Self = mopo_hub::read_json(&path, "what the prompts of a policy say")?;
        let n = this.objectives.len();
        let fits = match &this.aim {
            Aim::Scores { statistics, range, .. } => statistics.len() == n && range.len() == n,
            Aim::Direction => true,
        };
        if this.format != FORMAT
            || !fits
            || Objectives::new(this.objectives.iter().cloned()).is_err()
        {
            return Err(Error::corrupt(&path, "it is not what this version of mopo writes"));
        }
        Ok(Some(this))
    }
}

/// Checks that the run has several objectives: `policies` of a section whose one policy serves all weights.
///
/// # Errors
/// Says what to write.
pub(crate) fn check_objectives(section: &str, policies: &[String]) -> Result<()> {
    if policies.len() > 1 {
        return Ok(());
    }
    Err(Error::Config {
        origin: "`policies`".into(),
        message: format!(
            "it is {policies:?}, but {section} trains one policy for all weights of several objectives: name at least \
             two of them"
        ),
    })
}

/// Checks that the data has these objectives.
///
/// # Errors
/// Names the one that it lacks, and those that it has.
pub(crate) fn check_known(policies: &[String], objectives: &Objectives) -> Result<()> {
    policies.iter().try_for_each(|name| match objectives.index_of(name) {
        Ok(_) => Ok(()),
        Err(e) => Err(Error::Config { origin: "`policies`".into(), message: e.to_string() }),
    })
}

/// `<rm1_score> 0.5 <rm2_score> -1.2`, as RiC's authors write it.
pub(crate) fn score_note(scores: &[f64]) -> String {
    // Not "-0.0".
    let rounded = scores.iter().map(|score| (score * 10.0).round() / 10.0 + 0.0);
    listed("score", rounded.map(|score| format!("{score:.1}")))
}

/// `<rm1_weight> 0.71 <rm2_weight> 0.71`: the unit vector along these weights.
pub(crate) fn direction_note(weights: &[f64]) -> String {
    let norm = weights.iter().map(|weight| weight * weight).sum::<f64>().sqrt();
    listed("weight", weights.iter().map(|weight| format!("{:.2}", weight / norm + 0.0)))
}

fn listed(what: &str, values: impl Iterator<Item = String>) -> String {
    let tagged = values.enumerate().map(|(i, value)| format!("<rm{}_{what}> {value}", i + 1));
    tagged.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["helpful", "harmless"].map(String::from).to_vec()
    }

    fn scores() -> Conditioning {
        let statistics = vec![ScoreStatistics { mean: 1.0, std: 2.0 }; 2];
        let aim = Aim::Scores {
            statistics,
            range: vec![[-4.0, 4.0], [-2.0, 3.0]],
            map: TargetMap::Linear,
        };
        Conditioning::new(&names(), aim)
    }

    #[test]
    fn notes_have_one_decimal_or_unit_vectors() {
        assert_eq!(
            score_note(&[0.54, -1.25, -0.04]),
            "<rm1_score> 0.5 <rm2_score> -1.3 <rm3_score> 0.0"
        );
        assert_eq!(direction_note(&[0.5, 0.5]), "<rm1_weight> 0.71 <rm2_weight> 0.71");
        assert_eq!(scores().corner(0), "<rm1_score> 4.0 <rm2_score> -2.0");
        assert_eq!(scores().note(&[0.5, 0.5]), "<rm1_score> 0.0 <rm2_score> 0.5");
        let direction = Conditioning::new(&names(), Aim::Direction);
        assert_eq!(direction.corner(1), "<rm1_weight> 0.00 <rm2_weight> 1.00");
    }

    #[test]
    fn targets_lie_in_the_range_of_each_objective() {
        let given = |targets: &[(&str, f64)]| -> Result<String> {
            let targets: Vec<_> = targets.iter().map(|(name, s)| ((*name).into(), *s)).collect();
            scores().targets(&targets)
        };
        let note = given(&[("harmless", 2.96), ("helpful", -4.0)]).unwrap();
        assert_eq!(note, "<rm1_score> -4.0 <rm2_score> 3.0");
        for (targets, words) in [
            (&[("helpful", 9.0), ("harmless", 0.0)][..], "from -4.00 to 4.00"),
            (&[("helpful", f64::NAN), ("harmless", 0.0)], "outside"),
            (&[("helpful", 0.0)], "`harmless` is missing"),
            (&[("helpful", 0.0), ("helpful", 1.0), ("harmless", 0.0)], "two scores"),
            (&[("funny", 0.0)], "not one of"),
        ] {
            let e = given(targets).unwrap_err().to_string();
            assert!(e.contains(words), "{e}");
        }
        let direction = Conditioning::new(&names(), Aim::Direction);
        assert!(direction.targets(&[]).unwrap_err().to_string().contains("--weights"));
    }

    #[test]
    fn it_is_read_back_and_a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Conditioning::read(dir.path()).unwrap(), None);
        scores().write(dir.path()).unwrap();
        assert_eq!(Conditioning::read(dir.path()).unwrap(), Some(scores()));
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        for (from, to) in
            [("\"format\": 1", "\"format\": 2"), ("\"harmless\"", "\"helpful\""), ("{", "")]
        {
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let e = Conditioning::read(dir.path()).unwrap_err().to_string();
            assert!(e.contains(FILE), "{e}");
        }
    }
}
