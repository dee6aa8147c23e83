//! Rewards in Context (RiC): SFT with the response's scores in the prompt, and the wanted scores there at inference
//! (Yang et al., 2024, arXiv 2402.10207; docs/methods/ric.md).

use mopo_core::Objectives;
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::conditioned::{
    Aim, ConditionedTraining, Conditioning, ScoreStatistics, TargetMap, Told, check_known,
    check_objectives, normal_extremes, score_note,
};
use crate::{Progress, Result, RunData};

/// RiC without online rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RicConfig {
    /// How preference weights become the scores that are asked for.
    pub targets: TargetMap,
    /// The scores that can be asked for.
    pub target_range: TargetRange,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

/// The lowest and the highest score to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetRange {
    /// The extremes of 25,000 normal draws, about ±4 standard deviations, as published.
    Normal,
    /// The extremes of the training set's own scores.
    Observed,
}

impl RicConfig {
    /// Statistics of the policies' objectives, and their indices in the data.
    fn statistics(policies: &[String], data: &RunData) -> Result<Vec<(usize, ScoreStatistics)>> {
        let of = |name: &String| {
            let k = data.objectives.index_of(name)?;
            Ok((k, ScoreStatistics::of(&data.train, k, name)?))
        };
        policies.iter().map(of).collect()
    }
}

impl MethodSection for RicConfig {
    const TEXT: &'static str = r#"[method]
kind = "ric"

[ric]
# linf, l2 or linear: how preference weights become the scores that are asked for.
targets = "linf"
# normal (about ±4 standard deviations, as published) or observed (the extremes of the training set's scores).
target_range = "normal"
train_head = false
"#;

    fn check_section(&self, policies: &[String]) -> Result<()> {
        check_objectives("ric", policies)
    }

    fn check_labels(
        &self,
        policies: &[String],
        objectives: &Objectives,
        _: &[&[Option<f32>]],
    ) -> Result<()> {
        check_known(policies, objectives)
    }

    fn needs_scores(&self) -> bool {
        true
    }

    fn changes_prompts(&self) -> bool {
        true
    }

    fn conditioning(&self, policies: &[String], data: &RunData) -> Result<Option<Conditioning>> {
        let statistics = Self::statistics(policies, data)?;
        let range = match self.target_range {
            TargetRange::Normal => normal_extremes(policies.len()),
            TargetRange::Observed => {
                let extremes = |(k, of): &(usize, ScoreStatistics)| {
                    let all = data.train.scores.iter().flatten().flatten().map(|s| of.z(s[*k]));
                    all.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], z| {
                        [low.min(z), high.max(z)]
                    })
                };
                statistics.iter().map(extremes).collect()
            }
        };
        let statistics = statistics.into_iter().map(|(_, of)| of).collect();
        let aim = Aim::Scores { statistics, range, map: self.targets };
        Ok(Some(Conditioning::new(policies, aim)))
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let statistics = Self::statistics(context.policies, context.data)?;
        for (name, (_, of)) in context.policies.iter().zip(&statistics) {
            progress.note(&format!(
                "ric: scores of `{name}` have mean {:.4} and standard deviation {:.4}",
                of.mean, of.std
            ));
        }
        let scores = &context.data.train.scores;
        let rows = |pair: usize, _: usize| {
            [0, 1].map(|response| {
                let own = &scores[pair].as_ref().expect("every pair has scores")[response];
                let z: Vec<f64> = statistics.iter().map(|(k, of)| of.z(own[*k])).collect();
                Told { response, note: score_note(&z) }
            })
        };
        let training = ConditionedTraining { phase: "ric", train_head: self.train_head, rows };
        training.run(context, fit, progress)
    }
}
