//! Scores saved during a labelling: the saved rows of a job, each with the scores of a pair.

use std::ops::Range;

use mopo_data::{PreferenceRecord, Scores, StagedSet};
use mopo_hub::{RowJob, SavedRows};

use super::job::EachScored;
use super::score::{BATCH_PAIRS, score_pairs};
use crate::{Error, Result, Reward};

/// Maximum text size of pairs that are scored at once, except for a single batch.
const CHUNK_BYTES: usize = 8 << 20;

/// The progress of a job. After a kill it continues from the last saved rows.
#[derive(Debug)]
pub struct Progress {
    saved: SavedRows,
    rows: Range<usize>,
    n_rewards: usize,
}

impl Progress {
    /// Opens the job's folder, or creates it. Parts with a wrong hash are scored again.
    ///
    /// # Errors
    /// [`Error::Hub`] if the folder belongs to another job, or cannot be read.
    pub(super) fn open(job: &RowJob, n_rewards: usize) -> Result<Self> {
        Ok(Self { saved: job.open()?, rows: job.rows(), n_rewards })
    }

    /// Number of scored rows.
    pub fn n_done(&self) -> usize {
        self.saved.n_done()
    }

    /// Computes and saves the scores that are missing, then calls `each` with every row and its scores, in order.
    /// `advance` is called with the number of newly scored rows.
    ///
    /// # Errors
    /// [`Error::Length`] for fewer records than the job has; those of [`score_pairs`] and of `each`; files that cannot be
    /// read or written. Finished scores are saved.
    pub(super) fn run(
        &mut self,
        rewards: &[Box<dyn Reward>],
        set: &StagedSet,
        each: &mut EachScored<'_>,
        advance: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let n_rows = set.header().records;
        let mut records = set.records()?.map(|record| Ok(record?));
        let mut at = 0;
        let mut compute = |rows: Range<usize>| {
            // Those before are saved.
            while at < rows.start {
                next(&mut records, n_rows)?;
                at += 1;
            }
            let mut lines = Vec::with_capacity(rows.len());
            while at < rows.end {
                let chunk = next_chunk(&mut records, rows.end - at, n_rows)?;
                at += chunk.len();
                for scores in score_pairs(rewards, &chunk)? {
                    lines.push(
                        serde_json::to_string(&scores)
                            .map_err(|source| Error::Json { what: "scores".into(), source })?,
                    );
                }
            }
            Ok::<_, Error>(lines)
        };
        self.saved.fill(&mut compute, advance)?;
        let records = set.records()?.skip(self.rows.start).take(self.rows.len());
        for (record, line) in records.zip(self.saved.lines()) {
            each(record?, &self.scores(&line?)?)?;
        }
        Ok(())
    }

    /// Calls `each` with the scores of all rows, in order, after a [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Labels`] or [`Error::Hub`] for a part that has changed meanwhile.
    pub(super) fn for_each(&self, each: &mut dyn FnMut(&Scores)) -> Result<()> {
        self.saved.lines().try_for_each(|line| {
            each(&self.scores(&line?)?);
            Ok(())
        })
    }

    fn scores(&self, line: &str) -> Result<Scores> {
        let found: Option<Scores> = serde_json::from_str(line).ok();
        let is_whole = |scores: &Scores| {
            scores.first.len() == self.n_rewards && scores.second.len() == self.n_rewards
        };
        found.filter(is_whole).ok_or_else(|| {
            let message = "its saved scores are not those of these rewards; remove the folder and run the command again";
            Error::labels(self.saved.dir(), message)
        })
    }
}

/// The next record of a set.
fn next(
    records: &mut dyn Iterator<Item = Result<PreferenceRecord>>,
    n_rows: usize,
) -> Result<PreferenceRecord> {
    records.next().unwrap_or_else(|| {
        Err(Error::Length {
            field: "records".into(),
            found: 0,
            expected: n_rows,
            reason: "the rows of this job",
        })
    })
}

/// The next records, at most `most`: whole batches, fewer if their texts are long.
fn next_chunk(
    records: &mut dyn Iterator<Item = Result<PreferenceRecord>>,
    most: usize,
    n_rows: usize,
) -> Result<Vec<PreferenceRecord>> {
    let mut chunk = Vec::new();
    let mut n_bytes = 0;
    while chunk.len() < most {
        if chunk.len().is_multiple_of(BATCH_PAIRS) && n_bytes >= CHUNK_BYTES {
            break;
        }
        let record = next(records, n_rows)?;
        n_bytes += record.prompt.len() + record.first.len() + record.second.len();
        chunk.push(record);
    }
    Ok(chunk)
}
