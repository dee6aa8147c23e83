//! The report of a labelling before anyone trains on it: ties, disagreement, statistics.

use std::fmt;
use std::path::Path;

use mopo_data::{Indicator, Summary};
use mopo_ops::MatmulPrecision;
use serde::{Deserialize, Serialize};

use super::config::{LabelRule, LabelledObjective};
use super::job::{Labelling, record_path};
use crate::{FirstPass, RewardSpec, ScoreStatistics, SecondPass};

/// Existing labels that were kept, and how often the reward agrees with them.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct KeptLabels {
    /// Number of pairs whose label was kept.
    pub pairs: usize,
    /// Number of those that are decided by both the label and the scores (no ties).
    pub decided: usize,
    /// Number of those that both decide in the same way.
    pub agree: usize,
}

/// One labelled objective.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveReport {
    /// The objective.
    pub name: String,
    /// Its reward.
    pub reward: RewardSpec,
    /// The threshold of hard labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie_threshold: Option<f32>,
    /// The temperature of soft labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Statistics of the reward's scores of **both** responses of every pair: a response in several
    /// pairs counts each time.
    pub scores: ScoreStatistics,
    /// Number of pairs whose indicator is 0.5, kept ones included.
    pub ties: usize,
    /// Number of pairs whose indicator comes from the scores.
    pub filled: usize,
    /// The kept labels.
    pub kept: KeptLabels,
}

/// The counts of an [`ObjectiveReport`], updated pair by pair.
pub(super) struct Tally {
    /// Its index among the set's objectives, if labels are kept.
    old: Option<usize>,
    scores: FirstPass,
    ties: usize,
    filled: usize,
    kept: KeptLabels,
}

impl Tally {
    pub(super) fn new(old: Option<usize>) -> Self {
        let (scores, kept) = (FirstPass::default(), KeptLabels::default());
        Self { old, scores, ties: 0, filled: 0, kept }
    }

    /// Counts the next pair: the scores of both responses, and its indicators in the input.
    pub(super) fn push(&mut self, rule: LabelRule, scores: [f32; 2], before: &[Indicator]) {
        scores.into_iter().for_each(|score| self.scores.push(score));
        let by_scores = rule.indicator(scores[0], scores[1]);
        let Some(label) = self.old.and_then(|old| before[old]) else {
            self.filled += 1;
            self.ties += usize::from(by_scores == 0.5);
            return;
        };
        self.kept.pairs += 1;
        self.ties += usize::from(label == 0.5);
        if label != 0.5 && by_scores != 0.5 {
            self.kept.decided += 1;
            self.kept.agree += usize::from((label > 0.5) == (by_scores > 0.5));
        }
    }

    pub(super) fn second_pass(&self) -> SecondPass {
        self.scores.second()
    }

    pub(super) fn report(
        self,
        objective: &LabelledObjective,
        scores: ScoreStatistics,
    ) -> ObjectiveReport {
        ObjectiveReport {
            name: objective.name.clone(),
            reward: objective.reward.clone(),
            tie_threshold: objective.tie_threshold,
            temperature: objective.temperature,
            scores,
            ties: self.ties,
            filled: self.filled,
            kept: self.kept,
        }
    }
}

/// The report of a labelling.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct LabelReport {
    /// Objectives with a reward, in the order of the rewards file.
    pub objectives: Vec<ObjectiveReport>,
    /// Counts of the labelled set and the K × K disagreement. Lengths are in words.
    pub summary: Summary,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// The record next to a labelled set (`<set>.labels.json`): the labelling that made it, and the
/// statistics by which scores of its rewards become z-scores.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct LabelRecord {
    /// Number of pairs.
    pub pairs: usize,
    /// SHA-256 of the labelled set.
    pub set_sha256: String,
    /// SHA-256 of the input set.
    pub input_sha256: String,
    /// SHA-256 of rewards and rules.
    pub rewards_sha256: String,
    /// Whether existing labels were kept.
    pub keep: bool,
    /// In what reward models computed products.
    #[serde(default, skip_serializing_if = "MatmulPrecision::is_f32")]
    pub matmul_precision: MatmulPrecision,
    /// Objectives with a reward.
    pub objectives: Vec<ObjectiveReport>,
}

impl LabelRecord {
    /// The record next to a labelled set, if it can be read.
    pub(super) fn read_beside(set: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(record_path(set)).ok()?).ok()
    }

    /// Whether this is the record of `labelling`.
    pub(super) fn is_of(&self, labelling: &Labelling) -> bool {
        self.input_sha256 == labelling.input_sha256
            && self.rewards_sha256 == labelling.rewards_sha256
            && self.keep == labelling.keep
            && self.matmul_precision == labelling.matmul_precision
    }
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
            for value in [s.mean, s.std, s.min, s.max] {
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
