//! One labelling, whole or a shard of it: what it labels, and where its result and its progress lie.

use std::path::{Path, PathBuf};

use mopo_data::{PreferenceRecord, Scores, StagedSet, file_sha256};
use serde::{Deserialize, Serialize};

use super::config::LabelConfig;
use super::labelled::{LabelWriter, Labelled};
use super::progress::Progress;
use super::report::LabelRecord;
use super::shard::{ShardFile, ShardIndex, write_shard};
use crate::{Error, Result, Reward, output_folder};

/// What decides every bit of a labelled set, beside the pairs themselves.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Labelling {
    /// Objectives, rewards, rules.
    pub config: LabelConfig,
    /// Whether labels that are there stay.
    pub keep: bool,
    /// SHA-256 of the prepared set that is labelled ([`StagedSet::hash`]).
    pub input_sha256: String,
    /// SHA-256 of rewards and rules ([`LabelConfig::hash`]).
    pub rewards_sha256: String,
}

/// A labelling of the rows of a set, or of one shard of them, with its place on disk.
#[derive(Clone, PartialEq, Debug)]
pub struct LabelJob {
    /// What is labelled and how.
    pub labelling: Labelling,
    /// Which part of the rows; all of them without one.
    pub shard: Option<ShardIndex>,
    /// The labelled set, or the shard.
    pub out: PathBuf,
}

impl LabelJob {
    /// Where work is kept while the job runs: `<out>.progress`.
    pub fn progress_dir(&self) -> PathBuf {
        beside(&self.out, "progress")
    }

    /// Whether the result of this very job is there already. If it is, progress that a kill after the
    /// last write has left is removed.
    ///
    /// # Errors
    /// [`Error::Labels`] if something else is there.
    pub fn is_done(&self) -> Result<bool> {
        let out = &self.out;
        if !out.exists() {
            return Ok(false);
        }
        let same = match self.shard {
            Some(index) => ShardFile::open(out).is_ok_and(|shard| {
                let header = shard.header();
                header.shard == index
                    && header.labelling == self.labelling
                    && shard.rows().is_ok_and(|mut rows| rows.all(|row| row.is_ok()))
            }),
            None => LabelRecord::read_beside(out).is_some_and(|record| {
                record.is_of(&self.labelling)
                    && file_sha256(out).is_ok_and(|sha256| sha256 == record.set_sha256)
            }),
        };
        if !same {
            return Err(Error::labels(out, "it is there and something else; --force replaces it"));
        }
        Progress::remove(&self.progress_dir())?;
        Ok(true)
    }

    /// How many rows the job has.
    pub fn n_rows(&self, set: &StagedSet) -> usize {
        let n_rows = set.header().records;
        self.shard.map_or(n_rows, |shard| shard.rows(n_rows).len())
    }

    /// Opens what was done of the job before.
    ///
    /// # Errors
    /// [`Error::Labels`] if the folder of the progress belongs to another job; [`Error::Io`].
    pub fn open(&self, set: &StagedSet) -> Result<Progress> {
        Progress::open(&self.progress_dir(), &self.labelling, self.shard, self.n_rows(set))
    }

    /// Scores what is left of the rows and makes the labelled set. `advance` hears how many more rows
    /// are scored. [`Labelled::write`] and then [`remove_progress`](Self::remove_progress) are for the
    /// caller.
    ///
    /// # Errors
    /// [`Error::Score`] for what cannot be scored: what was scored before stays saved. Files that
    /// cannot be read or written.
    pub fn run(
        &self,
        set: &StagedSet,
        progress: &mut Progress,
        rewards: &[Box<dyn Reward>],
        advance: &mut dyn FnMut(usize),
    ) -> Result<Labelled> {
        let mut writer =
            LabelWriter::new(output_folder(&self.out)?, &self.labelling, set.header())?;
        let mut records = set.records()?.map(|record| Ok(record?));
        progress.run(
            rewards,
            &mut records,
            &mut |record, scores| writer.push(record, scores),
            advance,
        )?;
        writer.finish(|each| progress.for_each(each))
    }

    /// The same for a job with a shard, which is written to [`out`](Self::out).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_shard(
        &self,
        index: ShardIndex,
        set: &StagedSet,
        progress: &mut Progress,
        rewards: &[Box<dyn Reward>],
        advance: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let rows = index.rows(set.header().records);
        let records = set.records()?.skip(rows.start).take(rows.len());
        let mut records = records.map(|record| Ok(record?));
        write_shard(&self.out, index, &self.labelling, set.header(), rows.len(), |each| {
            progress.run(rewards, &mut records, each, advance)
        })
    }

    /// Removes the folder of the progress, once the result is written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_progress(&self) -> Result<()> {
        Progress::remove(&self.progress_dir())
    }
}

/// What a pass over scored rows gives each of them to.
pub(super) type EachScored<'a> = dyn FnMut(PreferenceRecord, &Scores) -> Result<()> + 'a;

/// `<file>.<what>`.
pub(super) fn beside(file: &Path, what: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}
