//! Supervised steps on responses whose prompts were told something.

use burn::module::AutodiffModule;
use burn::tensor::ElementConversion;
use mopo_lm::{CausalLm, Decoder, PackedBatch, PolicyParams, sequence_log_probs};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};

use super::online::{Kept, Online};
use crate::batches::{BatchOrder, pass_seed, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::config::PhaseConfig;
use crate::fit::{Method, PolicyMethod};
use crate::methods::{RunSteps, TrainContext};
use crate::optim::Trainer;
use crate::single::SinglePolicy;
use crate::{Progress, Result, RunData, sft};

/// One training row: a response of a pair, 0 or 1, and what its prompt is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) response: usize,
    pub(crate) note: String,
}

/// Training of one policy on rows that a method makes of the pairs: two of each pair in every epoch, so that the
/// budget is that of methods on pairs.
pub(crate) struct ConditionedTraining<'a, R> {
    /// The method's phase.
    pub(crate) phase: &'static str,
    /// Whether the output layer is trained with the adapter.
    pub(crate) train_head: bool,
    /// The rows of a pair, by its index among the training pairs, in a step.
    pub(crate) rows: R,
    /// Rounds on its own answers, at the end.
    pub(crate) online: Option<Online<'a>>,
}

impl<R: Fn(usize, usize) -> [Told; 2]> ConditionedTraining<'_, R> {
    /// Trains the policy to the end. The run's data must have its records.
    ///
    /// # Errors
    /// Those of steps and of `fit`.
    pub(crate) fn run<B: FusedAutodiffBackend>(
        self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let order = BatchOrder::of_pairs(
            &context.data.train,
            None,
            context.phase.batch_size,
            step_seed(context.seed, self.phase, 0),
        );
        let mut method = Conditioned {
            rows: self.rows,
            online: self.online,
            frozen: context.base.valid(),
            name: self.phase,
            base: context.base,
            trainer: Trainer::new(
                SinglePolicy::new(context.params, self.train_head),
                context.communicator,
            ),
            order,
            phase: context.phase,
            data: context.data,
            seed: context.seed,
            device: context.device.clone(),
        };
        fit(&mut method, progress)?;
        Ok(method.trainer.module().policy(method.base))
    }
}

/// The state of a training.
struct Conditioned<'a, B: FusedAutodiffBackend, R> {
    rows: R,
    online: Option<Online<'a>>,
    name: &'static str,
    base: &'a CausalLm<B>,
    /// The same without gradients.
    frozen: CausalLm<B::InnerBackend>,
    trainer: Trainer<'a, B, SinglePolicy<B>>,
    order: BatchOrder,
    phase: &'a PhaseConfig,
    data: &'a RunData,
    seed: u64,
    device: B::Device,
}

/// Where a step's rows come from.
struct StepRows<'a, R> {
    rows: &'a R,
    online: Option<&'a Online<'a>>,
    data: &'a RunData,
}

impl<R: Fn(usize, usize) -> [Told; 2]> StepRows<'_, R> {
    /// The rows of some pairs, or as many of its own answers, packed; prompts are cut at the left to the limit, and
    /// what they are told comes on top of it.
    fn pack(&self, pairs: &[usize], step: usize, own: Option<usize>) -> Result<PackedBatch> {
        let mut rows: Vec<(Vec<u32>, &[u32])> = Vec::with_capacity(2 * pairs.len());
        let of_pairs;
        match (own, self.online) {
            (Some(batch), Some(online)) => {
                for Kept { prompt, note, ids } in online.rows(step, batch, 2 * pairs.len()) {
                    rows.push((self.data.prompt_with(*prompt, note)?, ids));
                }
            }
            _ => {
                let tokens = pairs.iter().map(|&i| self.data.train.tokens.get(i));
                of_pairs = tokens.collect::<Result<Vec<_>>>()?;
                for (&i, tokens) in pairs.iter().zip(&of_pairs) {
                    for Told { response, note } in (self.rows)(i, step) {
                        let response = if response == 0 { &tokens.first } else { &tokens.second };
                        rows.push((self.data.pair_prompt_with(i, &note)?, response));
                    }
                }
            }
        }
        let parts: Vec<_> = rows
            .iter()
            .map(|(prompt, response)| ([prompt.as_slice(), *response, &[][..]], [true, false]))
            .collect();
        Ok(PackedBatch::pack(&parts)?)
    }
}

impl<B: FusedAutodiffBackend, R: Fn(usize, usize) -> [Told; 2]> PolicyMethod<B>
    for Conditioned<'_, B, R>
{
    fn policies(&self) -> PolicyParams<B::InnerBackend> {
        self.trainer.module().policy(self.base)
    }

    /// Within the last online round.
    fn compared_after(&self) -> usize {
        self.online.as_ref().map_or(0, Online::last_round)
    }
}

impl<B: FusedAutodiffBackend, R: Fn(usize, usize) -> [Told; 2]> Method for Conditioned<'_, B, R> {
    fn phase(&self) -> &'static str {
        self.name
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let clock = std::time::Instant::now();
        let n_micro = self.phase.gradient_accumulation_steps;
        let mut metrics = Metrics::default();
        let (trainer, base, data) = (&self.trainer, self.base, self.data);
        let is_own = match &mut self.online {
            None => false,
            Some(online) => {
                let policy = || trainer.module().policy(base);
                let communicator = trainer.communicator();
                online.begin(
                    step,
                    &self.frozen,
                    policy,
                    data,
                    &self.device,
                    communicator,
                    &mut metrics,
                )?
            }
        };
        let micro = self.order.step(step, n_micro);
        let rows = StepRows { rows: &self.rows, online: self.online.as_ref(), data: self.data };
        let found = self.trainer.passes(n_micro, |params, j| {
            B::seed(&self.device, pass_seed(self.seed, self.name, step, j));
            let batch = rows.pack(&micro[j], step, is_own.then_some(j))?;
            let head = params.head(self.base);
            let inputs = batch.inputs::<B>(&self.device);
            let hidden = self.base.hidden_states_packed(&inputs, Some(&params.adapter));
            let responses: Vec<usize> = (0..batch.responses.len()).collect();
            let log_probs = sequence_log_probs(hidden, &head, &batch, &responses);
            let n_targets: usize = batch.responses.iter().map(|t| t.targets.len()).sum();
            // Mean over tokens, as in SFT.
            let loss = log_probs.sum().neg().div_scalar((n_targets * n_micro) as f64);
            let value = loss.clone().into_scalar().elem::<f64>();
            Ok((Some(loss), (value, batch.n_tokens())))
        })?;
        let norm = self.trainer.step(learning_rate, self.phase.max_grad_norm)?;
        let n_tokens = found.iter().map(|(_, n)| n).sum();
        metrics.set(Quantity::LOSS, found.iter().map(|(loss, _)| loss).sum());
        metrics.set(Quantity::GRADIENT_NORM, norm);
        metrics.set_trained_tokens(n_tokens, clock.elapsed());
        Ok(metrics)
    }

    fn headline(&self, m: &Metrics) -> String {
        sft::headline(m)
    }

    fn non_finite(&self) -> Result<Option<&'static str>> {
        self.trainer.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        let mut parts = self.trainer.parts()?;
        if let Some(online) = &self.online {
            online.save(&mut parts)?;
        }
        Ok(parts)
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        if let Some(online) = &mut self.online {
            online.load(c)?;
        }
        self.trainer.restore_parts(c, &self.device)
    }
}
