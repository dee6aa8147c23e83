//! SimPO: log-probs per token instead of log-ratios, and a margin (Meng et al., 2024, equation 6;
//! docs/methods/simpo.md).

use burn::tensor::{Tensor, backend::Backend};
use mopo_core::Objectives;
use mopo_core::pairwise::simpo_loss;
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::config::ranges;
use crate::pairwise::{Combination, PairLoss, PairTarget, PairTraining, PairValues};
use crate::{Error, Progress, Result};

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

impl SimpoConfig {
    fn target(&self) -> PairTarget<'_> {
        PairTarget {
            section: "simpo",
            objective: self.objective.as_deref(),
            combination: self.combination.as_ref(),
        }
    }
}

impl MethodSection for SimpoConfig {
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

    fn check_section(&self, policies: &[String]) -> Result<()> {
        ranges::positive("simpo.beta", self.beta)
            .and_then(|()| ranges::not_negative("simpo.margin", self.margin))
            .map_err(|message| Error::Config { origin: "`[simpo]`".into(), message })?;
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
            PairTraining { phase: "simpo", name: "SimPO", target, train_head: self.train_head };
        training.run(self.clone(), context, fit, progress)
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
        let PairValues { first, second, indicators, mass } = pairs;
        simpo_loss(first, second, indicators, mass, self.beta, self.margin)
    }

    fn reward(&self, value: f64) -> f64 {
        self.beta * value
    }
}
