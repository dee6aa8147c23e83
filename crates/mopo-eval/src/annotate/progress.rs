//! Scores that are kept while a labelling runs: a folder of parts, each whole or absent.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mopo_data::{PreferenceRecord, Scores, sha256_hex, write_atomically};
use serde::{Deserialize, Serialize};

use super::score::{BATCH_PAIRS, score_pairs};
use super::shard::{Labelling, ShardIndex};
use crate::{Error, Result, Reward};

/// How long the work between two saves should take: less than this is done twice after a kill.
const AIM: Duration = Duration::from_secs(2);

const JOB: &str = "job.json";

/// Which job a folder of progress belongs to.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Job {
    labelling: Labelling,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard: Option<ShardIndex>,
    /// Rows of this job.
    rows: usize,
    /// Scores of another version's batches could have other last bits.
    batch_pairs: usize,
}

/// The progress of one job. Killed at any moment, it goes on from the last part that was saved.
#[derive(Debug)]
pub struct Progress {
    dir: PathBuf,
    /// `[rows]`, what is there already.
    done: Vec<Option<Scores>>,
}

impl Progress {
    /// Opens the folder `dir`, or makes it. Parts whose hash does not hold are done again.
    ///
    /// # Errors
    /// [`Error::Labels`] if the folder belongs to another job; [`Error::Io`].
    pub fn open(
        dir: &Path,
        labelling: &Labelling,
        shard: Option<ShardIndex>,
        rows: usize,
    ) -> Result<Self> {
        let job = Job { labelling: labelling.clone(), shard, rows, batch_pairs: BATCH_PAIRS };
        let path = dir.join(JOB);
        match std::fs::read(&path) {
            Ok(bytes) => {
                if serde_json::from_slice::<Job>(&bytes).ok().as_ref() != Some(&job) {
                    let message = "the work in this folder belongs to another labelling (another \
                                   set, other rewards, rules or shard); remove the folder to start \
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
        let mut progress = Self { dir: dir.into(), done: vec![None; rows] };
        progress.read_parts(labelling.config.objectives.len())?;
        Ok(progress)
    }

    /// Rows that are scored.
    pub fn n_done(&self) -> usize {
        self.done.iter().filter(|row| row.is_some()).count()
    }

    /// Scores what is missing and returns all scores, in the order of `records`, which are the
    /// rows of this job. `advance` hears how many rows each saved part has.
    ///
    /// # Errors
    /// Those of [`score_pairs`]; what was scored before stays.
    pub fn run(
        mut self,
        rewards: &[Box<dyn Reward>],
        records: &[PreferenceRecord],
        advance: &mut dyn FnMut(usize),
    ) -> Result<Vec<Scores>> {
        if records.len() != self.done.len() {
            return Err(Error::Length {
                field: "records".into(),
                found: records.len(),
                expected: self.done.len(),
                reason: "the rows of this job",
            });
        }
        let mut n_batches = rayon::current_num_threads().max(1);
        while let Some(start) = self.done.iter().position(Option::is_none) {
            // Parts begin and end at batches, so gaps between them do.
            let gap = self.done[start..].iter().position(Option::is_some);
            let gap_end = gap.map_or(records.len(), |n| start + n);
            let end = gap_end.min(start + n_batches * BATCH_PAIRS);
            let clock = Instant::now();
            let scores = score_pairs(rewards, &records[start..end])?;
            self.save(start, &scores)?;
            for (slot, scores) in self.done[start..end].iter_mut().zip(scores) {
                *slot = Some(scores);
            }
            advance(end - start);
            let took = clock.elapsed();
            if took < AIM / 2 {
                n_batches = n_batches.saturating_mul(2);
            } else if took > AIM * 2 {
                n_batches = (n_batches / 2).max(1);
            }
        }
        Ok(self.done.into_iter().flatten().collect())
    }

    /// Removes the folder `dir` of a job whose result is written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(dir: &Path) -> Result<()> {
        match std::fs::remove_dir_all(dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Io { action: "remove", path: dir.into(), source })
            }
            _ => Ok(()),
        }
    }

    /// A part: the hash of the rest, then the scores, one row a line.
    fn save(&self, start: usize, scores: &[Scores]) -> Result<()> {
        let mut body = Vec::new();
        for row in scores {
            serde_json::to_writer(&mut body, row)
                .map_err(|source| Error::Json { what: "scores".into(), source })?;
            body.push(b'\n');
        }
        let bytes = [format!("{}\n", sha256_hex(&body)).into_bytes(), body].concat();
        Ok(write_atomically(&self.dir.join(format!("rows-{start:09}.jsonl")), &bytes)?)
    }

    fn read_parts(&mut self, n_rewards: usize) -> Result<()> {
        let read = |source| Error::Io { action: "read", path: self.dir.clone(), source };
        let mut parts: Vec<(usize, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let start = name.strip_prefix("rows-").and_then(|n| n.strip_suffix(".jsonl"));
            if let Some(start) = start.and_then(|start| start.parse().ok()) {
                parts.push((start, path));
            }
        }
        parts.sort();
        for (start, path) in parts {
            let Some(scores) = read_part(&path, n_rewards) else { continue };
            let Some(slots) = self.done.get_mut(start..start + scores.len()) else { continue };
            for (slot, scores) in slots.iter_mut().zip(scores) {
                *slot = Some(scores);
            }
        }
        Ok(())
    }
}

/// None for a part that is not whole.
fn read_part(path: &Path, n_rewards: usize) -> Option<Vec<Scores>> {
    let bytes = std::fs::read(path).ok()?;
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let body = &bytes[end + 1..];
    if sha256_hex(body).as_bytes() != &bytes[..end] {
        return None;
    }
    let row = |line: &[u8]| {
        let scores: Scores = serde_json::from_slice(line).ok()?;
        let whole = scores.first.len() == n_rewards && scores.second.len() == n_rewards;
        whole.then_some(scores)
    };
    body.strip_suffix(b"\n")?.split(|&byte| byte == b'\n').map(row).collect()
}
