//! What the z-scores of an evaluation are counted in: a file, the configuration, the scores that the
//! data has recorded, or the warm start's.

use std::path::Path;

use anyhow::{Context, Result, bail};
use mopo_core::Objectives;
use mopo_data::PreparedSet;
use mopo_report::{PolicySamples, ScoreStatistics, read_statistics};
use mopo_train::RunDir;
use mopo_train::config::{EvaluationConfig, ZScoreSource};

/// One per objective, `None` where the warm start's scores are still to come.
pub(crate) struct Known(Vec<Option<ScoreStatistics>>);

impl Known {
    /// What is known before anything is generated. A file counts for all objectives.
    ///
    /// # Errors
    /// A file that cannot be used; `z_scores = "labels"` with data that has no scores of an axis.
    pub(crate) fn new(
        file: Option<&Path>,
        settings: &EvaluationConfig,
        objectives: &Objectives,
        run: &RunDir,
    ) -> Result<Self> {
        if let Some(file) = file {
            let all = read_statistics(file, objectives.names())?;
            return Ok(Self(all.into_iter().map(Some).collect()));
        }
        let mut known: Vec<_> =
            settings.rewards.iter().map(|axis| axis.given_statistics()).collect();
        if settings.z_scores == ZScoreSource::Labels && known.contains(&None) {
            let sets = ["data/train.jsonl", "data/heldout.jsonl"]
                .map(|name| PreparedSet::read(run.join(name)));
            let sets = sets.into_iter().collect::<mopo_data::Result<Vec<_>>>()?;
            for (axis, slot) in settings.rewards.iter().zip(&mut known) {
                if slot.is_none() {
                    let remedy = "set evaluation.z_scores=warm_start, or give --statistics FILE";
                    *slot = Some(of_labels(&sets, &axis.name).with_context(|| {
                        format!("`evaluation.z_scores` is \"labels\": {remedy}")
                    })?);
                }
            }
        }
        Ok(Self(known))
    }

    /// All, the missing ones from the scores of the warm start, which `whose` describes.
    pub(crate) fn with_warm_start(
        self,
        objectives: &[String],
        warm_start: &PolicySamples,
        whose: &str,
    ) -> Result<Vec<ScoreStatistics>> {
        let complete = |(k, known): (usize, Option<ScoreStatistics>)| match known {
            Some(known) => Ok(known),
            None => {
                let scores = warm_start.scores.iter().map(|row| row[k]);
                Ok(ScoreStatistics::of(&objectives[k], scores, whose)?)
            }
        };
        self.0.into_iter().enumerate().map(complete).collect()
    }
}

/// Of the recorded scores of both responses of every pair.
fn of_labels(sets: &[PreparedSet], axis: &str) -> Result<ScoreStatistics> {
    let mut scores = Vec::new();
    for set in sets {
        let names = set.header.objectives.names();
        let Some(k) = names.iter().position(|name| name == axis) else {
            bail!("the axis `{axis}` is no objective of the data ({})", names.join(", "));
        };
        let recorded = set.records.iter().filter_map(|record| record.scores.as_ref());
        scores.extend(recorded.flat_map(|s| [s.first[k], s.second[k]]));
    }
    if scores.is_empty() {
        bail!("the data has recorded no scores of `{axis}`");
    }
    let source = "scores that the data has recorded of both responses of every pair";
    Ok(ScoreStatistics::of(axis, scores, source)?)
}
