//! Scores for a file of texts: JSON Lines in, the same lines with scores out. Files of any size: one
//! chunk of lines is in memory at a time.
//!
//! A line is an object with `response` and, if there is one, `prompt`; everything else in it is kept.

mod column;
mod line;
#[cfg(test)]
mod tests;
mod texts;

use std::path::{Path, PathBuf};
use std::time::Instant;

use mopo_data::write_atomically;
use mopo_ops::FusedBackend;
use serde::Serialize;

use crate::reward::Resolver;
use crate::{Error, Result, RewardSpec, ScoreStatistics};

pub use column::ScoreColumn;
pub use texts::TextFile;

/// Texts that a reward gets at once: enough for batches of similar length.
pub const CHUNK: usize = 256;

/// What scored a file of texts: `<out>.record.json`.
#[derive(Debug, Serialize)]
pub struct ScoreRecord {
    /// Of the program.
    pub version: String,
    /// Where models computed.
    pub device: String,
    /// The file of texts.
    pub texts: PathBuf,
    /// Its SHA-256.
    pub texts_sha256: String,
    /// How many texts it has.
    pub n_texts: usize,
    /// What scored them, in the order that was asked for.
    pub rewards: Vec<ScoredReward>,
}

/// One reward of a [`ScoreRecord`].
#[derive(Debug, Serialize)]
pub struct ScoredReward {
    /// The key of its scores.
    pub name: String,
    /// What it is.
    pub reward: RewardSpec,
    /// SHA-256 of a model's files and settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Of all its scores.
    pub scores: ScoreStatistics,
    /// What scoring took.
    pub seconds: f64,
    /// What people should know of the scores: that texts were cut, for instance.
    pub notes: Vec<String>,
}

/// What [`score_texts`] is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScoreProgress<'a> {
    /// A reward begins with the texts.
    Begin {
        /// Its name.
        reward: &'a str,
        /// How many texts there are.
        n_texts: usize,
    },
    /// So many more are scored.
    Scored(usize),
    /// The reward is through.
    End,
}

/// Scores all `texts` with each reward, one in memory at a time, and gives what is known of each with
/// its scores. These are kept in files without a name in `folder`.
///
/// # Errors
/// Those of [`RewardSpec::build`] and [`TextFile::score`]; two rewards of one name.
pub fn score_texts<B: FusedBackend>(
    texts: &TextFile,
    specs: &[RewardSpec],
    device: &B::Device,
    resolve: Resolver<'_>,
    folder: &Path,
    progress: &mut dyn FnMut(ScoreProgress<'_>),
) -> Result<(Vec<ScoredReward>, Vec<ScoreColumn>)> {
    let (mut scored, mut columns) = (Vec::<ScoredReward>::new(), vec![]);
    for spec in specs {
        let reward = spec.build::<B>(device, resolve)?;
        let name = reward.name().to_owned();
        if scored.iter().any(|other| other.name == name) {
            let expected = "another reward has it; give one a `name` in a file";
            return Err(Error::invalid("name", format!("`{name}`"), expected));
        }
        progress(ScoreProgress::Begin { reward: &name, n_texts: texts.len() });
        let clock = Instant::now();
        let column = texts.score(reward.as_ref(), folder, &mut |n| {
            progress(ScoreProgress::Scored(n));
        })?;
        let seconds = clock.elapsed().as_secs_f64();
        progress(ScoreProgress::End);
        let sha256 = match spec {
            RewardSpec::Model(spec) => Some(spec.fingerprint(resolve)?),
            _ => None,
        };
        scored.push(ScoredReward {
            sha256,
            scores: column.statistics()?,
            notes: reward.notes(),
            name,
            reward: spec.clone(),
            seconds,
        });
        columns.push(column);
    }
    Ok((scored, columns))
}

/// Writes the record beside `out` and then the lines of `texts` with their scores to it: with the
/// scores there, the work is done.
///
/// # Errors
/// The file that cannot be written; a text file that was changed while it was scored.
pub fn write_scores(
    out: &Path,
    texts: &TextFile,
    record: &ScoreRecord,
    columns: &[ScoreColumn],
) -> Result<()> {
    let mut beside = out.as_os_str().to_owned();
    beside.push(".record.json");
    let beside = PathBuf::from(beside);
    let mut json = serde_json::to_vec_pretty(record)
        .map_err(|source| Error::Json { what: beside.display().to_string(), source })?;
    json.push(b'\n');
    let names: Vec<&str> = record.rewards.iter().map(|reward| reward.name.as_str()).collect();
    texts.write_with_scores(out, &names, columns, &mut || Ok(write_atomically(&beside, &json)?))
}
