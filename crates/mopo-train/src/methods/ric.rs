//! Rewards in Context (RiC): SFT with the response's scores in the prompt, and the wanted scores there at inference
//! (Yang et al., 2024, arXiv 2402.10207; docs/methods/ric.md).

use mopo_core::Objectives;
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::conditioned::{
    Aim, ConditionedTraining, Conditioning, Online, OnlineRounds, Rule, ScoreStatistics, TargetMap,
    Told, check_known, check_objectives, normal_extremes, score_note, statistics_of,
    training_quantile,
};
use crate::rollouts::RolloutSettings;
use crate::{Error, Progress, Result, RunData};

/// RiC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RicConfig {
    /// How preference weights become the scores that are asked for.
    pub targets: TargetMap,
    /// The scores that can be asked for.
    pub target_range: TargetRange,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
    /// The quantile of the training set's scores that an own answer must reach on any objective to be learnt.
    #[serde(default = "published_quantile")]
    pub quantile: f64,
    /// Rounds on its own answers, at the end of training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<OnlineRounds>,
}

fn published_quantile() -> f64 {
    0.7
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
    /// The lowest and the highest score to ask for, of each objective.
    fn range(&self, statistics: &[(usize, ScoreStatistics)], data: &RunData) -> Vec<[f64; 2]> {
        match self.target_range {
            TargetRange::Normal => normal_extremes(statistics.len()),
            TargetRange::Observed => {
                let extremes = |(k, of): &(usize, ScoreStatistics)| {
                    let all = data.train.scores.iter().flatten().flatten().map(|s| of.z(s[*k]));
                    all.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], z| {
                        [low.min(z), high.max(z)]
                    })
                };
                statistics.iter().map(extremes).collect()
            }
        }
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
# Rounds on its own answers, scored by the [[evaluation.rewards]] named like the policies; of these only answers that
# reach a quantile of the training set's scores on any objective are learnt. None without the section.
# quantile = 0.7
# [ric.online]
# rounds = 2
# share = 0.2
# prompts = 256
# answers = 1
# temperature = 1.0
# max_new_tokens = 72
"#;
    const OPTIONAL: &'static [&'static str] = &["ric.quantile", "ric.online"];

    fn needs_initial_log_probs(&self) -> bool {
        false
    }

    fn check_section(&self, policies: &[String]) -> Result<()> {
        check_objectives("ric", policies)?;
        if !(0.0..1.0).contains(&self.quantile) {
            return Err(Error::Config {
                origin: "`ric.quantile`".into(),
                message: format!("it is {}; it must lie in [0, 1)", self.quantile),
            });
        }
        self.online.as_ref().map_or(Ok(()), |online| online.check("ric"))
    }

    fn check_new(&self, steps: usize) -> Result<()> {
        self.online.as_ref().map_or(Ok(()), |online| online.check_steps("ric", steps))
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

    fn rollouts<'a>(&'a self, policies: &'a [String]) -> Option<RolloutSettings<'a>> {
        Some(self.online.as_ref()?.rollouts("ric.online", policies))
    }

    fn changes_prompts(&self) -> bool {
        true
    }

    fn conditioning(&self, policies: &[String], data: &RunData) -> Result<Option<Conditioning>> {
        let statistics = statistics_of(policies, &data.objectives, data)?;
        let range = self.range(&statistics, data);
        let statistics = statistics.into_iter().map(|(_, of)| of).collect();
        let aim = Aim::Scores { statistics, range, map: self.targets };
        Ok(Some(Conditioning::new(policies, aim)))
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let data = context.data;
        let statistics = statistics_of(context.policies, &data.objectives, data)?;
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
        let rule = || Rule::Scores {
            range: self.range(&statistics, data),
            map: self.targets,
            thresholds: (statistics.iter())
                .map(|(k, of)| training_quantile(data, *k, of, self.quantile))
                .collect(),
        };
        let online = Online::new(self.online.as_ref(), rule, &statistics, &context);
        let train_head = self.train_head;
        let training = ConditionedTraining { phase: "ric", train_head, rows, online };
        training.run(context, fit, progress)
    }
}
