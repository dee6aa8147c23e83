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
pub enum Statistic {
    /// v_k = Σ a w I_k, as the source reads. The constraint is on the smaller lower bound, so
    /// such a threshold can be unattainable; λ then saturates at `lambda_max`, which is reported.
    Plain,
    /// The lower bound q̲_k itself.
    LowerBound,
}

/// What a term's indicator stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
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
    /// Statistic that adaptive thresholds follow.
    pub statistic: Statistic,
    /// What an indicator stands for.
    pub estimator: Estimator,
    /// Fixed or adaptive thresholds.
    pub thresholds: ThresholdRule,
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
            statistic: Statistic::Plain,
            estimator: Estimator::Action,
            thresholds: ThresholdRule::Adaptive,
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
            require(field, value, value.is_finite() && value > 0.0, "must be a number > 0")
        };
        let not_negative = |field, value: f64| {
            require(field, value, value.is_finite() && value >= 0.0, "must be a number ≥ 0")
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
    /// `[n_terms, n_objectives]`, I in [0, 1]; 0.5 where missing.
    pub indicators: Tensor<B, 2>,
    /// `[n_terms, n_objectives]`, 1 where the label is there, else 0.
    pub present: Tensor<B, 2>,
}

impl<B: Backend> TermLabels<B> {
    /// From rows of indicators, one row per term.
    ///
    /// # Panics
    /// If the rows have different lengths or there is none.
    pub fn from_rows(rows: &[Vec<Option<f32>>], device: &B::Device) -> Self {
        let (n, k) = (rows.len(), rows[0].len());
        assert!(rows.iter().all(|r| r.len() == k), "every term needs one indicator per objective");
        let flat = || rows.iter().flatten();
        // A missing label says nothing: it counts as a tie in s, and not at all in v and q̲.
        let indicators: Vec<f32> = flat().map(|i| i.unwrap_or(0.5)).collect();
        let present: Vec<f32> = flat().map(|i| f32::from(u8::from(i.is_some()))).collect();
        Self {
            indicators: Tensor::from_data(TensorData::new(indicators, [n, k]), device),
            present: Tensor::from_data(TensorData::new(present, [n, k]), device),
        }
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

/// The weights a_i w_i of the cloning loss (they sum to 1) and the statistics beside them.
///
/// With a = r/Σr and s = I_p + Σ λ_k I_k (closed form, section 2 of docs/math.md):
/// w = exp(s/τ)/Σ a exp(s/τ). All in log space: 1/τ = 12.5 overflows f32 otherwise.
///
/// * `log_ratio`: `[n_terms]`, log π_ref(y|x) − log π_0(y|x); zeros before the first refresh.
/// * `radius`: ε, one per objective, in nats.
///
/// # Panics
/// If the shapes do not belong together.
pub fn weigh<B: Backend>(
    config: &MopoConfig,
    primary: usize,
    dual: &DualState,
    labels: &TermLabels<B>,
    log_ratio: Tensor<B, 1>,
    radius: &[f64],
) -> (Tensor<B, 1>, BatchStatistics) {
    let [n, k] = labels.indicators.dims();
    assert_eq!(log_ratio.dims(), [n], "one log-ratio per term");
    assert_eq!(dual.lambda.len(), k, "one multiplier per objective");
    assert_eq!(radius.len(), k, "one radius per objective");
    let device = log_ratio.device();

    let coefficients: Vec<f32> =
        (0..k).map(|j| if j == primary { 1.0 } else { dual.lambda[j] as f32 }).collect();
    let coefficients = Tensor::<B, 2>::from_data(TensorData::new(coefficients, [k, 1]), &device);
    let score = labels.indicators.clone().matmul(coefficients).reshape([n]); // s_i

    let clipped = log_ratio.clamp(-config.ratio_clip, config.ratio_clip);
    let log_a = clipped.clone() - log_sum_exp(clipped);
    let tilted = score.div_scalar(config.tau) + log_a.clone();
    let log_aw = tilted.clone() - log_sum_exp(tilted); // log(a_i w_i)
    let weights = log_aw.clone().exp();
    // (Σ r)²/Σ r² is 1/Σ a², and likewise for the weights.
    let sizes =
        Tensor::cat(vec![sum_of_squares(log_a.clone().exp()), sum_of_squares(weights.clone())], 0);

    // One batch mean per objective over its labelled terms, with a and w normalised among them.
    let a = log_a.clone().exp().reshape([n, 1]) * labels.present.clone();
    let aw = weights.clone().reshape([n, 1]) * labels.present.clone();
    let a_sum = a.clone().sum_dim(0); // [1, k]
    let aw_sum = aw.clone().sum_dim(0);
    let a = a / a_sum.clone().clamp_min(f32::MIN_POSITIVE);
    let w = (log_aw - log_a).exp().reshape([n, 1]) * a_sum.clone()
        / aw_sum.clone().clamp_min(f32::MIN_POSITIVE);
    let wq = w * labels.indicators.clone(); // [n, k]
    let plain = (a.clone() * wq.clone()).sum_dim(0);

    // q̲ = −χ log Σ a exp(−w q/χ) − χ ε; the terms of the sum are ≤ a, so no overflow, and the
    // smallest exponent is taken out against underflow of all of them.
    let chi: Vec<f32> = dual.log_chi.iter().map(|l| l.exp() as f32).collect();
    let chi = Tensor::<B, 2>::from_data(TensorData::new(chi, [1, k]), &device);
    let epsilon: Vec<f32> = radius.iter().map(|&r| r as f32).collect();
    let epsilon = Tensor::<B, 2>::from_data(TensorData::new(epsilon, [1, k]), &device);
    let unlabelled = labels.present.clone().mul_scalar(-1.0).add_scalar(1.0);
    let floor = (wq.clone() + unlabelled.mul_scalar(f32::MAX / 4.0)).min_dim(0); // [1, k]
    let shrunk = a * ((floor.clone() - wq.clone()) / chi.clone()).clamp_max(0.0).exp();
    let mass = shrunk.clone().sum_dim(0);
    let log_mean = mass.clone().clamp_min(f32::MIN_POSITIVE).log() - floor / chi.clone();
    let lower_bound = (log_mean.clone() + epsilon.clone()) * chi.clone().neg();
    // χ d q̲/dχ = −χ (log Σ a exp(−wq/χ) + ε) − Σ ω w q
    let adversary = (shrunk * wq).sum_dim(0) / mass.clamp_min(f32::MIN_POSITIVE);
    let chi_gradient = lower_bound.clone() - adversary;

    // One transfer to the host for all of them.
    let table: Vec<f64> =
        Tensor::cat(vec![a_sum, plain, lower_bound, chi_gradient], 0).into_data().iter().collect();
    let sizes: Vec<f64> = sizes.into_data().iter().collect();
    let row = |r: usize| -> Vec<Option<f64>> {
        (0..k).map(|j| (table[j] > 0.0).then(|| table[r * k + j])).collect()
    };
    let statistics = BatchStatistics {
        plain: row(1),
        lower_bound: row(2),
        chi_gradient: row(3),
        ratio_sample_size: 1.0 / sizes[0],
        effective_sample_size: 1.0 / sizes[1],
    };
    (weights, statistics)
}

/// The importance-weighted cloning loss −Σ a_i w_i log π(y_i|x_i), shape `[1]`.
///
/// Both arguments are `[n_terms]`; the weights carry no gradient.
pub fn cloning_loss<B: Backend>(weights: Tensor<B, 1>, log_probs: Tensor<B, 1>) -> Tensor<B, 1> {
    (weights.detach() * log_probs).sum().neg()
}

/// Which terms a policy's backward pass needs: those with at least `prune_below` of the weight,
/// and always the heaviest one.
pub fn needed_terms(weights: &[f64], prune_below: f64) -> Vec<bool> {
    let total: f64 = weights.iter().sum();
    let heaviest = weights.iter().cloned().fold(0.0, f64::max);
    weights.iter().map(|&w| w == heaviest || w >= prune_below * total && w > 0.0).collect()
}

fn log_sum_exp<B: Backend>(x: Tensor<B, 1>) -> Tensor<B, 1> {
    let max = x.clone().max();
    (x - max.clone()).exp().sum().log() + max
}

fn sum_of_squares<B: Backend>(x: Tensor<B, 1>) -> Tensor<B, 1> {
    x.clone().mul(x).sum()
}
