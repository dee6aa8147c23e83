//! Rewarded Soups: the parameters of policies that other runs trained, averaged by preference weights (Ramé et al.,
//! 2023, arXiv 2306.04488; docs/methods/rewarded-soups.md).

use burn::module::AutodiffModule;
use mopo_lm::{Mixing, PolicyParams};
use mopo_ops::FusedAutodiffBackend;
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::runs::PolicyRuns;
use crate::{OtherPolicy, Progress, Result};

/// Policies of other runs, to be averaged in the space of their updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardedSoupsConfig {
    /// Finished runs on the same base by the name of the policy, such as an objective's: at least two.
    pub runs: PolicyRuns,
}

impl MethodSection for RewardedSoupsConfig {
    const TEXT: &'static str = r#"[method]
kind = "rewarded_soups"

[rewarded_soups]
# Finished runs with one policy each, all on the same base model, by the name of the policy.
runs = { helpful = "runs/dpo-helpful", harmless = "runs/dpo-harmless" }
"#;
    const OPEN: &'static [&'static str] = &["rewarded_soups.runs"];

    fn needs_initial_log_probs(&self) -> bool {
        false
    }

    fn check_section(&self, policies: &[String]) -> Result<()> {
        self.runs.check("rewarded_soups", policies)
    }

    fn policies(&self) -> Option<Vec<String>> {
        Some(self.runs.names())
    }

    fn starts_from(&self) -> Vec<OtherPolicy> {
        self.runs.policies("rewarded_soups")
    }

    fn mixing(&self) -> Mixing {
        Mixing::Parameters
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
