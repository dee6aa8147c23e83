//! `[sft]`, `[training]` and `[checkpoints]` of a run's configuration: the training loops.

use serde::{Deserialize, Serialize};

use super::ranges::{self, Checked, MAX_BATCH, MAX_STEPS};

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
        ranges::within(&key("prompt_weight"), self.prompt_weight, 0.0..=1.0)
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
