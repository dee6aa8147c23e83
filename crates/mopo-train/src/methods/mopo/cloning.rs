//! A step by cloning: responses weighted by the closed form (Algorithm 1 of the paper; docs/math.md, sections 4
//! and 6).

use burn::tensor::{ElementConversion, Int, Tensor, TensorData};
use mopo_core::mopo::{cloning_loss, importance_weights, needed_responses};
use mopo_core::{ResponseLabels, WeightNormalization};
use mopo_lm::{Decoder, sequence_log_probs_by_head};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::Metrics;
use serde::{Deserialize, Serialize};

use super::window::LogRatios;
use super::{Mopo, PHASE, Passes, StepPasses};
use crate::Result;
use crate::batches::pass_seed;
use crate::log_probs::to_tensor;

/// One policy's view of a batch.
struct PolicyBatch<B: FusedAutodiffBackend> {
    weights: Tensor<B, 1>,
    needed: Vec<bool>,
}

fn int_tensor<B: FusedAutodiffBackend>(values: &[i32], device: &B::Device) -> Tensor<B, 1, Int> {
    Tensor::from_data(values, device)
}

impl<B: FusedAutodiffBackend> Mopo<'_, B> {
    /// Labels of the step's responses, and which of them share a prompt if w is normalised by prompt.
    fn labels(
        &self,
        rows: &[Vec<Option<f32>>],
        micro: &[Vec<usize>],
    ) -> Result<ResponseLabels<B::InnerBackend>> {
        let labels = ResponseLabels::from_rows(rows, &self.device);
        if self.setup.config.weight_normalization == WeightNormalization::Batch {
            return Ok(labels);
        }
        let mut known: Vec<Vec<u32>> = Vec::new();
        let mut prompts = Vec::with_capacity(rows.len());
        for &i in micro.iter().flatten() {
            let tokens = self.sample.pairs.tokens.get(i)?;
            let at = known.iter().position(|p| *p == tokens.prompt).unwrap_or_else(|| {
                known.push(tokens.prompt.clone());
                known.len() - 1
            });
            prompts.extend([at, at]);
        }
        Ok(labels.with_prompts(&prompts, &self.device))
    }

    /// Weighs the batch, moves the multipliers, and accumulates the gradients of the cloning loss.
    pub(super) fn clone_responses(
        &mut self,
        step: usize,
        micro: &[Vec<usize>],
        rows: &[Vec<Option<f32>>],
        metrics: &mut Metrics,
    ) -> Result<Passes> {
        let config = self.setup.config;
        // Weights and multipliers, over the whole step's batch and all policies at once.
        let labels = self.labels(rows, micro)?;
        let LogRatios { exact, weighing } = self.log_ratios(micro)?;
        let n_policies = self.duals.len();
        // Of the multipliers before they move, like the weights.
        let contrast = (config.contrast_weight > 0.0).then(|| self.contrast(rows));
        let (weights, statistics) = importance_weights(
            &self.policy_duals(),
            &labels,
            Tensor::<B::InnerBackend, 2>::from_data(
                TensorData::new(weighing.concat(), [n_policies, rows.len()]),
                &self.device,
            ),
            config.ratio_clip,
        );
        let host: Vec<f64> = weights.to_data().iter().collect();
        self.move_duals(&statistics, metrics);
        let policies: Vec<PolicyBatch<B>> = (0..n_policies)
            .map(|h| PolicyBatch {
                needed: match contrast {
                    // A contrast needs both responses of its pair.
                    Some(_) => vec![true; rows.len()],
                    None => needed_responses(
                        &host[h * rows.len()..(h + 1) * rows.len()],
                        config.prune_below,
                    ),
                },
                weights: Tensor::from_inner(weights.clone().narrow(0, h, 1).squeeze_dim(0)),
            })
            .collect();

        // Forward and backward passes of the responses that any policy needs: for each micro-batch one of each adapter.
        let step_passes = StepPasses::new(micro, self.trainer.module().adapters.len());
        let (setup, sample) = (self.setup, &self.sample);
        let found = self.trainer.passes(step_passes.len(), |params, pass| {
            B::seed(&self.device, pass_seed(setup.seed, PHASE, step, pass));
            let (v, start, adapter) = step_passes.of(pass);
            let indices = &micro[v];
            let wanted =
                |i: usize, in_pair: usize, p: &PolicyBatch<B>| p.needed[start + 2 * i + in_pair];
            let (adapter, served) = params.by_adapter().nth(adapter).expect("one for each");
            let of = &policies[served.clone()];
            let mut found = PassValues::new(n_policies);
            let keep: Vec<[bool; 2]> = (0..indices.len())
                .map(|i| [0, 1].map(|in_pair| of.iter().any(|p| wanted(i, in_pair, p))))
                .collect();
            found.n_tokens = indices.iter().flat_map(|&i| sample.pairs.tokens.lengths(i)).sum();
            let batch = sample.pairs.pack(indices, &keep)?;
            if batch.responses.is_empty() {
                return Ok((None, found));
            }
            let inputs = batch.inputs::<B>(&self.device);
            let hidden = self.base.hidden_states_packed(&inputs, Some(adapter));
            let of_policy = |policy| {
                let all = batch.responses.iter().enumerate();
                let own = all.filter(|(_, of)| wanted(of.pair, of.in_pair, policy));
                own.map(|(r, _)| r).collect()
            };
            let responses: Vec<Vec<usize>> = of.iter().map(of_policy).collect();
            let heads = &params.heads.heads[served.clone()];
            let by_head = sequence_log_probs_by_head(hidden, heads, &batch, &responses);
            let mut total = None;
            for (((h, policy), responses), log_probs) in served.zip(of).zip(responses).zip(by_head)
            {
                let Some(log_probs) = log_probs else { continue };
                let (mut at, mut initial) = (Vec::new(), Vec::new());
                for &r in &responses {
                    let response = &batch.responses[r];
                    at.push((start + 2 * response.pair + response.in_pair) as i32);
                    initial.push(sample.initial[indices[response.pair]][response.in_pair]);
                }
                let weights = policy.weights.clone().select(0, int_tensor(&at, &self.device));
                let log_ratio = log_probs.clone().detach() - to_tensor::<B>(&initial, &self.device);
                found.kls[h] += (weights.clone() * log_ratio).sum().into_scalar().elem::<f64>();
                let mut loss = cloning_loss(weights, log_probs.clone());
                if let Some(contrast) = &contrast {
                    let reference: Vec<f32> = at
                        .iter()
                        .zip(&initial)
                        .map(|(&at, initial)| initial + exact[h][at as usize])
                        .collect();
                    let log_ratio = log_probs - to_tensor(&reference, &self.device);
                    // All responses are needed, so they are where the batch has them.
                    let of = |in_pair: usize| {
                        let at = batch.responses_at(in_pair).into_iter().map(|r| r as i32);
                        int_tensor::<B>(&at.collect::<Vec<_>>(), &self.device)
                    };
                    let mass = 2.0 * config.contrast_weight / rows.len() as f64;
                    let [first, second] = [0, 1].map(|r| log_ratio.clone().select(0, of(r)));
                    loss = loss + contrast.loss(h, start / 2, first, second, mass);
                }
                found.losses[h] += loss.clone().into_scalar().elem::<f64>();
                total = Some(match total {
                    None => loss,
                    Some(sum) => sum + loss,
                });
            }
            Ok((total, found))
        })?;
        let PassValues { losses, kls, n_tokens } = PassValues::total(n_policies, found);
        let needed = policies.into_iter().map(|policy| policy.needed).collect();
        Ok(Passes { losses, kls, needed, n_tokens })
    }
}

/// What a pass came to, policy by policy.
#[derive(Serialize, Deserialize)]
struct PassValues {
    losses: Vec<f64>,
    kls: Vec<f64>,
    n_tokens: usize,
}

impl PassValues {
    fn new(n_policies: usize) -> Self {
        Self { losses: vec![0.0; n_policies], kls: vec![0.0; n_policies], n_tokens: 0 }
    }

    fn total(n_policies: usize, passes: Vec<Self>) -> Self {
        let mut total = Self::new(n_policies);
        for of in passes {
            for (sums, values) in [(&mut total.losses, of.losses), (&mut total.kls, of.kls)] {
                sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
            }
            total.n_tokens += of.n_tokens;
        }
        total
    }
}
