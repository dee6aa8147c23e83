//! Training of one policy on pairs, for methods whose loss is one on pairs ([`mopo_core::pairwise`]): DPO and its
//! relatives. A method says what the loss is and which pairs it uses; here are the steps.
//!
//! Trains a LoRA adapter, and the output layer only if the configuration asks for it. The reference is
//! the base with the adapter off: there is no second model, and its log-probs are computed before
//! training.

mod pass;
mod rewards;
mod section;
mod target;

use std::borrow::Cow;

use burn::tensor::{Tensor, backend::Backend};
use mopo_core::pairwise::dpo_loss;
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{MetricKey, Metrics, Quantity};

pub(crate) use pass::{PairPass, PairSums, pair_log_probs};
pub(crate) use section::PairSection;
pub use target::Combination;
pub(crate) use target::{PairTarget, check_simplex};

use crate::batches::{BatchOrder, pass_seed, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::config::PhaseConfig;
use crate::fit::{Method, PolicyMethod};
use crate::log_probs::LogProbs;
use crate::methods::{RunSteps, TrainContext};
use crate::optim::Trainer;
use crate::single::SinglePolicy;
use crate::{Progress, Result};

/// A loss on pairs.
///
/// A response's *value* is Δ = log(π/π_ref), or log π if [`has_reference`](Self::has_reference) is false, less its
/// [`shift`](Self::shift); divided by its number of tokens if [`is_per_token`](Self::is_per_token).
pub(crate) trait PairLoss {
    /// Whether the loss is one of log(π/π_ref), not of log π.
    fn has_reference(&self) -> bool {
        true
    }

    /// Whether values are means over tokens, not sums.
    fn is_per_token(&self) -> bool {
        false
    }

    /// Whether the loss needs an estimate of KL(π‖π_ref), which takes two more passes.
    fn needs_kl(&self) -> bool {
        false
    }

    /// What is subtracted from the values of a pair, by its index among the training pairs.
    fn shift(&self, _pair: usize) -> [f32; 2] {
        [0.0; 2]
    }

    /// The indicator that the loss sees of a pair with this label.
    fn indicator(&self, label: f32) -> f32 {
        label
    }

    /// The loss of a batch. All shapes are `[n_pairs]`; the result's is `[1]`.
    fn loss<B: Backend>(&self, pairs: PairValues<B>) -> Tensor<B, 1>;

    /// The implicit reward of a response with this value, in nats.
    fn reward(&self, value: f64) -> f64;

    /// Whether the loss cuts off something of a response with this value; `None` if it never does.
    fn is_clamped(&self, _value: f64) -> Option<bool> {
        None
    }
}

/// A batch of pairs as a loss sees it.
pub(crate) struct PairValues<B: Backend> {
    /// Values of the first responses.
    pub(crate) first: Tensor<B, 1>,
    /// Values of the second responses.
    pub(crate) second: Tensor<B, 1>,
    /// Indicators.
    pub(crate) indicators: Tensor<B, 1>,
    /// Weight of each pair; over the step they have sum 1.
    pub(crate) mass: Tensor<B, 1>,
    /// An estimate of KL(π‖π_ref), at least 0; 0 unless the loss [needs](PairLoss::needs_kl) it.
    pub(crate) kl: f64,
}

/// DPO's loss of labels as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DpoLoss {
    pub(crate) beta: f64,
}

impl PairLoss for DpoLoss {
    fn loss<B: Backend>(&self, pairs: PairValues<B>) -> Tensor<B, 1> {
        let PairValues { first, second, indicators, mass, .. } = pairs;
        dpo_loss(first, second, indicators, mass, self.beta)
    }

    fn reward(&self, value: f64) -> f64 {
        self.beta * value
    }
}

/// What a method on pairs needs besides its loss.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PairTraining<'a> {
    /// The method's phase.
    pub(crate) phase: &'static str,
    /// The method's name in messages.
    pub(crate) name: &'static str,
    /// Whose labels are learned.
    pub(crate) target: PairTarget<'a>,
    /// Whether the output layer is trained with the adapter.
    pub(crate) train_head: bool,
}

impl PairTraining<'_> {
    /// Trains the policy to the end.
    ///
    /// # Errors
    /// No pair has a decided label; those of steps and of `fit`.
    pub(crate) fn run<B: FusedAutodiffBackend>(
        self,
        loss: impl PairLoss,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let (pairs, objectives) = (&context.data.train, &context.data.objectives);
        let labels = self.target.labels(objectives, &pairs.rows())?;
        progress.note(&format!("{}: {}", self.name, labels.note));
        let labels = PairPart { loss, labels: &labels.indicators, objective: None, first_step: 0 };
        let mut method = PairwiseMethod::new(self.phase, labels, self.train_head, context);
        fit(&mut method, progress)?;
        Ok(method.params())
    }
}

/// A loss, and the pairs that it is of.
pub(crate) struct PairPart<'a, L> {
    pub(crate) loss: L,
    /// The label of each training pair; `None`: it is left out.
    pub(crate) labels: &'a [Option<f32>],
    /// The objective that metrics are named after besides the policy.
    pub(crate) objective: Option<&'a str>,
    /// The step that meets the first batch.
    pub(crate) first_step: usize,
}

/// The state of a training.
pub(crate) struct PairwiseMethod<'a, B: FusedAutodiffBackend, L> {
    /// The phase's name.
    name: &'static str,
    /// The policy's name.
    policy: &'a str,
    phase: &'a PhaseConfig,
    seed: u64,
    /// Set in every row.
    pub(crate) constants: Metrics,
    trainer: Trainer<'a, B, SinglePolicy<B>>,
    pass: PairPass<'a, B>,
    loss: L,
    objective: Option<String>,
    /// Pairs with a label, and the label.
    used: Vec<(usize, f32)>,
    /// Batches of indices into `used`.
    order: BatchOrder,
    first_step: usize,
}

impl<'a, B: FusedAutodiffBackend, L: PairLoss> PairwiseMethod<'a, B, L> {
    /// Against the frozen base.
    pub(crate) fn new(
        name: &'static str,
        part: PairPart<'_, L>,
        train_head: bool,
        context: TrainContext<'a, B>,
    ) -> Self {
        let pass = PairPass::new(&context);
        let (phase, seed) = (context.phase, context.seed);
        let (used, order) = batches(name, part.labels, &pass, phase, seed);
        Self {
            name,
            policy: &context.policies[0],
            phase,
            seed,
            constants: Metrics::default(),
            trainer: Trainer::new(
                SinglePolicy::new(context.params, train_head),
                context.communicator,
            ),
            pass,
            loss: part.loss,
            objective: part.objective.map(str::to_string),
            used,
            order,
            first_step: part.first_step,
        }
    }

    /// Trains another policy from here on, as far as metrics go.
    pub(crate) fn rename(&mut self, policy: &'a str) {
        self.policy = policy;
    }

    /// Goes on with another loss and other pairs, against another reference (log π_ref of every pair), and with
    /// a new optimiser.
    pub(crate) fn go_on(&mut self, part: PairPart<'_, L>, reference: LogProbs) {
        self.pass.reference = Cow::Owned(reference);
        (self.used, self.order) =
            batches(self.name, part.labels, &self.pass, self.phase, self.seed);
        self.loss = part.loss;
        self.objective = part.objective.map(str::to_string);
        self.first_step = part.first_step;
        self.trainer.reset();
    }

    /// The policy, with the base's head if none was trained.
    pub(crate) fn params(&self) -> PolicyParams<B::InnerBackend> {
        self.trainer.module().policy(self.pass.base)
    }

    /// Tokens of all training pairs.
    pub(crate) fn n_tokens(&self) -> usize {
        self.pass.pairs.row_lengths().iter().sum()
    }

    /// log π of every pair under the current policy.
    pub(crate) fn log_probs(&self) -> Result<LogProbs> {
        self.pass.log_probs(self.trainer.module(), self.name, self.trainer.communicator())
    }

    /// log π_ref of every pair.
    pub(crate) fn reference(&self) -> &LogProbs {
        &self.pass.reference
    }

    fn key(&self, quantity: Quantity) -> MetricKey {
        match &self.objective {
            Some(objective) => quantity.between(self.policy, objective),
            None => quantity.of(self.policy),
        }
    }
}

/// The pairs with a label, and batches of them.
fn batches<B: FusedAutodiffBackend>(
    name: &str,
    labels: &[Option<f32>],
    pass: &PairPass<'_, B>,
    phase: &PhaseConfig,
    seed: u64,
) -> (Vec<(usize, f32)>, BatchOrder) {
    let used: Vec<(usize, f32)> =
        labels.iter().enumerate().filter_map(|(i, label)| Some((i, (*label)?))).collect();
    let rows: Vec<usize> = used.iter().map(|(i, _)| *i).collect();
    let seed = step_seed(seed, name, 0);
    let order = BatchOrder::of_pairs(pass.pairs, Some(&rows), phase.batch_size, seed);
    (used, order)
}

impl<B: FusedAutodiffBackend, L: PairLoss> PolicyMethod<B> for PairwiseMethod<'_, B, L> {
    fn policies(&self) -> PolicyParams<B::InnerBackend> {
        self.params()
    }
}

impl<B: FusedAutodiffBackend, L: PairLoss> Method for PairwiseMethod<'_, B, L> {
    fn phase(&self) -> &'static str {
        self.name
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let clock = std::time::Instant::now();
        let n_micro = self.phase.gradient_accumulation_steps;
        let micro: Vec<Vec<(usize, f32)>> = self
            .order
            .step(step - self.first_step, n_micro)
            .into_iter()
            .map(|batch| batch.into_iter().map(|at| self.used[at]).collect())
            .collect();
        let mass = 1.0 / micro.iter().map(Vec::len).sum::<usize>() as f64;

        let found = self.trainer.passes(micro.len(), |params, v| {
            B::seed(&self.pass.device, pass_seed(self.seed, self.name, step, v));
            let (loss, sums) = self.pass.loss(&self.loss, params, &micro[v], mass)?;
            Ok((Some(loss), sums))
        })?;
        let sums = PairSums::total(found);
        let norm = self.trainer.step(learning_rate, self.phase.max_grad_norm)?;
        let mut metrics = self.constants.clone();
        for (quantity, value) in [
            (Quantity::LOSS, sums.loss),
            (Quantity::GRADIENT_NORM, norm),
            (Quantity::DECIDED_PAIRS, sums.decided()),
        ] {
            metrics.set(quantity, value);
        }
        metrics.set_trained_tokens(sums.n_tokens, clock.elapsed());
        if sums.n_scored > 0 {
            metrics.set(Quantity::SCORED_TOKENS, sums.n_scored as f64);
        }
        sums.report(|quantity| self.key(quantity), &mut metrics);
        Ok(metrics)
    }

    fn headline(&self, m: &Metrics) -> String {
        let of = |quantity: Quantity| m.get(self.key(quantity));
        let all = |quantity: Quantity| m.get(quantity).unwrap_or(f64::NAN);
        format!(
            "loss {:.4}  accuracy {}  margin {}  |grad| {:.1}  {:.0} tokens/s",
            all(Quantity::LOSS),
            of(Quantity::ACCURACY).map_or("–".into(), |x| format!("{:.0} %", 100.0 * x)),
            of(Quantity::MARGIN).map_or("–".into(), |x| format!("{x:+.2}")),
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
