//! A labelling, or one shard of it: its input, output and progress.

use std::path::{Path, PathBuf};

use mopo_data::{PreferenceRecord, Scores, StagedSet, file_sha256};
use mopo_hub::{RowJob, ShardIndex};
use mopo_ops::MatmulPrecision;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::config::LabelConfig;
use super::labelled::{LabelWriter, Labelled};
use super::progress::Progress;
use super::report::LabelRecord;
use super::score::BATCH_PAIRS;
use super::shard::{ShardFile, VERSION, write_shard};
use crate::{Error, Result, Reward, output_folder};

/// What determines every bit of a labelled set, besides the pairs themselves. Two are equal whatever how
/// their endpoints are asked, so that an interrupted labelling may go on with a longer timeout.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Labelling {
    /// Objectives, rewards, rules.
    pub config: LabelConfig,
    /// Whether existing labels are kept.
    pub keep: bool,
    /// SHA-256 of the input set ([`StagedSet::hash`]).
    pub input_sha256: String,
    /// SHA-256 of rewards and rules ([`LabelConfig::hash`]).
    pub rewards_sha256: String,
    /// In what reward models compute products.
    #[serde(default, skip_serializing_if = "MatmulPrecision::is_f32")]
    pub matmul_precision: MatmulPrecision,
}

impl PartialEq for Labelling {
    fn eq(&self, other: &Self) -> bool {
        self.keep == other.keep
            && self.matmul_precision == other.matmul_precision
            && self.input_sha256 == other.input_sha256
            && self.rewards_sha256 == other.rewards_sha256
            && self.config.identity() == other.config.identity()
    }
}

/// A labelling of a set's rows, or of one shard of them, with its files.
#[derive(Clone, PartialEq, Debug)]
pub struct LabelJob {
    /// The labelling.
    pub labelling: Labelling,
    /// The part of the rows to label; `None` for all.
    pub shard: Option<ShardIndex>,
    /// The output: the labelled set, or the shard.
    pub out: PathBuf,
}

impl LabelJob {
    /// The folder of saved progress: `<out>.progress`.
    pub fn progress_dir(&self) -> PathBuf {
        mopo_hub::saved_rows_dir(&self.out)
    }

    /// Whether the result of this job already exists. If so, removes progress left by a kill after
    /// the
    /// last write.
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
                header.is_of(index, &self.labelling)
                    && shard.rows().is_ok_and(|mut rows| rows.all(|row| row.is_ok()))
            }),
            None => LabelRecord::read_beside(out).is_some_and(|record| {
                record.is_of(&self.labelling)
                    && file_sha256(out).is_ok_and(|sha256| sha256 == record.set_sha256)
            }),
        };
        if !same {
            return Err(Error::labels(
                out,
                "it exists and is something else; replace it with --force",
            ));
        }
        self.remove_progress()?;
        Ok(true)
    }

    /// Number of rows of the job.
    pub fn n_rows(&self, set: &StagedSet) -> usize {
        let n_rows = set.header().records;
        self.shard.map_or(n_rows, |shard| shard.rows(n_rows, BATCH_PAIRS).len())
    }

    /// Opens the saved progress of the job.
    ///
    /// # Errors
    /// [`Error::Hub`] if the progress folder belongs to another job, or cannot be read.
    pub fn open(&self, set: &StagedSet) -> Result<Progress> {
        let n_rewards = self.labelling.config.objectives.len();
        Progress::open(&self.rows(set.header().records)?, n_rewards)
    }

    /// The job as rows of a set of `n_rows`.
    fn rows(&self, n_rows: usize) -> Result<RowJob> {
        let Labelling { config, keep, input_sha256, rewards_sha256, matmul_precision } =
            &self.labelling;
        let rules = serde_json::to_value(config.identity())
            .map_err(|source| Error::Json { what: "rewards".into(), source })?;
        let mut identity = Map::new();
        for (key, value) in [
            ("version", VERSION.into()),
            ("set (its SHA-256)", input_sha256.as_str().into()),
            ("rewards (their SHA-256)", rewards_sha256.as_str().into()),
            ("rewards and rules", rules),
            ("keep", (*keep).into()),
        ] {
            identity.insert(key.into(), value);
        }
        if !matmul_precision.is_f32() {
            identity.insert("products".into(), matmul_precision.name().into());
        }
        let (shard, out) = (self.shard, self.out.clone());
        Ok(RowJob { command: "mopo label", identity, n_rows, unit: BATCH_PAIRS, shard, out })
    }

    /// Scores the remaining rows and makes the labelled set. `advance` is called with the number of
    /// newly
    /// scored rows. The caller then calls [`Labelled::write`] and
    /// [`remove_progress`](Self::remove_progress).
    ///
    /// # Errors
    /// [`Error::Score`] for what cannot be scored: earlier scores stay saved. Files that
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
        progress.run(rewards, set, &mut |record, scores| writer.push(record, scores), advance)?;
        writer.finish(|each| progress.for_each(each))
    }

    /// The same for a job with a shard, which is written to its output file.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub fn run_shard(
        &self,
        index: ShardIndex,
        set: &StagedSet,
        progress: &mut Progress,
        rewards: &[Box<dyn Reward>],
        advance: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let rows = index.rows(set.header().records, BATCH_PAIRS);
        write_shard(&self.out, index, &self.labelling, set.header(), rows.len(), |each| {
            progress.run(rewards, set, each, advance)
        })
    }

    /// Removes the progress folder, once the result is written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_progress(&self) -> Result<()> {
        Ok(mopo_hub::remove_saved_rows(&self.out)?)
    }
}

/// Receives each scored row.
pub(super) type EachScored<'a> = dyn FnMut(PreferenceRecord, &Scores) -> Result<()> + 'a;

/// The place of the record of a labelled set.
pub fn record_path(set: &Path) -> PathBuf {
    beside(set, "labels.json")
}

/// `<file>.<what>`.
pub(super) fn beside(file: &Path, what: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}
