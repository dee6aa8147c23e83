//! Scores saved during a labelling: a folder of parts, each whole or absent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mopo_data::{Lines, PreferenceRecord, Scores, sha256_hex, write_atomically};
use mopo_hub::ShardIndex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::job::{EachScored, Labelling};
use super::score::{BATCH_PAIRS, score_pairs};
use super::shard::VERSION;
use crate::{Error, Result, Reward};

/// Target time between two saves: a kill loses at most about that much work.
const AIM: Duration = Duration::from_secs(2);
/// A part is saved when its scores reach this size.
const PART_BYTES: usize = 4 << 20;
/// Maximum text size of pairs that are scored at once, except for a single batch.
const CHUNK_BYTES: usize = 8 << 20;
/// Maximum number of batches in a part.
const CHUNK_BATCHES: usize = 2048;

const JOB: &str = "job.json";

/// The job that a progress folder belongs to.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Job {
    /// Version of the program; earlier ones did not say.
    #[serde(default)]
    version: String,
    labelling: Labelling,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard: Option<ShardIndex>,
    /// Number of rows of this job.
    rows: usize,
    /// With another batch size the last bits of scores could differ.
    batch_pairs: usize,
}

/// The progress of a job. After a kill it continues from the last saved part.
#[derive(Debug)]
pub struct Progress {
    dir: PathBuf,
    n_rewards: usize,
    n_rows: usize,
    /// Number of rows of each saved part, by its first row.
    parts: BTreeMap<usize, usize>,
}

impl Progress {
    /// Opens the folder `dir`, or creates it. Parts with a wrong hash are scored again.
    ///
    /// # Errors
    /// [`Error::Labels`] if the folder belongs to another job; [`Error::Io`].
    pub(super) fn open(
        dir: &Path,
        labelling: &Labelling,
        shard: Option<ShardIndex>,
        rows: usize,
    ) -> Result<Self> {
        let job = Job {
            version: VERSION.into(),
            labelling: labelling.clone(),
            shard,
            rows,
            batch_pairs: BATCH_PAIRS,
        };
        let path = dir.join(JOB);
        match std::fs::read(&path) {
            Ok(bytes) => {
                if serde_json::from_slice::<Job>(&bytes).ok().as_ref() != Some(&job) {
                    let message = "the work in this folder belongs to another labelling (another \
                                   set, other rewards, rules, shard or version); remove the folder to start \
                                   over, or choose another --out";
                    return Err(Error::labels(dir, message));
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let json = serde_json::to_vec_pretty(&job)
                    .map_err(|source| Error::Json { what: JOB.into(), source })?;
                write_atomically(&path, &json)?;
            }
            Err(source) => return Err(Error::Io { action: "read", path, source }),
        }
        let n_rewards = labelling.config.objectives.len();
        let mut progress =
            Self { dir: dir.into(), n_rewards, n_rows: rows, parts: BTreeMap::new() };
        progress.find_parts()?;
        Ok(progress)
    }

    /// Number of scored rows.
    pub fn n_done(&self) -> usize {
        self.parts.values().sum()
    }

    /// Calls `each` with every row and its scores, in order; missing scores are computed and
    /// saved first. `records` are the job's rows; `advance` is called with the number of newly
    /// scored rows.
    ///
    /// # Errors
    /// [`Error::Length`] for fewer records than the job has; those of [`score_pairs`], of `records`
    /// and
    /// of `each`; [`Error::Io`]. Finished scores are saved.
    pub(super) fn run(
        &mut self,
        rewards: &[Box<dyn Reward>],
        records: &mut dyn Iterator<Item = Result<PreferenceRecord>>,
        each: &mut EachScored<'_>,
        advance: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let mut row = 0;
        while row < self.n_rows {
            let Some(&n_rows) = self.parts.get(&row) else {
                let next_part = self.parts.range(row..).next();
                let end = next_part.map_or(self.n_rows, |(start, _)| *start);
                self.fill(row..end, rewards, records, each, advance)?;
                row = end;
                continue;
            };
            let mut part = PartReader::open(&self.path(row), self.n_rewards)?;
            for _ in 0..n_rows {
                each(next(records, self.n_rows)?, &part.next_scores()?)?;
            }
            row += n_rows;
        }
        Ok(())
    }

    /// Calls `each` with the scores of all rows, in order, after a [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Labels`] for a part that has changed meanwhile; [`Error::Io`].
    pub(super) fn for_each(&self, each: &mut dyn FnMut(&Scores)) -> Result<()> {
        for (&start, &n_rows) in &self.parts {
            let mut part = PartReader::open(&self.path(start), self.n_rewards)?;
            for _ in 0..n_rows {
                each(&part.next_scores()?);
            }
        }
        Ok(())
    }

    /// Removes the folder `dir` of a job whose result is written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn remove(dir: &Path) -> Result<()> {
        match std::fs::remove_dir_all(dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Io { action: "remove", path: dir.into(), source })
            }
            _ => Ok(()),
        }
    }

    fn path(&self, start: usize) -> PathBuf {
        self.dir.join(format!("rows-{start:09}.jsonl"))
    }

    /// Scores the rows between two parts. Parts consist of whole batches, so the gap does too.
    fn fill(
        &mut self,
        rows: Range<usize>,
        rewards: &[Box<dyn Reward>],
        records: &mut dyn Iterator<Item = Result<PreferenceRecord>>,
        each: &mut EachScored<'_>,
        advance: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let mut part = PartWriter::new(rows.start);
        let mut n_batches = rayon::current_num_threads().max(1);
        let mut row = rows.start;
        while row < rows.end {
            let chunk = next_chunk(records, n_batches, rows.end - row, self.n_rows)?;
            let clock = Instant::now();
            let scores = match score_pairs(rewards, &chunk) {
                Ok(scores) => scores,
                Err(error) => {
                    self.save(part)?;
                    return Err(error);
                }
            };
            let took = clock.elapsed();
            if took < AIM / 4 {
                n_batches = (n_batches * 2).min(CHUNK_BATCHES);
            } else if took > AIM {
                n_batches = (n_batches / 2).max(1);
            }
            part.push(&scores)?;
            row += chunk.len();
            if part.started.elapsed() >= AIM || part.body.len() >= PART_BYTES {
                self.save(std::mem::replace(&mut part, PartWriter::new(row)))?;
            }
            advance(chunk.len());
            for (record, scores) in chunk.into_iter().zip(&scores) {
                each(record, scores)?;
            }
        }
        self.save(part)
    }

    /// A part: the hash of what follows, then the scores, one row per line.
    fn save(&mut self, part: PartWriter) -> Result<()> {
        let PartWriter { start, n_rows, body, .. } = part;
        if n_rows == 0 {
            return Ok(());
        }
        let bytes = [format!("{}\n", sha256_hex(&body)).into_bytes(), body].concat();
        write_atomically(&self.path(start), &bytes)?;
        self.parts.insert(start, n_rows);
        Ok(())
    }

    fn find_parts(&mut self) -> Result<()> {
        let read = |source| Error::Io { action: "read", path: self.dir.clone(), source };
        let mut found: Vec<(usize, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let start = name.strip_prefix("rows-").and_then(|n| n.strip_suffix(".jsonl"));
            if let Some(start) = start.and_then(|start| start.parse().ok()) {
                found.push((start, path));
            }
        }
        found.sort();
        let mut done = 0;
        for (start, path) in found {
            let Some(n_rows) = PartReader::check(&path, self.n_rewards) else { continue };
            let Some(end) = start.checked_add(n_rows) else { continue };
            let ends_a_batch = end.is_multiple_of(BATCH_PAIRS) || end == self.n_rows;
            let whole_batches = start.is_multiple_of(BATCH_PAIRS) && ends_a_batch;
            // A part of other rows, or under a wrong name.
            if n_rows > 0
                && start >= done
                && end <= self.n_rows
                && whole_batches
                && path == self.path(start)
            {
                self.parts.insert(start, n_rows);
                done = end;
            }
        }
        Ok(())
    }
}

/// The next record of a job.
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

/// The next `n_batches` batches of at most `most` records, fewer if their texts are long.
fn next_chunk(
    records: &mut dyn Iterator<Item = Result<PreferenceRecord>>,
    n_batches: usize,
    most: usize,
    n_rows: usize,
) -> Result<Vec<PreferenceRecord>> {
    let mut chunk = Vec::new();
    let mut n_bytes = 0;
    while chunk.len() < most.min(n_batches * BATCH_PAIRS) {
        if chunk.len().is_multiple_of(BATCH_PAIRS) && n_bytes >= CHUNK_BYTES {
            break;
        }
        let record = next(records, n_rows)?;
        n_bytes += record.prompt.len() + record.first.len() + record.second.len();
        chunk.push(record);
    }
    Ok(chunk)
}

/// A part being written.
struct PartWriter {
    start: usize,
    n_rows: usize,
    body: Vec<u8>,
    started: Instant,
}

impl PartWriter {
    fn new(start: usize) -> Self {
        Self { start, n_rows: 0, body: Vec::new(), started: Instant::now() }
    }

    fn push(&mut self, scores: &[Scores]) -> Result<()> {
        for row in scores {
            serde_json::to_writer(&mut self.body, row)
                .map_err(|source| Error::Json { what: "scores".into(), source })?;
            self.body.push(b'\n');
        }
        self.n_rows += scores.len();
        Ok(())
    }
}

/// The rows of a part.
struct PartReader {
    path: PathBuf,
    n_rewards: usize,
    sha256: Vec<u8>,
    lines: Lines<Box<dyn BufRead + Send>>,
}

impl PartReader {
    fn open(path: &Path, n_rewards: usize) -> Result<Self> {
        let io = |source| Error::Io { action: "read", path: path.into(), source };
        let file = BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?);
        let mut lines: Lines<Box<dyn BufRead + Send>> = Lines::new(path, Box::new(file));
        let sha256 = lines.next_line()?.map_or_else(Vec::new, |(_, line)| line.to_vec());
        Ok(Self { path: path.into(), n_rewards, sha256, lines })
    }

    /// Number of rows of a part; `None` if it is not whole.
    fn check(path: &Path, n_rewards: usize) -> Option<usize> {
        let mut part = Self::open(path, n_rewards).ok()?;
        let (mut hash, mut n_rows) = (Sha256::new(), 0);
        while let Some((_, line)) = part.lines.next_line().ok()? {
            hash.update(line);
            hash.update(b"\n");
            scores(line, n_rewards)?;
            n_rows += 1;
        }
        let found = mopo_hub::hex(&hash.finalize());
        (found.as_bytes() == part.sha256).then_some(n_rows)
    }

    fn next_scores(&mut self) -> Result<Scores> {
        let n_rewards = self.n_rewards;
        let found = self.lines.next_line()?.and_then(|(_, line)| scores(line, n_rewards));
        found.ok_or_else(|| {
            let message = "it was changed while it was read; remove it and run the command again";
            Error::labels(&self.path, message)
        })
    }
}

/// A line of a part.
fn scores(line: &[u8], n_rewards: usize) -> Option<Scores> {
    let scores: Scores = serde_json::from_slice(line).ok()?;
    let whole = scores.first.len() == n_rewards && scores.second.len() == n_rewards;
    whole.then_some(scores)
}
