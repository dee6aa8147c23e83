//! MOPO: K policies on one frozen base, each with its own primary objective, multipliers and
//! thresholds (Algorithm 1 of arXiv 2505.10892; docs/math.md, sections 4 and 6).
//!
//! The trained part is one LoRA adapter and one head per policy; the loss is the sum over the
//! policies. The lagged reference is a snapshot of that part, never a second model.

mod cloning;
mod contrast;
mod sample;
mod window;

use std::collections::BTreeMap;
use std::time::Instant;

use burn::module::AutodiffModule;
pub use mopo_core::MopoConfig;
use mopo_core::divergence::Divergence;
use mopo_core::dual::ExactDual;
use mopo_core::mopo::PolicyDual;
use mopo_core::{
    BatchStatistics, DualMethod, DualState, Extraction, IndicatorEstimator, Objectives,
};
use mopo_lm::{CausalLm, PolicyParams};
use mopo_ops::FusedAutodiffBackend;
use mopo_report::{Metrics, Quantity};

use self::sample::{FreshSample, FreshSampler, Sample, check_turns};
use self::window::SmoothedRatios;
use super::{MethodSection, RunSteps, TrainContext};
use crate::checkpoint::{Checkpoint, Parts};
use crate::communicator::Communicator;
use crate::config::{PhaseConfig, RenamedKey, renamed};
use crate::fit::{Method, PolicyMethod};
use crate::log_probs::{LogProbs, WindowLogProbs};
use crate::optim::{Trainer, module_from_bytes, module_to_bytes};
use crate::rollouts::RolloutSettings;
use crate::{Error, Pairs, Progress, Result};

/// Share of the responses that any policy needed.
const NEEDED_TERMS: Quantity = Quantity::new("needed_terms");
/// q_k as the plain mean.
const PLAIN: Quantity = Quantity::new("plain");
/// q̲_k, its lower bound.
const LOWER_BOUND: Quantity = Quantity::new("lower_bound");
/// Residual of the exact dual's conditions.
const KKT_RESIDUAL: Quantity = Quantity::new("kkt_residual");
/// Effective sample size of the importance weights.
const EFFECTIVE_SAMPLE_SIZE: Quantity = Quantity::new("effective_sample_size");
/// k̂ of the ratios π_ref/π_0 of all pairs, where they are smoothed: above 0.7 they are not to be trusted.
const RATIO_SHAPE: Quantity = Quantity::new("ratio_shape");

pub(crate) const PHASE: &str = "mopo";
/// The part of a checkpoint with the reference's log-probs.
const WINDOW: &str = "reference_log_probs.bin";
/// The part of a checkpoint with a fresh sample.
const SAMPLE: &str = "sample.json";

impl MethodSection for MopoConfig {
    const TEXT: &'static str = r#"[method]
kind = "mopo"

[mopo]
# τ, weight of the KL term.
tau = 0.08
# KL ball of the lower bound: { radius = 0.15 }, or { confidence = 0.95 } for a radius from the number of labels.
ball = { radius = 0.15 }
# β and t₀ of adaptive thresholds: relaxation, and steps between two refreshes of the reference.
relaxation = 0.9995
reference_lag = 500
lambda_lr = 0.05
chi_lr = 0.5
lambda_max = 10.0
initial_lambda = 0.0
initial_chi = 1.0
# Limit of |log(π_ref/π_0)| of a response.
ratio_clip = 5.0
# plain or lower_bound: what adaptive thresholds follow.
threshold_statistic = "plain"
# action or pair: whether equal responses to a prompt share their mean indicator.
indicator_estimator = "action"
# none, or pareto: the largest ratios of all pairs are smoothed at every refresh, and the run says if they are not to be trusted.
ratio_smoothing = "none"
# batch or prompt: over what the weights are normalised.
weight_normalization = "batch"
# joint or exact: multipliers from batch to batch, or solved for at every refresh.
dual = "joint"
# cloning (as published) or pairwise: how a policy is made of the closed form.
extraction = "cloning"
# adaptive (as published), reference or fixed.
thresholds = "adaptive"
initial_threshold = 0.5
# Responses with a smaller share of a policy's weight are left out of the backward pass.
prune_below = 1e-5
# Beyond the paper, and off where they are missing (docs/methods/mopo.md): a contrast of both responses beside cloning,
# each batch's best χ, ratios clipped token by token, and the references' own answers after each refresh, for which rewards are needed.
# contrast_weight = 0.2
# squared, or logistic: DPO's loss on labels mixed by the multipliers; also of pairwise extraction.
# contrast_loss = "logistic"
# chi = "optimum"
# token_ratio_clip = 0.2
# fresh = { prompts = 200, answers = 4, max_new_tokens = 72 }
"#;
    const RENAMED: &'static [RenamedKey] = &[
        renamed("mopo", "statistic", "threshold_statistic"),
        renamed("mopo", "estimator", "indicator_estimator"),
        renamed("mopo", "normaliser", "weight_normalization"),
    ];
    const OPTIONAL: &'static [&'static str] = &[
        "mopo.extraction",
        "mopo.contrast_weight",
        "mopo.contrast_loss",
        "mopo.ratio_smoothing",
        "mopo.token_ratio_clip",
        "mopo.chi",
        "mopo.fresh",
    ];
    const ALTERNATIVES: &'static [&'static [&'static str]] =
        &[&["mopo.ball.radius", "mopo.ball.confidence"]];
    const REMEDY: &'static str = ", a larger `mopo.tau`";

    fn divergence(&self) -> Option<Divergence> {
        Some(Divergence::ReverseKl)
    }

    fn check_section(&self, policies: &[String]) -> Result<()> {
        self.check()?;
        let fresh = self.fresh.as_ref();
        fresh.map_or(Ok(()), |fresh| check_turns(fresh.prompts, fresh.answers, policies.len()))
    }

    fn check_new(&self, steps: usize) -> Result<()> {
        if self.dual == DualMethod::Exact && self.extraction == Extraction::Pairwise {
            return Err(Error::Config {
                origin: "`mopo.dual`".into(),
                message: "\"exact\" solves for the mean over all responses, but with mopo.extraction = \"pairwise\" \
                          constraints are on the policy's choices within pairs: use dual = \"joint\", or extraction = \
                          \"cloning\" (with a contrast_weight for a contrast)"
                    .into(),
            });
        }
        let lag = self.reference_lag;
        if self.fresh.is_none() || lag < steps || steps == 0 {
            return Ok(());
        }
        Err(Error::Config {
            origin: "`[mopo.fresh]`".into(),
            message: format!(
                "there are fresh answers from the first refresh on, but `mopo.reference_lag` is {lag} and `training.steps` \
                 {steps}: take a smaller lag, or leave out `mopo.fresh`"
            ),
        })
    }

    fn check_labels(
        &self,
        policies: &[String],
        objectives: &Objectives,
        rows: &[&[Option<f32>]],
    ) -> Result<()> {
        if self.fresh.is_some()
            && let Some(name) = objectives.names().iter().find(|name| !policies.contains(name))
        {
            return Err(Error::Config {
                origin: "`[mopo.fresh]`".into(),
                message: format!(
                    "fresh answers are labelled by the rewards of `policies`, and `{name}` is none of them, so its constraint \
                     could not be estimated: add it to `policies`, or leave out `mopo.fresh`"
                ),
            });
        }
        for (name, k) in policies.iter().zip(self.primaries(policies, objectives)?) {
            if !rows.iter().any(|row| row[k].is_some_and(|i| i != 0.5)) {
                return Err(Error::Config {
                    origin: "`policies`".into(),
                    message: format!(
                        "`{name}` has no decided training pair, so its policy has nothing to learn: \
                         remove it, or provide labels"
                    ),
                });
            }
        }
        Ok(())
    }

    fn estimator(&self) -> IndicatorEstimator {
        self.indicator_estimator
    }

    fn primaries(&self, policies: &[String], objectives: &Objectives) -> Result<Vec<usize>> {
        let primary = |name: &String| {
            objectives
                .index_of(name)
                .map_err(|e| Error::Config { origin: "`policies`".into(), message: e.to_string() })
        };
        policies.iter().map(primary).collect()
    }

    fn trains_heads(&self) -> bool {
        true
    }

    fn reference_lag(&self) -> Option<usize> {
        Some(self.reference_lag)
    }

    fn rollouts<'a>(&'a self, policies: &'a [String]) -> Option<RolloutSettings<'a>> {
        let fresh = self.fresh?;
        Some(RolloutSettings {
            max_new_tokens: fresh.max_new_tokens,
            // Two share a row.
            group_size: 2,
            ..RolloutSettings::beside_pairs("mopo.fresh", policies)
        })
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        let objectives = &context.data.objectives;
        let setup = Setup {
            config: self,
            phase: context.phase,
            objectives,
            primaries: &self.primaries(context.policies, objectives)?,
            pairs: &context.data.train,
            initial_log_probs: context.initial_log_probs,
            seed: context.seed,
        };
        let mut method =
            Mopo::new(context.base, context.params, setup, context.communicator, context.device);
        if let (Some(settings), Some(inputs)) = (self.fresh, context.rollouts) {
            // The rewards are in the order of the policies.
            let reward = |name| context.policies.iter().position(|policy| policy == name);
            method.fresh = Some(FreshSampler {
                settings,
                inputs,
                data: context.data,
                rewards: objectives.names().iter().filter_map(reward).collect(),
                names: context.policies,
                opponents: BTreeMap::new(),
            });
        }
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
    trainer: Trainer<'a, B, PolicyParams<B>>,
    /// `None` until the first refresh: the reference is then the initial policy, and all ratios are
    /// 1.
    reference: Option<PolicyParams<B::InnerBackend>>,
    /// Its log-probs of the pairs used since the refresh, as [`Setup::n_lists`] says.
    reference_log_probs: WindowLogProbs,
    /// With smoothed ratios: those of each policy since the refresh.
    smoothed: Vec<SmoothedRatios>,
    /// Tokens of passes under it since the last step.
    scored_tokens: usize,
    /// One per policy.
    duals: Vec<DualState>,
    /// With the exact dual: its latest solutions, one per policy.
    exact: Vec<ExactDual>,
    setup: Setup<'a>,
    /// What the window trains on.
    sample: Sample<'a>,
    /// Where each refresh has answers of its own.
    fresh: Option<FreshSampler<'a>>,
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

impl Setup<'_> {
    /// What the window keeps of each pair: log π_ref for each policy and, if ratios are clipped token by token, those.
    fn n_lists(&self) -> usize {
        let kinds = 1 + usize::from(self.config.token_ratio_clip.is_some());
        kinds * self.primaries.len()
    }
}

/// A step that has begun.
pub(crate) struct Begun {
    clock: Instant,
    metrics: Metrics,
}

/// A finished step.
pub(crate) struct Step {
    pub(crate) metrics: Metrics,
    /// Which responses of the batch took part, policy by policy: `[n_policies][n_responses]`, the two
    /// of a pair next to each other.
    pub(crate) needed: Vec<Vec<bool>>,
}

/// The passes of a step: for each micro-batch one of each adapter.
struct StepPasses {
    /// Where the responses of each micro-batch begin among those of the step.
    starts: Vec<usize>,
    n_adapters: usize,
}

impl StepPasses {
    fn new(micro: &[Vec<usize>], n_adapters: usize) -> Self {
        let before = |v: usize| 2 * micro[..v].iter().map(Vec::len).sum::<usize>();
        Self { starts: (0..micro.len()).map(before).collect(), n_adapters }
    }

    fn len(&self) -> usize {
        self.starts.len() * self.n_adapters
    }

    /// A pass's micro-batch, where its responses begin, and its adapter.
    fn of(&self, pass: usize) -> (usize, usize, usize) {
        let v = pass / self.n_adapters;
        (v, self.starts[v], pass % self.n_adapters)
    }
}

/// What the passes of a step came to, policy by policy.
struct Passes {
    losses: Vec<f64>,
    /// KL from the initial policy, on the batch.
    kls: Vec<f64>,
    /// Which responses took part, `[n_policies][n_responses]`.
    needed: Vec<Vec<bool>>,
    /// Tokens of the packed rows of all pairs, for each adapter.
    n_tokens: usize,
}

impl<'a, B: FusedAutodiffBackend> Mopo<'a, B> {
    pub(crate) fn new(
        base: &'a CausalLm<B>,
        params: PolicyParams<B>,
        setup: Setup<'a>,
        communicator: &'a dyn Communicator,
        device: &B::Device,
    ) -> Self {
        let n_objectives = setup.objectives.len();
        Self {
            base,
            base_inner: base.valid(),
            trainer: Trainer::new(params, communicator),
            reference: None,
            reference_log_probs: WindowLogProbs::new(setup.n_lists()),
            smoothed: Vec::new(),
            scored_tokens: 0,
            duals: setup
                .primaries
                .iter()
                .map(|&p| DualState::new(setup.config, p, n_objectives))
                .collect(),
            exact: Vec::new(),
            sample: Sample::of_data(&setup),
            fresh: None,
            setup,
            device: device.clone(),
        }
    }
}

impl<B: FusedAutodiffBackend> Mopo<'_, B> {
    /// What a step does before its batches are known: a refresh of the reference, and what a window begins with.
    pub(crate) fn begin_step(&mut self, step: usize) -> Result<Begun> {
        let clock = Instant::now();
        let config = self.setup.config;
        let mut metrics = Metrics::default();
        let refresh = step > 0 && step.is_multiple_of(config.reference_lag);
        if refresh {
            let reference = self.trainer.module().valid();
            self.judge_window(&mut metrics);
            self.reference_log_probs.clear();
            if let Some(fresh) = &mut self.fresh {
                let FreshSample { sample, reference: lists } = fresh.sample(
                    step,
                    &self.setup,
                    &self.base_inner,
                    &reference,
                    self.trainer.communicator(),
                    &self.device,
                    &mut metrics,
                )?;
                self.reference_log_probs.insert_all(0..sample.pairs.len(), &lists);
                // Under the initial policy and the references.
                self.scored_tokens += 2 * sample.pairs.row_lengths().iter().sum::<usize>();
                self.sample = sample;
            }
            self.reference = Some(reference);
            for dual in &mut self.duals {
                dual.refresh(config);
            }
        }
        if refresh || step == 0 {
            self.begin_window()?;
        }
        Ok(Begun { clock, metrics })
    }

    /// One optimiser step on the pairs of `micro`, whose gradients are accumulated batch by batch.
    pub(crate) fn step_on(
        &mut self,
        Begun { clock, mut metrics }: Begun,
        micro: &[Vec<usize>],
        step: usize,
        learning_rate: f64,
    ) -> Result<Step> {
        let (config, phase) = (self.setup.config, self.setup.phase);
        let rows: Vec<Vec<Option<f32>>> = micro
            .iter()
            .flatten()
            .flat_map(|&i| self.sample.pairs.labels[i].iter().cloned())
            .collect();
        let Passes { losses, kls, needed, n_tokens } = match config.extraction {
            Extraction::Cloning => self.clone_responses(step, micro, &rows, &mut metrics)?,
            Extraction::Pairwise => self.fit_contrasts(step, micro, &rows, &mut metrics)?,
        };
        let norm = self.trainer.step(learning_rate, phase.max_grad_norm)?;

        for (h, dual) in self.duals.iter().enumerate() {
            let name = self.setup.objectives.name(dual.primary);
            metrics.set(Quantity::LOSS.of(name), losses[h]);
            metrics.set(Quantity::KL_INITIAL.of(name), kls[h]);
        }
        let by_any = |i: &usize| needed.iter().any(|of| of[*i]);
        let n_needed = (0..rows.len()).filter(by_any).count();
        metrics.set(Quantity::LOSS, losses.iter().sum());
        metrics.set(Quantity::GRADIENT_NORM, norm);
        metrics.set(NEEDED_TERMS, n_needed as f64 / rows.len() as f64);
        metrics.set_trained_tokens(n_tokens, clock.elapsed());
        let scored = std::mem::take(&mut self.scored_tokens);
        if scored > 0 {
            metrics.set(Quantity::SCORED_TOKENS, scored as f64);
        }
        Ok(Step { metrics, needed })
    }

    /// Reports the state of the multipliers and the statistics of the batch, and moves the multipliers.
    fn move_duals(&mut self, statistics: &[BatchStatistics], metrics: &mut Metrics) {
        let config = self.setup.config;
        for (h, statistics) in statistics.iter().enumerate() {
            let dual = &mut self.duals[h];
            let name = self.setup.objectives.name(dual.primary);
            let secondary: Vec<usize> = dual.secondary().collect();
            for &k in &secondary {
                let other = self.setup.objectives.name(k);
                metrics.set(Quantity::THRESHOLD.between(name, other), dual.thresholds[k]);
                metrics.set(Quantity::LAMBDA.between(name, other), dual.lambda[k]);
                metrics.set(Quantity::CHI.between(name, other), dual.chi(k));
                if let (Some(plain), Some(bound)) = (statistics.plain[k], statistics.lower_bound[k])
                {
                    metrics.set(PLAIN.between(name, other), plain);
                    metrics.set(LOWER_BOUND.between(name, other), bound);
                }
            }
            // The exact dual describes the whole data set, and is constant until the next refresh.
            let (slack, saturated) = match self.exact.get(h) {
                Some(solved) if config.dual == DualMethod::Exact => {
                    metrics.set(KKT_RESIDUAL.of(name), solved.kkt.stationarity);
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
                    metrics.set(Quantity::SLACK.between(name, other), slack);
                }
                let saturated = f64::from(u8::from(saturated[k]));
                metrics.set(Quantity::LAMBDA_SATURATED.between(name, other), saturated);
            }
            metrics.set(EFFECTIVE_SAMPLE_SIZE.of(name), statistics.effective_sample_size);
            metrics.set(Quantity::RATIO_SAMPLE_SIZE.of(name), statistics.ratio_sample_size);
            let known = self.smoothed.get(h).filter(|smoothed| smoothed.shape.is_finite());
            if let Some(smoothed) = known {
                metrics.set(RATIO_SHAPE.of(name), smoothed.shape);
            }
        }
    }

    /// The policies' arguments of the batch's statistics.
    fn policy_duals(&self) -> Vec<PolicyDual<'_>> {
        let MopoConfig { tau, chi, .. } = *self.setup.config;
        let radius = &self.sample.radius;
        self.duals.iter().map(|dual| PolicyDual { tau, dual, radius, chi }).collect()
    }
}

impl<B: FusedAutodiffBackend> PolicyMethod<B> for Mopo<'_, B> {
    fn policies(&self) -> PolicyParams<B::InnerBackend> {
        self.trainer.module().valid()
    }
}

impl<B: FusedAutodiffBackend> Method for Mopo<'_, B> {
    fn phase(&self) -> &'static str {
        PHASE
    }

    fn step(&mut self, step: usize, learning_rate: f64) -> Result<Metrics> {
        let n = self.setup.phase.gradient_accumulation_steps;
        let begun = self.begin_step(step)?;
        let micro = self.sample.batches(step, n);
        Ok(self.step_on(begun, &micro, step, learning_rate)?.metrics)
    }

    fn headline(&self, m: &Metrics) -> String {
        let lambda =
            self.duals.iter().flat_map(|d| d.secondary().map(|k| d.lambda[k])).fold(0.0, f64::max);
        let slacks = m.iter().filter(|(key, _)| key.quantity == Quantity::SLACK);
        let slack = slacks.map(|(_, value)| value).reduce(f64::min);
        let of = |quantity: Quantity| m.get(quantity).unwrap_or(f64::NAN);
        format!(
            "loss {:.2}  λ ≤ {lambda:.2}  slack ≥ {}  |grad| {:.1}  {:.0} tokens/s",
            of(Quantity::LOSS),
            slack.map_or("–".into(), |s| format!("{s:+.2}")),
            of(Quantity::GRADIENT_NORM),
            of(Quantity::TOKENS_PER_SECOND),
        )
    }

    fn non_finite(&self) -> Result<Option<&'static str>> {
        self.trainer.non_finite()
    }

    fn save(&self) -> Result<Parts> {
        let mut parts = self.trainer.parts()?;
        parts.insert("duals.json".into(), to_json(&self.duals, "duals.json")?);
        if !self.exact.is_empty() {
            parts.insert("exact.json".into(), to_json(&self.exact, "exact.json")?);
        }
        if let Some(reference) = &self.reference {
            parts.insert("reference.bin".into(), module_to_bytes(reference)?);
            parts.insert(WINDOW.into(), self.reference_log_probs.to_bytes());
        }
        if let Some(sample) = self.sample.saved() {
            parts.insert(SAMPLE.into(), to_json(&sample, SAMPLE)?);
        }
        Ok(parts)
    }

    fn load(&mut self, c: &Checkpoint) -> Result<()> {
        self.trainer.restore_parts(c, &self.device)?;
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
            Some(bytes) => WindowLogProbs::from_bytes(self.setup.n_lists(), bytes)
                .ok_or_else(|| Error::corrupt(&c.path.join(WINDOW), "it has another length"))?,
            // Before the first refresh, or from a version without this part: computed as needed.
            None => WindowLogProbs::new(self.setup.n_lists()),
        };
        if c.parts.contains_key(SAMPLE) {
            self.sample = Sample::restored(from_json(c, SAMPLE)?, &self.setup);
        }
        self.smooth();
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
