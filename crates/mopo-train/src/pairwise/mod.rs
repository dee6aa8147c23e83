//! Training of one policy on pairs, for methods whose loss is one on pairs ([`mopo_core::pairwise`]): DPO and its
//! relatives. A method says what the loss is and which pairs it uses; here are the steps.
//!
//! Trains a LoRA adapter, and the output layer only if the configuration asks for it. The reference is
//! the base with the adapter off: there is no second model, and its log-probs are computed before
//! training.

mod rewards;
mod section;
mod target;

use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Tensor};
use mopo_lm::{
    CausalLm, Decoder, LoraAdapter, OutputLayer, PackedBatch, PolicyParams, sequence_log_probs,
};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};

pub(crate) use section::PairSection;
pub use target::Combination;
pub(crate) use target::{PairTarget, check_simplex};

use crate::batches::{BatchOrder, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::config::PhaseConfig;
use crate::fit::Method;
use crate::log_probs::{LogProbs, to_tensor};
use crate::methods::{RunSteps, TrainContext};
use crate::optim::Trainer;
use crate::single::SinglePolicy;
use crate::{Pairs, Progress, Result};
use rewards::Rewards;

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
        fit: &mut RunSteps<'_>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let (pairs, objectives) = (&context.data.train, &context.data.objectives);
        let labels = self.target.labels(objectives, &pairs.rows())?;
        progress.note(&format!("{}: {}", self.name, labels.note));
        let used: Vec<(usize, f32)> = labels
            .indicators
            .into_iter()
            .enumerate()
            .filter_map(|(i, label)| Some((i, label?)))
            .collect();
        let lengths = pairs.row_lengths();
        let mut method = PairwiseMethod {
            loss,
            name: self.phase,
            policy: &context.policies[0],
            base: context.base,
            trainer: Trainer::new(SinglePolicy::new(context.params, self.train_head)),
            order: BatchOrder::new(
                used.iter().map(|(i, _)| lengths[*i]).collect(),
                context.phase.batch_size,
                step_seed(context.seed, self.phase, 0),
            ),
            used,
            phase: context.phase,
            pairs,
            reference_log_probs: context.initial_log_probs,
            seed: context.seed,
            device: context.device.clone(),
        };
        fit(&mut method, progress)?;
        Ok(method.trainer.module().policy(method.base))
    }
}

/// The state of a training.
struct PairwiseMethod<'a, B: FusedAutodiffBackend, L> {
    loss: L,
    /// The phase's name.
    name: &'static str,
    /// The policy's name.
    policy: &'a str,
    /// The frozen base, on the backend with gradients.
    base: &'a CausalLm<B>,
    trainer: Trainer<B, SinglePolicy<B>>,
    /// Pairs with a label, and the label.
    used: Vec<(usize, f32)>,
    /// Batches of indices into `used`.
    order: BatchOrder,
    phase: &'a PhaseConfig,
    pairs: &'a Pairs,
    /// log π_ref of every pair.
    reference_log_probs: &'a LogProbs,
    seed: u64,
    device: B::Device,
}

impl<B: FusedAutodiffBackend, L: PairLoss> PairwiseMethod<'_, B, L> {
    /// What is subtracted from log π, and divided by, for the responses of pair `i`.
    fn scale(&self, i: usize) -> [(f32, f32); 2] {
        let tokens = &self.pairs.tokens[i];
        let reference = match self.loss.has_reference() {
            true => self.reference_log_probs[i],
            false => [0.0; 2],
        };
        let lengths = match self.loss.is_per_token() {
            true => [tokens.first.len() as f32, tokens.second.len() as f32],
            false => [1.0; 2],
        };
        let shift = self.loss.shift(i);
        [0, 1].map(|r| (reference[r] + shift[r], lengths[r]))
    }
}

/// Sums of log π over the decided pairs of a step.
#[derive(Default)]
struct LogProbSums {
    chosen: f64,
    rejected: f64,
}

/// log π of every response of a batch of whole pairs, `[2 n_pairs]`: all first responses, then all second
/// ones.
pub(crate) fn pair_log_probs<B: FusedAutodiffBackend>(
    base: &CausalLm<B>,
    adapter: &LoraAdapter<B>,
    head: &OutputLayer<B>,
    batch: &PackedBatch,
) -> Tensor<B, 1> {
    let hidden = base.hidden_states_packed(&batch.inputs::<B>(&adapter.device()), Some(adapter));
    let responses = [batch.responses_at(0), batch.responses_at(1)].concat();
    sequence_log_probs(hidden, head, batch, &responses)
}

impl<B: FusedAutodiffBackend, L: PairLoss> Method for PairwiseMethod<'_, B, L> {
    fn phase(&self) -> &'static str {
        self.name
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let clock = std::time::Instant::now();
        let n_micro = self.phase.gradient_accumulation_steps;
        B::seed(&self.device, step_seed(self.seed, self.name, step));
        let micro: Vec<Vec<(usize, f32)>> = (0..n_micro)
            .map(|j| self.order.batch(step * n_micro + j))
            .map(|batch| batch.into_iter().map(|at| self.used[at]).collect())
            .collect();
        let n_pairs = micro.iter().map(Vec::len).sum::<usize>();

        let (mut loss_sum, mut n_tokens, mut n_clamped) = (0.0, 0, None);
        let (mut rewards, mut log_probs) = (Rewards::default(), LogProbSums::default());
        for pairs in &micro {
            let n = pairs.len();
            let indices: Vec<usize> = pairs.iter().map(|(i, _)| *i).collect();
            let batch = self.pairs.pack(&indices, &vec![[true, true]; n])?;
            n_tokens += batch.n_tokens();
            let params = self.trainer.module();
            let head = params.head(self.base);
            let found = pair_log_probs(self.base, &params.adapter, &head, &batch);
            let scale: Vec<[(f32, f32); 2]> = indices.iter().map(|&i| self.scale(i)).collect();
            let of = |pick: fn(&(f32, f32)) -> f32| {
                let all = [0, 1].into_iter().flat_map(|r| scale.iter().map(move |s| pick(&s[r])));
                to_tensor::<B>(&all.collect::<Vec<f32>>(), &self.device)
            };
            let values = (found.clone() - of(|s| s.0)) / of(|s| s.1);
            let indicators: Vec<f32> =
                pairs.iter().map(|(_, label)| self.loss.indicator(*label)).collect();
            let loss = self.loss.loss(PairValues {
                first: values.clone().narrow(0, 0, n),
                second: values.clone().narrow(0, n, n),
                indicators: to_tensor(&indicators, &self.device),
                mass: Tensor::full([n], 1.0 / n_pairs as f64, &self.device),
            });
            loss_sum += loss.clone().into_scalar().elem::<f64>();
            let host =
                |tensor: Tensor<B, 1>| tensor.detach().into_data().iter().collect::<Vec<f64>>();
            let (values, found) = (host(values), host(found));
            for (j, (_, label)) in pairs.iter().enumerate() {
                rewards.add(*label, self.loss.reward(values[j]), self.loss.reward(values[n + j]));
                if *label != 0.5 {
                    let (chosen, rejected) = if *label > 0.5 { (j, n + j) } else { (n + j, j) };
                    log_probs.chosen += found[chosen];
                    log_probs.rejected += found[rejected];
                }
            }
            for clamped in values.iter().filter_map(|value| self.loss.is_clamped(*value)) {
                *n_clamped.get_or_insert(0) += usize::from(clamped);
            }
            self.trainer.accumulate(loss);
        }
        let norm = self.trainer.step(learning_rate, self.phase.max_grad_norm);
        let mut metrics = Metrics::from([
            (Quantity::Loss, loss_sum),
            (Quantity::GradientNorm, norm),
            (Quantity::DecidedPairs, rewards.len() as f64 / n_pairs as f64),
            (Quantity::TokensPerSecond, n_tokens as f64 / clock.elapsed().as_secs_f64()),
        ]);
        rewards.report(self.policy, &mut metrics);
        if rewards.len() > 0 {
            let n = rewards.len() as f64;
            metrics.set(Quantity::ChosenLogProb.of(self.policy), log_probs.chosen / n);
            metrics.set(Quantity::RejectedLogProb.of(self.policy), log_probs.rejected / n);
        }
        if let Some(n_clamped) = n_clamped {
            let share = n_clamped as f64 / (2 * n_pairs) as f64;
            metrics.set(Quantity::ClampedResponses.of(self.policy), share);
        }
        Ok(metrics)
    }

    fn headline(&self, m: &Metrics) -> String {
        let of = |quantity: Quantity| m.get(quantity.of(self.policy));
        let all = |quantity: Quantity| m.get(quantity).unwrap_or(f64::NAN);
        format!(
            "loss {:.4}  accuracy {}  margin {}  |grad| {:.1}  {:.0} tokens/s",
            all(Quantity::Loss),
            of(Quantity::Accuracy).map_or("–".into(), |x| format!("{:.0} %", 100.0 * x)),
            of(Quantity::Margin).map_or("–".into(), |x| format!("{x:+.2}")),
            all(Quantity::GradientNorm),
            all(Quantity::TokensPerSecond),
        )
    }

    fn non_finite(&self) -> Option<&'static str> {
        self.trainer.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        Ok(Parts::from([
            ("policy.bin".into(), self.trainer.module_bytes()?),
            ("optimizer.bin".into(), self.trainer.optimizer_bytes()?),
        ]))
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        self.trainer.restore(c.part("policy.bin")?, c.part("optimizer.bin")?, &self.device)
    }
}
