//! SimPO: log-probs per token instead of log-ratios, and a margin (Meng et al., 2024, equation 6;
//! docs/methods/simpo.md).

use burn::tensor::{Tensor, backend::Backend};
use mopo_core::pairwise::simpo_loss;
use serde::{Deserialize, Serialize};

use crate::config::ranges;
use crate::pairwise::{Combination, PairLoss, PairSection, PairTarget, PairTraining, PairValues};
use crate::{Error, Result};

/// SimPO ([`mopo_core::pairwise::simpo_loss`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimpoConfig {
    /// The objective whose labels are learned; `policies` must name only it. Exactly one of this and
    /// `combination` is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// A preference made of several objectives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combination: Option<Combination>,
    /// β > 0, scale of the reward (paper: 2 to 10).
    pub beta: f64,
    /// γ ≥ 0, by how much the reward of the preferred response should be ahead (paper: 0.3 to 5.4).
    pub margin: f64,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

impl PairSection for SimpoConfig {
    const TEXT: &'static str = r#"[method]
kind = "simpo"

[simpo]
# Or a combination of several, as for DPO.
objective = "helpful"
beta = 2.0
# By how much the reward of the preferred response, β times its mean log-prob of a token, should be ahead.
margin = 1.0
# The output layer stays the base's: only the adapter is trained.
train_head = false
"#;
    const ALTERNATIVES: &'static [&'static [&'static str]] =
        &[&["simpo.objective", "simpo.combination"]];
    const REMEDY: &'static str = ", a smaller `simpo.beta`";

    fn check_loss(&self) -> Result<()> {
        ranges::positive("simpo.beta", self.beta)
            .and_then(|()| ranges::not_negative("simpo.margin", self.margin))
            .map_err(|message| Error::Config { origin: "`[simpo]`".into(), message })
    }

    fn training(&self) -> PairTraining<'_> {
        let target = PairTarget {
            section: "simpo",
            objective: self.objective.as_deref(),
            combination: self.combination.as_ref(),
        };
        PairTraining { phase: "simpo", name: "SimPO", target, train_head: self.train_head }
    }
}

impl PairLoss for SimpoConfig {
    fn has_reference(&self) -> bool {
        false
    }

    fn is_per_token(&self) -> bool {
        true
    }

    fn loss<B: Backend>(&self, pairs: PairValues<B>) -> Tensor<B, 1> {
        let PairValues { first, second, indicators, mass, .. } = pairs;
        simpo_loss(first, second, indicators, mass, self.beta, self.margin)
    }

    fn reward(&self, value: f64) -> f64 {
        self.beta * value
    }
}
