//! A summary of a set of records before anyone trains on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use mopo_core::Objectives;
use serde::Serialize;

use crate::stream::Repeats;
use crate::{Error, Indicator, PreferenceRecord, Result};

/// Counts of the values of one objective's indicator, which add up to the number of pairs.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct ObjectiveCounts {
    /// The objective.
    pub name: String,
    /// Indicator 1.
    pub first: usize,
    /// Indicator 0.
    pub second: usize,
    /// Indicator 0.5.
    pub ties: usize,
    /// Any other indicator: a soft label.
    pub soft: usize,
    /// No indicator.
    pub missing: usize,
}

/// Lengths in tokens. Percentiles are by nearest rank.
#[derive(Serialize, Clone, Copy, PartialEq, Debug, Default)]
pub struct LengthStats {
    /// The arithmetic mean; 0 if there is no text.
    pub mean: f64,
    /// The median.
    pub p50: usize,
    /// The 90th percentile.
    pub p90: usize,
    /// The maximum.
    pub max: usize,
}

impl LengthStats {
    /// Statistics of some lengths; all 0 if there are none.
    pub fn new(lengths: Vec<usize>) -> Self {
        let mut counts = LengthCounts::default();
        lengths.into_iter().for_each(|length| counts.push(length));
        counts.stats()
    }
}

/// How often each length occurs: there are few different ones.
#[derive(Default)]
struct LengthCounts(BTreeMap<usize, usize>);

impl LengthCounts {
    fn push(&mut self, length: usize) {
        *self.0.entry(length).or_default() += 1;
    }

    fn stats(&self) -> LengthStats {
        let n: usize = self.0.values().sum();
        let Some((&max, _)) = self.0.last_key_value() else { return LengthStats::default() };
        let rank = |percent: usize| {
            let mut left = (n * percent).div_ceil(100);
            let at_rank = self.0.iter().find(|(_, count)| {
                left = left.saturating_sub(**count);
                left == 0
            });
            at_rank.map_or(max, |(length, _)| *length)
        };
        let sum: usize = self.0.iter().map(|(length, count)| length * count).sum();
        LengthStats { mean: sum as f64 / n as f64, p50: rank(50), p90: rank(90), max }
    }
}

/// Counts of a set: its labels, how often its objectives disagree, and the lengths of its texts.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Summary {
    /// Number of records.
    pub pairs: usize,
    /// Number of distinct prompts.
    pub prompts: usize,
    /// Per objective, in order.
    pub objectives: Vec<ObjectiveCounts>,
    /// `[n_objectives][n_objectives]`: number of pairs on which both objectives prefer a response.
    pub both_decided: Vec<Vec<usize>>,
    /// `[n_objectives][n_objectives]`: the share of those on which they prefer different responses;
    /// `None` if there are none.
    pub disagreement: Vec<Vec<Option<f64>>>,
    /// Lengths of the prompts, one per pair.
    pub prompt_tokens: LengthStats,
    /// Lengths of both responses of each pair, without an end-of-text token.
    pub response_tokens: LengthStats,
}

impl Summary {
    /// Summarises `records`; `token_len` returns a text's length (in tokens, or in any other unit).
    pub fn new(
        objectives: &Objectives,
        records: &[PreferenceRecord],
        token_len: &dyn Fn(&str) -> usize,
    ) -> Self {
        let mut counts = Counts::new(objectives);
        records.iter().for_each(|record| counts.push(record, token_len));
        counts.summary(records.iter().map(|r| r.prompt.as_str()).collect::<BTreeSet<_>>().len())
    }
}

/// The length of a text in words, for want of a tokenizer.
pub fn n_words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// Makes a [`Summary`] of records that come one by one, in bounded memory.
pub struct SummaryBuilder {
    folder: PathBuf,
    counts: Counts,
    prompts: Repeats,
}

impl SummaryBuilder {
    /// For records with these objectives. What does not fit into a few megabytes is kept in an
    /// unnamed file in `folder`.
    pub fn new(folder: &Path, objectives: &Objectives) -> Self {
        let prompts = Repeats::new(folder);
        Self { folder: folder.into(), counts: Counts::new(objectives), prompts }
    }

    /// Counts the next record; `token_len` as for [`Summary::new`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn push(
        &mut self,
        record: &PreferenceRecord,
        token_len: &dyn Fn(&str) -> usize,
    ) -> Result<()> {
        self.counts.push(record, token_len);
        self.prompts.push(&record.prompt).map_err(Error::io("write into", &self.folder))
    }

    /// The summary of all records.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self) -> Result<Summary> {
        let found = self.prompts.finish().map_err(Error::io("read in", &self.folder))?;
        Ok(self.counts.summary(found.n_distinct))
    }
}

/// Everything in a [`Summary`] except the prompts.
struct Counts {
    pairs: usize,
    objectives: Vec<ObjectiveCounts>,
    both_decided: Vec<Vec<usize>>,
    differ: Vec<Vec<usize>>,
    prompt_lengths: LengthCounts,
    response_lengths: LengthCounts,
}

impl Counts {
    fn new(objectives: &Objectives) -> Self {
        let n_objectives = objectives.len();
        let counts = |name: &String| ObjectiveCounts {
            name: name.clone(),
            first: 0,
            second: 0,
            ties: 0,
            soft: 0,
            missing: 0,
        };
        Self {
            pairs: 0,
            objectives: objectives.names().iter().map(counts).collect(),
            both_decided: vec![vec![0; n_objectives]; n_objectives],
            differ: vec![vec![0; n_objectives]; n_objectives],
            prompt_lengths: LengthCounts::default(),
            response_lengths: LengthCounts::default(),
        }
    }

    fn push(&mut self, record: &PreferenceRecord, token_len: &dyn Fn(&str) -> usize) {
        self.pairs += 1;
        for (count, indicator) in self.objectives.iter_mut().zip(&record.indicators) {
            *match indicator {
                None => &mut count.missing,
                Some(1.0) => &mut count.first,
                Some(0.0) => &mut count.second,
                Some(0.5) => &mut count.ties,
                Some(_) => &mut count.soft,
            } += 1;
        }
        let n_objectives = self.objectives.len();
        for (a, left) in record.indicators.iter().enumerate().take(n_objectives) {
            for (b, right) in record.indicators.iter().enumerate().take(n_objectives) {
                if let (Some(left), Some(right)) = (prefers_first(left), prefers_first(right)) {
                    self.both_decided[a][b] += 1;
                    self.differ[a][b] += usize::from(left != right);
                }
            }
        }
        self.prompt_lengths.push(token_len(&record.prompt));
        self.response_lengths.push(token_len(&record.first));
        self.response_lengths.push(token_len(&record.second));
    }

    fn summary(self, prompts: usize) -> Summary {
        let share = |differ: usize, of: usize| (of > 0).then(|| differ as f64 / of as f64);
        let disagreement = self
            .differ
            .iter()
            .zip(&self.both_decided)
            .map(|(row, of)| row.iter().zip(of).map(|(&d, &of)| share(d, of)).collect())
            .collect();
        Summary {
            pairs: self.pairs,
            prompts,
            objectives: self.objectives,
            both_decided: self.both_decided,
            disagreement,
            prompt_tokens: self.prompt_lengths.stats(),
            response_tokens: self.response_lengths.stats(),
        }
    }
}

/// The preferred response, soft labels included; `None` for ties and missing labels.
fn prefers_first(indicator: &Indicator) -> Option<bool> {
    indicator.filter(|&value| value != 0.5).map(|value| value > 0.5)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} pairs, {} distinct prompts\n", self.pairs, self.prompts)?;
        let width = self.objectives.iter().map(|o| o.name.chars().count()).max().unwrap_or(0);
        let width = width.max("objective".len());
        write!(f, "{:<width$}", "objective")?;
        for column in ["first", "second", "ties", "soft", "missing"] {
            write!(f, "  {column:>8}")?;
        }
        writeln!(f)?;
        for counts in &self.objectives {
            let ObjectiveCounts { name, first, second, ties, soft, missing } = counts;
            write!(f, "{name:<width$}")?;
            for count in [first, second, ties, soft, missing] {
                write!(f, "  {count:>8}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "\ndisagreement, % of pairs decided by both objectives:")?;
        write!(f, "{:<width$}", "")?;
        for counts in &self.objectives {
            write!(f, "  {:>width$}", counts.name)?;
        }
        writeln!(f)?;
        for (counts, row) in self.objectives.iter().zip(&self.disagreement) {
            write!(f, "{:<width$}", counts.name)?;
            for share in row {
                let cell = share.map_or("-".into(), |share| format!("{:.1}", 100.0 * share));
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "\ntokens      {:>8}  {:>6}  {:>6}  {:>6}", "mean", "p50", "p90", "max")?;
        for (name, stats) in [("prompt", &self.prompt_tokens), ("response", &self.response_tokens)]
        {
            let LengthStats { mean, p50, p90, max } = stats;
            writeln!(f, "{name:<12}{mean:>8.1}  {p50:>6}  {p90:>6}  {max:>6}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_disagreement_and_lengths() {
        let objectives = Objectives::new(["a", "b"]).unwrap();
        let record = |prompt: &str, indicators: [Indicator; 2]| PreferenceRecord {
            id: "1".into(),
            source: "test".into(),
            prompt: prompt.into(),
            messages: None,
            first: "xx".into(),
            second: "xxxx".into(),
            indicators: indicators.to_vec(),
            scores: None,
        };
        let records = [
            record("p", [Some(1.0), Some(0.0)]),
            record("p", [Some(1.0), Some(0.7)]),
            record("q", [Some(0.5), Some(0.0)]),
            record("r", [None, Some(1.0)]),
        ];
        let summary = Summary::new(&objectives, &records, &str::len);
        let mut builder = SummaryBuilder::new(&std::env::temp_dir(), &objectives);
        records.iter().for_each(|record| builder.push(record, &str::len).unwrap());
        assert_eq!(builder.finish().unwrap(), summary);
        assert_eq!((summary.pairs, summary.prompts), (4, 3));
        let a = &summary.objectives[0];
        assert_eq!((a.first, a.second, a.ties, a.soft, a.missing), (2, 0, 1, 0, 1));
        assert_eq!(summary.objectives[1].soft, 1);
        assert_eq!(summary.both_decided, [[2, 2], [2, 4]]);
        assert_eq!(summary.disagreement[0], [Some(0.0), Some(0.5)]);
        assert_eq!(summary.response_tokens, LengthStats { mean: 3.0, p50: 2, p90: 4, max: 4 });
        let text = summary.to_string();
        assert!(text.contains("4 pairs, 3 distinct prompts"), "{text}");
        assert!(text.contains("50.0"), "{text}");
        assert!(serde_json::to_string(&summary).unwrap().contains("both_decided"));
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let stats = LengthStats::new((1..=10).rev().collect());
        assert_eq!(stats, LengthStats { mean: 5.5, p50: 5, p90: 9, max: 10 });
        let stats = LengthStats::new(vec![7, 7, 3]);
        assert_eq!((stats.p50, stats.p90, stats.max), (7, 7, 7));
        assert_eq!(LengthStats::new(vec![4]), LengthStats { mean: 4.0, p50: 4, p90: 4, max: 4 });
        assert_eq!(LengthStats::new(vec![]), LengthStats::default());
    }

    #[test]
    fn nothing_is_not_a_panic() {
        let objectives = Objectives::new(["a"]).unwrap();
        let summary = Summary::new(&objectives, &[], &str::len);
        assert_eq!(summary.disagreement, [[None]]);
        assert!(summary.to_string().contains("0 pairs"));
    }
}
