//! CAN: one objective under constraints on the others' mean scores. The multipliers are solved for once, before
//! training; then DPO on the preferences of the combined score (Huang et al., 2024, model-based;
//! docs/methods/can.md).

#[cfg(test)]
mod published;

use std::collections::BTreeMap;

use mopo_core::Objectives;
use mopo_core::divergence::Divergence;
use mopo_core::dual::{OneShotDual, OneShotProblem, ScoredPrompts};
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::config::ranges;
use crate::pairwise::{DpoLoss, PairPart, PairTarget, PairwiseMethod};
use crate::{Error, Pairs, Progress, Result, RunData};

/// Constrained alignment with a dual that is solved once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CanConfig {
    /// The objective whose mean score is maximised; `policies` names only it.
    pub objective: String,
    /// The least mean score of other objectives, by name, in the unit of their scores.
    pub thresholds: BTreeMap<String, f64>,
    /// Whether thresholds are added to the mean score of the training responses. If false, they are scores.
    pub relative: bool,
    /// β > 0, strength of the KL term, in the unit of scores.
    pub beta: f64,
    /// What a pair's label is made of.
    pub labels: CanLabels,
    /// The largest multiplier.
    pub lambda_max: f64,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

/// The label of a pair, from the difference of its responses' combined scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanLabels {
    /// Its logistic function, as a soft label: the mean of the labels that the paper draws.
    BradleyTerry,
    /// Its sign, as a hard label.
    Sign,
}

impl CanConfig {
    fn target(&self) -> PairTarget<'_> {
        PairTarget { section: "can", objective: Some(&self.objective), combination: None }
    }

    fn error(message: String) -> Error {
        Error::Config { origin: "`[can]`".into(), message }
    }

    /// Index of an objective that the section's `key` names.
    fn index(objectives: &Objectives, key: &str, name: &str) -> Result<usize> {
        objectives.index_of(name).map_err(|e| Self::error(format!("`can.{key}`: {e}")))
    }

    /// Solves the dual on the training pairs.
    fn solve(&self, data: &RunData) -> Result<Solution> {
        let objectives = &data.objectives;
        let primary = Self::index(objectives, "objective", &self.objective)?;
        let scored = ScoredPrompts::new(&by_prompt(&data.train)?)?;
        let means = scored.means();
        let mut thresholds = vec![None; objectives.len()];
        for (name, threshold) in &self.thresholds {
            let k = Self::index(objectives, "thresholds", name)?;
            thresholds[k] = Some(threshold + if self.relative { means[k] } else { 0.0 });
        }
        let problem = OneShotProblem {
            primary,
            thresholds: &thresholds,
            beta: self.beta,
            lambda_max: self.lambda_max,
        };
        let dual = scored.dual(&problem);
        Ok(Solution { primary, thresholds, means, dual })
    }

    /// The label of each pair.
    fn labels(&self, pairs: &Pairs, solution: &Solution) -> Vec<Option<f32>> {
        let combined = |row: &[f32]| -> f64 {
            let terms = row.iter().zip(&solution.dual.lambda);
            let rest: f64 = terms.map(|(score, lambda)| f64::from(*score) * lambda).sum();
            f64::from(row[solution.primary]) + rest
        };
        let label = |i: usize| {
            let [first, second] = scores(pairs, i);
            let ahead = combined(first) - combined(second);
            match self.labels {
                CanLabels::BradleyTerry => 1.0 / (1.0 + (-ahead).exp()),
                CanLabels::Sign if ahead == 0.0 => 0.5,
                CanLabels::Sign => f64::from(u8::from(ahead > 0.0)),
            }
        };
        (0..pairs.len()).map(|i| Some(label(i) as f32)).collect()
    }
}

/// The multipliers with what they were solved for.
struct Solution {
    primary: usize,
    /// b_k per objective.
    thresholds: Vec<Option<f64>>,
    /// E_{π_0}\[r_k\] per objective.
    means: Vec<f64>,
    dual: OneShotDual,
}

impl Solution {
    /// Objectives with a threshold, and it.
    fn constrained(&self) -> impl Iterator<Item = (usize, f64)> {
        self.thresholds.iter().enumerate().filter_map(|(k, b)| Some((k, (*b)?)))
    }

    /// What a person should know of it.
    fn notes(&self, objectives: &Objectives, lambda_max: f64) -> Vec<String> {
        let OneShotDual { lambda, level, saturated, .. } = &self.dual;
        let mut notes = vec![format!(
            "CAN: mean {} of the training responses {:.4}, {:.4} under the closed form",
            objectives.name(self.primary),
            self.means[self.primary],
            level[self.primary]
        )];
        for (k, threshold) in self.constrained() {
            let name = objectives.name(k);
            notes.push(format!(
                "CAN: λ of {name} is {:.4}; its mean {:.4}, {:.4} under the closed form, threshold {threshold:.4}",
                lambda[k], self.means[k], level[k]
            ));
            if saturated[k] {
                notes.push(format!(
                    "warning: λ of {name} is at `can.lambda_max` ({lambda_max}), where its mean score is {:.4} and \
                     not the {threshold:.4} that is asked for: on these responses the thresholds cannot be met \
                     together at this cap. Training goes on with it; lower `can.thresholds.{name}`",
                    level[k]
                ));
            }
        }
        notes
    }

    /// The numbers that every row of the metrics has.
    fn metrics(&self, policy: &str, objectives: &Objectives) -> Metrics {
        let mut metrics = Metrics::default();
        for (k, threshold) in self.constrained() {
            for (quantity, value) in [
                (Quantity::LAMBDA, self.dual.lambda[k]),
                (Quantity::THRESHOLD, threshold),
                (Quantity::SLACK, self.dual.level[k] - threshold),
                (Quantity::LAMBDA_SATURATED, f64::from(u8::from(self.dual.saturated[k]))),
            ] {
                metrics.set(quantity.between(policy, objectives.name(k)), value);
            }
        }
        metrics
    }
}

/// The scores of both responses of pair `i`.
fn scores(pairs: &Pairs, i: usize) -> [&[f32]; 2] {
    let [first, second] = pairs.scores[i].as_ref().expect("checked with the data");
    [first, second]
}

/// The scores of the responses to each prompt.
///
/// # Errors
/// Tokens that can no longer be read.
fn by_prompt(pairs: &Pairs) -> Result<Vec<Vec<&[f32]>>> {
    let mut groups: BTreeMap<Vec<u32>, Vec<&[f32]>> = BTreeMap::new();
    for (i, tokens) in pairs.tokens.iter().enumerate() {
        groups.entry(tokens?.prompt.clone()).or_default().extend(scores(pairs, i));
    }
    Ok(groups.into_values().collect())
}

impl MethodSection for CanConfig {
    const TEXT: &'static str = r#"[method]
kind = "can"

[can]
# Its mean score is maximised.
objective = "helpful"
# The least mean score of others, in the unit of the scores recorded in the data.
thresholds = { harmless = 0.0 }
# true: added to the mean of the training responses. false: scores as they are.
relative = true
# Strength of the KL term, in the unit of scores; also DPO's β.
beta = 0.1
# bradley_terry: σ of the difference of combined scores, as published. sign: the response with the larger one.
labels = "bradley_terry"
lambda_max = 100.0
# The output layer stays the base's: only the adapter is trained.
train_head = false
"#;
    const OPEN: &'static [&'static str] = &["can.thresholds"];
    const REMEDY: &'static str = ", a smaller `can.beta`";

    fn divergence(&self) -> Option<Divergence> {
        Some(Divergence::ReverseKl)
    }

    fn check_section(&self, policies: &[String]) -> Result<()> {
        ranges::positive("can.beta", self.beta).map_err(Self::error)?;
        ranges::positive("can.lambda_max", self.lambda_max).map_err(Self::error)?;
        if self.thresholds.is_empty() {
            return Err(Self::error(
                "`can.thresholds` is empty: name at least one other objective and its least mean score, or use \
                 --method dpo"
                    .into(),
            ));
        }
        for (name, threshold) in &self.thresholds {
            if *name == self.objective {
                return Err(Self::error(format!(
                    "`can.thresholds` has `{name}`, which is `can.objective`, whose mean score is maximised: \
                     remove it"
                )));
            }
            let key = format!("can.thresholds.{name}");
            ranges::within(&key, *threshold, -f64::from(f32::MAX)..=f64::from(f32::MAX))
                .map_err(Self::error)?;
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
        _: &[&[Option<f32>]],
    ) -> Result<()> {
        Self::index(objectives, "objective", &self.objective)?;
        self.thresholds.keys().try_for_each(|k| Self::index(objectives, "thresholds", k).map(drop))
    }

    fn needs_scores(&self) -> bool {
        true
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        // Nothing of it changes in training, and a resumed run finds the same numbers.
        let solution = self.solve(context.data)?;
        let objectives = &context.data.objectives;
        for note in solution.notes(objectives, self.lambda_max) {
            progress.note(&note);
        }
        let labels = self.labels(&context.data.train, &solution);
        if labels.iter().flatten().all(|label| *label == 0.5) {
            return Err(Self::error(
                "both responses of every training pair have the same combined score, so there is nothing to learn: \
                 provide scores that differ"
                    .into(),
            ));
        }
        let constants = solution.metrics(&context.policies[0], objectives);
        let loss = DpoLoss { beta: self.beta };
        let part = PairPart { loss, labels: &labels, objective: None, first_step: 0 };
        let mut method = PairwiseMethod::new("can", part, self.train_head, context);
        method.constants = constants;
        fit(&mut method, progress)?;
        Ok(method.params())
    }
}
