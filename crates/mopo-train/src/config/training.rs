//! `[sft]`, `[training]` and `[checkpoints]` of a run's configuration: the loops of optimiser steps.

use serde::{Deserialize, Serialize};

use super::ranges::{self, Checked, MAX_BATCH, MAX_STEPS};

/// A loop of optimiser steps. Adam (0.9, 0.999), a linear schedule with warmup, clipping by the global
/// norm. Names as in the training arguments of transformers and TRL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseConfig {
    /// Optimiser steps; 0 leaves the phase out.
    pub steps: usize,
    /// Pairs of one forward and backward pass.
    pub batch_size: usize,
    /// Passes per optimiser step; the importance weights of MOPO are normalised over all of them.
    pub gradient_accumulation_steps: usize,
    /// Learning rate at the first step after the warmup.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises linearly.
    pub warmup_steps: usize,
    /// Largest global norm of the gradient; 0 does not clip.
    pub max_grad_norm: f64,
    /// Weight of the prompt's own tokens in the loss of SFT (0: responses only). Unused by the
    /// methods.
    #[serde(default)]
    pub prompt_weight: f64,
    /// Keep no activations inside of the blocks for the backward pass; compute them again there.
    /// Costs time and lowers the peak of memory; values do not change. May be left out (false), so
    /// that configurations from before it was there stay valid; it changes no result.
    #[serde(default)]
    pub gradient_checkpointing: bool,
}

/// When checkpoints are written and how many stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between two checkpoints.
    pub save_steps: usize,
    /// How many of each phase stay on disk, at least 1.
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

    /// Learning rate of step `step` (from 0): linear warmup, then linear to 0 at the end.
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
