//! PPO on one objective's reward (RLHF) or on weighted rewards of several (MORLHF): Schulman et al., 2017, with the
//! KL to the reference in the reward (Ziegler et al., 2019; Ouyang et al., 2022; docs/methods/ppo.md).

use std::collections::BTreeMap;

use burn::tensor::backend::Backend;
use mopo_core::divergence::Divergence;
use mopo_core::policy_gradient::{
    AdaptiveKl, clipped_surrogate, clipped_value_loss, gae, token_rewards, whiten,
};
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::config::ranges;
use crate::rollouts::{
    Answer, LossPart, POLICY_LOSS, RewardTarget, RolloutLoss, RolloutSettings, RolloutTraining,
    TokenValues,
};
use crate::{Error, Progress, Result};

/// Weight of the KL in the reward.
const KL_COEFFICIENT: Quantity = Quantity::new("kl_coefficient");
/// The loss of the value head.
const VALUE_LOSS: Quantity = Quantity::new("value_loss");

/// PPO with the rewards of `[[evaluation.rewards]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpoConfig {
    /// The objective whose reward is maximised; `policies` must name only it. Exactly one of this and
    /// `preference_weights` is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// α by objective, on the simplex: Σ α_k r_k is maximised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference_weights: Option<BTreeMap<String, f64>>,
    /// Temperature of sampling answers, > 0; log-probabilities are taken at it.
    pub rollout_temperature: f64,
    /// Maximum number of tokens per answer.
    pub max_new_tokens: usize,
    /// Passes over each rollout.
    pub epochs: usize,
    /// Optimiser steps per pass over a rollout.
    pub minibatches: usize,
    /// Weight of the KL in the reward at the start.
    pub kl_coef: f64,
    /// KL per answer at which the controller aims, in nats.
    pub target_kl: f64,
    /// Number of answers over which the controller corrects an error of 20 % or more.
    pub kl_horizon: f64,
    /// γ in [0, 1].
    pub gamma: f64,
    /// λ of the advantage estimates, in [0, 1].
    pub gae_lambda: f64,
    /// ε of the ratio, in (0, 1).
    pub clip_range: f64,
    /// ε of the values, > 0.
    pub value_clip_range: f64,
    /// Weight of the value loss.
    pub value_coef: f64,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

impl PpoConfig {
    fn settings(&self) -> RolloutSettings<'_> {
        RolloutSettings {
            target: RewardTarget {
                section: "ppo",
                objective: self.objective.as_deref(),
                preference_weights: self.preference_weights.as_ref(),
                objectives: &[],
            },
            temperature: self.rollout_temperature,
            max_new_tokens: self.max_new_tokens,
            group_size: 1,
            epochs: self.epochs,
            minibatches: self.minibatches,
            train_head: self.train_head,
            trains_on_pairs: false,
        }
    }
}

impl MethodSection for PpoConfig {
    const TEXT: &'static str = r#"[method]
kind = "ppo"

[ppo]
# The [[evaluation.rewards]] of that name is maximised. Instead of one objective (MORLHF):
# preference_weights = { helpful = 0.5, harmless = 0.5 }
objective = "helpful"
# Answers to batch_size prompts of the training set.
rollout_temperature = 0.7
max_new_tokens = 72
# Passes over each rollout, and optimiser steps per pass.
epochs = 4
minibatches = 1
# Weight of log(π/π_ref) in the reward, controlled towards target_kl nats per answer.
kl_coef = 0.2
target_kl = 3.0
kl_horizon = 10000.0
gamma = 1.0
gae_lambda = 0.95
clip_range = 0.2
value_clip_range = 0.2
value_coef = 0.1
# The output layer stays the base's: only the adapter and the value head are trained.
train_head = false
"#;
    const OPEN: &'static [&'static str] = &["ppo.preference_weights"];
    const ALTERNATIVES: &'static [&'static [&'static str]] =
        &[&["ppo.objective", "ppo.preference_weights"]];
    const REMEDY: &'static str = ", fewer `ppo.epochs`";

    fn needs_initial_log_probs(&self) -> bool {
        false
    }

    fn divergence(&self) -> Option<Divergence> {
        Some(Divergence::ReverseKl)
    }

    fn check_section(&self, policies: &[String]) -> Result<()> {
        let fail = |message| Error::Config { origin: "`[ppo]`".into(), message };
        ranges::not_negative("ppo.kl_coef", self.kl_coef)
            .and(ranges::positive("ppo.target_kl", self.target_kl))
            .and(ranges::positive("ppo.kl_horizon", self.kl_horizon))
            .and(ranges::within("ppo.gamma", self.gamma, 0.0..=1.0))
            .and(ranges::within("ppo.gae_lambda", self.gae_lambda, 0.0..=1.0))
            .and(ranges::fraction("ppo.clip_range", self.clip_range))
            .and(ranges::positive("ppo.value_clip_range", self.value_clip_range))
            .and(ranges::not_negative("ppo.value_coef", self.value_coef))
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
        let kl = AdaptiveKl {
            coefficient: self.kl_coef,
            target: self.target_kl,
            horizon: self.kl_horizon,
        };
        let weights = self.settings().target.weights();
        let loss = Ppo {
            config: self,
            weights: weights.into_iter().map(|(_, weight)| weight).collect(),
            state: PpoState { kl, used: self.kl_coef },
        };
        RolloutTraining { phase: "ppo", settings: self.settings() }
            .run(loss, context, fit, progress)
    }
}

/// PPO's loss and rewards.
struct Ppo<'a> {
    config: &'a PpoConfig,
    /// α.
    weights: Vec<f64>,
    state: PpoState,
}

/// What changes from rollout to rollout.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct PpoState {
    /// For the next rollout.
    kl: AdaptiveKl,
    /// The KL coefficient in the rewards of the rollout in use.
    used: f64,
}

impl RolloutLoss for Ppo<'_> {
    type State = PpoState;

    fn has_values(&self) -> bool {
        true
    }

    fn set_advantages(&mut self, answers: &mut [Answer]) {
        self.state.used = self.state.kl.coefficient;
        let (mut kl, mut all) = (0.0, Vec::new());
        for answer in answers.iter_mut() {
            let log_ratios = answer.log_ratios();
            kl += log_ratios.iter().sum::<f64>();
            let rewards = token_rewards(&log_ratios, self.state.used, answer.score(&self.weights));
            let advantages =
                gae(&rewards, &answer.values, self.config.gamma, self.config.gae_lambda);
            answer.returns = advantages.iter().zip(&answer.values).map(|(a, v)| a + v).collect();
            all.extend(advantages);
        }
        whiten(&mut all);
        let mut rest = &all[..];
        for answer in answers.iter_mut() {
            let (own, others) = rest.split_at(answer.ids.len());
            answer.advantages = own.to_vec();
            rest = others;
        }
        self.state.kl.update(kl / answers.len() as f64, answers.len());
    }

    fn clip_range(&self) -> f64 {
        self.config.clip_range
    }

    fn loss<B: Backend>(&self, tokens: TokenValues<B>) -> Vec<LossPart<B>> {
        let TokenValues { log_probs, values, old, advantages, old_values, mass, .. } = tokens;
        let (values, [old_values, returns]) =
            values.zip(old_values).expect("asked for with `has_values`");
        let config = self.config;
        vec![
            LossPart {
                quantity: POLICY_LOSS,
                weight: 1.0,
                value: clipped_surrogate(
                    log_probs,
                    old,
                    advantages,
                    mass.clone(),
                    config.clip_range,
                ),
            },
            LossPart {
                quantity: VALUE_LOSS,
                weight: config.value_coef,
                value: clipped_value_loss(
                    values,
                    old_values,
                    returns,
                    mass,
                    config.value_clip_range,
                ),
            },
        ]
    }

    fn report(&self, policy: &str, metrics: &mut Metrics) {
        metrics.set(KL_COEFFICIENT.of(policy), self.state.used);
    }

    fn state(&self) -> PpoState {
        self.state
    }

    fn restore(&mut self, state: PpoState) {
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(score: f64, ratio: f64, values: [f64; 2]) -> Answer {
        Answer {
            prompt: 0,
            ids: vec![1, 2],
            is_finished: true,
            scores: vec![score, 9.0],
            log_probs: vec![-1.0, -1.0],
            reference: vec![-1.0 - ratio, -1.0],
            values: values.to_vec(),
            advantages: vec![],
            returns: vec![],
        }
    }

    #[test]
    fn returns_are_the_score_less_the_kl_and_the_controller_sees_each_rollout_once() {
        let config = PpoConfig {
            gae_lambda: 1.0,
            kl_coef: 0.5,
            target_kl: 1.0,
            kl_horizon: 20.0,
            ..crate::methods::tests::section("ppo", PpoConfig::TEXT)
        };
        let kl = AdaptiveKl { coefficient: 0.5, target: 1.0, horizon: 20.0 };
        let state = PpoState { kl, used: 0.0 };
        let mut ppo = Ppo { config: &config, weights: vec![1.0, 0.0], state };
        let mut answers = [answer(2.0, 0.4, [0.3, 0.1]), answer(-1.0, 2.0, [0.0, 0.0])];
        ppo.set_advantages(&mut answers);
        // r = (−0.5 · 0.4, 2) and (−0.5 · 2, −1); with γ = λ = 1 returns are the sums from each token on.
        for (answer, expected) in answers.iter().zip([[1.8, 2.0], [-2.0, -1.0]]) {
            for (found, expected) in answer.returns.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-12, "{:?}", answer.returns);
            }
        }
        // Whitened over all four: 1.5, 1.9, −2, −1, of mean 0.1.
        let sum: f64 = answers.iter().flat_map(|answer| &answer.advantages).sum();
        assert!(sum.abs() < 1e-12);
        assert!(answers[0].advantages[1] > answers[0].advantages[0]);
        // The mean KL is 1.2 nats: 20 % too much, for two of twenty answers.
        assert_eq!(ppo.state.used, 0.5);
        assert!((ppo.state.kl.coefficient - 0.5 * 1.02).abs() < 1e-12, "{:?}", ppo.state);
        ppo.set_advantages(&mut answers);
        assert!((ppo.state.used - 0.51).abs() < 1e-12);
    }
}
