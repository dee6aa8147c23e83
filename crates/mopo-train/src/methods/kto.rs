//! KTO: every response on its own, against a reference point (Ethayarajh et al., 2024, equation 7; docs/methods/kto.md).

use burn::tensor::{Tensor, backend::Backend};
use mopo_core::pairwise::{KtoWeights, kto_loss};
use serde::{Deserialize, Serialize};

use crate::config::ranges;
use crate::pairwise::{Combination, PairLoss, PairSection, PairTarget, PairTraining, PairValues};
use crate::{Error, Result};

/// KTO against the frozen base ([`mopo_core::pairwise::kto_loss`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KtoConfig {
    /// The objective whose labels are learned; `policies` must name only it. Exactly one of this and
    /// `combination` is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// A preference made of several objectives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combination: Option<Combination>,
    /// β > 0, scale of the value function (paper: 0.1).
    pub beta: f64,
    /// λ_D ≥ 0, weight of preferred responses.
    pub desirable_weight: f64,
    /// λ_U ≥ 0, weight of the others.
    pub undesirable_weight: f64,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

impl PairSection for KtoConfig {
    const TEXT: &'static str = r#"[method]
kind = "kto"

[kto]
# Or a combination of several, as for DPO.
objective = "helpful"
beta = 0.1
# Weights of the preferred responses and of the others.
desirable_weight = 1.0
undesirable_weight = 1.0
# The output layer stays the base's: only the adapter is trained.
train_head = false
"#;
    const ALTERNATIVES: &'static [&'static [&'static str]] =
        &[&["kto.objective", "kto.combination"]];
    const REMEDY: &'static str = ", a smaller `kto.beta`";

    fn check_loss(&self) -> Result<()> {
        let [desirable, undesirable] = [self.desirable_weight, self.undesirable_weight];
        ranges::positive("kto.beta", self.beta)
            .and_then(|()| ranges::not_negative("kto.desirable_weight", desirable))
            .and_then(|()| ranges::not_negative("kto.undesirable_weight", undesirable))
            .and_then(|()| match desirable + undesirable > 0.0 {
                true => Ok(()),
                false => Err("`kto.desirable_weight` and `kto.undesirable_weight` are both 0, so there is nothing to \
                              learn: raise one of them"
                    .into()),
            })
            .map_err(|message| Error::Config { origin: "`[kto]`".into(), message })
    }

    fn training(&self) -> PairTraining<'_> {
        let target = PairTarget {
            section: "kto",
            objective: self.objective.as_deref(),
            combination: self.combination.as_ref(),
        };
        PairTraining { phase: "kto", name: "KTO", target, train_head: self.train_head }
    }
}

impl PairLoss for KtoConfig {
    fn needs_kl(&self) -> bool {
        true
    }

    fn loss<B: Backend>(&self, pairs: PairValues<B>) -> Tensor<B, 1> {
        let PairValues { first, second, indicators, mass, kl } = pairs;
        let weights =
            KtoWeights { desirable: self.desirable_weight, undesirable: self.undesirable_weight };
        kto_loss(first, second, indicators, mass, kl, self.beta, weights)
    }

    fn reward(&self, value: f64) -> f64 {
        self.beta * value
    }
}
