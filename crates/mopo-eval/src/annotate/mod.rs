//! Labels by rewards: both responses of every pair are scored, and the scores become indicators.
//!
//! The path: a [`LabelConfig`] and a prepared set → [`Labelling`] says which rows a job has →
//! [`Progress`] scores them batch by batch and keeps what is done → [`LabelSet::finish`] makes the
//! labelled set and its [`LabelReport`]. Jobs of several machines are [`Shard`]s, which
//! [`merge_shards`] puts together to the same [`LabelSet`].
//!
//! No device here: rewards come in built.

mod config;
mod contents;
mod finish;
mod progress;
mod report;
mod score;
mod shard;
#[cfg(test)]
mod tests;

pub use config::{LABEL_PRESETS, LabelConfig, LabelRule, LabelledObjective};
pub use finish::{LabelSet, Labelled};
pub use progress::Progress;
pub use report::{KeptLabels, LabelRecord, LabelReport, ObjectiveReport, ScoreStatistics};
pub use score::{BATCH_PAIRS, score_pairs};
pub use shard::{Labelling, Shard, ShardIndex, merge_shards};
