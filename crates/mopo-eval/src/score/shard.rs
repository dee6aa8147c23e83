//! Scores of texts in shards, and how they are merged into the columns of all texts.

use std::path::{Path, PathBuf};

use mopo_hub::{Progress, RowJob, ShardIndex, Unit};
use mopo_ops::FusedBackend;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::column::ColumnWriter;
use super::{CHUNK, ScoreColumn, ScoredReward, TextFile, groups};
use crate::reward::Resolver;
use crate::{Error, Result, Reward, RewardSpec, ScoreStatistics};

const COMMAND: &str = "mopo score";

/// What only the process that scored knows of a reward.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    name: String,
    seconds: f64,
    notes: Vec<String>,
}

/// The scoring of a file of texts, as a job whose rows are the texts. `device` is the kind of device, for instance `flex`:
/// others may round otherwise.
///
/// # Errors
/// Those of [`RewardSpec::fingerprint`].
pub fn score_job(
    texts: &TextFile,
    specs: &[RewardSpec],
    device: &str,
    resolve: Resolver<'_>,
    shard: Option<ShardIndex>,
    out: &Path,
) -> Result<RowJob> {
    let reward = |spec: &RewardSpec| {
        let sha256 = spec.fingerprint(resolve)?;
        Ok(json!({ "reward": spec.identity(), "sha256": sha256 }))
    };
    let rewards = specs.iter().map(reward).collect::<Result<Vec<Value>>>()?;
    let mut identity = Map::new();
    identity.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    identity.insert("device".into(), device.into());
    identity.insert("texts (their SHA-256)".into(), texts.sha256().into());
    identity.insert("rewards".into(), rewards.into());
    Ok(RowJob {
        command: COMMAND,
        identity,
        n_rows: texts.len(),
        unit: CHUNK,
        shard,
        out: out.into(),
    })
}

/// Scores the texts of a shard that are not saved yet, and writes the file of the shard. The models of one reward are in
/// memory at a time. The caller holds a lock on the job's folder of saved rows.
///
/// # Errors
/// Those of [`RewardSpec::build`] and [`TextFile::score`]; two rewards of one name; saved rows of another job.
pub fn score_shard<B: FusedBackend>(
    job: &RowJob,
    texts: &TextFile,
    specs: &[RewardSpec],
    device: &B::Device,
    resolve: Resolver<'_>,
    progress: &mut dyn Progress,
) -> Result<()> {
    let rows = job.rows();
    let (mut about, mut saved) = (Vec::<About>::new(), vec![]);
    for (i, specs) in groups(specs).enumerate() {
        let mut group = job.clone();
        group.identity.insert("rewards before".into(), about.len().into());
        group.out = job.progress_dir().join(format!("rewards-{i}"));
        let mut group_saved = group.open()?;
        // Nothing to load a model for.
        if rows.is_empty() {
            saved.push(group_saved);
            continue;
        }
        let rewards = RewardSpec::build_all::<B>(specs, device, resolve)?;
        let names = super::new_names(about.iter().map(|one| &*one.name), &rewards)?;
        progress.begin(
            &names.join(", "),
            group_saved.n_done() as u64,
            rows.len() as u64,
            Unit::Steps,
        );
        let all: Vec<&dyn Reward> = rewards.iter().map(|reward| reward.as_ref()).collect();
        let mut seconds = vec![0.0; all.len()];
        texts.score_rows(&all, &rows, &mut group_saved, &mut seconds, &mut |n| {
            progress.advance(n as u64, "");
        })?;
        progress.end("");
        about.extend(rewards.iter().zip(seconds).map(|(reward, seconds)| About {
            name: reward.name().into(),
            seconds,
            notes: reward.notes(),
        }));
        saved.push(group_saved);
    }
    job.write_shard(&json!(about), || {
        let mut groups: Vec<_> = saved.iter().map(|group| group.lines()).collect();
        // Each a list: `[1.5]` and `[2.0,3.0]` become `[1.5,2.0,3.0]`.
        std::iter::from_fn(move || {
            let lines: Option<mopo_hub::Result<Vec<String>>> =
                groups.iter_mut().map(Iterator::next).collect();
            let lines = match lines? {
                Ok(lines) => lines,
                Err(e) => return Some(Err(e)),
            };
            let inner: Vec<&str> = lines.iter().map(|line| line.trim_matches(['[', ']'])).collect();
            Some(Ok(format!("[{}]", inner.join(","))))
        })
    })?;
    Ok(())
}

/// The scores of all texts from the files of the shards of `job`, as [`score_texts`](super::score_texts) returns them.
/// Their seconds are those of all shards together.
///
/// # Errors
/// Those of [`RowJob::merge`]: shards of other texts, rewards or versions, duplicates, holes; files that were changed.
pub fn merge_scores(
    job: &RowJob,
    paths: &[PathBuf],
    specs: &[RewardSpec],
    resolve: Resolver<'_>,
    folder: &Path,
) -> Result<(Vec<ScoredReward>, Vec<ScoreColumn>)> {
    let set = job.merge(paths)?;
    let wrong = |why: &str| Error::Labels { path: paths[0].clone(), message: why.into() };
    let mut columns =
        specs.iter().map(|_| ColumnWriter::new(folder)).collect::<Result<Vec<_>>>()?;
    set.for_each(&mut |line| {
        let scores: Vec<f32> = serde_json::from_str(line)
            .map_err(|source| Error::Json { what: "scores of a shard".into(), source })?;
        if scores.len() != columns.len() {
            return Err(wrong("a text does not have one score per reward; score the shards again"));
        }
        columns.iter_mut().zip(scores).try_for_each(|(column, score)| column.push(&[score]))
    })?;
    let columns = columns.into_iter().map(ColumnWriter::finish).collect::<Result<Vec<_>>>()?;
    // A shard without rows knows nothing.
    let about: Vec<Vec<About>> = set
        .about()
        .map(|about| serde_json::from_value::<Vec<About>>(about.clone()).unwrap_or_default())
        .filter(|about| about.len() == specs.len())
        .collect();
    let mut scored = vec![];
    for (k, (spec, column)) in specs.iter().zip(&columns).enumerate() {
        let known: Vec<&About> = about.iter().map(|about| &about[k]).collect();
        let first = known.first().ok_or_else(|| wrong("no shard says its rewards' names"))?;
        let statistics: ScoreStatistics = column.statistics()?;
        scored.push(ScoredReward {
            name: first.name.clone(),
            reward: spec.clone(),
            sha256: Some(spec.fingerprint(resolve)?).filter(|sha256| !sha256.is_empty()),
            scores: statistics,
            seconds: known.iter().map(|about| about.seconds).sum(),
            notes: known.iter().flat_map(|about| about.notes.clone()).collect(),
        });
    }
    Ok((scored, columns))
}
