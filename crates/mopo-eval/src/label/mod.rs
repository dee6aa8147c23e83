//! Labels by rewards: both responses of every pair are scored, and the scores become indicators.
//!
//! From a [`LabelConfig`] and a prepared set: a [`LabelJob`] says what is labelled and where the
//! result goes; [`LabelJob::run`] scores the rows batch by batch, saves its progress, and makes
//! the [`Labelled`] set. Several machines can label shards ([`LabelJob::run_shard`]), which
//! [`ShardFiles::merge`] merges into the same [`Labelled`] set.
//!
//! Sets may have any size: one batch of rows is in memory at a time. Devices are chosen elsewhere:
//! rewards come ready to use.

mod config;
mod contents;
mod job;
mod labelled;
mod progress;
mod report;
mod score;
mod shard;
#[cfg(test)]
mod tests;

pub use config::{LABEL_PRESETS, LabelConfig, LabelRule, LabelledObjective};
pub use job::{LabelJob, Labelling, record_path};
pub use labelled::Labelled;
pub use report::{KeptLabels, LabelRecord, LabelReport, ObjectiveReport};
pub use score::{BATCH_PAIRS, score_pairs};
pub use shard::ShardFiles;
