//! DPO: one policy, trained on the labels of one objective against the frozen base (Rafailov et
//! al., 2023, equation 7; docs/methods/dpo.md). The baseline of every comparison.
//!
//! Trains a LoRA adapter, and the output layer only if the configuration asks for
//! it. The reference is the base with the adapter off: there is no second model, and its log-probs
//! are
//! computed before training. The loss itself is [`mopo_core::dpo`].

use burn::module::{AutodiffModule, Module};
use burn::tensor::{ElementConversion, Tensor};
use mopo_core::IndicatorEstimator;
use mopo_core::dpo::dpo_loss;
use mopo_lm::{
    CausalLm, Decoder, LoraAdapter, OutputLayer, PackedBatch, PolicyHeads, PolicyParams,
    sequence_log_probs,
};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};
use serde::{Deserialize, Serialize};

use super::{MethodSection, RunSteps, Task};
use crate::batches::{BatchOrder, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::config::{PhaseConfig, ranges};
use crate::fit::Method;
use crate::log_probs::{LogProbs, to_tensor};
use crate::optim::Trainer;
use crate::{Error, Pairs, Progress, Result};

const PHASE: &str = "dpo";

/// DPO with one objective against the frozen base ([`mopo_core::dpo`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpoConfig {
    /// The objective whose labels are learned; `policies` must name only it.
    pub objective: String,
    /// β > 0, strength of the KL term (the field's usual value: 0.1).
    pub beta: f64,
    /// Probability that a label is wrong, in [0, 0.5): I becomes (1 − ε) I + ε (1 − I), as in
    /// conservative DPO. 0 takes labels as they are.
    pub label_smoothing: f64,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

impl DpoConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Config`] names the key, its value and the accepted values.
    pub fn check(&self) -> Result<()> {
        let fail = |message| Err(Error::Config { origin: "`[dpo]`".into(), message });
        ranges::positive("dpo.beta", self.beta).or_else(fail)?;
        if !(0.0..0.5).contains(&self.label_smoothing) {
            return fail(format!(
                "`dpo.label_smoothing` is {}; it must lie in [0, 0.5): at 0.5 and above nothing is \
                 preferred",
                self.label_smoothing
            ));
        }
        Ok(())
    }
}

impl MethodSection for DpoConfig {
    const PHASE: &'static str = PHASE;

    fn check_section(&self, policies: &[String]) -> Result<()> {
        self.check()?;
        if policies != [self.objective.clone()] {
            return Err(Error::Config {
                origin: "`[dpo]`".into(),
                message: format!(
                    "`policies` is {policies:?}, but DPO trains one policy, that of `dpo.objective`: \
                     write policies = [{:?}]",
                    self.objective
                ),
            });
        }
        Ok(())
    }

    /// DPO uses each pair as labelled.
    fn estimator(&self) -> IndicatorEstimator {
        IndicatorEstimator::Pair
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        task: Task<'_, B>,
        fit: &mut RunSteps<'_>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let setup = Setup {
            config: self,
            phase: task.phase,
            objective: task.primaries[0],
            pairs: &task.data.train,
            reference_log_probs: task.initial_log_probs,
            seed: task.seed,
        };
        let mut method = Dpo::new(task.base, task.params, setup, task.device);
        progress.note(&format!(
            "DPO on `{}`: {} of {} pairs have its label; the others are skipped",
            self.objective,
            method.labelled.len(),
            task.data.train.len()
        ));
        fit(&mut method, progress)?;
        Ok(method.params())
    }
}

/// The parameters that DPO trains.
#[derive(Module, Debug)]
struct DpoParams<B: burn::tensor::backend::Backend> {
    adapter: LoraAdapter<B>,
    /// `None`: the base's own output layer, frozen.
    head: Option<OutputLayer<B>>,
}

/// The state of a DPO run.
struct Dpo<'a, B: FusedAutodiffBackend> {
    /// The frozen base, on the backend with gradients.
    base: &'a CausalLm<B>,
    trainer: Trainer<B, DpoParams<B>>,
    setup: Setup<'a>,
    /// Indices of the pairs with a label of the objective.
    labelled: Vec<usize>,
    /// Batches of indices into `labelled`.
    order: BatchOrder,
    device: B::Device,
}

/// The setup of a DPO run.
#[derive(Clone, Copy)]
struct Setup<'a> {
    config: &'a DpoConfig,
    phase: &'a PhaseConfig,
    /// The objective's index.
    objective: usize,
    /// With indicators as labelled; at least one pair has a label of the objective.
    pairs: &'a Pairs,
    /// log π_ref of every pair.
    reference_log_probs: &'a LogProbs,
    seed: u64,
}

/// Sums of rewards β log(π/π_ref) over the decided pairs of a step.
#[derive(Default)]
struct Rewards {
    chosen: f64,
    rejected: f64,
    right: f64,
    n: usize,
}

impl Rewards {
    /// Adds a pair; ties are ignored. `first` and `second` are log(π/π_ref).
    fn add(&mut self, indicator: f32, first: f64, second: f64, beta: f64) {
        if indicator == 0.5 {
            return;
        }
        let (chosen, rejected) = if indicator > 0.5 { (first, second) } else { (second, first) };
        self.chosen += beta * chosen;
        self.rejected += beta * rejected;
        self.right += match chosen.total_cmp(&rejected) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        self.n += 1;
    }

    /// Means under the policy's name; none if no pair was decided.
    fn report(&self, policy: &str, metrics: &mut Metrics) {
        if self.n == 0 {
            return;
        }
        let n = self.n as f64;
        for (quantity, value) in [
            (Quantity::Accuracy, self.right / n),
            (Quantity::Margin, (self.chosen - self.rejected) / n),
            (Quantity::ChosenReward, self.chosen / n),
            (Quantity::RejectedReward, self.rejected / n),
        ] {
            metrics.set(quantity.of(policy), value);
        }
    }
}

impl<'a, B: FusedAutodiffBackend> Dpo<'a, B> {
    /// `params`: one policy that equals the base.
    fn new(
        base: &'a CausalLm<B>,
        params: PolicyParams<B>,
        setup: Setup<'a>,
        device: &B::Device,
    ) -> Self {
        let PolicyParams { adapter, heads } = params;
        let head = heads.heads.into_iter().next().filter(|_| setup.config.train_head);
        let labelled = labelled(setup.pairs, setup.objective);
        let lengths = setup.pairs.row_lengths();
        Self {
            base,
            trainer: Trainer::new(DpoParams { adapter, head }),
            order: BatchOrder::new(
                labelled.iter().map(|&i| lengths[i]).collect(),
                setup.phase.batch_size,
                step_seed(setup.seed, PHASE, 0),
            ),
            labelled,
            setup,
            device: device.clone(),
        }
    }

    /// Adapter and head as one policy; the head is the base's if it was not trained.
    fn params(&self) -> PolicyParams<B::InnerBackend> {
        let DpoParams { adapter, head } = self.trainer.module().valid();
        let heads = match head {
            Some(head) => PolicyHeads { heads: vec![head] },
            None => PolicyHeads::from_base(&self.base.lm_head().valid(), 1),
        };
        PolicyParams { adapter, heads }
    }

    /// I of pair `i`, as labelled.
    fn label(&self, i: usize) -> f32 {
        self.setup.pairs.labels[i][0][self.setup.objective].expect("only labelled pairs are drawn")
    }
}

/// log(π/π_ref) of every response of a batch of whole pairs, `[2 n_pairs]`: all first responses, then
/// all second ones. `reference` has log π_ref of each pair.
pub(crate) fn log_ratios<B: FusedAutodiffBackend>(
    base: &CausalLm<B>,
    adapter: &LoraAdapter<B>,
    head: &OutputLayer<B>,
    batch: &PackedBatch,
    reference: impl Iterator<Item = [f32; 2]> + Clone,
) -> Tensor<B, 1> {
    let device = adapter.device();
    let hidden = base.hidden_states_packed(&batch.inputs::<B>(&device), Some(adapter));
    let responses = [batch.responses_at(0), batch.responses_at(1)].concat();
    let log_probs = sequence_log_probs(hidden, head, batch, &responses);
    let reference: Vec<f32> =
        [0, 1].into_iter().flat_map(|i| reference.clone().map(move |of| of[i])).collect();
    log_probs - to_tensor(&reference, &device)
}

/// The pairs with a label of an objective.
fn labelled(pairs: &Pairs, objective: usize) -> Vec<usize> {
    (0..pairs.len()).filter(|&i| pairs.labels[i][0][objective].is_some()).collect()
}

impl<B: FusedAutodiffBackend> Method for Dpo<'_, B> {
    fn phase(&self) -> &'static str {
        PHASE
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let clock = std::time::Instant::now();
        let Setup { config, phase, pairs, reference_log_probs, .. } = self.setup;
        B::seed(&self.device, step_seed(self.setup.seed, PHASE, step));
        let micro: Vec<Vec<usize>> = (0..phase.gradient_accumulation_steps)
            .map(|j| self.order.batch(step * phase.gradient_accumulation_steps + j))
            .map(|batch| batch.into_iter().map(|at| self.labelled[at]).collect())
            .collect();
        let n_pairs = micro.iter().map(Vec::len).sum::<usize>();

        let (mut loss_sum, mut n_tokens) = (0.0, 0);
        let mut rewards = Rewards::default();
        for indices in &micro {
            let n = indices.len();
            let batch = pairs.pack(indices, &vec![[true, true]; n])?;
            n_tokens += batch.n_tokens();
            let params = self.trainer.module();
            let head = params.head.clone().unwrap_or_else(|| self.base.lm_head());
            let log_ratio = log_ratios(
                self.base,
                &params.adapter,
                &head,
                &batch,
                indices.iter().map(|&i| reference_log_probs[i]),
            );

            let labels: Vec<f32> = indices.iter().map(|&i| self.label(i)).collect();
            let smooth = config.label_smoothing as f32;
            let soft: Vec<f32> =
                labels.iter().map(|l| (1.0 - smooth) * l + smooth * (1.0 - l)).collect();
            let loss = dpo_loss(
                log_ratio.clone().narrow(0, 0, n),
                log_ratio.clone().narrow(0, n, n),
                to_tensor(&soft, &self.device),
                Tensor::full([n], 1.0 / n_pairs as f64, &self.device),
                config.beta,
            );
            loss_sum += loss.clone().into_scalar().elem::<f64>();
            let log_ratio: Vec<f64> = log_ratio.detach().into_data().iter().collect();
            for (j, label) in labels.iter().enumerate() {
                rewards.add(*label, log_ratio[j], log_ratio[n + j], config.beta);
            }
            self.trainer.accumulate(loss);
        }
        let norm = self.trainer.step(learning_rate, phase.max_grad_norm);
        let mut metrics = Metrics::from([
            (Quantity::Loss, loss_sum),
            (Quantity::GradientNorm, norm),
            (Quantity::DecidedPairs, rewards.n as f64 / n_pairs as f64),
            (Quantity::TokensPerSecond, n_tokens as f64 / clock.elapsed().as_secs_f64()),
        ]);
        rewards.report(&config.objective, &mut metrics);
        Ok(metrics)
    }

    fn headline(&self, m: &Metrics) -> String {
        let of = |quantity: Quantity| m.get(quantity.of(&self.setup.config.objective));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_are_those_of_the_preferred_response_and_ties_say_nothing() {
        let mut rewards = Rewards::default();
        rewards.add(1.0, 3.0, 1.0, 0.1); // first preferred and ahead
        rewards.add(0.0, 4.0, -2.0, 0.1); // second preferred and behind
        rewards.add(0.9, 2.0, 2.0, 0.1); // neither is ahead
        rewards.add(0.5, 9.0, -9.0, 0.1); // a tie
        let mut metrics = Metrics::default();
        rewards.report("helpful", &mut metrics);
        for (name, expected) in [
            (Quantity::Accuracy, 0.5),
            (Quantity::ChosenReward, 0.1 * (3.0 - 2.0 + 2.0) / 3.0),
            (Quantity::RejectedReward, 0.1 * (1.0 + 4.0 + 2.0) / 3.0),
            (Quantity::Margin, 0.1 * (2.0 - 6.0) / 3.0),
        ] {
            let found = metrics.get(name.of("helpful")).unwrap();
            assert!((found - expected).abs() < 1e-12, "{name:?}: {found} and {expected}");
        }
        let mut none = Metrics::default();
        Rewards::default().report("helpful", &mut none);
        assert!(none.is_empty());
    }
}
