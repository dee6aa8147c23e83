//! MOPO: K policies on one frozen base, each with its own primary objective, multipliers and
//! thresholds (Algorithm 1 of arXiv 2505.10892; docs/math.md, sections 4 and 6).
//!
//! The trained part is one LoRA adapter and one head per policy; the loss is the sum over the
//! policies. The lagged reference is a snapshot of that part, never a second model.

use burn::module::AutodiffModule;
use burn::tensor::ElementConversion;
use burn::tensor::{Tensor, TensorData};
use mopo_core::dual::{DualProblem, ExactDual, ResponseGroups};
use mopo_core::mopo::{PolicyDual, cloning_loss, importance_weights, needed_responses};
use mopo_core::{
    DualMethod, DualState, IndicatorEstimator, MopoConfig, Objectives, ResponseLabels,
    WeightNormalization,
};
use mopo_lm::{CausalLm, Decoder, PolicyParams, sequence_log_probs};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};

use super::{MethodSection, RunSteps, Task};
use crate::batches::{BatchOrder, step_seed};
use crate::checkpoint::{Checkpoint, Parts};
use crate::config::PhaseConfig;
use crate::fit::Method;
use crate::log_probs::{LogProbs, WindowLogProbs, all_log_probs, batch_log_probs, to_tensor};
use crate::optim::{Trainer, module_from_bytes, module_to_bytes};
use crate::{Error, Pairs, Progress, Result, Silent};

pub(crate) const PHASE: &str = "mopo";
/// The part of a checkpoint with the reference's log-probs.
const WINDOW: &str = "reference_log_probs.bin";

impl MethodSection for MopoConfig {
    const PHASE: &'static str = PHASE;

    fn check_section(&self, _: &[String]) -> Result<()> {
        Ok(self.check()?)
    }

    fn estimator(&self) -> IndicatorEstimator {
        self.indicator_estimator
    }

    fn reference_lag(&self) -> Option<usize> {
        Some(self.reference_lag)
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
            objectives: &task.data.objectives,
            primaries: task.primaries,
            pairs: &task.data.train,
            initial_log_probs: task.initial_log_probs,
            seed: task.seed,
        };
        let mut method = Mopo::new(task.base, task.params, setup, task.device);
        fit(&mut method, progress)?;
        Ok(method.trainer.module().valid())
    }
}

/// The state of a MOPO run.
pub(crate) struct Mopo<'a, B: FusedAutodiffBackend> {
    /// The frozen base, on the backend with gradients …
    base: &'a CausalLm<B>,
    /// … and the same tensors on the inner backend, for the reference.
    base_inner: CausalLm<B::InnerBackend>,
    trainer: Trainer<B, PolicyParams<B>>,
    /// `None` until the first refresh: the reference is then the initial policy, and all ratios are
    /// 1.
    reference: Option<PolicyParams<B::InnerBackend>>,
    /// Its log-probs of the pairs used since the refresh.
    reference_log_probs: WindowLogProbs,
    /// One per policy.
    duals: Vec<DualState>,
    /// With the exact dual: its latest solutions, one per policy.
    exact: Vec<ExactDual>,
    setup: Setup<'a>,
    order: BatchOrder,
    /// ε per objective.
    radius: Vec<f64>,
    device: B::Device,
}

/// The setup of a MOPO run.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) config: &'a MopoConfig,
    pub(crate) phase: &'a PhaseConfig,
    pub(crate) objectives: &'a Objectives,
    /// Primary objective of each policy.
    pub(crate) primaries: &'a [usize],
    pub(crate) pairs: &'a Pairs,
    pub(crate) initial_log_probs: &'a LogProbs,
    pub(crate) seed: u64,
}

/// A finished step.
pub(crate) struct Step {
    pub(crate) metrics: Metrics,
    /// Which responses of the batch took part, policy by policy: `[n_policies][n_responses]`, the two
    /// of a pair next to each other.
    pub(crate) needed: Vec<Vec<bool>>,
}

/// One policy's view of a batch.
struct PolicyBatch<B: FusedAutodiffBackend> {
    weights: Tensor<B, 1>,
    needed: Vec<bool>,
}

impl<'a, B: FusedAutodiffBackend> Mopo<'a, B> {
    pub(crate) fn new(
        base: &'a CausalLm<B>,
        params: PolicyParams<B>,
        setup: Setup<'a>,
        device: &B::Device,
    ) -> Self {
        let n_objectives = setup.objectives.len();
        Self {
            base,
            base_inner: base.valid(),
            trainer: Trainer::new(params),
            reference: None,
            reference_log_probs: WindowLogProbs::new(setup.primaries.len()),
            duals: setup
                .primaries
                .iter()
                .map(|&p| DualState::new(setup.config, p, n_objectives))
                .collect(),
            exact: Vec::new(),
            order: BatchOrder::new(
                setup.pairs.row_lengths(),
                setup.phase.batch_size,
                step_seed(setup.seed, PHASE, 0),
            ),
            radius: setup
                .pairs
                .labelled_responses()
                .into_iter()
                .map(|n| setup.config.ball.radius(n))
                .collect(),
            setup,
            device: device.clone(),
        }
    }

    /// log π_ref − log π_0 of every response, `[n_policies × n_responses]`, policy by policy.
    fn log_ratios(&mut self, micro: &[Vec<usize>]) -> Result<Vec<Vec<f32>>> {
        let n_responses = 2 * micro.iter().map(Vec::len).sum::<usize>();
        let n_policies = self.duals.len();
        let Some(reference) = &self.reference else {
            return Ok(vec![vec![0.0; n_responses]; n_policies]);
        };
        let known = &mut self.reference_log_probs;
        for indices in micro {
            let missing: Vec<usize> =
                indices.iter().copied().filter(|&i| known.get(i).is_none()).collect();
            if !missing.is_empty() {
                let pairs = self.setup.pairs;
                let heads = batch_log_probs(
                    &self.base_inner,
                    Some(reference),
                    pairs,
                    &missing,
                    &self.device,
                )?;
                for (row, &i) in missing.iter().enumerate() {
                    known.insert(i, heads.iter().map(|of| of[row]).collect());
                }
            }
        }
        let mut out = vec![Vec::with_capacity(n_responses); n_policies];
        for &i in micro.iter().flatten() {
            let initial = self.setup.initial_log_probs[i];
            let rows = known.get(i).expect("just computed");
            for (ratios, row) in out.iter_mut().zip(rows) {
                ratios.extend([row[0] - initial[0], row[1] - initial[1]]);
            }
        }
        Ok(out)
    }

    /// Solves the dual of every policy on all pairs, under the current reference.
    fn solve_exactly(&mut self) -> Result<()> {
        let (config, pairs) = (self.setup.config, self.setup.pairs);
        let initial = self.setup.initial_log_probs;
        let log_probs = match &self.reference {
            None => None,
            Some(reference) => Some(all_log_probs(
                &self.base_inner,
                Some(reference),
                pairs,
                "exact dual",
                &self.device,
                &mut Silent,
            )?),
        };
        // All steps of this window need the same ones.
        if let Some(log_probs) = &log_probs {
            for i in 0..pairs.len() {
                self.reference_log_probs.insert(i, log_probs.iter().map(|of| of[i]).collect());
            }
        }
        self.exact.clear();
        for (h, dual) in self.duals.iter_mut().enumerate() {
            let responses = pairs.labels.iter().enumerate().flat_map(|(i, labels)| {
                let reference = log_probs.as_ref().map_or(initial[i], |of| of[h][i]);
                [0, 1].map(|r| (labels[r].as_slice(), reference[r] - initial[i][r]))
            });
            let solved = ResponseGroups::new(responses, config.ratio_clip)?.solve(&DualProblem {
                primary: dual.primary,
                tau: config.tau,
                thresholds: &dual.thresholds,
                radius: &self.radius,
                lambda_max: config.lambda_max,
            });
            dual.set_exact(config, &solved);
            if !solved.is_solved() {
                tracing::warn!(
                    "the exact dual of policy `{}` is off by {:.1e} after {} iterations",
                    self.setup.objectives.name(dual.primary),
                    solved.kkt.stationarity,
                    solved.iterations
                );
            }
            self.exact.push(solved);
        }
        Ok(())
    }

    /// Labels of the step's responses, and which of them share a prompt if w is normalised by prompt.
    fn labels(
        &self,
        rows: &[Vec<Option<f32>>],
        micro: &[Vec<usize>],
    ) -> ResponseLabels<B::InnerBackend> {
        let labels = ResponseLabels::from_rows(rows, &self.device);
        if self.setup.config.weight_normalization == WeightNormalization::Batch {
            return labels;
        }
        let mut known: Vec<&[u32]> = Vec::new();
        let mut prompts = Vec::with_capacity(rows.len());
        for &i in micro.iter().flatten() {
            let prompt = self.setup.pairs.tokens[i].prompt.as_slice();
            let at = known.iter().position(|p| *p == prompt).unwrap_or_else(|| {
                known.push(prompt);
                known.len() - 1
            });
            prompts.extend([at, at]);
        }
        labels.with_prompts(&prompts, &self.device)
    }
}

impl<B: FusedAutodiffBackend> Mopo<'_, B> {
    /// One optimiser step on the pairs of `micro`, whose gradients are accumulated batch by batch.
    pub(crate) fn step_on(
        &mut self,
        micro: &[Vec<usize>],
        step: usize,
        learning_rate: f64,
    ) -> Result<Step> {
        let clock = std::time::Instant::now();
        let (config, phase) = (self.setup.config, self.setup.phase);
        let mut metrics = Metrics::default();
        B::seed(&self.device, step_seed(self.setup.seed, PHASE, step));

        let refresh = step > 0 && step.is_multiple_of(config.reference_lag);
        if refresh {
            self.reference = Some(self.trainer.module().valid());
            self.reference_log_probs.clear();
            for dual in &mut self.duals {
                dual.refresh(config);
            }
        }
        let exact = config.dual == DualMethod::Exact;
        if exact && (refresh || step == 0) {
            self.solve_exactly()?;
        }

        let rows: Vec<Vec<Option<f32>>> = micro
            .iter()
            .flatten()
            .flat_map(|&i| self.setup.pairs.labels[i].iter().cloned())
            .collect();

        // Weights and multipliers, over the whole step's batch and all policies at once.
        let labels = self.labels(&rows, micro);
        let log_ratios = self.log_ratios(micro)?.concat();
        let n_policies = self.duals.len();
        let weighed: Vec<PolicyDual<'_>> = self
            .duals
            .iter()
            .map(|dual| PolicyDual { tau: config.tau, dual, radius: &self.radius })
            .collect();
        let (weights, statistics) = importance_weights(
            &weighed,
            &labels,
            Tensor::<B::InnerBackend, 2>::from_data(
                TensorData::new(log_ratios, [n_policies, rows.len()]),
                &self.device,
            ),
            config.ratio_clip,
        );
        let host: Vec<f64> = weights.to_data().iter().collect();
        let mut policies: Vec<PolicyBatch<B>> = Vec::with_capacity(n_policies);
        for (h, statistics) in statistics.iter().enumerate() {
            let dual = &mut self.duals[h];
            let name = self.setup.objectives.name(dual.primary);
            let secondary: Vec<usize> = dual.secondary().collect();
            for &k in &secondary {
                let other = self.setup.objectives.name(k);
                metrics.set(Quantity::Threshold.between(name, other), dual.thresholds[k]);
                metrics.set(Quantity::Lambda.between(name, other), dual.lambda[k]);
                metrics.set(Quantity::Chi.between(name, other), dual.chi(k));
                if let (Some(plain), Some(bound)) = (statistics.plain[k], statistics.lower_bound[k])
                {
                    metrics.set(Quantity::Plain.between(name, other), plain);
                    metrics.set(Quantity::LowerBound.between(name, other), bound);
                }
            }
            // The exact dual describes the whole data set, and is constant until the next refresh.
            let (slack, saturated) = match self.exact.get(h) {
                Some(solved) if exact => {
                    metrics.set(Quantity::KktResidual.of(name), solved.kkt.stationarity);
                    (solved.slack.clone(), solved.saturated.clone())
                }
                _ => {
                    let moved = dual.step(config, statistics);
                    (moved.slack, moved.saturated)
                }
            };
            for &k in &secondary {
                let other = self.setup.objectives.name(k);
                if let Some(slack) = slack[k] {
                    metrics.set(Quantity::Slack.between(name, other), slack);
                }
                let saturated = f64::from(u8::from(saturated[k]));
                metrics.set(Quantity::LambdaSaturated.between(name, other), saturated);
            }
            metrics.set(Quantity::EffectiveSampleSize.of(name), statistics.effective_sample_size);
            metrics.set(Quantity::RatioSampleSize.of(name), statistics.ratio_sample_size);
            let own = &host[h * rows.len()..(h + 1) * rows.len()];
            policies.push(PolicyBatch {
                needed: needed_responses(own, config.prune_below),
                weights: Tensor::from_inner(weights.clone().narrow(0, h, 1).squeeze_dim(0)),
            });
        }

        // Cloning: forward and backward passes of the responses that any policy needs.
        let (mut losses, mut kls) = (vec![0.0; policies.len()], vec![0.0; policies.len()]);
        let (mut n_tokens, mut n_needed, mut start) = (0, 0, 0);
        for indices in micro {
            let wanted =
                |i: usize, in_pair: usize, p: &PolicyBatch<B>| p.needed[start + 2 * i + in_pair];
            let keep: Vec<[bool; 2]> = (0..indices.len())
                .map(|i| [0, 1].map(|in_pair| policies.iter().any(|p| wanted(i, in_pair, p))))
                .collect();
            n_tokens +=
                indices.iter().map(|&i| self.setup.pairs.tokens[i].packed_len()).sum::<usize>();
            let batch = self.setup.pairs.pack(indices, &keep)?;
            n_needed += batch.responses.len();
            if batch.responses.is_empty() {
                start += 2 * indices.len();
                continue;
            }
            let inputs = batch.inputs::<B>(&self.device);
            let params = self.trainer.module();
            let hidden = self.base.hidden_states_packed(&inputs, Some(&params.adapter));
            let mut total = None;
            for (h, policy) in policies.iter().enumerate() {
                let responses: Vec<usize> = (0..batch.responses.len())
                    .filter(|&r| {
                        wanted(batch.responses[r].pair, batch.responses[r].in_pair, policy)
                    })
                    .collect();
                if responses.is_empty() {
                    continue;
                }
                let head = &params.heads.heads[h];
                let log_probs = sequence_log_probs(hidden.clone(), head, &batch, &responses);
                let (mut at, mut initial) = (Vec::new(), Vec::new());
                for &r in &responses {
                    let response = &batch.responses[r];
                    at.push((start + 2 * response.pair + response.in_pair) as i32);
                    initial.push(
                        self.setup.initial_log_probs[indices[response.pair]][response.in_pair],
                    );
                }
                let at = Tensor::<B, 1, burn::tensor::Int>::from_data(at.as_slice(), &self.device);
                let weights = policy.weights.clone().select(0, at);
                let log_ratio = log_probs.clone().detach() - to_tensor::<B>(&initial, &self.device);
                kls[h] += (weights.clone() * log_ratio).sum().into_scalar().elem::<f64>();
                let loss = cloning_loss(weights, log_probs);
                losses[h] += loss.clone().into_scalar().elem::<f64>();
                total = Some(match total {
                    None => loss,
                    Some(sum) => sum + loss,
                });
            }
            if let Some(total) = total {
                self.trainer.accumulate(total);
            }
            start += 2 * indices.len();
        }
        let norm = self.trainer.step(learning_rate, phase.max_grad_norm);

        for (h, dual) in self.duals.iter().enumerate() {
            let name = self.setup.objectives.name(dual.primary);
            metrics.set(Quantity::Loss.of(name), losses[h]);
            metrics.set(Quantity::KlInitial.of(name), kls[h]);
        }
        metrics.set(Quantity::Loss, losses.iter().sum());
        metrics.set(Quantity::GradientNorm, norm);
        metrics.set(Quantity::NeededTerms, n_needed as f64 / rows.len() as f64);
        metrics.set(Quantity::TokensPerSecond, n_tokens as f64 / clock.elapsed().as_secs_f64());
        let needed = policies.into_iter().map(|policy| policy.needed).collect();
        Ok(Step { metrics, needed })
    }
}

impl<B: FusedAutodiffBackend> Method for Mopo<'_, B> {
    fn phase(&self) -> &'static str {
        PHASE
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let n = self.setup.phase.gradient_accumulation_steps;
        let micro: Vec<Vec<usize>> = (0..n).map(|j| self.order.batch(step * n + j)).collect();
        Ok(self.step_on(&micro, step, learning_rate)?.metrics)
    }

    fn headline(&self, m: &Metrics) -> String {
        let lambda =
            self.duals.iter().flat_map(|d| d.secondary().map(|k| d.lambda[k])).fold(0.0, f64::max);
        let slacks = m.iter().filter(|(key, _)| key.quantity == Quantity::Slack);
        let slack = slacks.map(|(_, value)| value).reduce(f64::min);
        let of = |quantity: Quantity| m.get(quantity).unwrap_or(f64::NAN);
        format!(
            "loss {:.2}  λ ≤ {lambda:.2}  slack ≥ {}  |grad| {:.1}  {:.0} tokens/s",
            of(Quantity::Loss),
            slack.map_or("–".into(), |s| format!("{s:+.2}")),
            of(Quantity::GradientNorm),
            of(Quantity::TokensPerSecond),
        )
    }

    fn non_finite(&self) -> Option<&'static str> {
        self.trainer.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        let mut parts = Parts::from([
            ("policy.bin".into(), self.trainer.module_bytes()?),
            ("optimizer.bin".into(), self.trainer.optimizer_bytes()?),
            ("duals.json".into(), to_json(&self.duals, "duals.json")?),
        ]);
        if !self.exact.is_empty() {
            parts.insert("exact.json".into(), to_json(&self.exact, "exact.json")?);
        }
        if let Some(reference) = &self.reference {
            parts.insert("reference.bin".into(), module_to_bytes(reference)?);
            parts.insert(WINDOW.into(), self.reference_log_probs.to_bytes());
        }
        Ok(parts)
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        self.trainer.restore(c.part("policy.bin")?, c.part("optimizer.bin")?, &self.device)?;
        self.duals = from_json(c, "duals.json")?;
        self.exact = match c.parts.contains_key("exact.json") {
            true => from_json(c, "exact.json")?,
            false => Vec::new(),
        };
        self.reference = match c.parts.get("reference.bin") {
            Some(bytes) => {
                Some(module_from_bytes(self.trainer.module().valid(), bytes, &self.device)?)
            }
            None => None,
        };
        self.reference_log_probs = match c.parts.get(WINDOW) {
            Some(bytes) => WindowLogProbs::from_bytes(self.duals.len(), bytes)
                .ok_or_else(|| Error::corrupt(&c.path.join(WINDOW), "it has another length"))?,
            // Before the first refresh, or from a version without this part: computed as needed.
            None => WindowLogProbs::new(self.duals.len()),
        };
        Ok(())
    }
}

fn to_json<T: serde::Serialize>(value: &T, name: &str) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::corrupt(name.as_ref(), e.to_string()))
}

fn from_json<T: serde::de::DeserializeOwned>(c: &Checkpoint, name: &str) -> Result<T> {
    serde_json::from_slice(c.part(name)?)
        .map_err(|e| Error::corrupt(&c.path.join(name), e.to_string()))
}
