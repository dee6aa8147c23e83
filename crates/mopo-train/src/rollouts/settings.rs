//! What a method on rollouts is configured with, besides its loss.

use std::collections::BTreeMap;

use crate::config::EvaluationConfig;
use crate::config::ranges::{self, MAX_BATCH, MAX_TOKENS};
use crate::pairwise::check_simplex;
use crate::{Error, Result};

/// Above this, all tokens are practically equally likely.
const MAX_TEMPERATURE: f64 = 100.0;
/// More optimisation epochs than this are a typing error.
const MAX_EPOCHS: usize = 1000;

/// The rewards of a method's section: one objective, or weights of several.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RewardTarget<'a> {
    /// The section's name.
    pub(crate) section: &'static str,
    pub(crate) objective: Option<&'a str>,
    pub(crate) preference_weights: Option<&'a BTreeMap<String, f64>>,
    /// The objectives of a policy for all weights, instead of both.
    pub(crate) objectives: &'a [String],
}

impl<'a> RewardTarget<'a> {
    /// Checks the keys, and that the run has the one policy that is trained.
    ///
    /// # Errors
    /// Names the key and what would be accepted.
    fn check(&self, policies: &[String]) -> Result<()> {
        let section = self.section;
        match (self.objective, self.preference_weights) {
            (Some(objective), None) if policies != [objective] => Err(self.error(format!(
                "`policies` is {policies:?}, but {section} trains one policy, that of `{section}.objective`: write \
                 policies = [{objective:?}]"
            ))),
            (Some(_), None) => Ok(()),
            (None, Some(weights)) => {
                check_simplex(weights).map_err(|message| {
                    self.error(format!("`{section}.preference_weights`: {message}"))
                })?;
                match policies {
                    [_] => Ok(()),
                    _ => Err(self.error(format!(
                        "`policies` is {policies:?}, but {section} trains one policy: give it one name, such as \
                         policies = [\"weighted\"]"
                    ))),
                }
            }
            (found, _) => Err(self.error(format!(
                "`{section}.objective` and `{section}.preference_weights` are {}; exactly one of them must be present: \
                 the objective whose reward is maximised, or the weights of several",
                if found.is_some() { "both present" } else { "both missing" }
            ))),
        }
    }

    /// The name of the one policy.
    pub(crate) fn policies(&self) -> Option<Vec<String>> {
        Some(vec![self.objective.unwrap_or("weighted").to_string()])
    }

    /// The rewards by name, and their weights. Those with weight 0 are scored and reported, not maximised.
    pub(crate) fn weights(&self) -> Vec<(&'a str, f64)> {
        match (self.objective, self.preference_weights) {
            (Some(objective), _) => vec![(objective, 1.0)],
            (None, Some(weights)) => weights.iter().map(|(name, w)| (name.as_str(), *w)).collect(),
            (None, None) => self.objectives.iter().map(|name| (name.as_str(), 0.0)).collect(),
        }
    }

    /// Checks that the run has the rewards.
    ///
    /// # Errors
    /// Names the key and the reward that is missing.
    pub(crate) fn check_rewards(&self, evaluation: &EvaluationConfig) -> Result<()> {
        let known: Vec<&str> = evaluation.rewards.iter().map(|axis| axis.name.as_str()).collect();
        for (name, _) in self.weights() {
            if !known.contains(&name) {
                let origin = match (self.objective, self.preference_weights) {
                    (Some(_), _) => format!("`{}.objective`", self.section),
                    (None, Some(_)) => format!("`{}.preference_weights`", self.section),
                    (None, None) => "`policies`".into(),
                };
                return Err(Error::Config {
                    origin,
                    message: format!(
                        "answers are scored by `{name}` during training, but no `[[evaluation.rewards]]` has that \
                         name (there are {}): add one, or use another name",
                        known.join(", ")
                    ),
                });
            }
        }
        Ok(())
    }

    fn error(&self, message: String) -> Error {
        Error::Config { origin: format!("`[{}]`", self.section), message }
    }
}

/// How answers are sampled and how often they are used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RolloutSettings<'a> {
    /// What scores them.
    pub(crate) target: RewardTarget<'a>,
    /// Temperature of sampling, > 0, at which log-probs are taken too.
    pub(crate) temperature: f64,
    /// Maximum number of tokens per answer.
    pub(crate) max_new_tokens: usize,
    /// Answers to each prompt.
    pub(crate) group_size: usize,
    /// Times that each answer of a rollout is used.
    pub(crate) epochs: usize,
    /// Optimiser steps per epoch.
    pub(crate) minibatches: usize,
    /// Whether the output layer is trained with the adapter.
    pub(crate) train_head: bool,
    /// Whether the data's pairs are trained on, too: their texts are needed, and scores are as the evaluation has them. Else
    /// they become z-scores of the reference's answers.
    pub(crate) trains_on_pairs: bool,
}

impl<'a> RolloutSettings<'a> {
    /// Of answers that a method samples now and then, beside its training on pairs: one token each at temperature 1 unless
    /// it says more, scored for every objective.
    pub(crate) fn beside_pairs(section: &'static str, objectives: &'a [String]) -> Self {
        Self {
            target: RewardTarget { section, objective: None, preference_weights: None, objectives },
            temperature: 1.0,
            max_new_tokens: 1,
            group_size: 1,
            epochs: 1,
            minibatches: 1,
            train_head: false,
            trains_on_pairs: true,
        }
    }

    /// The key of the maximum number of tokens.
    pub(crate) fn max_new_tokens_key(&self) -> String {
        format!("{}.max_new_tokens", self.target.section)
    }

    /// Checks every key.
    ///
    /// # Errors
    /// Names the key and what would be accepted.
    pub(crate) fn check(&self, policies: &[String]) -> Result<()> {
        let key = |name: &str| format!("{}.{name}", self.target.section);
        let t = self.temperature;
        let temperature = match t > 0.0 && t <= MAX_TEMPERATURE {
            true => Ok(()),
            false => Err(format!(
                "`{}` is {t}; it must be a number > 0, up to {MAX_TEMPERATURE}: greedy answers have no probabilities to \
                 learn from",
                key("rollout_temperature")
            )),
        };
        temperature
            .and(ranges::count(&key("max_new_tokens"), self.max_new_tokens, 1..=MAX_TOKENS))
            .and(ranges::count(&key("group_size"), self.group_size, 1..=MAX_BATCH))
            .and(ranges::count(&key("epochs"), self.epochs, 1..=MAX_EPOCHS))
            .and(ranges::count(&key("minibatches"), self.minibatches, 1..=MAX_BATCH))
            .map_err(|message| self.target.error(message))?;
        self.target.check(policies)
    }

    /// Upper bound for the tokens of a pass over the answers to prompts of these lengths.
    pub(crate) fn longest_batch(&self, mut prompts: Vec<usize>, batch_size: usize) -> usize {
        prompts.sort_unstable_by(|a, b| b.cmp(a));
        // A row has a prompt and two answers.
        let rows = self.group_size.div_ceil(2);
        let of = |n: usize| n * rows + self.group_size * self.max_new_tokens;
        prompts.into_iter().take(batch_size).map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_of_objective_and_weights_names_the_policy() {
        let weights = |of: &[(&str, f64)]| -> BTreeMap<String, f64> {
            of.iter().map(|(name, w)| ((*name).to_string(), *w)).collect()
        };
        let both = weights(&[("a", 0.3), ("b", 0.7)]);
        let off = weights(&[("a", 0.3), ("b", 0.8)]);
        let target = |objective, preference_weights| RewardTarget {
            section: "ppo",
            objective,
            preference_weights,
            objectives: &[],
        };
        let policies = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        target(Some("a"), None).check(&policies(&["a"])).unwrap();
        target(None, Some(&both)).check(&policies(&["any"])).unwrap();
        assert_eq!(target(None, Some(&both)).weights(), [("a", 0.3), ("b", 0.7)]);
        assert_eq!(target(Some("a"), None).policies().unwrap(), ["a"]);
        for (objective, preference_weights, names, expected) in [
            (Some("a"), None, &["b"][..], "policies = [\"a\"]"),
            (None, Some(&both), &["a", "b"], "policies = [\"weighted\"]"),
            (None, Some(&off), &["a"], "sum 1"),
            (None, None, &["a"], "both missing"),
            (Some("a"), Some(&both), &["a"], "both present"),
        ] {
            let e = target(objective, preference_weights).check(&policies(names)).unwrap_err();
            assert!(e.to_string().contains(expected), "{e}");
        }
    }

    #[test]
    fn a_pass_has_each_prompt_once_for_two_answers() {
        let settings = RolloutSettings {
            target: RewardTarget {
                section: "grpo",
                objective: None,
                preference_weights: None,
                objectives: &[],
            },
            temperature: 1.0,
            max_new_tokens: 10,
            group_size: 3,
            epochs: 1,
            minibatches: 1,
            train_head: false,
            trains_on_pairs: false,
        };
        assert_eq!(settings.longest_batch(vec![5, 7, 1], 2), 2 * 7 + 2 * 5 + 2 * 3 * 10);
    }
}
