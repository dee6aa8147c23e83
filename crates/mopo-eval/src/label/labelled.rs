//! From scored pairs to the labelled set.

use std::path::{Path, PathBuf};

use mopo_core::Objectives;
use mopo_data::{
    Header, PreferenceRecord, PreparedWriter, Scores, StagedSet, SummaryBuilder, n_words,
    write_atomically,
};

use super::config::LabelRule;
use super::job::{Labelling, record_path};
use super::report::{LabelRecord, LabelReport, Tally};
use crate::{Error, Result};

/// A labelled set with its report and record.
#[derive(Debug)]
pub struct Labelled {
    /// The set to write.
    pub set: StagedSet,
    /// For reading.
    pub report: LabelReport,
    /// For the file next to the set.
    pub record: LabelRecord,
}

impl Labelled {
    /// Writes the record, `<out>.labels.json`, and then the set: once the set exists,
    /// the labelling is done. Returns the record's path.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn write(&self, out: &Path) -> Result<PathBuf> {
        let path = record_path(out);
        let mut json = serde_json::to_vec_pretty(&self.record)
            .map_err(|source| Error::Json { what: path.display().to_string(), source })?;
        json.push(b'\n');
        write_atomically(&path, &json)?;
        self.set.write(out)?;
        Ok(path)
    }
}

/// The sources of an objective's indicators and scores in the labelled set.
struct Column {
    /// Its index among the input set's objectives, if its labels or scores are used.
    old: Option<usize>,
    /// The index of its reward.
    reward: Option<usize>,
}

/// Labels scored pairs in the set's order.
///
/// Without `keep` the labelled set has the objectives of the rewards, and the input's labels and
/// scores are
/// ignored. With it the input's objectives come first and its labels are kept; rewards fill the
/// missing
/// ones, and new objectives follow. A record gets `scores` if every objective has
/// one, from a reward or from the input.
pub(super) struct LabelWriter<'a> {
    labelling: &'a Labelling,
    /// The input set's header.
    before: &'a Header,
    columns: Vec<Column>,
    rules: Vec<LabelRule>,
    tallies: Vec<Tally>,
    out: PreparedWriter,
    summary: SummaryBuilder,
    n_without_scores: usize,
    had_labels: bool,
}

impl<'a> LabelWriter<'a> {
    /// Labelled records are kept in an unnamed file in `folder`.
    ///
    /// # Errors
    /// An invalid rule; objectives that cannot be combined; [`Error::Data`].
    pub(super) fn new(folder: &Path, labelling: &'a Labelling, before: &'a Header) -> Result<Self> {
        let Labelling { config, keep, .. } = labelling;
        let (objectives, columns) = columns(&before.objectives, &config.objectives()?, *keep)?;
        let tally = |objective: &super::LabelledObjective| {
            let old = before.objectives.index_of(&objective.name).ok().filter(|_| *keep);
            Tally::new(old)
        };
        Ok(Self {
            labelling,
            before,
            columns,
            rules: config.objectives.iter().map(|o| o.rule()).collect::<Result<_>>()?,
            tallies: config.objectives.iter().map(tally).collect(),
            summary: SummaryBuilder::new(folder, &objectives),
            out: PreparedWriter::new(folder, objectives)?,
            n_without_scores: 0,
            had_labels: false,
        })
    }

    /// Labels the next pair.
    ///
    /// # Errors
    /// [`Error::Length`] if there is not one score per reward; an invalid record.
    pub(super) fn push(&mut self, record: PreferenceRecord, scores: &Scores) -> Result<()> {
        let n_rewards = self.rules.len();
        for of_one in [&scores.first, &scores.second] {
            if of_one.len() != n_rewards {
                return Err(Error::Length {
                    field: format!("scores of record `{}`", record.id),
                    found: of_one.len(),
                    expected: n_rewards,
                    reason: "one per reward",
                });
            }
        }
        for (k, (tally, &rule)) in self.tallies.iter_mut().zip(&self.rules).enumerate() {
            tally.push(rule, [scores.first[k], scores.second[k]], &record.indicators);
        }
        self.had_labels |= record.indicators.iter().any(Option::is_some);
        let indicator = |column: &Column| {
            let kept = column.old.and_then(|old| record.indicators[old]);
            let by_scores =
                column.reward.map(|k| self.rules[k].indicator(scores.first[k], scores.second[k]));
            kept.or(by_scores)
        };
        let indicators = self.columns.iter().map(indicator).collect();
        let scores = scores_of(&record, scores, &self.columns);
        self.n_without_scores += usize::from(scores.is_none());
        let record = PreferenceRecord { indicators, scores, ..record };
        self.summary.push(&record, &n_words)?;
        Ok(self.out.push(&record)?)
    }

    /// The labelled set. `again` returns the scores of all pairs once more, in the same order,
    /// since standard
    /// deviations need the means.
    ///
    /// # Errors
    /// Those of `again`; [`Error::Data`] for duplicate ids.
    pub(super) fn finish(
        self,
        again: impl FnOnce(&mut dyn FnMut(&Scores)) -> Result<()>,
    ) -> Result<Labelled> {
        let mut seconds: Vec<_> = self.tallies.iter().map(Tally::second_pass).collect();
        again(&mut |scores| {
            for (k, second) in seconds.iter_mut().enumerate() {
                second.push(scores.first[k]);
                second.push(scores.second[k]);
            }
        })?;
        let labelling = self.labelling;
        let objectives: Vec<_> = (labelling.config.objectives.iter().zip(self.tallies))
            .zip(seconds)
            .map(|((objective, tally), second)| tally.report(objective, second.finish()))
            .collect();

        let mut notes = Vec::new();
        if self.n_without_scores > 0 {
            let unscored: Vec<&str> = self
                .columns
                .iter()
                .zip(self.out.objectives().names())
                .filter(|(column, _)| column.reward.is_none())
                .map(|(_, name)| name.as_str())
                .collect();
            notes.push(format!(
                "{} records have no `scores`: no reward scores `{}`; their indicators are complete \
                 as far as they go",
                self.n_without_scores,
                unscored.join("`, `")
            ));
        }
        if !labelling.keep && self.had_labels {
            notes.push(format!(
                "the set's own labels ({}) are not in the labelled set; --keep keeps them",
                self.before.objectives.names().join(", ")
            ));
        }
        let Header { split, sources, notes: about, .. } = self.before.clone();
        let about = about.into_iter().chain([describe(labelling)]).collect();
        let set = self.out.finish(split, sources, about)?;
        let record = LabelRecord {
            pairs: set.header().records,
            set_sha256: set.hash()?,
            input_sha256: labelling.input_sha256.clone(),
            rewards_sha256: labelling.rewards_sha256.clone(),
            keep: labelling.keep,
            matmul_precision: labelling.matmul_precision,
            objectives: objectives.clone(),
        };
        let report = LabelReport { objectives, summary: self.summary.finish()?, notes };
        Ok(Labelled { set, report, record })
    }
}

/// The labelled set's objectives and their sources.
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
    let scored = |by_reward: &[f32], before: Option<&Vec<f32>>| {
        let score = |column: &Column| match column.reward {
            Some(reward) => Some(by_reward[reward]),
            None => Some(before?[column.old?]),
        };
        columns.iter().map(score).collect::<Option<Vec<f32>>>()
    };
    let before = record.scores.as_ref();
    Some(Scores {
        first: scored(&scores.first, before.map(|s| &s.first))?,
        second: scored(&scores.second, before.map(|s| &s.second))?,
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
        "labelled by rewards with sha256 {} on the set with sha256 {}{}{}: {}",
        labelling.rewards_sha256,
        labelling.input_sha256,
        if labelling.keep { ", keeping labels" } else { "" },
        labelling.matmul_precision.note(),
        rules.join("; ")
    )
}
