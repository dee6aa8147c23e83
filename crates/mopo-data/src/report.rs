//! How the rows of a source were used: counts of used and skipped rows, with reasons.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::files::PassedOver;

/// Maximum number of malformed rows that are kept; further ones are only counted.
const KEPT_MALFORMED: usize = 20;

/// A row that does not have the source's schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MalformedRow {
    /// The file.
    pub file: PathBuf,
    /// The line, or the row of a JSON array or a Parquet file, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// Counts of rows. `rows` is the sum of `used`, everything in `left_out`, and `malformed_total`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadReport {
    /// Lines that are not blank, elements of an array, or rows of a Parquet file.
    pub rows: usize,
    /// Rows from which something was made.
    pub used: usize,
    /// Skipped rows, by reason.
    pub left_out: BTreeMap<&'static str, usize>,
    /// The first 20 malformed rows.
    pub malformed: Vec<MalformedRow>,
    /// Number of all malformed rows.
    pub malformed_total: usize,
    /// Number of records made: pairs, prompts or labelled texts.
    pub made: usize,
    /// Responses of used rows that were skipped, by reason.
    pub responses_left_out: BTreeMap<&'static str, usize>,
    /// Responses that occur more than once under a prompt, merged with averaged scores.
    pub merged_responses: usize,
    /// Pairs of used rows that were skipped, by reason.
    pub pairs_left_out: BTreeMap<&'static str, usize>,
    /// Entries of the folder that were not read.
    pub passed_over: Vec<PassedOver>,
}

impl ReadReport {
    /// Number of rows skipped for `reason`.
    pub fn left_out_for(&self, reason: &str) -> usize {
        self.left_out.get(reason).copied().unwrap_or(0)
    }

    /// Number of all skipped rows, malformed ones included.
    pub fn left_out_total(&self) -> usize {
        self.left_out.values().sum::<usize>() + self.malformed_total
    }

    /// Adds another report to this one.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.used += other.used;
        self.made += other.made;
        self.merged_responses += other.merged_responses;
        self.malformed_total += other.malformed_total;
        for (mine, theirs) in [
            (&mut self.left_out, &other.left_out),
            (&mut self.responses_left_out, &other.responses_left_out),
            (&mut self.pairs_left_out, &other.pairs_left_out),
        ] {
            for (reason, count) in theirs {
                *mine.entry(reason).or_default() += count;
            }
        }
        let room = KEPT_MALFORMED - self.malformed.len().min(KEPT_MALFORMED);
        self.malformed.extend(other.malformed.iter().take(room).cloned());
        self.passed_over.extend(other.passed_over.iter().cloned());
    }

    pub(crate) fn leave_out(&mut self, reason: &'static str) {
        *self.left_out.entry(reason).or_default() += 1;
    }

    pub(crate) fn leave_pairs_out(&mut self, reason: &'static str, n_pairs: usize) {
        if n_pairs > 0 {
            *self.pairs_left_out.entry(reason).or_default() += n_pairs;
        }
    }

    pub(crate) fn leave_responses_out(&mut self, reason: &'static str, n_responses: usize) {
        if n_responses > 0 {
            *self.responses_left_out.entry(reason).or_default() += n_responses;
        }
    }

    /// Rows that counted as used until all rows of their prompt were known.
    pub(crate) fn take_back(&mut self, reason: &'static str, n_rows: usize) {
        self.used -= n_rows;
        *self.left_out.entry(reason).or_default() += n_rows;
    }

    pub(crate) fn malformed(&mut self, row: MalformedRow) {
        self.malformed_total += 1;
        if self.malformed.len() < KEPT_MALFORMED {
            self.malformed.push(row);
        }
    }
}

impl fmt::Display for ReadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, count: usize| writeln!(f, "{name:<44}{count:>9}");
        line("rows", self.rows)?;
        for (reason, count) in &self.left_out {
            line(&format!("  skipped: {reason}"), *count)?;
        }
        line("  skipped: malformed", self.malformed_total)?;
        line("  used", self.used)?;
        for (reason, count) in &self.responses_left_out {
            line(&format!("responses skipped: {reason}"), *count)?;
        }
        if self.merged_responses > 0 {
            line("repeated responses, scores averaged", self.merged_responses)?;
        }
        for (reason, count) in &self.pairs_left_out {
            line(&format!("pairs skipped: {reason}"), *count)?;
        }
        line("made of them", self.made)?;
        for MalformedRow { file, line, why } in &self.malformed {
            writeln!(f, "  {}:{line}: {why}", file.display())?;
        }
        let unlisted = self.malformed_total - self.malformed.len();
        if unlisted > 0 {
            writeln!(f, "  … and {unlisted} more")?;
        }
        for found in self.passed_over.iter().take(KEPT_MALFORMED) {
            writeln!(f, "skipped: {found}")?;
        }
        let unlisted = self.passed_over.len().saturating_sub(KEPT_MALFORMED);
        if unlisted > 0 {
            writeln!(f, "skipped: {unlisted} more files")?;
        }
        Ok(())
    }
}
