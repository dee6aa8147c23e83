//! SACPO: DPO on one objective after the other, each against the policy that the one before left behind (Wachi
//! et al., 2024; docs/methods/sacpo.md).

use std::ops::Range;

use mopo_core::Objectives;
use mopo_lm::{Mixing, PolicyHeads, PolicyParams};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::checkpoint::{Checkpoint, Parts};
use crate::config::{PhaseConfig, ranges};
use crate::fit::{Method, PolicyMethod};
use crate::log_probs::LogProbs;
use crate::optim::{module_from_bytes, module_to_bytes};
use crate::pairwise::{DpoLoss, PairPart, PairTarget, PairwiseMethod};
use crate::{Error, Progress, Result};

/// Number of the stage, from 0, of a method that trains on one objective after the other.
const STAGE: Quantity = Quantity::new("stage");

const PHASE: &str = "sacpo";
/// The part of a checkpoint with the reference's log-probs; the first stage's are the run's own.
const REFERENCE: &str = "reference_log_probs.bin";
/// The name of the policy, unless the configuration has another one.
const POLICY: &str = "stepwise";

/// DPO in stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SacpoConfig {
    /// The objectives, in the order in which they are trained.
    pub order: Vec<String>,
    /// β > 0 of each stage, strength of its KL term to the policy of the stage before.
    pub betas: Vec<f64>,
    /// The stages' shares of the steps, in any unit. If absent, they are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Vec<f64>>,
    /// Whether the run keeps the policy of every stage, named after its objective, and their weighted means of parameters
    /// are the policies for preference weights (the paper's practical variant, P-SACPO). Optional (false).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merge: bool,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

impl SacpoConfig {
    fn error(message: String) -> Error {
        Error::Config { origin: "`[sacpo]`".into(), message }
    }

    fn target(name: &str) -> PairTarget<'_> {
        PairTarget { section: "sacpo", objective: Some(name), combination: None }
    }

    /// The steps of each stage, of `total`.
    fn stages(&self, total: usize) -> Vec<Range<usize>> {
        let equal = vec![1.0; self.order.len()];
        let shares = self.shares.as_ref().unwrap_or(&equal);
        let sum: f64 = shares.iter().sum();
        let (mut before, mut start) = (0.0, 0);
        let mut stages = Vec::with_capacity(shares.len());
        for share in shares {
            before += share;
            let end = ((total as f64 * (before / sum)).round() as usize).min(total);
            stages.push(start..end);
            start = end;
        }
        // Whatever was rounded.
        if let Some(last) = stages.last_mut() {
            last.end = total;
        }
        stages
    }
}

impl MethodSection for SacpoConfig {
    const TEXT: &'static str = r#"[method]
kind = "sacpo"

[sacpo]
# Objectives one after the other; the reference of each is the policy that the one before left behind.
order = ["helpful", "harmless"]
# Strength of each stage's KL term.
betas = [0.1, 0.1]
# Shares of training.steps, in any unit; equal if absent.
# shares = [1, 1]
# Keep the policy of every stage, and average their parameters by preference weights. `policies` is then as `order`.
# merge = true
# The output layer stays the base's: only the adapter is trained.
train_head = false
"#;
    const OPTIONAL: &'static [&'static str] = &["sacpo.shares", "sacpo.merge"];
    const REMEDY: &'static str = ", smaller `sacpo.betas`";

    fn check_section(&self, policies: &[String]) -> Result<()> {
        let n = self.order.len();
        Objectives::new(self.order.iter().cloned())
            .map_err(|e| Self::error(format!("`sacpo.order`: {e}")))?;
        let numbers = [("betas", Some(&self.betas)), ("shares", self.shares.as_ref())];
        for (key, values) in numbers.into_iter().filter_map(|(key, v)| Some((key, v?))) {
            if values.len() != n {
                return Err(Self::error(format!(
                    "`sacpo.{key}` has {} numbers, but `sacpo.order` has {n} objectives: write one for each",
                    values.len()
                )));
            }
            for value in values {
                ranges::positive(&format!("sacpo.{key}"), *value).map_err(Self::error)?;
            }
        }
        if self.merge {
            return match policies == self.order {
                true => Ok(()),
                false => Err(Self::error(format!(
                    "`policies` is {policies:?}, but with `sacpo.merge` the run keeps one for each stage: write policies = \
                     {:?}",
                    self.order
                ))),
            };
        }
        match policies {
            [_] => Ok(()),
            _ => Err(Self::error(format!(
                "`policies` is {policies:?}, but sacpo trains one policy: give it one name, such as policies = \
                 [\"{POLICY}\"]"
            ))),
        }
    }

    fn check_new(&self, steps: usize) -> Result<()> {
        let stages = self.stages(steps);
        match self.order.iter().zip(stages).find(|(_, of)| of.is_empty() && steps > 0) {
            Some((name, _)) => Err(Self::error(format!(
                "of {steps} `training.steps` none is left for `{name}`: take more of them, or larger `sacpo.shares`"
            ))),
            None => Ok(()),
        }
    }

    fn policies(&self) -> Option<Vec<String>> {
        Some(if self.merge { self.order.clone() } else { vec![POLICY.into()] })
    }

    fn mixing(&self) -> Mixing {
        if self.merge { Mixing::Parameters } else { Mixing::default() }
    }

    fn check_labels(
        &self,
        _: &[String],
        objectives: &Objectives,
        rows: &[&[Option<f32>]],
    ) -> Result<()> {
        self.order.iter().try_for_each(|name| Self::target(name).labels(objectives, rows).map(drop))
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let (objectives, rows) = (&context.data.objectives, context.data.train.rows());
        let steps = self.stages(context.phase.steps);
        let mut stages = Vec::new();
        for ((name, &beta), steps) in self.order.iter().zip(&self.betas).zip(steps) {
            let labels = Self::target(name).labels(objectives, &rows)?;
            let Range { start, end } = steps;
            progress.note(&format!("SACPO, steps {start} to {end}: {}", labels.note));
            stages.push(Stage { objective: name, beta, labels: labels.indicators, steps });
        }
        let (first, device) = (stages[0].part(), context.device);
        let method = PairwiseMethod::new(PHASE, first, self.train_head, context);
        let kept = self.merge.then(Vec::new);
        let mut method = Sacpo { stages, current: 0, method, kept, device: device.clone() };
        fit(&mut method, progress)?;
        Ok(method.policies())
    }
}

/// The part of a checkpoint with the policy that a stage ended with.
fn kept_part(stage: usize) -> String {
    format!("stage-{stage}.bin")
}

/// One objective's turn.
struct Stage<'a> {
    objective: &'a str,
    beta: f64,
    labels: Vec<Option<f32>>,
    steps: Range<usize>,
}

impl Stage<'_> {
    fn part(&self) -> PairPart<'_, DpoLoss> {
        PairPart {
            loss: DpoLoss { beta: self.beta },
            labels: &self.labels,
            objective: Some(self.objective),
            first_step: self.steps.start,
        }
    }
}

/// The state of a training.
struct Sacpo<'a, B: FusedAutodiffBackend> {
    stages: Vec<Stage<'a>>,
    /// Index of the stage that `method` is in.
    current: usize,
    method: PairwiseMethod<'a, B, DpoLoss>,
    /// The policies that the stages before ended with, if they are kept.
    kept: Option<Vec<PolicyParams<B::InnerBackend>>>,
    device: B::Device,
}

impl<B: FusedAutodiffBackend> Sacpo<'_, B> {
    /// The stage of a step.
    fn stage_of(&self, step: usize) -> usize {
        self.stages.iter().position(|stage| stage.steps.contains(&step)).unwrap_or(0)
    }

    fn enter(&mut self, stage: usize, reference: LogProbs) {
        self.current = stage;
        self.method.go_on(self.stages[stage].part(), reference);
        // Kept policies are named after their stages' objectives.
        if self.kept.is_some() {
            self.method.rename(self.stages[stage].objective);
        }
    }
}

impl<B: FusedAutodiffBackend> PolicyMethod<B> for Sacpo<'_, B> {
    fn policies(&self) -> PolicyParams<B::InnerBackend> {
        let now = self.method.params();
        let Some(kept) = &self.kept else { return now };
        // Those of stages to come are where this one is.
        let of = |stage: usize| kept.get(stage).unwrap_or(&now);
        let all = || (0..self.stages.len()).map(of);
        PolicyParams {
            adapters: all().map(|policy| policy.adapter(0).clone()).collect(),
            heads: PolicyHeads {
                heads: all().map(|policy| policy.heads.heads[0].clone()).collect(),
            },
        }
    }

    /// Within the last stage.
    fn compared_after(&self) -> usize {
        self.stages.last().map_or(0, |stage| stage.steps.start)
    }
}

impl<B: FusedAutodiffBackend> Method for Sacpo<'_, B> {
    fn phase(&self) -> &'static str {
        PHASE
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let stage = self.stage_of(step);
        let is_new = stage != self.current;
        if is_new {
            let reference = self.method.log_probs()?;
            if let Some(kept) = &mut self.kept {
                kept.resize_with(stage, || self.method.params());
            }
            self.enter(stage, reference);
        }
        let mut metrics = self.method.step(step, learning_rate)?;
        if is_new {
            metrics.set(Quantity::SCORED_TOKENS, self.method.n_tokens() as f64);
        }
        metrics.set(STAGE, stage as f64);
        Ok(metrics)
    }

    /// Each stage has the whole schedule, as a run of its own would.
    fn learning_rate(&self, phase: &PhaseConfig, step: usize) -> f64 {
        let steps = &self.stages[self.stage_of(step)].steps;
        let phase = PhaseConfig { steps: steps.len(), ..phase.clone() };
        phase.learning_rate_at(step - steps.start)
    }

    fn headline(&self, metrics: &Metrics) -> String {
        format!("{}: {}", self.stages[self.current].objective, self.method.headline(metrics))
    }

    fn non_finite(&self) -> Result<Option<&'static str>> {
        self.method.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        let mut parts = self.method.save()?;
        if self.current > 0 {
            let values = self.method.reference().iter().flatten();
            parts.insert(REFERENCE.into(), values.flat_map(|x| x.to_le_bytes()).collect());
        }
        for (stage, policy) in self.kept.iter().flatten().enumerate() {
            parts.insert(kept_part(stage), module_to_bytes::<B::InnerBackend, _>(policy)?);
        }
        Ok(parts)
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        // A stage is entered with its first step, not after the last one before it.
        let stage = self.stage_of(c.step.saturating_sub(1));
        if stage > 0 {
            let (values, rest) = c.part(REFERENCE)?.as_chunks::<4>();
            let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let (rows, odd) = values.as_chunks::<2>();
            if rows.len() != self.method.reference().len() || !odd.is_empty() || !rest.is_empty() {
                return Err(Error::corrupt(
                    &c.path.join(REFERENCE),
                    "it does not have two numbers for each training pair; delete this checkpoint to use the \
                     previous one",
                ));
            }
            self.enter(stage, rows.to_vec());
        }
        if self.kept.is_some() {
            let read = |stage| {
                let (like, bytes) = (self.method.params(), c.part(&kept_part(stage))?);
                module_from_bytes::<B::InnerBackend, _>(like, bytes, &self.device)
            };
            self.kept = Some((0..stage).map(read).collect::<Result<_>>()?);
        }
        self.method.load(c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(shares: Option<&[f64]>, n: usize, total: usize) -> Vec<Range<usize>> {
        let order = (0..n).map(|i| format!("o{i}")).collect();
        let shares = shares.map(<[f64]>::to_vec);
        SacpoConfig { order, betas: vec![0.1; n], shares, merge: false, train_head: false }
            .stages(total)
    }

    #[test]
    fn stages_cover_all_steps_in_order_and_in_proportion() {
        assert_eq!(stages(None, 2, 9), [0..5, 5..9]);
        assert_eq!(stages(Some(&[1.0, 3.0]), 2, 8), [0..2, 2..8]);
        assert_eq!(stages(Some(&[0.1, 0.2, 0.7]), 3, 10), [0..1, 1..3, 3..10]);
        // Fewer steps than stages: some have none.
        assert_eq!(stages(None, 3, 1), [0..0, 0..1, 1..1]);
        assert_eq!(stages(None, 2, 0), [0..0, 0..0]);
        let whole = stages(Some(&[5.0]), 1, 7);
        assert!(whole.len() == 1 && whole[0] == (0..7), "{whole:?}");
    }
}
