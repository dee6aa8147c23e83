//! IPO: DPO with a squared loss, whose margin has a bound (Azar et al., 2023, equation 17;
//! docs/methods/ipo.md).

use burn::tensor::{Tensor, backend::Backend};
use mopo_core::Objectives;
use mopo_core::pairwise::ipo_loss;
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::config::ranges;
use crate::pairwise::{Combination, PairLoss, PairTarget, PairTraining, PairValues};
use crate::{Error, Progress, Result};

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

impl IpoConfig {
    fn target(&self) -> PairTarget<'_> {
        PairTarget {
            section: "ipo",
            objective: self.objective.as_deref(),
            combination: self.combination.as_ref(),
        }
    }
}

impl MethodSection for IpoConfig {
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

    fn check_section(&self, policies: &[String]) -> Result<()> {
        ranges::positive("ipo.beta", self.beta)
            .map_err(|message| Error::Config { origin: "`[ipo]`".into(), message })?;
        self.target().check(policies)
    }

    fn policies(&self) -> Option<Vec<String>> {
        self.target().policies()
    }

    fn check_labels(
        &self,
        _: &[String],
        objectives: &Objectives,
        rows: &[&[Option<f32>]],
    ) -> Result<()> {
        self.target().labels(objectives, rows).map(drop)
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let target = self.target();
        let training =
            PairTraining { phase: "ipo", name: "IPO", target, train_head: self.train_head };
        training.run(self.clone(), context, fit, progress)
    }
}

impl PairLoss for IpoConfig {
    fn is_per_token(&self) -> bool {
        self.length_normalized
    }

    fn loss<B: Backend>(&self, pairs: PairValues<B>) -> Tensor<B, 1> {
        let PairValues { first, second, indicators, mass } = pairs;
        ipo_loss(first, second, indicators, mass, self.beta)
    }

    fn reward(&self, value: f64) -> f64 {
        self.beta * value
    }
}
