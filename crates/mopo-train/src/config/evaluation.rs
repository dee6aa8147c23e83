//! `[evaluation]`: the evaluation of a run by `mopo pareto`.

use mopo_core::Objectives;
use mopo_eval::reward::{Resolver, Reward, RewardSpec, part};
use mopo_eval::{ObjectiveStatistics, PromptEmbedding};
use mopo_lm::HubGeneration;
use mopo_ops::FusedBackend;
use serde::{Deserialize, Serialize};

use super::ranges::{self, Checked, MAX_COUNT, MAX_TOKENS};
use crate::{Error, Result};

const MAX_CLUSTERS: usize = 100_000;
const MAX_TEMPERATURE: f64 = 100.0;
const MAX_MIXTURES: f64 = 10_000.0;

/// Defaults for the flags of `mopo pareto`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Number of held-out prompts that every policy answers.
    pub n_prompts: usize,
    /// Maximum number of prompt clusters.
    pub n_clusters: usize,
    /// Features for clustering prompts: `tf_idf` (their words) or `hidden_state` (of the policies).
    /// Optional (`tf_idf`), so that older configurations stay valid.
    #[serde(default)]
    pub embedding: PromptEmbedding,
    /// Whose scores define z-scores for axes without `statistics`: `sft` or `labels`. Optional
    /// (`sft`), like `embedding`.
    #[serde(default)]
    pub z_scores: ZScoreSource,
    /// Maximum number of new tokens per response.
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Sample from the smallest set of tokens with this total probability.
    pub top_p: f64,
    /// Steps of the simplex grid of preference weights for mixtures; 0 or 1: no mixtures.
    pub mixture_steps: usize,
    /// Whether the mixture with the weights that are worst for it, token by token, is evaluated too. Optional (no).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub worst_case: bool,
    /// The rewards, one per axis of the front.
    pub rewards: Vec<RewardAxis>,
}

/// The source of mean and deviation for z-scores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZScoreSource {
    /// The SFT model's responses to the evaluation's prompts.
    #[default]
    #[serde(alias = "warm_start")]
    Sft,
    /// The scores recorded in the run's data for both responses of every pair, for axes named like
    /// an objective of the data: the same for all runs on that data.
    Labels,
}

/// One axis of the front.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardAxis {
    /// Name of the axis.
    pub name: String,
    /// The axis' value of the hypervolume's reference point, fixed before the comparison.
    pub ref_point: f64,
    /// The reward.
    pub reward: mopo_eval::RewardSpec,
    /// Given statistics for z-scores, instead of computed ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<GivenStatistics>,
}

/// Published mean and deviation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenStatistics {
    /// Mean of the raw scores.
    pub mean: f64,
    /// Their standard deviation, above 0.
    pub std: f64,
    /// Whose scores they are, and the reference.
    pub source: String,
}

impl RewardAxis {
    /// The given statistics as an evaluation takes them.
    pub fn given_statistics(&self) -> Option<ObjectiveStatistics> {
        self.statistics.as_ref().map(|given| ObjectiveStatistics {
            objective: self.name.clone(),
            mean: given.mean,
            std: given.std,
            n: None,
            source: given.source.clone(),
        })
    }
}

/// The rewards of these axes.
///
/// # Errors
/// One that cannot be built.
pub(crate) fn build_rewards<'a, B: FusedBackend>(
    axes: impl IntoIterator<Item = &'a RewardAxis>,
    device: &B::Device,
    resolve: Resolver<'_>,
) -> Result<Vec<Box<dyn Reward>>> {
    let axes: Vec<&RewardAxis> = axes.into_iter().collect();
    let specs = axes.iter().map(|axis| &axis.reward);
    let rewards = RewardSpec::build_all::<B>(specs, device, resolve)?;
    let named = rewards.into_iter().zip(axes);
    Ok(named
        .map(|(reward, axis)| part(format!("evaluation.rewards: {}", axis.name), reward))
        .collect())
}

impl EvaluationConfig {
    /// The sampling settings as keys of `generation_config.json`.
    pub fn generation(&self) -> HubGeneration {
        let mut settings =
            HubGeneration { max_new_tokens: Some(self.max_new_tokens), ..Default::default() };
        if self.temperature > 0.0 {
            settings.do_sample = Some(true);
            settings.temperature = Some(self.temperature);
            settings.top_k = Some(0);
            settings.top_p = Some(self.top_p);
        }
        settings
    }

    pub(super) fn check(&self, n_policies: usize) -> Checked {
        ranges::count("evaluation.n_prompts", self.n_prompts, 1..=MAX_COUNT)?;
        ranges::count("evaluation.n_clusters", self.n_clusters, 1..=MAX_CLUSTERS)?;
        ranges::count("evaluation.max_new_tokens", self.max_new_tokens, 1..=MAX_TOKENS)?;
        // Above this, all tokens are practically equally likely.
        ranges::within("evaluation.temperature", self.temperature, 0.0..=MAX_TEMPERATURE)?;
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(format!("`evaluation.top_p` is {}; it must lie in (0, 1]", self.top_p));
        }
        check_mixtures("evaluation.mixture_steps", self.mixture_steps, n_policies)?;
        if self.rewards.is_empty() {
            return Err("`evaluation.rewards` is empty; a front needs at least one axis".into());
        }
        Objectives::new(self.rewards.iter().map(|r| r.name.clone()))
            .map_err(|e| format!("`evaluation.rewards`: {e}"))?;
        self.rewards.iter().try_for_each(RewardAxis::check)
    }
}

impl EvaluationConfig {
    /// With `z_scores = "labels"`: checks that the data has recorded scores for every axis without
    /// `statistics`.
    pub(crate) fn check_recorded_scores(
        &self,
        objectives: &Objectives,
        recorded: bool,
    ) -> Result<()> {
        if self.z_scores != ZScoreSource::Labels {
            return Ok(());
        }
        let names = objectives.names();
        for axis in self.rewards.iter().filter(|axis| axis.statistics.is_none()) {
            let name = &axis.name;
            let problem = if !names.contains(name) {
                format!("the axis `{name}` is not an objective of the data ({})", names.join(", "))
            } else if !recorded {
                format!("the data has no recorded scores of `{name}`")
            } else {
                continue;
            };
            return Err(Error::Config {
                origin: "`evaluation.z_scores`".into(),
                message: format!(
                    "it is \"labels\", but {problem}: set evaluation.z_scores=sft, or give the axis \
                     `statistics`"
                ),
            });
        }
        Ok(())
    }
}

/// Refuses a grid of preference weights with unreasonably many mixtures.
fn check_mixtures(key: &str, steps: usize, n_policies: usize) -> Checked {
    // Ways to divide `steps` among the policies: (steps + k − 1) over (k − 1).
    let n = (1..n_policies).fold(1.0, |n, i| n * (steps as f64 + i as f64) / i as f64);
    match steps == 0 || n <= MAX_MIXTURES {
        true => Ok(()),
        false => Err(format!(
            "`{key}` is {steps}, which gives {n:.0} mixtures of {n_policies} policies; at most \
             {MAX_MIXTURES} are allowed"
        )),
    }
}

impl RewardAxis {
    fn check(&self) -> Checked {
        let name = &self.name;
        let finite = |value: f64| value.is_finite() && value.abs() <= f64::from(f32::MAX);
        if !finite(self.ref_point) {
            return Err(format!(
                "`evaluation.rewards`: `ref_point` of `{name}` is {}; it must be a number",
                self.ref_point
            ));
        }
        self.reward
            .check()
            .map_err(|e| format!("`evaluation.rewards`: the reward of `{name}`: {e}"))?;
        match &self.statistics {
            Some(GivenStatistics { mean, std, .. })
                if !(finite(*mean) && finite(*std) && *std > 0.0) =>
            {
                Err(format!(
                    "`evaluation.rewards`: `statistics` of `{name}` are mean {mean} and std {std}; \
                     both must be numbers, `std` above 0"
                ))
            }
            _ => Ok(()),
        }
    }
}
