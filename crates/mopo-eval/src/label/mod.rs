//! Labels by rewards: both responses of every pair are scored, and the scores become indicators.
//!
//! The path: a [`LabelConfig`] and a prepared set → a [`LabelJob`] says what is labelled and where the
//! result goes → [`LabelJob::run`] scores the rows batch by batch, keeps what is done on disk, and makes
//! the [`Labelled`] set. Jobs of several machines are shards of it ([`LabelJob::run_shard`]), which
//! [`ShardFiles::merge`] puts together to the same [`Labelled`] set.
//!
//! Sets of any size: one batch of rows is in memory at a time. No device here: rewards come in built.

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
pub use job::{LabelJob, Labelling};
pub use labelled::Labelled;
pub use report::{KeptLabels, LabelRecord, LabelReport, ObjectiveReport};
pub use score::{BATCH_PAIRS, score_pairs};
pub use shard::{ShardFiles, ShardIndex};
