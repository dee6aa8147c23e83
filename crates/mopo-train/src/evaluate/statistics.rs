//! The statistics for z-scores of an evaluation: from a file, the configuration, scores recorded in
//! the data, or the SFT model's scores.

use std::path::Path;

use mopo_data::PreparedSet;
use mopo_report::{ObjectiveStatistics, PolicySamples, read_statistics};

use crate::config::{EvaluationConfig, ZScoreSource};
use crate::{Error, Result, RunDir};

/// One per objective; `None` if they will come from the SFT model's scores.
#[derive(Debug)]
pub(crate) struct KnownStatistics(Vec<Option<ObjectiveStatistics>>);

impl KnownStatistics {
    /// The statistics known before generation. A file applies to all objectives.
    ///
    /// # Errors
    /// An invalid file; `z_scores = "labels"` with data that has no scores for an axis.
    pub(crate) fn new(
        file: Option<&Path>,
        settings: &EvaluationConfig,
        objectives: &[String],
        run: &RunDir,
    ) -> Result<Self> {
        if let Some(file) = file {
            let all = read_statistics(file, objectives)?;
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
                    let missing = |why: String| Error::Run {
                        path: run.path().into(),
                        message: format!(
                            "`evaluation.z_scores` is \"labels\", but {why}; set \
                             evaluation.z_scores=sft, or give --statistics FILE"
                        ),
                    };
                    *slot = Some(of_labels(&sets, &axis.name, missing)?);
                }
            }
        }
        Ok(Self(known))
    }

    /// One per axis.
    pub(crate) fn into_inner(self) -> Vec<Option<ObjectiveStatistics>> {
        self.0
    }

    /// All statistics; missing ones from the scores of the SFT model, which `whose` describes.
    pub(super) fn complete(
        self,
        objectives: &[String],
        sft: &PolicySamples,
        whose: &str,
    ) -> Result<Vec<ObjectiveStatistics>> {
        let complete = |(k, known): (usize, Option<ObjectiveStatistics>)| match known {
            Some(known) => Ok(known),
            None => {
                let scores = sft.scores.iter().map(|row| row[k]);
                Ok(ObjectiveStatistics::of(&objectives[k], scores, whose)?)
            }
        };
        self.0.into_iter().enumerate().map(complete).collect()
    }
}

/// Statistics of the recorded scores of both responses of every pair.
fn of_labels(
    sets: &[PreparedSet],
    axis: &str,
    missing: impl Fn(String) -> Error,
) -> Result<ObjectiveStatistics> {
    let mut scores = Vec::new();
    for set in sets {
        let names = set.header.objectives.names();
        let Some(k) = names.iter().position(|name| name == axis) else {
            let names = names.join(", ");
            return Err(missing(format!(
                "the axis `{axis}` is not an objective of the data ({names})"
            )));
        };
        let recorded = set.records.iter().filter_map(|record| record.scores.as_ref());
        scores.extend(recorded.flat_map(|s| [s.first[k], s.second[k]]));
    }
    if scores.is_empty() {
        return Err(missing(format!("the data has no recorded scores of `{axis}`")));
    }
    let source = "scores recorded in the data for both responses of every pair";
    Ok(ObjectiveStatistics::of(axis, scores, source)?)
}
