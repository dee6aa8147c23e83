//! SFT: supervised fine-tuning of the whole base model on both responses of every pair, so that the
//! resulting policy is the behaviour policy of the data.

use burn::tensor::ElementConversion;
use mopo_lm::{CausalLm, Decoder, PackedBatch, PackedResponse, sequence_log_probs};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};

use crate::batches::{BatchOrder, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::config::PhaseConfig;
use crate::fit::Method;
use crate::optim::{Trainer, unreadable};
use crate::{Pairs, Result};

pub(crate) const PHASE: &str = "warm_start";

/// The state of SFT.
pub(crate) struct Sft<'a, B: FusedAutodiffBackend> {
    trainer: Trainer<B, CausalLm<B>>,
    pairs: &'a Pairs,
    order: BatchOrder,
    phase: &'a PhaseConfig,
    seed: u64,
    device: B::Device,
}

impl<'a, B: FusedAutodiffBackend> Sft<'a, B> {
    pub(crate) fn new(
        base: CausalLm<B>,
        pairs: &'a Pairs,
        phase: &'a PhaseConfig,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        let order =
            BatchOrder::new(pairs.row_lengths(), phase.batch_size, step_seed(seed, PHASE, 0));
        Self { trainer: Trainer::new(base), pairs, order, phase, seed, device: device.clone() }
    }

    pub(crate) fn model(&self) -> &CausalLm<B> {
        self.trainer.module()
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
            let model = self.trainer.module();
            let hidden = model.hidden_states_packed(&inputs, None);
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
            self.trainer.accumulate(loss);
        }
        let norm = self.trainer.step(learning_rate, self.phase.max_grad_norm);
        Ok(Metrics::from([
            (Quantity::Loss, loss_sum),
            (Quantity::GradientNorm, norm),
            (Quantity::TokensPerSecond, n_tokens as f64 / clock.elapsed().as_secs_f64()),
        ]))
    }

    fn headline(&self, m: &Metrics) -> String {
        let of = |quantity: Quantity| m.get(quantity).unwrap_or(f64::NAN);
        format!(
            "loss {:.3} per token  |grad| {:.2}  {:.0} tokens/s",
            of(Quantity::Loss),
            of(Quantity::GradientNorm),
            of(Quantity::TokensPerSecond)
        )
    }

    fn non_finite(&self) -> Option<&'static str> {
        self.trainer.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        Ok(Parts::from([
            ("base.bin".into(), self.model().to_record_bytes().map_err(unreadable)?),
            ("optimizer.bin".into(), self.trainer.optimizer_bytes()?),
        ]))
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        let (base, device) = (c.part("base.bin")?.to_vec(), &self.device);
        self.trainer.restore_with(c.part("optimizer.bin")?, device, |model| {
            model.load_record_bytes(base, device).map_err(unreadable)
        })
    }
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
