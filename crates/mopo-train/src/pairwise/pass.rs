//! One differentiated pass over pairs, and what it tells about them.

use std::borrow::Cow;

use burn::module::AutodiffModule;
use burn::tensor::{ElementConversion, Tensor};
use mopo_lm::{CausalLm, Decoder, LoraAdapter, OutputLayer, PackedBatch, sequence_log_probs};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{MetricKey, Metrics, Quantity};
use serde::{Deserialize, Serialize};

use super::rewards::Rewards;
use super::{PairLoss, PairValues};
use crate::communicator::Communicator;
use crate::log_probs::{LogProbs, all_log_probs, to_tensor};
use crate::methods::TrainContext;
use crate::single::SinglePolicy;
use crate::{Pairs, Result, Silent};

/// Share of the responses whose reward had its exponent cut off.
const CLAMPED_RESPONSES: Quantity = Quantity::new("clamped_responses");

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

/// What passes over pairs are made with, besides the parameters.
pub(crate) struct PairPass<'a, B: FusedAutodiffBackend> {
    /// The frozen base, on the backend with gradients.
    pub(crate) base: &'a CausalLm<B>,
    pub(crate) pairs: &'a Pairs,
    /// log π_ref of every pair.
    pub(crate) reference: Cow<'a, LogProbs>,
    pub(crate) device: B::Device,
}

impl<'a, B: FusedAutodiffBackend> PairPass<'a, B> {
    /// Against the frozen base.
    pub(crate) fn new(context: &TrainContext<'a, B>) -> Self {
        Self {
            base: context.base,
            pairs: &context.data.train,
            reference: Cow::Borrowed(context.initial_log_probs),
            device: context.device.clone(),
        }
    }

    /// The loss of pairs with these labels, each with the mass `mass`, and what is known of them.
    pub(crate) fn loss(
        &self,
        loss: &impl PairLoss,
        params: &SinglePolicy<B>,
        pairs: &[(usize, f32)],
        mass: f64,
    ) -> Result<(Tensor<B, 1>, PairSums)> {
        let mut sums = PairSums::default();
        let n = pairs.len();
        let indices: Vec<usize> = pairs.iter().map(|(i, _)| *i).collect();
        let batch = self.pairs.pack(&indices, &vec![[true, true]; n])?;
        let head = params.head(self.base);
        let found = pair_log_probs(self.base, &params.adapter, &head, &batch);
        let scale: Vec<[(f32, f32); 2]> = indices.iter().map(|&i| self.scale(loss, i)).collect();
        let of = |pick: fn(&(f32, f32)) -> f32| {
            let all = [0, 1].into_iter().flat_map(|r| scale.iter().map(move |s| pick(&s[r])));
            to_tensor::<B>(&all.collect::<Vec<f32>>(), &self.device)
        };
        let values = (found.clone() - of(|s| s.0)) / of(|s| s.1);
        let indicators: Vec<f32> = pairs.iter().map(|(_, label)| loss.indicator(*label)).collect();
        let kl = match loss.needs_kl() {
            true => self.mismatched_kl(params, &indices, &mut sums)?,
            false => 0.0,
        };
        let total = loss.loss(PairValues {
            kl,
            first: values.clone().narrow(0, 0, n),
            second: values.clone().narrow(0, n, n),
            indicators: to_tensor(&indicators, &self.device),
            mass: Tensor::full([n], mass, &self.device),
        });
        sums.loss += total.clone().into_scalar().elem::<f64>();
        sums.n_tokens += batch.n_tokens();
        let host = |tensor: Tensor<B, 1>| tensor.detach().into_data().iter().collect::<Vec<f64>>();
        sums.add(loss, pairs, &host(values), &host(found));
        Ok((total, sums))
    }

    /// KL(π‖π_ref), estimated as the mean of log(π/π_ref) over responses with the prompt of the next pair of the batch,
    /// and at least 0. Without dropout.
    fn mismatched_kl(
        &self,
        params: &SinglePolicy<B>,
        indices: &[usize],
        sums: &mut PairSums,
    ) -> Result<f64> {
        let tokens =
            indices.iter().map(|&i| self.pairs.tokens.get(i)).collect::<Result<Vec<_>>>()?;
        let positions = self.base.shape().max_position_embeddings;
        let rows: Vec<_> = (tokens.iter().enumerate())
            .map(|(j, responses)| {
                let prompt = &tokens[(j + 1) % tokens.len()].prompt;
                let longest = responses.first.len().max(responses.second.len());
                let room = positions.saturating_sub(longest).min(prompt.len());
                let prompt = &prompt[prompt.len() - room..];
                ([prompt, &responses.first[..], &responses.second[..]], [true, true])
            })
            .collect();
        let batch = PackedBatch::pack(&rows)?;
        let (base, policy) = (self.base.valid(), params.policy(self.base));
        let inputs = batch.inputs::<B::InnerBackend>(&self.device);
        let all: Vec<usize> = (0..batch.responses.len()).collect();
        let own = base.hidden_states_packed(&inputs, Some(policy.adapter(0)));
        let own = sequence_log_probs(own, &policy.heads.heads[0], &batch, &all);
        let reference = base.hidden_states_packed(&inputs, None);
        let reference = sequence_log_probs(reference, &base.lm_head(), &batch, &all);
        let kl = (own - reference).mean().into_scalar().elem::<f64>().max(0.0);
        sums.n_scored += 2 * batch.n_tokens();
        sums.kls.push(kl);
        Ok(kl)
    }

    /// What is subtracted from log π, and divided by, for the responses of pair `i`.
    fn scale(&self, loss: &impl PairLoss, i: usize) -> [(f32, f32); 2] {
        let [_, first, second] = self.pairs.tokens.lengths(i);
        let reference = match loss.has_reference() {
            true => self.reference[i],
            false => [0.0; 2],
        };
        let lengths = match loss.is_per_token() {
            true => [first as f32, second as f32],
            false => [1.0; 2],
        };
        let shift = loss.shift(i);
        [0, 1].map(|r| (reference[r] + shift[r], lengths[r]))
    }

    /// log π of every pair under the current policy, without dropout.
    pub(crate) fn log_probs(
        &self,
        params: &SinglePolicy<B>,
        name: &str,
        communicator: &dyn Communicator,
    ) -> Result<LogProbs> {
        let (base, policy) = (self.base.valid(), params.policy(self.base));
        let (pairs, device) = (self.pairs, &self.device);
        let mut all =
            all_log_probs(&base, Some(&policy), pairs, name, device, communicator, &mut Silent)?;
        Ok(all.swap_remove(0))
    }
}

/// Sums over the pairs of a pass, or of a step.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct PairSums {
    /// The loss, and tokens of the passes.
    pub(crate) loss: f64,
    pub(crate) n_tokens: usize,
    /// Tokens of passes without gradients.
    pub(crate) n_scored: usize,
    /// Estimates of KL(π‖π_ref), one for each batch; none for a loss without.
    kls: Vec<f64>,
    n_pairs: usize,
    /// `None` if the loss never cuts anything off.
    n_clamped: Option<usize>,
    rewards: Rewards,
    /// log π over the decided pairs.
    chosen: f64,
    rejected: f64,
}

impl PairSums {
    /// Of all passes, in their order.
    pub(crate) fn total(passes: impl IntoIterator<Item = Self>) -> Self {
        let mut total = Self::default();
        for of in passes {
            total.loss += of.loss;
            total.n_tokens += of.n_tokens;
            total.n_scored += of.n_scored;
            total.kls.extend(of.kls);
            total.n_pairs += of.n_pairs;
            if let Some(n) = of.n_clamped {
                *total.n_clamped.get_or_insert(0) += n;
            }
            total.rewards.extend(of.rewards);
            total.chosen += of.chosen;
            total.rejected += of.rejected;
        }
        total
    }

    fn add(&mut self, loss: &impl PairLoss, pairs: &[(usize, f32)], values: &[f64], found: &[f64]) {
        let n = pairs.len();
        self.n_pairs += n;
        for (j, (_, label)) in pairs.iter().enumerate() {
            self.rewards.add(*label, loss.reward(values[j]), loss.reward(values[n + j]));
            if *label != 0.5 {
                let (chosen, rejected) = if *label > 0.5 { (j, n + j) } else { (n + j, j) };
                self.chosen += found[chosen];
                self.rejected += found[rejected];
            }
        }
        for clamped in values.iter().filter_map(|value| loss.is_clamped(*value)) {
            *self.n_clamped.get_or_insert(0) += usize::from(clamped);
        }
    }

    /// Share of the pairs that are decided.
    pub(crate) fn decided(&self) -> f64 {
        self.rewards.len() as f64 / self.n_pairs as f64
    }

    /// Means over the decided pairs, under the keys that `key` makes; none if no pair was decided.
    pub(crate) fn report(&self, key: impl Fn(Quantity) -> MetricKey, metrics: &mut Metrics) {
        self.rewards.report(&key, metrics);
        if self.rewards.len() > 0 {
            let n = self.rewards.len() as f64;
            metrics.set(key(Quantity::CHOSEN_LOG_PROB), self.chosen / n);
            metrics.set(key(Quantity::REJECTED_LOG_PROB), self.rejected / n);
        }
        if !self.kls.is_empty() {
            let mean = self.kls.iter().sum::<f64>() / self.kls.len() as f64;
            metrics.set(key(Quantity::KL_INITIAL), mean);
        }
        if let Some(n_clamped) = self.n_clamped {
            let share = n_clamped as f64 / (2 * self.n_pairs) as f64;
            metrics.set(key(CLAMPED_RESPONSES), share);
        }
    }
}
