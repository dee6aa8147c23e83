//! Supervised steps on responses whose prompts were told something.

use burn::tensor::ElementConversion;
use mopo_data::Tokenizer;
use mopo_lm::{CausalLm, Decoder, PackedBatch, PolicyParams, sequence_log_probs};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};

use crate::batches::{BatchOrder, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::config::PhaseConfig;
use crate::fit::Method;
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
pub(crate) struct ConditionedTraining<R> {
    /// The method's phase.
    pub(crate) phase: &'static str,
    /// Whether the output layer is trained with the adapter.
    pub(crate) train_head: bool,
    /// The rows of a pair, by its index among the training pairs, in a step.
    pub(crate) rows: R,
}

impl<R: Fn(usize, usize) -> [Told; 2]> ConditionedTraining<R> {
    /// Trains the policy to the end. The run's data must have its records.
    ///
    /// # Errors
    /// Those of steps and of `fit`.
    pub(crate) fn run<B: FusedAutodiffBackend>(
        self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let order = BatchOrder::new(
            context.data.train.row_lengths(),
            context.phase.batch_size,
            step_seed(context.seed, self.phase, 0),
        );
        let mut method = Conditioned {
            rows: self.rows,
            name: self.phase,
            base: context.base,
            trainer: Trainer::new(SinglePolicy::new(context.params, self.train_head)),
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
    name: &'static str,
    base: &'a CausalLm<B>,
    trainer: Trainer<B, SinglePolicy<B>>,
    order: BatchOrder,
    phase: &'a PhaseConfig,
    data: &'a RunData,
    seed: u64,
    device: B::Device,
}

impl<B: FusedAutodiffBackend, R: Fn(usize, usize) -> [Told; 2]> Conditioned<'_, B, R> {
    /// The rows of some pairs, packed; prompts are cut at the left to the limit, which keeps what they are told.
    fn pack(&self, pairs: &[usize], step: usize) -> Result<PackedBatch> {
        let tokenizer: &Tokenizer = &self.data.tokenizer;
        let mut rows: Vec<(Vec<u32>, &[u32])> = Vec::with_capacity(2 * pairs.len());
        for &i in pairs {
            let tokens = &self.data.train.tokens[i];
            for Told { response, note } in (self.rows)(i, step) {
                let record = self.data.train_records[i].with_note(&note);
                let (prompt, _) =
                    tokenizer.encode_prompt_of(&record, self.data.max_prompt_tokens)?;
                rows.push((prompt, if response == 0 { &tokens.first } else { &tokens.second }));
            }
        }
        let parts: Vec<_> = rows
            .iter()
            .map(|(prompt, response)| ([prompt.as_slice(), *response, &[][..]], [true, false]))
            .collect();
        Ok(PackedBatch::pack(&parts)?)
    }
}

impl<B: FusedAutodiffBackend, R: Fn(usize, usize) -> [Told; 2]> Method for Conditioned<'_, B, R> {
    fn phase(&self) -> &'static str {
        self.name
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let clock = std::time::Instant::now();
        let n_micro = self.phase.gradient_accumulation_steps;
        B::seed(&self.device, step_seed(self.seed, self.name, step));
        let (mut loss_sum, mut n_tokens) = (0.0, 0);
        for j in 0..n_micro {
            let pairs = self.order.batch(step * n_micro + j);
            let batch = self.pack(&pairs, step)?;
            n_tokens += batch.n_tokens();
            let params = self.trainer.module();
            let head = params.head(self.base);
            let inputs = batch.inputs::<B>(&self.device);
            let hidden = self.base.hidden_states_packed(&inputs, Some(&params.adapter));
            let responses: Vec<usize> = (0..batch.responses.len()).collect();
            let log_probs = sequence_log_probs(hidden, &head, &batch, &responses);
            let n_targets: usize = batch.responses.iter().map(|t| t.targets.len()).sum();
            // Mean over tokens, as in SFT.
            let loss = log_probs.sum().neg().div_scalar((n_targets * n_micro) as f64);
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
        sft::headline(m)
    }

    fn non_finite(&self) -> Option<&'static str> {
        self.trainer.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        self.trainer.parts()
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        self.trainer.restore_parts(c, &self.device)
    }
}
