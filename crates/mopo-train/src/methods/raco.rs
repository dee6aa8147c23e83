//! RACO: a DPO loss for each objective, whose gradients are combined so that none is forgotten where they conflict
//! (Chen et al., 2026; docs/methods/raco.md).

use std::collections::BTreeMap;

use mopo_core::Objectives;
use mopo_core::conflict::{ConflictAverse, conflict_averse};
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, TrainContext};
use crate::batches::{BatchOrder, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::config::{PhaseConfig, ranges};
use crate::fit::{Method, PolicyMethod};
use crate::optim::{SeparateGradients, Trainer, combined, gram};
use crate::pairwise::{DpoLoss, PairPass, PairSums, PairTarget, check_simplex};
use crate::single::SinglePolicy;
use crate::{Error, Progress, Result};

/// Cosine of an objective's gradient and the weighted sum of all of them; negative: they conflict.
const GRADIENT_COSINE: Quantity = Quantity::new("gradient_cosine");
/// The objective's part in the correction of conflicting gradients, before clipping.
const CORRECTION_WEIGHT: Quantity = Quantity::new("correction_weight");
/// The objective's factor in the step's gradient.
const GRADIENT_FACTOR: Quantity = Quantity::new("gradient_factor");

const PHASE: &str = "raco";
/// The name of the policy, unless the configuration has another one.
const POLICY: &str = "weighted";

/// DPO on several objectives by clipped conflict-averse gradient descent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RacoConfig {
    /// α by objective, on the simplex.
    pub preference_weights: BTreeMap<String, f64>,
    /// c in [0, 1): how far the step may be from the weighted gradient, relative to its norm.
    pub correction: f64,
    /// Whether an objective's part in the correction is at most its preference weight.
    pub clip: bool,
    /// β > 0, strength of the KL term.
    pub beta: f64,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

impl RacoConfig {
    fn error(message: String) -> Error {
        Error::Config { origin: "`[raco]`".into(), message }
    }

    fn target(name: &str) -> PairTarget<'_> {
        PairTarget { section: "raco", objective: Some(name), combination: None }
    }

    /// The objectives with a weight, and the weight.
    fn used(&self) -> impl Iterator<Item = (&str, f64)> {
        let weights = self.preference_weights.iter().map(|(name, w)| (name.as_str(), *w));
        weights.filter(|(_, weight)| *weight > 0.0)
    }
}

impl MethodSection for RacoConfig {
    const TEXT: &'static str = r#"[method]
kind = "raco"

[raco]
preference_weights = { helpful = 0.5, harmless = 0.5 }
# c in [0, 1): how far a step may be from the weighted gradient. 0: DPO's weighted loss.
correction = 0.4
# An objective's part in the correction is at most its preference weight, as published. false: CAGrad.
clip = true
beta = 0.1
# The output layer stays the base's: only the adapter is trained.
train_head = false
"#;
    const OPEN: &'static [&'static str] = &["raco.preference_weights"];
    const REMEDY: &'static str = ", a smaller `raco.beta`";

    fn check_section(&self, policies: &[String]) -> Result<()> {
        ranges::positive("raco.beta", self.beta).map_err(Self::error)?;
        if !(0.0..1.0).contains(&self.correction) {
            return Err(Self::error(format!(
                "`raco.correction` is {}; it must lie in [0, 1): from 1 on a step may go against the weighted \
                 gradient",
                self.correction
            )));
        }
        check_simplex(&self.preference_weights)
            .map_err(|message| Self::error(format!("`raco.preference_weights`: {message}")))?;
        match policies {
            [_] => Ok(()),
            _ => Err(Self::error(format!(
                "`policies` is {policies:?}, but raco trains one policy: give it one name, such as policies = \
                 [\"{POLICY}\"]"
            ))),
        }
    }

    fn policies(&self) -> Option<Vec<String>> {
        Some(vec![POLICY.into()])
    }

    fn check_labels(
        &self,
        _: &[String],
        objectives: &Objectives,
        rows: &[&[Option<f32>]],
    ) -> Result<()> {
        self.used().try_for_each(|(name, _)| Self::target(name).labels(objectives, rows).map(drop))
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let pairs = &context.data.train;
        let mut losses = Vec::new();
        for (name, weight) in self.used() {
            let labels = Self::target(name).labels(&context.data.objectives, &pairs.rows())?;
            progress.note(&format!("RACO: {}", labels.note));
            losses.push(Objective { name, weight, labels: labels.indicators });
        }
        let is_labelled = |&i: &usize| losses.iter().any(|of| of.labels[i].is_some());
        let used: Vec<usize> = (0..pairs.len()).filter(is_labelled).collect();
        let mut method = Raco {
            config: self,
            losses,
            policy: &context.policies[0],
            phase: context.phase,
            seed: context.seed,
            order: BatchOrder::of_pairs(
                pairs,
                Some(&used),
                context.phase.batch_size,
                step_seed(context.seed, PHASE, 0),
            ),
            used,
            pass: PairPass::new(&context),
            trainer: Trainer::new(
                SinglePolicy::new(context.params, self.train_head),
                context.communicator,
            ),
        };
        fit(&mut method, progress)?;
        Ok(method.trainer.module().policy(method.pass.base))
    }
}

/// An objective with a weight.
struct Objective<'a> {
    name: &'a str,
    weight: f64,
    /// The label of each training pair.
    labels: Vec<Option<f32>>,
}

/// The state of a training.
struct Raco<'a, B: FusedAutodiffBackend> {
    config: &'a RacoConfig,
    losses: Vec<Objective<'a>>,
    policy: &'a str,
    phase: &'a PhaseConfig,
    seed: u64,
    /// Pairs with a label of any of the objectives.
    used: Vec<usize>,
    /// Batches of indices into `used`.
    order: BatchOrder,
    pass: PairPass<'a, B>,
    trainer: Trainer<'a, B, SinglePolicy<B>>,
}

impl<B: FusedAutodiffBackend> Raco<'_, B> {
    /// The step's pairs with a label of objective `k`, for each pass.
    fn labelled(&self, micro: &[Vec<usize>], k: usize) -> Vec<Vec<(usize, f32)>> {
        let labels = &self.losses[k].labels;
        let of = |pairs: &Vec<usize>| {
            pairs.iter().filter_map(|&i| Some((i, labels[i]?))).collect::<Vec<_>>()
        };
        micro.iter().map(of).collect()
    }

    fn report(&self, present: &[Part], found: &ConflictAverse, products: &[Vec<f64>]) -> Metrics {
        let mut metrics = Metrics::default();
        let weights: Vec<f64> = present.iter().map(|part| self.losses[part.k].weight).collect();
        let dot = |row: &[f64]| row.iter().zip(&weights).map(|(h, w)| h * w).sum::<f64>();
        let along: Vec<f64> = products.iter().map(|row| dot(row)).collect();
        let length = dot(&along).max(0.0).sqrt();
        for (i, Part { k, sums }) in present.iter().enumerate() {
            let name = self.losses[*k].name;
            let key = |quantity: Quantity| quantity.between(self.policy, name);
            metrics.set(key(Quantity::LOSS), sums.loss);
            metrics.set(key(Quantity::DECIDED_PAIRS), sums.decided());
            metrics.set(key(CORRECTION_WEIGHT), found.mixture[i]);
            metrics.set(key(GRADIENT_FACTOR), found.factors[i]);
            let lengths = length * products[i][i].sqrt();
            // A gradient of 0 has no direction.
            if lengths > 0.0 {
                metrics.set(key(GRADIENT_COSINE), along[i] / lengths);
            }
            sums.report(key, &mut metrics);
        }
        metrics
    }
}

/// What a step found of objective `k`.
struct Part {
    k: usize,
    sums: PairSums,
}

impl<B: FusedAutodiffBackend> PolicyMethod<B> for Raco<'_, B> {
    fn policies(&self) -> PolicyParams<B::InnerBackend> {
        self.trainer.module().policy(self.pass.base)
    }
}

impl<B: FusedAutodiffBackend> Method for Raco<'_, B> {
    fn phase(&self) -> &'static str {
        PHASE
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let clock = std::time::Instant::now();
        let n_micro = self.phase.gradient_accumulation_steps;
        let micro: Vec<Vec<usize>> = (self.order.step(step, n_micro).into_iter())
            .map(|batch| batch.into_iter().map(|at| self.used[at]).collect())
            .collect();
        let loss = DpoLoss { beta: self.config.beta };
        let (params, communicator) = (self.trainer.module(), self.trainer.communicator());
        let mut gradients = SeparateGradients::new(self.losses.len(), params, communicator);
        // Objectives of which the step has a label.
        let mut present = Vec::new();
        for k in 0..self.losses.len() {
            let passes = self.labelled(&micro, k);
            let n_pairs: usize = passes.iter().map(Vec::len).sum();
            let found = gradients.passes(k, n_micro, |j| {
                if passes[j].is_empty() {
                    return Ok((None, PairSums::default()));
                }
                // The same dropout for every objective, so that their gradients are of one function.
                B::seed(&self.pass.device, step_seed(self.seed, PHASE, step * n_micro + j));
                let mass = 1.0 / n_pairs as f64;
                let (loss, sums) = self.pass.loss(&loss, params, &passes[j], mass)?;
                Ok((Some(loss), sums))
            })?;
            if n_pairs > 0 {
                present.push(Part { k, sums: PairSums::total(found) });
            }
        }
        let mut all: Vec<_> = gradients.finish()?.into_iter().map(Some).collect();
        let gradients: Vec<_> = present.iter().filter_map(|part| all[part.k].take()).collect();
        let weights: Vec<f64> = present.iter().map(|part| self.losses[part.k].weight).collect();
        let products = gram::<B, _>(self.trainer.module(), &gradients);
        let RacoConfig { correction, clip, .. } = self.config;
        let found = conflict_averse(&products, &weights, *correction, *clip);
        let sum = combined::<B, _>(self.trainer.module(), &gradients, &found.factors);
        let norm = self.trainer.apply(sum, learning_rate, self.phase.max_grad_norm)?;

        let mut metrics = self.report(&present, &found, &products);
        let n_tokens: usize = present.iter().map(|part| part.sums.n_tokens).sum();
        let losses = present.iter().zip(&weights).map(|(part, weight)| weight * part.sums.loss);
        metrics.set(Quantity::LOSS, losses.sum());
        metrics.set(Quantity::GRADIENT_NORM, norm);
        metrics.set_trained_tokens(n_tokens, clock.elapsed());
        Ok(metrics)
    }

    fn headline(&self, m: &Metrics) -> String {
        let all = |quantity: Quantity| m.get(quantity).unwrap_or(f64::NAN);
        let of = |objective: &Objective<'_>| {
            let accuracy = m.get(Quantity::ACCURACY.between(self.policy, objective.name));
            let accuracy = accuracy.map_or("–".into(), |x| format!("{:.0} %", 100.0 * x));
            format!("{} {accuracy}", objective.name)
        };
        format!(
            "loss {:.4}  accuracy {}  |grad| {:.1}  {:.0} tokens/s",
            all(Quantity::LOSS),
            self.losses.iter().map(of).collect::<Vec<_>>().join(", "),
            all(Quantity::GRADIENT_NORM),
            all(Quantity::TOKENS_PER_SECOND),
        )
    }

    fn non_finite(&self) -> Result<Option<&'static str>> {
        self.trainer.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        self.trainer.parts()
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        self.trainer.restore_parts(c, &self.pass.device)
    }
}
