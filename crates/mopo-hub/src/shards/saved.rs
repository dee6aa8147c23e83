//! Rows saved while a job runs: a folder of parts, each whole or absent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::job::difference;
use super::{RowJob, ShardIndex};
use crate::{Error, Result, hex, read_json, sha256_hex, write_atomically, write_json};

/// Target time between two saves: a kill loses at most about that much work, or that of one unit.
const AIM: Duration = Duration::from_secs(2);
/// Most rows that are computed at once.
const MOST_ROWS: usize = 1 << 14;

const JOB: &str = "job.json";

/// The job that a folder belongs to.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Owner {
    identity: Map<String, Value>,
    shard: Option<ShardIndex>,
    n_rows: usize,
    unit: usize,
}

/// The rows of a job that are there already, one line of text each.
#[derive(Debug)]
pub struct SavedRows {
    dir: PathBuf,
    job: RowJob,
    /// Number of rows of each saved part, by its first row in the whole input.
    parts: BTreeMap<usize, usize>,
    /// Units that are computed at once.
    n_units: usize,
}

impl SavedRows {
    pub(super) fn open(job: &RowJob) -> Result<Self> {
        let dir = job.progress_dir();
        let path = dir.join(JOB);
        let owner = Owner {
            identity: job.identity.clone(),
            shard: job.shard,
            n_rows: job.n_rows,
            unit: job.unit,
        };
        if path.exists() {
            let found: Option<Owner> = read_json(&path, "the job of saved rows").ok();
            if found.as_ref() != Some(&owner) {
                let why = found.and_then(|found| {
                    if found.shard != owner.shard {
                        return Some("is another shard".to_string());
                    }
                    Some(format!("has another {}", difference(&found.identity, &owner.identity)?))
                });
                let message = format!(
                    "the rows saved in this folder belong to a job that {}; remove the folder to start over, or choose \
                     another --out",
                    why.unwrap_or_else(|| "is not this one".into())
                );
                return Err(Error::RowShards { path: dir, message });
            }
        } else {
            write_json(&path, &owner)?;
        }
        let mut saved = Self { dir, job: job.clone(), parts: BTreeMap::new(), n_units: 1 };
        saved.find_parts()?;
        Ok(saved)
    }

    /// Their folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Number of rows that are saved.
    pub fn n_done(&self) -> usize {
        self.parts.values().sum()
    }

    /// Computes and saves the missing rows. `compute` gets whole units, counted in the whole input, in ascending order,
    /// and returns one line for each row. `advance` is called with the number of new rows.
    ///
    /// # Errors
    /// Those of `compute`; [`Error::Io`]. Finished rows are saved.
    ///
    /// # Panics
    /// If `compute` returns another number of lines, or one with a line feed.
    pub fn fill<E: From<Error>>(
        &mut self,
        compute: &mut dyn FnMut(Range<usize>) -> std::result::Result<Vec<String>, E>,
        advance: &mut dyn FnMut(usize),
    ) -> std::result::Result<(), E> {
        self.fill_within(self.job.rows(), compute, advance)
    }

    /// [`fill`](Self::fill) for those rows of the job that are `within` whole units, for an input that is read piece by
    /// piece.
    ///
    /// # Errors
    /// Those of [`fill`](Self::fill).
    ///
    /// # Panics
    /// As [`fill`](Self::fill).
    pub fn fill_within<E: From<Error>>(
        &mut self,
        within: Range<usize>,
        compute: &mut dyn FnMut(Range<usize>) -> std::result::Result<Vec<String>, E>,
        advance: &mut dyn FnMut(usize),
    ) -> std::result::Result<(), E> {
        let rows = self.job.rows();
        let rows = rows.start.max(within.start)..rows.end.min(within.end);
        let mut row = rows.start;
        while row < rows.end {
            // Parts may have begun before these rows.
            if let Some((start, n_rows)) = self.parts.range(..=row).next_back()
                && start + n_rows > row
            {
                row = start + n_rows;
                continue;
            }
            let next_part = self.parts.range(row..).next();
            let end = next_part.map_or(rows.end, |(start, _)| *start).min(rows.end);
            let end = end.min(row.saturating_add(self.n_units * self.job.unit));
            let clock = Instant::now();
            let lines = compute(row..end)?;
            let took = clock.elapsed();
            assert_eq!(lines.len(), end - row, "one line for each row");
            assert!(!lines.iter().any(|line| line.contains('\n')), "a row is one line");
            if took < AIM / 4 {
                self.n_units = (self.n_units * 2).min((MOST_ROWS / self.job.unit).max(1));
            } else if took > AIM {
                self.n_units = (self.n_units / 2).max(1);
            }
            self.save(row, &lines)?;
            advance(lines.len());
            row = end;
        }
        Ok(())
    }

    /// The lines of all rows of the job, in order, once they are [filled](Self::fill).
    ///
    /// # Errors
    /// An item is [`Error::RowShards`] for a part that has changed meanwhile, or [`Error::Io`].
    pub fn lines(&self) -> impl Iterator<Item = Result<String>> {
        let parts = self.parts.iter().map(|(&start, &n_rows)| (self.path(start), n_rows));
        parts.flat_map(|(path, n_rows)| match Part::open(&path) {
            Err(e) => vec![Err(e)].into_iter().collect::<Vec<_>>(),
            Ok(part) => part.lines(n_rows),
        })
    }

    fn path(&self, start: usize) -> PathBuf {
        self.dir.join(format!("rows-{start:012}"))
    }

    /// A part: the hash of what follows, then one row per line.
    fn save(&mut self, start: usize, lines: &[String]) -> Result<()> {
        let body: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        let text = format!("{}\n{body}", sha256_hex(body.as_bytes()));
        write_atomically(&self.path(start), text.as_bytes())?;
        self.parts.insert(start, lines.len());
        Ok(())
    }

    /// Parts that are whole; others are ignored, and overwritten later.
    fn find_parts(&mut self) -> Result<()> {
        let read = |e| Error::io("read", &self.dir)(e);
        let mut found: Vec<(usize, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(start) = name.strip_prefix("rows-").and_then(|start| start.parse().ok()) {
                found.push((start, path));
            }
        }
        found.sort();
        let (rows, unit) = (self.job.rows(), self.job.unit);
        let mut done = rows.start;
        for (start, path) in found {
            let Some(n_rows) = Part::check(&path) else { continue };
            let Some(end) = start.checked_add(n_rows) else { continue };
            let whole_units =
                start.is_multiple_of(unit) && (end.is_multiple_of(unit) || end == rows.end);
            if n_rows > 0
                && start >= done
                && end <= rows.end
                && whole_units
                && path == self.path(start)
            {
                self.parts.insert(start, n_rows);
                done = end;
            }
        }
        Ok(())
    }
}

/// A saved part, read.
struct Part {
    path: PathBuf,
    sha256: String,
    file: BufReader<File>,
}

impl Part {
    fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io("read", path)(e);
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        let mut sha256 = String::new();
        file.read_line(&mut sha256).map_err(io)?;
        Ok(Self { path: path.into(), sha256: sha256.trim_end().into(), file })
    }

    /// Number of rows of a part; `None` if it is not whole.
    fn check(path: &Path) -> Option<usize> {
        let part = Self::open(path).ok()?;
        let (mut hash, mut n_rows) = (Sha256::new(), 0);
        for line in part.file.lines() {
            hash.update(line.ok()?);
            hash.update(b"\n");
            n_rows += 1;
        }
        (hex(&hash.finalize()) == part.sha256).then_some(n_rows)
    }

    /// Its lines, if they are as many; a part is small enough for memory, as it was when it was written.
    fn lines(self, n_rows: usize) -> Vec<Result<String>> {
        let Self { path, file, .. } = self;
        let lines: Vec<Result<String>> =
            file.lines().map(|line| line.map_err(Error::io("read", &path))).collect();
        if lines.len() == n_rows {
            return lines;
        }
        let message =
            "it was changed while it was read; remove it and run the command again".into();
        vec![Err(Error::RowShards { path, message })]
    }
}
