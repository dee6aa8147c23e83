//! From scores to the labelled set.

use mopo_core::Objectives;
use mopo_data::{Header, PreferenceRecord, PreparedSet, Scores};

use super::report::{LabelRecord, LabelReport, ObjectiveReport, summary};
use super::shard::Labelling;
use crate::{Error, Result};

/// A whole set with the scores of all its pairs.
#[derive(Debug, Clone)]
pub struct LabelSet {
    /// Which labelling this is.
    pub labelling: Labelling,
    /// The set as it was before.
    pub header: Header,
    /// Its pairs.
    pub records: Vec<PreferenceRecord>,
    /// Scores of each pair, `[n_rewards]` a side.
    pub scores: Vec<Scores>,
}

/// A labelled set and what there is to say about it.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// The set, to be written.
    pub set: PreparedSet,
    /// For people.
    pub report: LabelReport,
    /// For the file beside the set.
    pub record: LabelRecord,
}

/// Where the indicator and the score of one objective of the labelled set come from.
struct Column {
    /// Which of the set's objectives it is, if its labels or scores count.
    old: Option<usize>,
    /// Which of the rewards scores it.
    reward: Option<usize>,
}

impl LabelSet {
    /// Turns the scores into indicators.
    ///
    /// Without `keep` the labelled set has the objectives of the rewards, and what the set said
    /// before does not count. With it the set's objectives come first, its labels stay, and
    /// rewards fill what is missing; objectives that the set did not have follow. A record gets
    /// `scores` if every objective has one, from a reward or from the set.
    ///
    /// # Errors
    /// [`Error::Length`] if there is not one score per pair and reward; a rule or a record that
    /// fails its check.
    pub fn finish(self) -> Result<Labelled> {
        let Labelling { config, keep, input_sha256, rewards_sha256 } = &self.labelling;
        let n_rewards = config.objectives.len();
        let wrong = |s: &Scores| s.first.len() != n_rewards || s.second.len() != n_rewards;
        if self.scores.len() != self.records.len() || self.scores.iter().any(wrong) {
            return Err(Error::Length {
                field: "scores".into(),
                found: self.scores.len(),
                expected: self.records.len(),
                reason: "one per pair, each with one number per reward",
            });
        }
        let before = &self.header.objectives;
        let (objectives, columns) = columns(before, &config.objectives()?, *keep)?;
        let rules = config.objectives.iter().map(|o| o.rule()).collect::<Result<Vec<_>>>()?;

        let mut reports = Vec::with_capacity(n_rewards);
        for (reward, (objective, &rule)) in config.objectives.iter().zip(&rules).enumerate() {
            let old = before.index_of(&objective.name).ok().filter(|_| *keep);
            let kept: Vec<Option<f32>> =
                self.records.iter().map(|r| old.and_then(|old| r.indicators[old])).collect();
            let scores: Vec<(f32, f32)> =
                self.scores.iter().map(|s| (s.first[reward], s.second[reward])).collect();
            reports.push(ObjectiveReport::new(objective, rule, &scores, &kept));
        }

        let mut without_scores = 0;
        let records: Vec<PreferenceRecord> = self
            .records
            .iter()
            .zip(&self.scores)
            .map(|(record, scores)| {
                let indicator = |column: &Column| {
                    let kept = column.old.and_then(|old| record.indicators[old]);
                    let by_scores = column
                        .reward
                        .map(|k| rules[k].indicator(scores.first[k], scores.second[k]));
                    kept.or(by_scores)
                };
                let all_scores = scores_of(record, scores, &columns);
                without_scores += usize::from(all_scores.is_none());
                PreferenceRecord {
                    indicators: columns.iter().map(indicator).collect(),
                    scores: all_scores,
                    ..record.clone()
                }
            })
            .collect();

        let mut notes = Vec::new();
        if without_scores > 0 {
            let unscored: Vec<&str> = columns
                .iter()
                .zip(objectives.names())
                .filter(|(column, _)| column.reward.is_none())
                .map(|(_, name)| name.as_str())
                .collect();
            notes.push(format!(
                "{without_scores} records have no `scores`: no reward scores `{}`; their \
                 indicators are complete as far as they go",
                unscored.join("`, `")
            ));
        }
        if !keep && self.records.iter().any(|r| r.indicators.iter().any(Option::is_some)) {
            notes.push(format!(
                "the set's own labels ({}) are not in the labelled set; --keep keeps them",
                before.names().join(", ")
            ));
        }
        let mut about = self.header.notes.clone();
        about.push(describe(&self.labelling));
        let (split, sources) = (self.header.split, self.header.sources);
        let set = PreparedSet::new(objectives, split, sources, about, records)?;
        let record = LabelRecord {
            pairs: set.records.len(),
            set_sha256: set.hash(),
            input_sha256: input_sha256.clone(),
            rewards_sha256: rewards_sha256.clone(),
            keep: *keep,
            objectives: reports.clone(),
        };
        let summary = summary(&set.header.objectives, &set.records);
        Ok(Labelled { set, report: LabelReport { objectives: reports, summary, notes }, record })
    }
}

/// The labelled set's objectives and where each comes from.
fn columns(
    before: &Objectives,
    labelled: &Objectives,
    keep: bool,
) -> Result<(Objectives, Vec<Column>)> {
    let mut names: Vec<&String> = Vec::new();
    if keep {
        names.extend(before.names());
    }
    names.extend(labelled.names().iter().filter(|name| !keep || before.index_of(name).is_err()));
    let columns = names
        .iter()
        .map(|name| Column {
            old: before.index_of(name).ok().filter(|_| keep),
            reward: labelled.index_of(name).ok(),
        })
        .collect();
    Ok((Objectives::new(names)?, columns))
}

fn scores_of(record: &PreferenceRecord, scores: &Scores, columns: &[Column]) -> Option<Scores> {
    let side = |by_reward: &[f32], before: Option<&Vec<f32>>| {
        let score = |column: &Column| match column.reward {
            Some(reward) => Some(by_reward[reward]),
            None => Some(before?[column.old?]),
        };
        columns.iter().map(score).collect::<Option<Vec<f32>>>()
    };
    let before = record.scores.as_ref();
    Some(Scores {
        first: side(&scores.first, before.map(|s| &s.first))?,
        second: side(&scores.second, before.map(|s| &s.second))?,
    })
}

/// A line for the set's header.
fn describe(labelling: &Labelling) -> String {
    let rule = |o: &super::LabelledObjective| match (o.tie_threshold, o.temperature) {
        (Some(threshold), _) => format!("{} hard, tie_threshold {threshold}", o.name),
        (_, Some(temperature)) => format!("{} soft, temperature {temperature}", o.name),
        _ => o.name.clone(),
    };
    let rules: Vec<String> = labelling.config.objectives.iter().map(rule).collect();
    format!(
        "labelled by rewards with sha256 {} on the set with sha256 {}{}: {}",
        labelling.rewards_sha256,
        labelling.input_sha256,
        if labelling.keep { ", keeping labels" } else { "" },
        rules.join("; ")
    )
}
