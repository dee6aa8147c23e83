//! What a labelling looks like before anyone trains on it: ties, disagreement, statistics.

use std::fmt;

use mopo_data::{PreferenceRecord, Summary};
use serde::{Deserialize, Serialize};

use super::config::{LabelRule, LabelledObjective};
use crate::RewardSpec;

/// Statistics of one reward's scores over **both** responses of every pair: a response that stands
/// in several pairs counts each time. They turn scores into z-scores later.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct ScoreStatistics {
    /// Scores, two a pair.
    pub n: usize,
    /// The arithmetic mean.
    pub mean: f64,
    /// The population's standard deviation (divided by `n`).
    pub standard_deviation: f64,
    /// The smallest score.
    pub min: f64,
    /// The largest score.
    pub max: f64,
}

impl ScoreStatistics {
    /// Statistics of finite scores; all 0 for none. Two passes in f64, in the order given, so equal
    /// scores give equal bits.
    pub fn new(scores: impl Iterator<Item = f32> + Clone) -> Self {
        let (mut n, mut sum) = (0_usize, 0.0);
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        for score in scores.clone().map(f64::from) {
            (n, sum, min, max) = (n + 1, sum + score, min.min(score), max.max(score));
        }
        if n == 0 {
            return Self { n, mean: 0.0, standard_deviation: 0.0, min: 0.0, max: 0.0 };
        }
        let mean = sum / n as f64;
        let squares: f64 = scores.map(|score| (f64::from(score) - mean).powi(2)).sum();
        Self { n, mean, standard_deviation: (squares / n as f64).sqrt(), min, max }
    }

    /// How many standard deviations `score` lies above the mean; 0 where all scores are equal.
    pub fn z_score(&self, score: f64) -> f64 {
        if self.standard_deviation > 0.0 {
            (score - self.mean) / self.standard_deviation
        } else {
            0.0
        }
    }
}

/// Labels that were there before, and whether the reward would have given the same.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct KeptLabels {
    /// Pairs whose label was kept.
    pub pairs: usize,
    /// Of those, how many both the label and the scores decide (no ties).
    pub decided: usize,
    /// Of those, how many they decide alike.
    pub agree: usize,
}

/// One labelled objective.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveReport {
    /// The objective.
    pub name: String,
    /// What scored it.
    pub reward: RewardSpec,
    /// The threshold of hard labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie_threshold: Option<f32>,
    /// The temperature of soft labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Of the reward's scores.
    pub scores: ScoreStatistics,
    /// Pairs whose indicator is 0.5, kept ones included.
    pub ties: usize,
    /// Pairs whose indicator came from the scores.
    pub filled: usize,
    /// Labels that were kept.
    pub kept: KeptLabels,
}

impl ObjectiveReport {
    /// `before`: the indicator that each record had, if it was kept; `scores`: `(first, second)`.
    pub(super) fn new(
        objective: &LabelledObjective,
        rule: LabelRule,
        scores: &[(f32, f32)],
        before: &[Option<f32>],
    ) -> Self {
        let (mut ties, mut filled, mut kept) = (0, 0, KeptLabels::default());
        for (&(first, second), before) in scores.iter().zip(before) {
            let by_scores = rule.indicator(first, second);
            let Some(label) = *before else {
                filled += 1;
                ties += usize::from(by_scores == 0.5);
                continue;
            };
            kept.pairs += 1;
            ties += usize::from(label == 0.5);
            if label != 0.5 && by_scores != 0.5 {
                kept.decided += 1;
                kept.agree += usize::from((label > 0.5) == (by_scores > 0.5));
            }
        }
        Self {
            name: objective.name.clone(),
            reward: objective.reward.clone(),
            tie_threshold: objective.tie_threshold,
            temperature: objective.temperature,
            scores: ScoreStatistics::new(scores.iter().flat_map(|&(a, b)| [a, b])),
            ties,
            filled,
            kept,
        }
    }
}

/// The report of a labelling.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct LabelReport {
    /// Objectives that a reward scored, in the order of the file of rewards.
    pub objectives: Vec<ObjectiveReport>,
    /// Counts of the labelled set and the K × K disagreement. Lengths are in words.
    pub summary: Summary,
    /// What else there is to say.
    pub notes: Vec<String>,
}

/// What lies beside a labelled set (`<set>.labels.json`): which labelling it is, and the statistics
/// by which its rewards' scores become z-scores.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct LabelRecord {
    /// Pairs.
    pub pairs: usize,
    /// SHA-256 of the labelled set.
    pub set_sha256: String,
    /// SHA-256 of the set that was labelled.
    pub input_sha256: String,
    /// SHA-256 of rewards and rules.
    pub rewards_sha256: String,
    /// Whether labels that were there were kept.
    pub keep: bool,
    /// Objectives that a reward scored.
    pub objectives: Vec<ObjectiveReport>,
}

/// The summary of `records` with lengths in words.
pub(super) fn summary(objectives: &mopo_core::Objectives, records: &[PreferenceRecord]) -> Summary {
    Summary::new(objectives, records, |text| text.split_whitespace().count())
}

impl fmt::Display for LabelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}(lengths in words)\n", self.summary)?;
        let width = self.objectives.iter().map(|o| o.name.chars().count()).max().unwrap_or(0);
        let width = width.max("score of".len());
        write!(f, "{:<width$}", "score of")?;
        for column in ["mean", "std. dev.", "min", "max", "ties", "filled", "kept"] {
            write!(f, "  {column:>9}")?;
        }
        writeln!(f, "  kept labels that the scores agree with")?;
        for o in &self.objectives {
            write!(f, "{:<width$}", o.name)?;
            let s = &o.scores;
            for value in [s.mean, s.standard_deviation, s.min, s.max] {
                write!(f, "  {value:>9.4}")?;
            }
            write!(f, "  {:>9}  {:>9}  {:>9}", o.ties, o.filled, o.kept.pairs)?;
            match o.kept.decided {
                0 => writeln!(f, "  -")?,
                of => {
                    let share = 100.0 * o.kept.agree as f64 / of as f64;
                    writeln!(f, "  {} of {of} ({share:.1} %)", o.kept.agree)?;
                }
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "\n{note}"))
    }
}
