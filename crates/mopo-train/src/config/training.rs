//! `[sft]`, `[training]` and `[checkpoints]` of a run's configuration: the training loops.

use serde::{Deserialize, Serialize};

use super::ranges::{self, Checked, MAX_BATCH, MAX_COUNT, MAX_STEPS};

/// A training loop: Adam (0.9, 0.999), a linear schedule with warmup, clipping by global norm. Keys
/// are named as in transformers and TRL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseConfig {
    /// Number of optimiser steps; 0 skips the phase.
    pub steps: usize,
    /// Pairs per forward and backward pass.
    pub batch_size: usize,
    /// Passes per optimiser step; the importance weights of MOPO are normalised over all of them.
    pub gradient_accumulation_steps: usize,
    /// Learning rate at the first step after the warmup.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises linearly.
    pub warmup_steps: usize,
    /// Maximum global norm of the gradient; 0 disables clipping.
    pub max_grad_norm: f64,
    /// Weight of the prompt's own tokens in the loss of SFT (0: responses only). The methods do not
    /// use it.
    #[serde(default)]
    pub prompt_weight: f64,
    /// Train an adapter of `[lora]`'s size on the frozen base instead of all weights, so that the base may
    /// be quantised; the policies go on from it. SFT only. Optional (false).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lora: bool,
    /// Keep no activations inside blocks for the backward pass, and recompute them there. Takes
    /// more time and less memory; results do not change. Optional (false), so that older
    /// configurations stay valid.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Steps between two evaluations of the policies on held-out pairs; the last step has one too. Optional: by default
    /// there are none. This and what follows belong to `[training]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<usize>,
    /// Held-out prompts that each policy answers at an evaluation; 0: none. Optional ([`EVAL_PROMPTS`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_prompts: Option<usize>,
    /// The metric of evaluations by which checkpoints are compared; larger is better. Optional ([`BEST_METRIC`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric_for_best_model: Option<String>,
    /// Number of evaluations without a better value after which training stops. Optional: by default it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<usize>,
    /// Whether the run ends with the policies of its best evaluation instead of the last ones. Optional (false).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub load_best_model_at_end: bool,
}

/// Default of `training.eval_prompts`.
pub const EVAL_PROMPTS: usize = 4;
/// Default of `training.metric_for_best_model`.
pub const BEST_METRIC: &str = "eval_accuracy";

/// Optional keys, which `--set` may add.
pub(super) const OPTIONAL: &[&str] = &[
    "sft.lora",
    "training.lora",
    "training.eval_steps",
    "training.eval_prompts",
    "training.metric_for_best_model",
    "training.early_stopping_patience",
    "training.load_best_model_at_end",
];

impl Default for PhaseConfig {
    /// No steps, and every optional key at its default.
    fn default() -> Self {
        Self {
            steps: 0,
            batch_size: 1,
            gradient_accumulation_steps: 1,
            learning_rate: 1e-4,
            warmup_steps: 0,
            max_grad_norm: 0.0,
            prompt_weight: 0.0,
            lora: false,
            gradient_checkpointing: false,
            eval_steps: None,
            eval_prompts: None,
            metric_for_best_model: None,
            early_stopping_patience: None,
            load_best_model_at_end: false,
        }
    }
}

/// How often checkpoints are written and how many are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Number of steps between two checkpoints.
    pub save_steps: usize,
    /// Number of checkpoints of each phase to keep, at least 1.
    pub save_total_limit: usize,
}

impl PhaseConfig {
    pub(super) fn check(&self, section: &str) -> Checked {
        let key = |name: &str| format!("{section}.{name}");
        ranges::count(&key("steps"), self.steps, 0..=MAX_STEPS)?;
        ranges::count(&key("batch_size"), self.batch_size, 1..=MAX_BATCH)?;
        ranges::count(
            &key("gradient_accumulation_steps"),
            self.gradient_accumulation_steps,
            1..=MAX_BATCH,
        )?;
        ranges::positive(&key("learning_rate"), self.learning_rate)?;
        ranges::count(&key("warmup_steps"), self.warmup_steps, 0..=MAX_STEPS)?;
        ranges::not_negative(&key("max_grad_norm"), self.max_grad_norm)?;
        ranges::within(&key("prompt_weight"), self.prompt_weight, 0.0..=1.0)?;
        self.check_evaluation(section)
    }

    fn check_evaluation(&self, section: &str) -> Checked {
        let key = |name: &str| format!("{section}.{name}");
        let others = [
            ("eval_prompts", self.eval_prompts.is_some()),
            ("metric_for_best_model", self.metric_for_best_model.is_some()),
            ("early_stopping_patience", self.early_stopping_patience.is_some()),
            ("load_best_model_at_end", self.load_best_model_at_end),
        ];
        let given = others.iter().find(|(_, is_given)| *is_given).map(|(name, _)| *name);
        if section != "training" {
            return match given.or(self.eval_steps.map(|_| "eval_steps")) {
                Some(name) => Err(format!(
                    "`{}` belongs to `[training]`: only policies are evaluated between steps",
                    key(name)
                )),
                None => Ok(()),
            };
        }
        let Some(eval_steps) = self.eval_steps else {
            return match given {
                Some(name) => Err(format!(
                    "`{}` needs evaluations: set {}, the number of steps between them",
                    key(name),
                    key("eval_steps")
                )),
                None => Ok(()),
            };
        };
        if self.early_stopping_patience.is_some() && !self.load_best_model_at_end {
            return Err(format!(
                "`{}` stops that many evaluations after the best one, whose policies are kept only with \
                 {}=true: set it, too",
                key("early_stopping_patience"),
                key("load_best_model_at_end")
            ));
        }
        ranges::count(&key("eval_steps"), eval_steps, 1..=MAX_STEPS)?;
        if let Some(n) = self.eval_prompts {
            ranges::count(&key("eval_prompts"), n, 0..=MAX_COUNT)?;
        }
        match self.early_stopping_patience {
            Some(n) => ranges::count(&key("early_stopping_patience"), n, 1..=MAX_STEPS),
            None => Ok(()),
        }
    }

    /// Learning rate of step `step` (from 0): linear warmup, then linear decay to 0 at the end.
    pub fn learning_rate_at(&self, step: usize) -> f64 {
        let warmup = self.warmup_steps.min(self.steps);
        if step < warmup {
            return self.learning_rate * (step + 1) as f64 / (warmup + 1) as f64;
        }
        let left = (self.steps - step.min(self.steps)) as f64;
        self.learning_rate * left / (self.steps - warmup).max(1) as f64
    }
}

impl CheckpointConfig {
    pub(crate) fn check(&self) -> Checked {
        ranges::count("checkpoints.save_steps", self.save_steps, 1..=MAX_STEPS)?;
        ranges::count("checkpoints.save_total_limit", self.save_total_limit, 1..=MAX_STEPS)
    }
}
