//! One mini-batch of MOPO: from indicators, ratios and multipliers to the weights of the cloning
//! loss and the statistics that drive the multipliers (Algorithm 1 of the source).
//!
//! A pair (x, y, y′, I) counts as two *terms*, (x, y, I) and (x, y′, 1 − I). Everything here is
//! per policy: a policy has one primary objective, the others are its secondaries. The state that
//! lives from batch to batch is in [`crate::dual`].

use burn::tensor::{Tensor, TensorData, backend::Backend};
use serde::{Deserialize, Serialize};

use crate::{Ball, DualState, Error, Result};

/// Which estimate of a secondary preference an adaptive threshold follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdStatistic {
    /// v_k = Σ a w I_k, as the source reads. The constraint is on the smaller lower bound, so
    /// such a threshold can be unattainable; λ then saturates at `lambda_max`, which is reported.
    Plain,
    /// The lower bound q̲_k itself.
    LowerBound,
}

/// What a term's indicator stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndicatorEstimator {
    /// Terms of one (prompt, response) share their mean indicator: converges to the exact solution.
    Action,
    /// Every term has its own indicator (equation 11 of the source, read literally).
    Pair,
}

/// Where the thresholds b_k of the secondary objectives come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdRule {
    /// b_k ← β · mean of the statistic over the interval, at every refresh of the reference.
    Adaptive,
    /// b_k stays where it starts.
    Fixed,
}

/// Over what the weights w have mean 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightNormalization {
    /// Over all terms of the batch. A prompt whose responses score well then weighs more.
    Batch,
    /// Over the terms of each prompt, as the closed form has it: π(·|x) is a distribution for every
    /// x. It needs several responses of a prompt in the batch; two give two-way choices only.
    Prompt,
}

/// How the multipliers λ are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DualMethod {
    /// A step of λ and χ with every mini-batch (Algorithm 1).
    Joint,
    /// Solved on the whole data set at the start and at every refresh of the reference, constant in
    /// between ([`crate::dual::TermGroups`]). The learning rates and initial values of λ and χ then
    /// play no part.
    Exact,
}

/// The hyper-parameters of MOPO; the defaults are the source's, or ours where it gives none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MopoConfig {
    /// τ > 0, weight of the KL term (source: 0.08).
    pub tau: f64,
    /// Ball of the lower bound (source: radius 0.15).
    pub ball: Ball,
    /// β in (0, 1], relaxation of adaptive thresholds (source: 0.9995).
    pub relaxation: f64,
    /// t₀ ≥ 1, optimiser steps between refreshes of the reference (source: 500).
    pub reference_lag: usize,
    /// Step of the multipliers λ.
    pub lambda_lr: f64,
    /// Step of log χ.
    pub chi_lr: f64,
    /// Cap of λ; where it holds, the threshold is unattainable at this τ.
    pub lambda_max: f64,
    /// Where λ starts, for every secondary objective.
    pub initial_lambda: f64,
    /// Where χ starts.
    pub initial_chi: f64,
    /// |log(π_ref/π_0)| of a response is clipped here.
    pub ratio_clip: f64,
    /// ThresholdStatistic that adaptive thresholds follow.
    pub threshold_statistic: ThresholdStatistic,
    /// What an indicator stands for.
    pub indicator_estimator: IndicatorEstimator,
    /// Fixed or adaptive thresholds.
    pub thresholds: ThresholdRule,
    /// Over what w is normalised.
    pub weight_normalization: WeightNormalization,
    /// Stepped along, or solved for.
    pub dual: DualMethod,
    /// b_k at the start; 0.5 asks for no less than the behaviour policy.
    pub initial_threshold: f64,
    /// Terms whose share of a policy's weight is below this take no part in the backward pass.
    /// 0 keeps every term that has any weight.
    pub prune_below: f64,
}

impl Default for MopoConfig {
    fn default() -> Self {
        Self {
            tau: 0.08,
            ball: Ball::Radius(0.15),
            relaxation: 0.9995,
            reference_lag: 500,
            lambda_lr: 0.05,
            chi_lr: 0.5,
            lambda_max: 10.0,
            initial_lambda: 0.0,
            initial_chi: 1.0,
            ratio_clip: 5.0,
            threshold_statistic: ThresholdStatistic::Plain,
            indicator_estimator: IndicatorEstimator::Action,
            thresholds: ThresholdRule::Adaptive,
            weight_normalization: WeightNormalization::Batch,
            dual: DualMethod::Joint,
            initial_threshold: 0.5,
            prune_below: 1e-5,
        }
    }
}

impl MopoConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the field, its value and what would be accepted.
    pub fn check(&self) -> Result<()> {
        self.ball.check()?;
        let positive = |field, value: f64| {
            let held = f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX);
            require(field, value, held.contains(&value), "must be a number > 0, up to 3.4e38")
        };
        let not_negative = |field, value: f64| {
            let held = 0.0..=f64::from(f32::MAX);
            require(field, value, held.contains(&value), "must be a number ≥ 0, up to 3.4e38")
        };
        positive("mopo.tau", self.tau)?;
        require(
            "mopo.relaxation",
            self.relaxation,
            self.relaxation > 0.0 && self.relaxation <= 1.0,
            "must lie in (0, 1]",
        )?;
        require(
            "mopo.reference_lag",
            self.reference_lag as f64,
            self.reference_lag > 0,
            "must be at least 1 step",
        )?;
        not_negative("mopo.lambda_lr", self.lambda_lr)?;
        not_negative("mopo.chi_lr", self.chi_lr)?;
        not_negative("mopo.lambda_max", self.lambda_max)?;
        require(
            "mopo.initial_lambda",
            self.initial_lambda,
            (0.0..=self.lambda_max).contains(&self.initial_lambda),
            "must lie in [0, lambda_max]",
        )?;
        positive("mopo.initial_chi", self.initial_chi)?;
        positive("mopo.ratio_clip", self.ratio_clip)?;
        require(
            "mopo.initial_threshold",
            self.initial_threshold,
            (0.0..=1.0).contains(&self.initial_threshold),
            "must lie in [0, 1]",
        )?;
        if self.dual == DualMethod::Exact
            && self.weight_normalization == WeightNormalization::Prompt
        {
            return Err(Error::InvalidParameter {
                field: "mopo.dual",
                value: "\"exact\" with mopo.weight_normalization = \"prompt\"".into(),
                expected: "the exact dual groups terms whatever their prompt is: use weight_normalization = \
                           \"batch\", or dual = \"joint\""
                    .into(),
            });
        }
        require(
            "mopo.prune_below",
            self.prune_below,
            (0.0..0.1).contains(&self.prune_below),
            "must lie in [0, 0.1)",
        )
    }
}

fn require(field: &'static str, value: f64, ok: bool, expected: &str) -> Result<()> {
    if ok {
        return Ok(());
    }
    Err(Error::InvalidParameter { field, value: value.to_string(), expected: expected.into() })
}

/// The indicators of a batch of terms on a device. Missing labels are kept apart.
#[derive(Debug, Clone)]
pub struct TermLabels<B: Backend> {
    /// `[n_batches, n_terms, n_objectives]`, I in [0, 1]; 0.5 where missing. One batch that all
    /// policies see, or one per policy.
    pub indicators: Tensor<B, 3>,
    /// The same shape, 1 where the label is there, else 0.
    pub present: Tensor<B, 3>,
    /// Which terms share a prompt, if w is normalised prompt by prompt ([`WeightNormalization::Prompt`]).
    pub prompts: Prompts<B>,
}

/// Which terms share a prompt.
#[derive(Debug, Clone)]
pub enum Prompts<B: Backend> {
    /// It does not matter: w is normalised over the batch.
    Ignored,
    /// Terms stand prompt by prompt, equally many of each: so many prompts.
    Blocks(usize),
    /// `[n_batches, n_prompts, n_terms]`: 1 where the term belongs to the prompt, else 0.
    Members(Tensor<B, 3>),
}

impl<B: Backend> TermLabels<B> {
    /// One batch for all policies, from rows of indicators, one row per term.
    ///
    /// # Panics
    /// If the rows have different lengths or there is none.
    pub fn from_rows(rows: &[Vec<Option<f32>>], device: &B::Device) -> Self {
        let (n, k) = (rows.len(), rows[0].len());
        assert!(rows.iter().all(|r| r.len() == k), "every term needs one indicator per objective");
        let flat: Vec<Option<f32>> = rows.iter().flatten().cloned().collect();
        Self::from_flat(&flat, [1, n, k], device)
    }

    /// From indicators in the order of `shape`, `[n_batches, n_terms, n_objectives]`.
    ///
    /// # Panics
    /// If their number is not the shape's.
    pub fn from_flat(labels: &[Option<f32>], shape: [usize; 3], device: &B::Device) -> Self {
        assert_eq!(
            labels.len(),
            shape.iter().product::<usize>(),
            "one indicator per place of the shape"
        );
        // A missing label says nothing: it counts as a tie in s, and not at all in v and q̲.
        let indicators: Vec<f32> = labels.iter().map(|i| i.unwrap_or(0.5)).collect();
        let present: Vec<f32> = labels.iter().map(|i| f32::from(u8::from(i.is_some()))).collect();
        Self {
            indicators: Tensor::from_data(TensorData::new(indicators, shape), device),
            present: Tensor::from_data(TensorData::new(present, shape), device),
            prompts: Prompts::Ignored,
        }
    }

    /// Says which prompt each term belongs to: one number per term of each batch, prompts numbered
    /// from 0 within their batch.
    ///
    /// # Panics
    /// If there is not one number per term.
    pub fn with_prompts(mut self, prompts: &[usize], device: &B::Device) -> Self {
        let [batches, n, _] = self.indicators.dims();
        assert_eq!(prompts.len(), batches * n, "one prompt per term");
        let groups = prompts.iter().max().map_or(1, |m| m + 1);
        let mut member = vec![0.0f32; batches * groups * n];
        for (i, &prompt) in prompts.iter().enumerate() {
            member[(i / n * groups + prompt) * n + i % n] = 1.0;
        }
        let member = TensorData::new(member, [batches, groups, n]);
        self.prompts = Prompts::Members(Tensor::from_data(member, device));
        self
    }
}

/// What a batch says about one policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BatchStatistics {
    /// v_k per objective (the primary included): Σ a w I_k over labelled terms. None where the
    /// batch has no label of k.
    pub plain: Vec<Option<f64>>,
    /// q̲_k per objective, at the current χ_k.
    pub lower_bound: Vec<Option<f64>>,
    /// d q̲_k / d log χ_k.
    pub chi_gradient: Vec<Option<f64>>,
    /// (Σ r)²/Σ r², of the ratios alone: how many terms the reference still sees.
    pub ratio_sample_size: f64,
    /// 1/Σ (a w)², of the weights: how many terms the step learns from.
    pub effective_sample_size: f64,
}

/// One policy's part in [`weigh`].
#[derive(Debug, Clone, Copy)]
pub struct PolicyDual<'a> {
    /// τ > 0.
    pub tau: f64,
    /// Its multipliers.
    pub dual: &'a DualState,
    /// ε, one per objective, in nats. Where it is 0 the bound is the plain estimate.
    pub radius: &'a [f64],
}

/// The weights a_i w_i of the cloning loss (they sum to 1 for each policy) and the statistics
/// beside them, for all policies at once.
///
/// With a = r/Σr and s = I_p + Σ λ_k I_k (closed form, section 2 of docs/math.md):
/// w = exp(s/τ)/Σ a exp(s/τ), the sum over the batch or the term's prompt. All in log space:
/// 1/τ = 12.5 overflows f32 otherwise.
///
/// * `labels`: one batch for all policies or one for each.
/// * `log_ratio`: `[n_policies, n_terms]`, log π_ref(y|x) − log π_0(y|x), clipped at ±`ratio_clip`;
///   zeros before the first refresh.
///
/// Returns the weights, `[n_policies, n_terms]`, and one statistic per policy, read from the device
/// in one transfer.
///
/// # Panics
/// If the shapes do not belong together.
pub fn weigh<B: Backend>(
    policies: &[PolicyDual<'_>],
    labels: &TermLabels<B>,
    log_ratio: Tensor<B, 2>,
    ratio_clip: f64,
) -> (Tensor<B, 2>, Vec<BatchStatistics>) {
    let [batches, n, k] = labels.indicators.dims();
    let p = policies.len();
    assert_eq!(log_ratio.dims(), [p, n], "one log-ratio per policy and term");
    assert!(batches == 1 || batches == p, "one batch for all policies or one for each");
    for policy in policies {
        assert_eq!(policy.dual.lambda.len(), k, "one multiplier per objective");
        assert_eq!(policy.radius.len(), k, "one radius per objective");
    }
    let device = log_ratio.device();
    // One number per policy and objective.
    let table = |of: &dyn Fn(&PolicyDual<'_>, usize) -> f64| {
        let values: Vec<f32> =
            policies.iter().flat_map(|q| (0..k).map(|j| of(q, j) as f32)).collect();
        Tensor::<B, 2>::from_data(TensorData::new(values, [p, k]), &device).reshape([p, 1, k])
    };
    let indicators = labels.indicators.clone();
    let coefficients =
        table(&|q, j| (if j == q.dual.primary { 1.0 } else { q.dual.lambda[j] }) / q.tau);
    let score = (indicators.clone() * coefficients).sum_dim(2).reshape([p, n]); // s_i/τ

    let clipped = log_ratio.clamp(-ratio_clip, ratio_clip);
    let log_a = clipped.clone() - log_sum_exp(clipped);
    let tilted = score + log_a.clone();
    let log_aw = match &labels.prompts {
        Prompts::Ignored => tilted.clone() - log_sum_exp(tilted),
        Prompts::Blocks(prompts) => within_blocks(tilted, log_a.clone(), *prompts),
        Prompts::Members(prompts) => within_prompts(tilted, log_a.clone(), prompts),
    };
    let weights = log_aw.clone().exp();
    // (Σ r)²/Σ r² is 1/Σ a², and likewise for the weights.
    let sizes =
        Tensor::cat(vec![sum_of_squares(log_a.clone().exp()), sum_of_squares(weights.clone())], 1);

    // One batch mean per objective over its labelled terms, with a and w normalised among them.
    let a = log_a.clone().exp().reshape([p, n, 1]) * labels.present.clone();
    let aw = weights.clone().reshape([p, n, 1]) * labels.present.clone();
    let a_sum = a.clone().sum_dim(1); // [p, 1, k]
    let aw_sum = aw.sum_dim(1);
    let a = a / a_sum.clone().clamp_min(f32::MIN_POSITIVE);
    let w = (log_aw - log_a).exp().reshape([p, n, 1]) * a_sum.clone()
        / aw_sum.clamp_min(f32::MIN_POSITIVE);
    let wq = w * indicators; // [p, n, k]
    let plain = (a.clone() * wq.clone()).sum_dim(1);
    let mut rows = vec![a_sum, plain];

    // Without a ball there is no adversary to look for.
    if policies.iter().any(|q| q.radius.iter().any(|&r| r > 0.0)) {
        // q̲ = −χ log Σ a exp(−w q/χ) − χ ε; the terms of the sum are ≤ a, so no overflow, and the
        // smallest exponent is taken out against underflow of all of them.
        let chi = table(&|q, j| q.dual.log_chi[j].exp());
        let epsilon = table(&|q, j| q.radius[j]);
        let unlabelled = labels.present.clone().mul_scalar(-1.0).add_scalar(1.0);
        let floor = (wq.clone() + unlabelled.mul_scalar(f32::MAX / 4.0)).min_dim(1); // [p, 1, k]
        let shrunk = a * ((floor.clone() - wq.clone()) / chi.clone()).clamp_max(0.0).exp();
        let mass = shrunk.clone().sum_dim(1);
        let log_mean = mass.clone().clamp_min(f32::MIN_POSITIVE).log() - floor / chi.clone();
        let lower_bound = (log_mean + epsilon) * chi.neg();
        // χ d q̲/dχ = −χ (log Σ a exp(−wq/χ) + ε) − Σ ω w q
        let adversary = (shrunk * wq).sum_dim(1) / mass.clamp_min(f32::MIN_POSITIVE);
        rows.extend([lower_bound.clone(), lower_bound - adversary]);
    }

    // One transfer to the host for all of them.
    let n_rows = rows.len();
    let table = Tensor::cat(rows, 1).reshape([p, n_rows * k]);
    let host: Vec<f64> = Tensor::cat(vec![table, sizes], 1).into_data().iter().collect();
    let width = n_rows * k + 2;
    let statistics = policies
        .iter()
        .zip(host.chunks_exact(width))
        .map(|(policy, host)| {
            let labelled = |j: usize| host[j] > 0.0;
            // Radius 0: χ has no value to climb to, and the bound is v itself.
            let bounded = |j: usize| policy.radius[j] > 0.0;
            let row = |of: &dyn Fn(usize) -> f64| -> Vec<Option<f64>> {
                (0..k).map(|j| labelled(j).then(|| of(j))).collect()
            };
            BatchStatistics {
                plain: row(&|j| host[k + j]),
                lower_bound: row(&|j| if bounded(j) { host[2 * k + j] } else { host[k + j] }),
                chi_gradient: row(&|j| if bounded(j) { host[3 * k + j] } else { 0.0 }),
                ratio_sample_size: 1.0 / host[n_rows * k],
                effective_sample_size: 1.0 / host[n_rows * k + 1],
            }
        })
        .collect();
    (weights, statistics)
}

/// [`within_prompts`] where reshaping is enough to have a prompt's terms together.
fn within_blocks<B: Backend>(
    tilted: Tensor<B, 2>,
    log_a: Tensor<B, 2>,
    n_prompts: usize,
) -> Tensor<B, 2> {
    let [p, n] = tilted.dims();
    let rows = |x: Tensor<B, 2>| x.reshape([p * n_prompts, n / n_prompts]);
    let tilted = rows(tilted);
    let share = log_sum_exp(rows(log_a)) - log_sum_exp(tilted.clone());
    (tilted + share).reshape([p, n])
}

/// log(a w) with E_ref\[w\] = 1 within each prompt: the prompt's share Σ a stays what it was.
fn within_prompts<B: Backend>(
    tilted: Tensor<B, 2>,
    log_a: Tensor<B, 2>,
    prompts: &Tensor<B, 3>,
) -> Tensor<B, 2> {
    let [p, n] = tilted.dims();
    let outside = prompts.clone().mul_scalar(-1.0).add_scalar(1.0).mul_scalar(-1e30);
    let of_prompt = |x: Tensor<B, 2>| {
        let x = x.reshape([p, 1, n]) + outside.clone(); // [p, n_prompts, n]
        let max = x.clone().max_dim(2);
        (x - max.clone()).exp().sum_dim(2).log() + max // [p, n_prompts, 1]
    };
    // One sum per prompt, handed back to its terms.
    let share = (of_prompt(log_a) - of_prompt(tilted.clone())).clamp(-1e20, 1e20);
    tilted + (share * prompts.clone()).sum_dim(1).reshape([p, n])
}

/// The importance-weighted cloning loss −Σ a_i w_i log π(y_i|x_i), shape `[1]`: summed over terms
/// and, where there is such a dimension, over policies.
///
/// Both arguments are `[n_terms]` or `[n_policies, n_terms]`; the weights carry no gradient.
pub fn cloning_loss<B: Backend, const D: usize>(
    weights: Tensor<B, D>,
    log_probs: Tensor<B, D>,
) -> Tensor<B, 1> {
    (weights.detach() * log_probs).sum().neg()
}

/// Which terms a policy's backward pass needs: those with at least `prune_below` of the weight,
/// and always the heaviest one.
pub fn needed_terms(weights: &[f64], prune_below: f64) -> Vec<bool> {
    let total: f64 = weights.iter().sum();
    let heaviest = weights.iter().cloned().fold(0.0, f64::max);
    weights.iter().map(|&w| w == heaviest || w >= prune_below * total && w > 0.0).collect()
}

fn log_sum_exp<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let max = x.clone().max_dim(1);
    (x - max.clone()).exp().sum_dim(1).log() + max
}

fn sum_of_squares<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    x.clone().mul(x).sum_dim(1)
}
