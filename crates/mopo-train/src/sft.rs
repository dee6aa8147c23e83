//! SFT: supervised fine-tuning of the whole base model, or of an adapter on it, on both responses of every
//! pair, so that the resulting policy is the behaviour policy of the data.

use burn::tensor::{ElementConversion, Tensor};
use mopo_lm::{CausalLm, Decoder, LoraAdapter, PackedBatch, PackedResponse, sequence_log_probs};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};

use crate::batches::{BatchOrder, pass_seed, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::communicator::Communicator;
use crate::config::PhaseConfig;
use crate::fit::Method;
use crate::optim::{Trainer, unreadable};
use crate::{Pairs, Result};

pub(crate) const PHASE: &str = "warm_start";
/// Parts of a checkpoint.
const OPTIMIZER: &str = "optimizer.bin";
const ADAPTER: &str = "adapter.bin";

/// The state of SFT.
pub(crate) struct Sft<'a, B: FusedAutodiffBackend> {
    trained: Trained<'a, B>,
    pairs: &'a Pairs,
    order: BatchOrder,
    phase: &'a PhaseConfig,
    seed: u64,
    device: B::Device,
}

/// What SFT changes.
enum Trained<'a, B: FusedAutodiffBackend> {
    /// All weights.
    Model(Box<Trainer<'a, B, CausalLm<B>>>),
    /// An adapter on the frozen base.
    Adapter { base: Box<CausalLm<B>>, trainer: Box<Trainer<'a, B, LoraAdapter<B>>> },
}

impl<'a, B: FusedAutodiffBackend> Sft<'a, B> {
    /// Of all weights.
    pub(crate) fn new(
        base: CausalLm<B>,
        pairs: &'a Pairs,
        phase: &'a PhaseConfig,
        seed: u64,
        communicator: &'a dyn Communicator,
        device: &B::Device,
    ) -> Self {
        let trainer = Trainer::new(base, communicator);
        Self::with(Trained::Model(trainer.into()), pairs, phase, seed, device)
    }

    /// Of an adapter on a frozen base.
    pub(crate) fn of_adapter(
        base: CausalLm<B>,
        adapter: LoraAdapter<B>,
        pairs: &'a Pairs,
        phase: &'a PhaseConfig,
        seed: u64,
        communicator: &'a dyn Communicator,
        device: &B::Device,
    ) -> Self {
        let trainer = Trainer::new(adapter, communicator);
        let trained = Trained::Adapter { base: base.into(), trainer: trainer.into() };
        Self::with(trained, pairs, phase, seed, device)
    }

    fn with(
        trained: Trained<'a, B>,
        pairs: &'a Pairs,
        phase: &'a PhaseConfig,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        let order = BatchOrder::of_pairs(pairs, None, phase.batch_size, step_seed(seed, PHASE, 0));
        Self { trained, pairs, order, phase, seed, device: device.clone() }
    }

    /// The model with all that was trained so far.
    pub(crate) fn model(&self) -> &CausalLm<B> {
        match &self.trained {
            Trained::Model(trainer) => trainer.module(),
            Trained::Adapter { base, .. } => base,
        }
    }

    /// The adapter, if one is trained.
    pub(crate) fn adapter(&self) -> Option<&LoraAdapter<B>> {
        match &self.trained {
            Trained::Model(_) => None,
            Trained::Adapter { trainer, .. } => Some(trainer.module()),
        }
    }
}

/// What a pass is made with, besides the parameters.
struct Pass<'a, B: FusedAutodiffBackend> {
    pairs: &'a Pairs,
    phase: &'a PhaseConfig,
    device: &'a B::Device,
}

/// A loss to differentiate; its value, and the number of tokens.
type PassLoss<B> = (Option<Tensor<B, 1>>, (f64, usize));

impl<B: FusedAutodiffBackend> Pass<'_, B> {
    /// Mean over tokens, so that the learning rate does not depend on their number.
    fn loss(
        &self,
        model: &CausalLm<B>,
        adapter: Option<&LoraAdapter<B>>,
        indices: &[usize],
    ) -> Result<PassLoss<B>> {
        let mut batch = self.pairs.pack(indices, &vec![[true, true]; indices.len()])?;
        let n_responses = batch.responses.len();
        if self.phase.prompt_weight > 0.0 {
            add_prompts(&mut batch);
        }
        let hidden = model.hidden_states_packed(&batch.inputs::<B>(self.device), adapter);
        let responses: Vec<usize> = (0..batch.responses.len()).collect();
        let log_probs = sequence_log_probs(hidden, &model.lm_head(), &batch, &responses);
        let targets = |t: &[PackedResponse]| t.iter().map(|t| t.targets.len()).sum::<usize>();
        let mut total = log_probs.clone().narrow(0, 0, n_responses).sum();
        let mut weight = targets(&batch.responses[..n_responses]) as f64;
        if batch.responses.len() > n_responses {
            let prompts =
                log_probs.narrow(0, n_responses, batch.responses.len() - n_responses).sum();
            total = total + prompts.mul_scalar(self.phase.prompt_weight);
            weight += self.phase.prompt_weight * targets(&batch.responses[n_responses..]) as f64;
        }
        let loss = total.neg().div_scalar(weight * self.phase.gradient_accumulation_steps as f64);
        let value = loss.clone().into_scalar().elem::<f64>();
        Ok((Some(loss), (value, batch.n_tokens())))
    }
}

impl<B: FusedAutodiffBackend> Method for Sft<'_, B> {
    fn phase(&self) -> &'static str {
        PHASE
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let clock = std::time::Instant::now();
        let micro = self.order.step(step, self.phase.gradient_accumulation_steps);
        let pass = Pass { pairs: self.pairs, phase: self.phase, device: &self.device };
        let seed = |v| pass_seed(self.seed, PHASE, step, v);
        let clip = self.phase.max_grad_norm;
        let (found, norm) = match &mut self.trained {
            Trained::Model(trainer) => {
                let found = trainer.passes(micro.len(), |model, v| {
                    B::seed(&self.device, seed(v));
                    pass.loss(model, None, &micro[v])
                });
                (found?, trainer.step(learning_rate, clip)?)
            }
            Trained::Adapter { base, trainer } => {
                let found = trainer.passes(micro.len(), |adapter, v| {
                    B::seed(&self.device, seed(v));
                    pass.loss(base, Some(adapter), &micro[v])
                });
                (found?, trainer.step(learning_rate, clip)?)
            }
        };
        let loss = found.iter().map(|(loss, _)| loss).sum();
        let n_tokens = found.iter().map(|(_, n)| n).sum();
        let mut metrics = Metrics::from([(Quantity::LOSS, loss), (Quantity::GRADIENT_NORM, norm)]);
        metrics.set_trained_tokens(n_tokens, clock.elapsed());
        Ok(metrics)
    }

    fn headline(&self, m: &Metrics) -> String {
        headline(m)
    }

    fn non_finite(&self) -> Result<Option<&'static str>> {
        match &self.trained {
            Trained::Model(trainer) => trainer.non_finite(),
            Trained::Adapter { trainer, .. } => trainer.non_finite(),
        }
    }

    fn save(&self) -> Result<Parts> {
        let (communicator, optimizer) = match &self.trained {
            Trained::Model(trainer) => (trainer.communicator(), trainer.optimizer_bytes()?),
            Trained::Adapter { trainer, .. } => {
                (trainer.communicator(), trainer.optimizer_bytes()?)
            }
        };
        if !communicator.is_first() {
            return Ok(Parts::new());
        }
        let (name, bytes) = match &self.trained {
            Trained::Model(_) => ("base.bin", self.model().to_record_bytes().map_err(unreadable)?),
            Trained::Adapter { trainer, .. } => (ADAPTER, trainer.module_bytes()?),
        };
        Ok(Parts::from([(name.into(), bytes), (OPTIMIZER.into(), optimizer)]))
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        let (optimizer, device) = (c.part(OPTIMIZER)?, &self.device);
        match &mut self.trained {
            Trained::Model(trainer) => {
                let base = c.part("base.bin")?.to_vec();
                trainer.restore_with(optimizer, device, |model| {
                    model.load_record_bytes(base, device).map_err(unreadable)
                })
            }
            Trained::Adapter { trainer, .. } => {
                trainer.restore(c.part(ADAPTER)?, optimizer, device)
            }
        }
    }
}

/// A step of supervised training in a line.
pub(crate) fn headline(m: &Metrics) -> String {
    let of = |quantity: Quantity| m.get(quantity).unwrap_or(f64::NAN);
    format!(
        "loss {:.3} per token  |grad| {:.2}  {:.0} tokens/s",
        of(Quantity::LOSS),
        of(Quantity::GRADIENT_NORM),
        of(Quantity::TOKENS_PER_SECOND)
    )
}

/// Adds one sequence per row: the prompt's own tokens, each predicted from the one before.
fn add_prompts(batch: &mut PackedBatch) {
    for (row, packed) in batch.rows.rows().iter().enumerate() {
        let (at, n) = (packed.start, packed.prompt);
        if n < 2 {
            continue;
        }
        batch.responses.push(PackedResponse {
            pair: row,
            in_pair: 2,
            predictors: (at..at + n - 1).map(|i| i as i32).collect(),
            targets: batch.ids[at + 1..at + n].to_vec(),
        });
    }
}
