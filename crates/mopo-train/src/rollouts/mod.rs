//! Training on the policy's own answers, for methods with rewards during training: PPO and GRPO. A method says how
//! advantages follow from scores and what the loss of a token is ([`RolloutLoss`]); here are sampling, scoring and the
//! steps.
//!
//! A *rollout* is a number of answers to training prompts, sampled from the policy as it is then, with their scores
//! and their log-probs under that policy and under the reference, the frozen base. It serves
//! `epochs × minibatches` optimiser steps. Everything random in it follows from the seed and its number; a rollout in
//! use is part of the checkpoint, since the policy that sampled it is gone.

mod inputs;
mod params;
mod sampling;
mod settings;
mod training;

use burn::tensor::{Tensor, backend::Backend};
use mopo_report::{Metrics, Quantity};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use inputs::RolloutInputs;
pub(crate) use settings::{RewardTarget, RolloutSettings};
pub(crate) use training::RolloutTraining;

/// The clipped surrogate, negated.
pub(crate) const POLICY_LOSS: Quantity = Quantity::new("policy_loss");

/// One of the policy's own answers, and what is known of it since it was sampled. Lists are by token, the one that
/// ended the answer included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Index of its prompt among the training prompts.
    pub(crate) prompt: usize,
    /// The tokens.
    pub(crate) ids: Vec<u32>,
    /// Whether it ended by itself, not by the limit of tokens.
    pub(crate) is_finished: bool,
    /// z-scores by the rewards of the settings.
    pub(crate) scores: Vec<f64>,
    /// log π_old of the policy that sampled it, at the temperature of sampling.
    pub(crate) log_probs: Vec<f64>,
    /// log π_ref, at the same temperature.
    pub(crate) reference: Vec<f64>,
    /// V_old; empty without a value head.
    pub(crate) values: Vec<f64>,
    /// A, set by the method.
    pub(crate) advantages: Vec<f64>,
    /// The targets of the values, set by the method; empty without a value head.
    pub(crate) returns: Vec<f64>,
}

impl Answer {
    /// log π_old − log π_ref of each token.
    pub(crate) fn log_ratios(&self) -> Vec<f64> {
        self.log_probs.iter().zip(&self.reference).map(|(own, reference)| own - reference).collect()
    }

    /// The sum of the scores with these weights.
    pub(crate) fn score(&self, weights: &[f64]) -> f64 {
        self.scores.iter().zip(weights).map(|(score, weight)| score * weight).sum()
    }
}

/// What a method does with its policy's answers.
pub(crate) trait RolloutLoss {
    /// What changes from rollout to rollout, as a checkpoint keeps it.
    type State: Serialize + DeserializeOwned;

    /// Whether the loss needs values, so that a value head is trained.
    fn has_values(&self) -> bool {
        false
    }

    /// Sets advantages, and returns where there are values, of the answers of a new rollout: the groups of answers to
    /// one prompt, one after the other.
    fn set_advantages(&mut self, answers: &mut [Answer]);

    /// ε of the clipped ratio, for the share of clipped tokens.
    fn clip_range(&self) -> f64;

    /// Whether each answer counts alike, whatever its length, instead of each token.
    fn is_per_answer(&self) -> bool {
        false
    }

    /// The parts of the loss of a pass; their weighted sum is minimised.
    fn loss<B: Backend>(&self, tokens: TokenValues<B>) -> Vec<LossPart<B>>;

    /// Adds metrics of the method's own, about the rollout in use.
    fn report(&self, _policy: &str, _metrics: &mut Metrics) {}

    /// The state, and its restoration.
    fn state(&self) -> Self::State;
    fn restore(&mut self, state: Self::State);
}

/// The tokens of a pass as a loss sees them; all shapes are `[n_tokens]`.
pub(crate) struct TokenValues<B: Backend> {
    /// log π now.
    pub(crate) log_probs: Tensor<B, 1>,
    /// V now, if there is a value head.
    pub(crate) values: Option<Tensor<B, 1>>,
    /// log π_old.
    pub(crate) old: Tensor<B, 1>,
    /// log π_ref.
    pub(crate) reference: Tensor<B, 1>,
    /// A.
    pub(crate) advantages: Tensor<B, 1>,
    /// V_old and the values' targets, if there is a value head.
    pub(crate) old_values: Option<[Tensor<B, 1>; 2]>,
    /// Weight of each token; over the step they have sum 1.
    pub(crate) mass: Tensor<B, 1>,
}

/// A part of a loss.
pub(crate) struct LossPart<B: Backend> {
    /// What it is called among the metrics.
    pub(crate) quantity: Quantity,
    /// Its weight in the loss.
    pub(crate) weight: f64,
    /// Its value, `[1]`.
    pub(crate) value: Tensor<B, 1>,
}
