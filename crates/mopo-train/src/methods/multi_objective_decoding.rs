//! Multi-objective decoding (MOD): policies that other runs trained, mixed token by token by preference weights (Shi et
//! al., 2024, arXiv 2406.18853; docs/math.md, section 6; docs/methods/multi-objective-decoding.md).

use burn::module::AutodiffModule;
use mopo_core::divergence::Divergence;
use mopo_lm::{Mixing, PolicyParams};
use mopo_ops::FusedAutodiffBackend;
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::runs::PolicyRuns;
use crate::{Error, OtherPolicy, Progress, Result};

/// Policies of other runs, to be mixed exactly for the divergence that they were trained with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiObjectiveDecodingConfig {
    /// Finished runs on the same base by the name of the policy, such as an objective's: at least two.
    pub runs: PolicyRuns,
    /// The divergence from the base with which they were regularised: one with a barrier. DPO's is reverse KL.
    #[serde(default)]
    pub divergence: Divergence,
}

impl MethodSection for MultiObjectiveDecodingConfig {
    const TEXT: &'static str = r#"[method]
kind = "multi_objective_decoding"

[multi_objective_decoding]
# Finished runs with one policy each, all on the same base model, by the name of the policy.
runs = { helpful = "runs/dpo-helpful", harmless = "runs/dpo-harmless" }
# The divergence that they were trained with: reverse_kl (DPO's), forward_kl, jensen_shannon, alpha:0.5 or
# jeffreys.
divergence = "reverse_kl"
"#;
    const OPTIONAL: &'static [&'static str] = &["multi_objective_decoding.divergence"];
    const OPEN: &'static [&'static str] = &["multi_objective_decoding.runs"];

    fn needs_initial_log_probs(&self) -> bool {
        false
    }

    fn check_section(&self, policies: &[String]) -> Result<()> {
        self.divergence.check_mixable().map_err(|e| Error::Config {
            origin: "`multi_objective_decoding.divergence`".into(),
            message: e.to_string(),
        })?;
        self.runs.check("multi_objective_decoding", policies)
    }

    fn policies(&self) -> Option<Vec<String>> {
        Some(self.runs.names())
    }

    fn starts_from(&self) -> Vec<OtherPolicy> {
        self.runs.policies("multi_objective_decoding")
    }

    fn mixed_divergence(&self) -> Option<(&'static str, Divergence)> {
        Some(("multi_objective_decoding.divergence", self.divergence))
    }

    fn mixing(&self) -> Mixing {
        Mixing::Logits(self.divergence)
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        _: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        progress.note(&self.runs.note());
        Ok(context.params.valid())
    }
}
