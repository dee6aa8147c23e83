//! SFT: supervised fine-tuning of the whole base model, or of an adapter on it, on both responses of every
//! pair, so that the resulting policy is the behaviour policy of the data.

use burn::tensor::ElementConversion;
use mopo_lm::{CausalLm, Decoder, LoraAdapter, PackedBatch, PackedResponse, sequence_log_probs};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};

use crate::batches::{BatchOrder, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
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
    trained: Trained<B>,
    pairs: &'a Pairs,
    order: BatchOrder,
    phase: &'a PhaseConfig,
    seed: u64,
    device: B::Device,
}

/// What SFT changes.
enum Trained<B: FusedAutodiffBackend> {
    /// All weights.
    Model(Box<Trainer<B, CausalLm<B>>>),
    /// An adapter on the frozen base.
    Adapter { base: Box<CausalLm<B>>, trainer: Box<Trainer<B, LoraAdapter<B>>> },
}

impl<'a, B: FusedAutodiffBackend> Sft<'a, B> {
    /// Of all weights.
    pub(crate) fn new(
        base: CausalLm<B>,
        pairs: &'a Pairs,
        phase: &'a PhaseConfig,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        Self::with(Trained::Model(Trainer::new(base).into()), pairs, phase, seed, device)
    }

    /// Of an adapter on a frozen base.
    pub(crate) fn of_adapter(
        base: CausalLm<B>,
        adapter: LoraAdapter<B>,
        pairs: &'a Pairs,
        phase: &'a PhaseConfig,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        let trained = Trained::Adapter { base: base.into(), trainer: Trainer::new(adapter).into() };
        Self::with(trained, pairs, phase, seed, device)
    }

    fn with(
        trained: Trained<B>,
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

impl<B: FusedAutodiffBackend> Method for Sft<'_, B> {
    fn phase(&self) -> &'static str {
        PHASE
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let clock = std::time::Instant::now();
        B::seed(&self.device, step_seed(self.seed, PHASE, step));
        let (mut loss_sum, mut n_tokens) = (0.0, 0);
        for j in 0..self.phase.gradient_accumulation_steps {
            let indices = self.order.batch(step * self.phase.gradient_accumulation_steps + j);
            let mut batch = self.pairs.pack(&indices, &vec![[true, true]; indices.len()])?;
            let n_responses = batch.responses.len();
            if self.phase.prompt_weight > 0.0 {
                add_prompts(&mut batch);
            }
            n_tokens += batch.n_tokens();
            let inputs = batch.inputs::<B>(&self.device);
            let model = self.model();
            let hidden = model.hidden_states_packed(&inputs, self.adapter());
            let responses: Vec<usize> = (0..batch.responses.len()).collect();
            let log_probs = sequence_log_probs(hidden, &model.lm_head(), &batch, &responses);
            let responses = log_probs.clone().narrow(0, 0, n_responses).sum();
            let targets = |t: &[PackedResponse]| t.iter().map(|t| t.targets.len()).sum::<usize>();
            let mut weight = targets(&batch.responses[..n_responses]) as f64;
            let mut total = responses;
            if batch.responses.len() > n_responses {
                let prompts =
                    log_probs.narrow(0, n_responses, batch.responses.len() - n_responses).sum();
                total = total + prompts.mul_scalar(self.phase.prompt_weight);
                weight +=
                    self.phase.prompt_weight * targets(&batch.responses[n_responses..]) as f64;
            }
            // Mean over tokens, so that the learning rate does not depend on their number.
            let loss =
                total.neg().div_scalar(weight * self.phase.gradient_accumulation_steps as f64);
            loss_sum += loss.clone().into_scalar().elem::<f64>();
            match &mut self.trained {
                Trained::Model(trainer) => trainer.accumulate(loss),
                Trained::Adapter { trainer, .. } => trainer.accumulate(loss),
            }
        }
        let clip = self.phase.max_grad_norm;
        let norm = match &mut self.trained {
            Trained::Model(trainer) => trainer.step(learning_rate, clip),
            Trained::Adapter { trainer, .. } => trainer.step(learning_rate, clip),
        };
        let mut metrics =
            Metrics::from([(Quantity::Loss, loss_sum), (Quantity::GradientNorm, norm)]);
        metrics.set_trained_tokens(n_tokens, clock.elapsed());
        Ok(metrics)
    }

    fn headline(&self, m: &Metrics) -> String {
        headline(m)
    }

    fn non_finite(&self) -> Option<&'static str> {
        match &self.trained {
            Trained::Model(trainer) => trainer.non_finite(),
            Trained::Adapter { trainer, .. } => trainer.non_finite(),
        }
    }

    fn save(&self) -> Result<Parts> {
        Ok(match &self.trained {
            Trained::Model(trainer) => Parts::from([
                ("base.bin".into(), self.model().to_record_bytes().map_err(unreadable)?),
                (OPTIMIZER.into(), trainer.optimizer_bytes()?),
            ]),
            Trained::Adapter { trainer, .. } => Parts::from([
                (ADAPTER.into(), trainer.module_bytes()?),
                (OPTIMIZER.into(), trainer.optimizer_bytes()?),
            ]),
        })
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
        of(Quantity::Loss),
        of(Quantity::GradientNorm),
        of(Quantity::TokensPerSecond)
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
