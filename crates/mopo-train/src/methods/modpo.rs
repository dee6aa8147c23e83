//! MODPO: DPO on one objective's labels with the other objectives as margins, for one vector of preference weights
//! (Zhou et al., 2023, equation 8; docs/methods/modpo.md).

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Tensor, backend::Backend};
use mopo_core::Objectives;
use mopo_core::divergence::Divergence;
use mopo_core::pairwise::dpo_loss;
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::config::ranges;
use crate::pairwise::{PairLoss, PairTarget, PairTraining, PairValues, check_simplex};
use crate::{Error, OtherPolicy, Progress, Result};

/// The loss divides by the weight of the objective whose labels are used: below this it is noise.
const MIN_WEIGHT: f64 = 0.05;

/// MODPO with one vector of preference weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModpoConfig {
    /// The objective whose labels are used; its preference weight is at least 0.05.
    pub objective: String,
    /// α by objective, on the simplex.
    pub preference_weights: BTreeMap<String, f64>,
    /// m_j of the other objectives.
    pub margins: Margins,
    /// β > 0, strength of the KL term.
    pub beta: f64,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

/// The margin rewards of the objectives with a weight, besides the one whose labels are used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Margins {
    /// The scores recorded in the data.
    Scores,
    /// β times the implicit rewards log(π_j/π_ref) of finished DPO runs on the same base, by objective.
    Runs(BTreeMap<String, PathBuf>),
}

impl ModpoConfig {
    fn target(&self) -> PairTarget<'_> {
        PairTarget { section: "modpo", objective: Some(&self.objective), combination: None }
    }

    /// α_0.
    fn own_weight(&self) -> f64 {
        self.preference_weights.get(&self.objective).copied().unwrap_or(0.0)
    }

    /// The other objectives with a weight, and their weights.
    fn others(&self) -> impl Iterator<Item = (&String, f64)> {
        let weights = self.preference_weights.iter().map(|(name, weight)| (name, *weight));
        weights.filter(|(name, weight)| **name != self.objective && *weight > 0.0)
    }
}

impl MethodSection for ModpoConfig {
    const TEXT: &'static str = r#"[method]
kind = "modpo"

[modpo]
# Whose labels are used; the others with a weight are margins.
objective = "helpful"
preference_weights = { helpful = 0.5, harmless = 0.5 }
# Scores recorded in the data, or { runs = { harmless = "runs/dpo-harmless" } }: DPO runs on the same base.
margins = "scores"
beta = 0.1
# The output layer stays the base's: only the adapter is trained.
train_head = false
"#;
    const OPEN: &'static [&'static str] = &["modpo.preference_weights", "modpo.margins.runs"];
    const REMEDY: &'static str = ", a smaller `modpo.beta`";

    fn divergence(&self) -> Option<Divergence> {
        Some(Divergence::ReverseKl)
    }

    fn check_section(&self, policies: &[String]) -> Result<()> {
        let fail = |message| Err(Error::Config { origin: "`[modpo]`".into(), message });
        ranges::positive("modpo.beta", self.beta).or_else(fail)?;
        check_simplex(&self.preference_weights)
            .or_else(|message| fail(format!("`modpo.preference_weights`: {message}")))?;
        let own = self.own_weight();
        if own < MIN_WEIGHT {
            return fail(format!(
                "the weight of `{}` in `modpo.preference_weights` is {own}, but the loss divides by it: it must be at \
                 least {MIN_WEIGHT}; use another objective as `modpo.objective`, or train DPO on the others",
                self.objective
            ));
        }
        if let Margins::Runs(runs) = &self.margins {
            for (name, _) in self.others() {
                if !runs.contains_key(name) {
                    return fail(format!(
                        "`modpo.margins.runs` has no run for `{name}`, which has a preference weight: add one, or \
                         use the recorded scores (margins = \"scores\")"
                    ));
                }
            }
            if let Some(name) =
                runs.keys().find(|name| !self.preference_weights.contains_key(*name))
            {
                return fail(format!(
                    "`modpo.margins.runs` has a run for `{name}`, which has no preference weight: add one to \
                     `modpo.preference_weights`, or leave the run out"
                ));
            }
        }
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
        for (name, _) in self.others() {
            objectives.index_of(name).map_err(|e| Error::Config {
                origin: "`modpo.preference_weights`".into(),
                message: e.to_string(),
            })?;
        }
        self.target().labels(objectives, rows).map(drop)
    }

    fn needs_scores(&self) -> bool {
        self.margins == Margins::Scores && self.others().next().is_some()
    }

    fn other_policies(&self) -> Vec<OtherPolicy> {
        let Margins::Runs(runs) = &self.margins else { return Vec::new() };
        let of = |(name, _): (&String, f64)| OtherPolicy {
            name: name.clone(),
            key: format!("modpo.margins.runs.{name}"),
            run: runs[name].clone(),
        };
        self.others().map(of).collect()
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let pairs = &context.data.train;
        let mut shifts = vec![[0.0_f32; 2]; pairs.len()];
        for (name, weight) in self.others() {
            let k = context.data.objectives.index_of(name)?;
            for (i, shift) in shifts.iter_mut().enumerate() {
                // Σ α_j m_j/β: what is taken off Δ before β times it.
                let margin = match &self.margins {
                    Margins::Scores => {
                        let scores = pairs.scores[i].as_ref().expect("checked with the data");
                        [0, 1].map(|r| f64::from(scores[r][k]) / self.beta)
                    }
                    Margins::Runs(_) => {
                        let theirs = context.others[name][i];
                        let initial = context.initial_log_probs[i];
                        [0, 1].map(|r| f64::from(theirs[r] - initial[r]))
                    }
                };
                for r in 0..2 {
                    shift[r] += (weight * margin[r]) as f32;
                }
            }
        }
        let training = PairTraining {
            phase: "modpo",
            name: "MODPO",
            target: self.target(),
            train_head: self.train_head,
        };
        let loss = ModpoLoss { beta: self.beta / self.own_weight(), shifts };
        training.run(loss, context, fit, progress)
    }
}

/// DPO's loss with β/α_0 of Δ − Σ α_j m_j/β.
struct ModpoLoss {
    beta: f64,
    shifts: Vec<[f32; 2]>,
}

impl PairLoss for ModpoLoss {
    fn shift(&self, pair: usize) -> [f32; 2] {
        self.shifts[pair]
    }

    fn loss<B: Backend>(&self, pairs: PairValues<B>) -> Tensor<B, 1> {
        let PairValues { first, second, indicators, mass, .. } = pairs;
        dpo_loss(first, second, indicators, mass, self.beta)
    }

    fn reward(&self, value: f64) -> f64 {
        self.beta * value
    }
}
