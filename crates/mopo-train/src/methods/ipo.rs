//! IPO: DPO with a squared loss, whose margin has a bound (Azar et al., 2023, equation 17;
//! docs/methods/ipo.md).

use burn::tensor::{Tensor, backend::Backend};
use mopo_core::pairwise::ipo_loss;
use serde::{Deserialize, Serialize};

use crate::config::ranges;
use crate::pairwise::{Combination, PairLoss, PairSection, PairTarget, PairTraining, PairValues};
use crate::{Error, Result};

/// IPO against the frozen base ([`mopo_core::pairwise::ipo_loss`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpoConfig {
    /// The objective whose labels are learned; `policies` must name only it. Exactly one of this and
    /// `combination` is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// A preference made of several objectives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combination: Option<Combination>,
    /// β > 0, strength of the KL term: margins aim at 1/(2β). The paper calls it τ.
    pub beta: f64,
    /// Whether Δ is divided by the response's number of tokens, as some programs do; the paper has sums.
    pub length_normalized: bool,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

impl PairSection for IpoConfig {
    const TEXT: &'static str = r#"[method]
kind = "ipo"

[ipo]
# Or a combination of several, as for DPO.
objective = "helpful"
# Margins of log(π/π_ref) aim at 1/(2β).
beta = 0.1
# true: log(π/π_ref) per token, as in some programs; false: as in the paper.
length_normalized = false
# The output layer stays the base's: only the adapter is trained.
train_head = false
"#;
    const ALTERNATIVES: &'static [&'static [&'static str]] =
        &[&["ipo.objective", "ipo.combination"]];
    const REMEDY: &'static str = ", a larger `ipo.beta`";

    fn check_loss(&self) -> Result<()> {
        ranges::positive("ipo.beta", self.beta)
            .map_err(|message| Error::Config { origin: "`[ipo]`".into(), message })
    }

    fn training(&self) -> PairTraining<'_> {
        let target = PairTarget {
            section: "ipo",
            objective: self.objective.as_deref(),
            combination: self.combination.as_ref(),
        };
        PairTraining { phase: "ipo", name: "IPO", target, train_head: self.train_head }
    }
}

impl PairLoss for IpoConfig {
    fn is_per_token(&self) -> bool {
        self.length_normalized
    }

    fn loss<B: Backend>(&self, pairs: PairValues<B>) -> Tensor<B, 1> {
        let PairValues { first, second, indicators, mass, .. } = pairs;
        ipo_loss(first, second, indicators, mass, self.beta)
    }

    fn reward(&self, value: f64) -> f64 {
        self.beta * value
    }
}
