//! f-DPO: DPO under another divergence than reverse KL (Wang et al., 2023; docs/methods/f-dpo.md).

use burn::tensor::{Tensor, backend::Backend};
use mopo_core::divergence::Divergence;
use mopo_core::pairwise::{check_reward_divergence, dpo_loss, f_reward, is_clamped};
use serde::{Deserialize, Serialize};

use crate::config::ranges;
use crate::pairwise::{Combination, PairLoss, PairSection, PairTarget, PairTraining, PairValues};
use crate::{Error, Result};

/// DPO with the reward β f'(π/π_ref) ([`mopo_core::pairwise::f_reward`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FDpoConfig {
    /// The objective whose labels are learned; `policies` must name only it. Exactly one of this and
    /// `combination` is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// A preference made of several objectives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combination: Option<Combination>,
    /// The divergence by name: one with a barrier.
    pub divergence: Divergence,
    /// β > 0, strength of the divergence.
    pub beta: f64,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

impl PairSection for FDpoConfig {
    const TEXT: &'static str = r#"[method]
kind = "f_dpo"

[f_dpo]
# Or a combination of several, as for DPO.
objective = "helpful"
# reverse_kl (DPO), forward_kl, jensen_shannon, alpha:a with 0 < a < 1, or jeffreys.
divergence = "jensen_shannon"
beta = 0.1
# The output layer stays the base's: only the adapter is trained.
train_head = false
"#;
    const ALTERNATIVES: &'static [&'static [&'static str]] =
        &[&["f_dpo.objective", "f_dpo.combination"]];
    const REMEDY: &'static str = ", a smaller `f_dpo.beta`";

    fn check_loss(&self) -> Result<()> {
        ranges::positive("f_dpo.beta", self.beta)
            .map_err(|message| Error::Config { origin: "`[f_dpo]`".into(), message })?;
        Ok(check_reward_divergence("f_dpo.divergence", self.divergence)?)
    }

    fn divergence(&self) -> Option<Divergence> {
        Some(self.divergence)
    }

    fn training(&self) -> PairTraining<'_> {
        let target = PairTarget {
            section: "f_dpo",
            objective: self.objective.as_deref(),
            combination: self.combination.as_ref(),
        };
        PairTraining { phase: "f_dpo", name: "f-DPO", target, train_head: self.train_head }
    }
}

impl PairLoss for FDpoConfig {
    fn loss<B: Backend>(&self, pairs: PairValues<B>) -> Tensor<B, 1> {
        let PairValues { first, second, indicators, mass, .. } = pairs;
        let reward = |value| f_reward(value, self.divergence);
        dpo_loss(reward(first), reward(second), indicators, mass, self.beta)
    }

    /// Zero at Δ = 0, as for DPO.
    fn reward(&self, value: f64) -> f64 {
        let derivative = |value| self.divergence.derivative_at_log(value);
        self.beta * (derivative(value) - derivative(0.0))
    }

    fn is_clamped(&self, value: f64) -> Option<bool> {
        Some(is_clamped(value, self.divergence))
    }
}
