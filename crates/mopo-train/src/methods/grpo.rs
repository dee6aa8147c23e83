//! GRPO with several rewards: each is normalised within the group of answers to a prompt, then they are weighted and
//! summed (Shao et al., 2024; Liu et al., 2026; docs/methods/grpo.md).

use std::collections::BTreeMap;

use burn::tensor::backend::Backend;
use mopo_core::divergence::Divergence;
use mopo_core::policy_gradient::{clipped_surrogate, group_normalized, k3_penalty};
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use mopo_report::Quantity;
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::config::ranges;
use crate::rollouts::{
    Answer, LossPart, POLICY_LOSS, RewardTarget, RolloutLoss, RolloutSettings, RolloutTraining,
    TokenValues,
};
use crate::{Error, Progress, Result};

/// The KL term of the loss, before its weight.
const KL_PENALTY: Quantity = Quantity::new("kl_penalty");

/// GRPO with the rewards of `[[evaluation.rewards]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpoConfig {
    /// α by objective, on the simplex; one with weight 1 is plain GRPO.
    pub preference_weights: BTreeMap<String, f64>,
    /// Answers to each prompt, at least 2.
    pub group_size: usize,
    /// Temperature of sampling answers, > 0; log-probabilities are taken at it.
    pub rollout_temperature: f64,
    /// Maximum number of tokens per answer.
    pub max_new_tokens: usize,
    /// Passes over each rollout.
    pub epochs: usize,
    /// Optimiser steps per pass over a rollout.
    pub minibatches: usize,
    /// β, weight of the KL in the loss, ≥ 0.
    pub beta: f64,
    /// ε of the ratio, in (0, 1).
    pub clip_range: f64,
    /// What a mean in the loss is over.
    pub length_normalization: LengthNormalization,
    /// Whether the sums are normalised once more, over all answers of a rollout.
    pub batch_normalization: bool,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

/// What the loss is a mean over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthNormalization {
    /// All tokens of the step alike (DAPO, TRL's default).
    Token,
    /// All answers of the step alike, each the mean over its tokens (the original).
    Answer,
}

impl GrpoConfig {
    fn settings(&self) -> RolloutSettings<'_> {
        RolloutSettings {
            target: RewardTarget {
                section: "grpo",
                objective: None,
                preference_weights: Some(&self.preference_weights),
                objectives: &[],
            },
            temperature: self.rollout_temperature,
            max_new_tokens: self.max_new_tokens,
            group_size: self.group_size,
            epochs: self.epochs,
            minibatches: self.minibatches,
            train_head: self.train_head,
            trains_on_pairs: false,
        }
    }
}

impl MethodSection for GrpoConfig {
    const TEXT: &'static str = r#"[method]
kind = "grpo"

[grpo]
# Of the [[evaluation.rewards]] by name; one with weight 1.0 for a single objective.
preference_weights = { helpful = 0.5, harmless = 0.5 }
# Answers to each of batch_size prompts of the training set.
group_size = 8
rollout_temperature = 0.7
max_new_tokens = 72
# Passes over each rollout, and optimiser steps per pass.
epochs = 1
minibatches = 1
# Weight of the KL to the reference in the loss.
beta = 0.04
clip_range = 0.2
# The loss is a mean over all tokens of a step: token; or over answers, each the mean over its own: answer.
length_normalization = "token"
# true: the weighted sums are normalised once more, over the rollout, as TRL does.
batch_normalization = false
# The output layer stays the base's: only the adapter is trained.
train_head = false
"#;
    const OPEN: &'static [&'static str] = &["grpo.preference_weights"];
    const REMEDY: &'static str = ", fewer `grpo.epochs`, a smaller `grpo.beta`";

    fn needs_initial_log_probs(&self) -> bool {
        false
    }

    fn divergence(&self) -> Option<Divergence> {
        Some(Divergence::ReverseKl)
    }

    fn check_section(&self, policies: &[String]) -> Result<()> {
        let fail = |message| Error::Config { origin: "`[grpo]`".into(), message };
        if self.group_size < 2 {
            return Err(fail(format!(
                "`grpo.group_size` is {}; it must be at least 2: an answer is compared with the others to its prompt",
                self.group_size
            )));
        }
        ranges::not_negative("grpo.beta", self.beta)
            .and(ranges::fraction("grpo.clip_range", self.clip_range))
            .map_err(fail)?;
        self.settings().check(policies)
    }

    fn policies(&self) -> Option<Vec<String>> {
        self.settings().target.policies()
    }

    fn rollouts<'a>(&'a self, _: &'a [String]) -> Option<RolloutSettings<'a>> {
        Some(self.settings())
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        RolloutTraining { phase: "grpo", settings: self.settings() }.run(
            Grpo(self),
            context,
            fit,
            progress,
        )
    }
}

/// GRPO's loss and advantages.
struct Grpo<'a>(&'a GrpoConfig);

impl RolloutLoss for Grpo<'_> {
    type State = ();

    fn set_advantages(&mut self, answers: &mut [Answer]) {
        let config = self.0;
        let mut sums = vec![0.0; answers.len()];
        for (k, weight) in config.preference_weights.values().enumerate() {
            let scores: Vec<f64> = answers.iter().map(|answer| answer.scores[k]).collect();
            for (sum, score) in sums.iter_mut().zip(group_normalized(&scores, config.group_size)) {
                *sum += weight * score;
            }
        }
        if config.batch_normalization {
            sums = group_normalized(&sums, answers.len());
        }
        for (answer, advantage) in answers.iter_mut().zip(sums) {
            answer.advantages = vec![advantage; answer.ids.len()];
        }
    }

    fn clip_range(&self) -> f64 {
        self.0.clip_range
    }

    fn is_per_answer(&self) -> bool {
        self.0.length_normalization == LengthNormalization::Answer
    }

    fn loss<B: Backend>(&self, tokens: TokenValues<B>) -> Vec<LossPart<B>> {
        let TokenValues { log_probs, old, reference, advantages, mass, .. } = tokens;
        let clip = self.0.clip_range;
        vec![
            LossPart {
                quantity: POLICY_LOSS,
                weight: 1.0,
                value: clipped_surrogate(log_probs.clone(), old, advantages, mass.clone(), clip),
            },
            LossPart {
                quantity: KL_PENALTY,
                weight: self.0.beta,
                value: k3_penalty(log_probs, reference, mass),
            },
        ]
    }

    fn state(&self) {}

    fn restore(&mut self, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_are_normalised_each_and_then_weighted() {
        let config = GrpoConfig {
            preference_weights: [("a".to_string(), 0.25), ("b".to_string(), 0.75)].into(),
            group_size: 2,
            ..crate::methods::tests::section("grpo", GrpoConfig::TEXT)
        };
        let answer = |scores: [f64; 2], n: usize| Answer {
            prompt: 0,
            ids: vec![1; n],
            is_finished: true,
            scores: scores.to_vec(),
            log_probs: vec![],
            reference: vec![],
            values: vec![],
            advantages: vec![],
            returns: vec![],
        };
        // a is a thousand times b's scale and prefers the other answer; in the second group b says nothing.
        let mut answers = [
            answer([1000.0, 0.0], 1),
            answer([-1000.0, 2.0], 3),
            answer([0.0, 5.0], 2),
            answer([9.0, 5.0], 2),
        ];
        Grpo(&config).set_advantages(&mut answers);
        let unit = 0.5f64.sqrt();
        for (answer, expected) in answers.iter().zip([-0.5, 0.5, -0.25, 0.25]) {
            assert_eq!(answer.advantages.len(), answer.ids.len());
            for found in &answer.advantages {
                assert!((found - expected * unit).abs() < 1e-4, "{answers:?}");
            }
        }
        let config = GrpoConfig { batch_normalization: true, ..config };
        Grpo(&config).set_advantages(&mut answers);
        let squares: f64 = answers.iter().map(|answer| answer.advantages[0].powi(2)).sum();
        assert!((squares / 3.0 - 1.0).abs() < 1e-3, "{squares}");
    }
}
