//! Scores for a file of texts: JSON Lines in, the same lines with scores out. Files may have any
//! size: one
//! chunk of lines is in memory at a time.
//!
//! A line is an object with `response` and optionally `prompt`; everything else in it is kept.

mod column;
mod line;
mod shard;
#[cfg(test)]
mod tests;
mod texts;

use std::path::{Path, PathBuf};

use mopo_data::write_atomically;
use mopo_hub::{Progress, Unit};
use mopo_ops::FusedBackend;
use serde::Serialize;

use crate::reward::Resolver;
use crate::{Error, Result, Reward, RewardSpec, ScoreStatistics};

pub use column::ScoreColumn;
pub use shard::{merge_scores, score_job, score_shard};
pub use texts::TextFile;

/// Number of texts that a reward gets at once: enough for batches of similar length.
pub const CHUNK: usize = 256;

/// The record of a scored file of texts: `<out>.record.json`.
#[derive(Debug, Serialize)]
pub struct ScoreRecord {
    /// Version of the program.
    pub version: String,
    /// Device of the models.
    pub device: String,
    /// The file of texts.
    pub texts: PathBuf,
    /// Its SHA-256.
    pub texts_sha256: String,
    /// Number of texts.
    pub n_texts: usize,
    /// The rewards, in the given order.
    pub rewards: Vec<ScoredReward>,
}

/// One reward of a [`ScoreRecord`].
#[derive(Debug, Serialize)]
pub struct ScoredReward {
    /// The key of its scores.
    pub name: String,
    /// Its specification.
    pub reward: RewardSpec,
    /// SHA-256 of what the reward reads, such as a model's files and settings
    /// ([`RewardSpec::fingerprint`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Statistics of all its scores.
    pub scores: ScoreStatistics,
    /// Time for scoring, in seconds.
    pub seconds: f64,
    /// Notes on the scores: that texts were truncated, for instance.
    pub notes: Vec<String>,
}

/// Scores all `texts` with each reward, the models of one reward in memory at a time, and returns a record of each
/// reward with
/// its scores, which are kept in unnamed files in `folder`.
///
/// # Errors
/// Those of [`RewardSpec::build`] and [`TextFile::score`]; two rewards of one name.
pub fn score_texts<B: FusedBackend>(
    texts: &TextFile,
    specs: &[RewardSpec],
    device: &B::Device,
    resolve: Resolver<'_>,
    folder: &Path,
    progress: &mut dyn Progress,
) -> Result<(Vec<ScoredReward>, Vec<ScoreColumn>)> {
    let (mut scored, mut columns) = (Vec::<ScoredReward>::new(), vec![]);
    for specs in groups(specs) {
        let rewards = RewardSpec::build_all::<B>(specs, device, resolve)?;
        let names = new_names(scored.iter().map(|other| &*other.name), &rewards)?.join(", ");
        progress.begin(&names, 0, texts.len() as u64, Unit::Steps);
        let all: Vec<&dyn Reward> = rewards.iter().map(|reward| reward.as_ref()).collect();
        let found = texts.score(&all, folder, &mut |n| progress.advance(n as u64, ""))?;
        progress.end("");
        for ((spec, reward), (column, seconds)) in specs.iter().zip(&rewards).zip(found) {
            let sha256 = Some(spec.fingerprint(resolve)?).filter(|sha256| !sha256.is_empty());
            scored.push(ScoredReward {
                sha256,
                scores: column.statistics()?,
                notes: reward.notes(),
                name: reward.name().to_owned(),
                reward: spec.clone(),
                seconds,
            });
            columns.push(column);
        }
    }
    Ok((scored, columns))
}

/// Rewards that are in memory together: functions share one pass over the texts, and so do the labels of one model.
fn groups(specs: &[RewardSpec]) -> impl Iterator<Item = &[RewardSpec]> {
    let has_model = |spec: &RewardSpec| !spec.models().is_empty();
    specs.chunk_by(move |one, next| (!has_model(one) && !has_model(next)) || one.shares_model(next))
}

/// The names of more rewards, if none is taken.
fn new_names<'a>(
    taken: impl Iterator<Item = &'a str>,
    rewards: &'a [Box<dyn Reward>],
) -> Result<Vec<&'a str>> {
    let mut names: Vec<&str> = taken.collect();
    let n_taken = names.len();
    for reward in rewards {
        if reward.name().trim().is_empty() {
            return Err(Error::invalid(
                "name",
                "empty",
                "give each reward a name, or leave it out",
            ));
        }
        if names.contains(&reward.name()) {
            let expected = "another reward has it; give one a `name` in a file";
            return Err(Error::invalid("name", format!("`{}`", reward.name()), expected));
        }
        names.push(reward.name());
    }
    Ok(names.split_off(n_taken))
}

/// The place of the record of a scored file.
pub fn record_path(out: &Path) -> PathBuf {
    let mut beside = out.as_os_str().to_owned();
    beside.push(".record.json");
    beside.into()
}

/// Writes the record next to `out`, and then the lines of `texts` with their scores to it: once the
/// scores exist, the work is done.
///
/// # Errors
/// The file that cannot be written; a text file that changed while it was scored.
pub fn write_scores(
    out: &Path,
    texts: &TextFile,
    record: &ScoreRecord,
    columns: &[ScoreColumn],
) -> Result<()> {
    let beside = record_path(out);
    let mut json = serde_json::to_vec_pretty(record)
        .map_err(|source| Error::Json { what: beside.display().to_string(), source })?;
    json.push(b'\n');
    let names: Vec<&str> = record.rewards.iter().map(|reward| reward.name.as_str()).collect();
    texts.write_with_scores(out, &names, columns, &mut || Ok(write_atomically(&beside, &json)?))
}
