//! `[evaluation]`: what `mopo pareto` does with a run.

use mopo_core::Objectives;
use mopo_eval::{PromptEmbedding, ScoreStatistics};
use serde::{Deserialize, Serialize};

/// What `mopo pareto` does where its flags say nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Held-out prompts that get a response from every policy.
    pub n_prompts: usize,
    /// Prompt clusters.
    pub n_clusters: usize,
    /// What prompts are clustered by: `tf_idf` (their words) or `hidden_state` (the policies' own).
    /// May be left out (`tf_idf`), so that configurations from before it was there stay valid.
    #[serde(default)]
    pub embedding: PromptEmbedding,
    /// Whose scores z-scores are counted in, where an axis has no `statistics` of its own:
    /// `warm_start` or `labels`. May be left out (`warm_start`), as `embedding`.
    #[serde(default)]
    pub z_scores: ZScoreSource,
    /// New tokens per response.
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Nucleus.
    pub top_p: f64,
    /// Steps of the lattice of preference weights between the heads; 0 or 1: heads alone.
    pub mixture_steps: usize,
    /// What scores the responses, one per axis of the front.
    pub rewards: Vec<RewardAxis>,
}

/// Where mean and deviation of z-scores come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZScoreSource {
    /// The warm start's responses to the prompts of the evaluation.
    #[default]
    WarmStart,
    /// The scores that the run's data has recorded of both responses of every pair, for axes that
    /// have the name of an objective of the data: the same for all runs on that data.
    Labels,
}

/// One axis of the front.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardAxis {
    /// Name of the axis.
    pub name: String,
    /// The axis' corner of the hypervolume, fixed before anything is compared.
    pub ref_point: f64,
    /// What scores it.
    pub reward: mopo_eval::RewardSpec,
    /// What its z-scores are counted in, where that is given and not computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<GivenStatistics>,
}

/// Mean and deviation that somebody has published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenStatistics {
    /// Mean of the raw scores.
    pub mean: f64,
    /// Their standard deviation, above 0.
    pub deviation: f64,
    /// Whose scores they are, and who says so.
    pub source: String,
}

impl RewardAxis {
    /// The given statistics as an evaluation takes them.
    pub fn given_statistics(&self) -> Option<ScoreStatistics> {
        self.statistics.as_ref().map(|given| ScoreStatistics {
            objective: self.name.clone(),
            mean: given.mean,
            deviation: given.deviation,
            n: None,
            source: given.source.clone(),
        })
    }
}

impl EvaluationConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.n_prompts == 0 || self.max_new_tokens == 0 || self.n_clusters == 0 {
            return Err(
                "`evaluation.n_prompts`, `n_clusters` and `max_new_tokens` must be at least 1"
                    .into(),
            );
        }
        if self.rewards.is_empty() {
            return Err("`evaluation.rewards` is empty; a front needs at least one axis".into());
        }
        Objectives::new(self.rewards.iter().map(|r| r.name.clone())).map_err(|e| e.to_string())?;
        for axis in &self.rewards {
            let name = &axis.name;
            if !axis.ref_point.is_finite() {
                return Err(format!(
                    "`evaluation.rewards`: `ref_point` of `{name}` is {}; it must be a number",
                    axis.ref_point
                ));
            }
            axis.reward
                .check()
                .map_err(|e| format!("`evaluation.rewards`: the reward of `{name}`: {e}"))?;
            let Some(GivenStatistics { mean, deviation, .. }) = axis.statistics else { continue };
            if !(mean.is_finite() && deviation.is_finite() && deviation > 0.0) {
                return Err(format!(
                    "`evaluation.rewards`: `statistics` of `{name}` are mean {mean} and deviation \
                     {deviation}; both must be numbers, the deviation above 0"
                ));
            }
        }
        Ok(())
    }
}
