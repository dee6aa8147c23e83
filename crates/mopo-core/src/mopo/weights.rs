//! The importance weights of a batch in closed form, with their statistics.

use burn::tensor::{Tensor, TensorData, backend::Backend};
use serde::Serialize;

use super::{Prompts, ResponseLabels};
use crate::lower_bound::{self, LowerBound};
use crate::{ChiUpdate, DualState};

/// The statistics of a batch for one policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BatchStatistics {
    /// v_k per objective (the primary included): Σ a w I_k over labelled responses. `None` if the
    /// batch has no label of k.
    pub plain: Vec<Option<f64>>,
    /// q̲_k per objective, at the current χ_k or at the batch's best one.
    pub lower_bound: Vec<Option<f64>>,
    /// d q̲_k / d log χ_k at the current χ_k; 0 at the batch's best one.
    pub chi_gradient: Vec<Option<f64>>,
    /// The χ_k at which the batch's q̲_k is best, where it was solved for: 0 if the ball reaches the batch's minimum,
    /// infinite if all values are equal.
    pub best_chi: Vec<Option<f64>>,
    /// (Σ r)²/Σ r², the effective sample size of the ratios: how many responses the reference still
    /// covers.
    pub ratio_sample_size: f64,
    /// 1/Σ (a w)², the effective sample size of the weights: how many responses the step learns
    /// from.
    pub effective_sample_size: f64,
}

/// A policy's arguments of [`importance_weights`].
#[derive(Debug, Clone, Copy)]
pub struct PolicyDual<'a> {
    /// τ > 0.
    pub tau: f64,
    /// Its multipliers.
    pub dual: &'a DualState,
    /// ε, one per objective, in nats. With 0 the bound is the plain estimate.
    pub radius: &'a [f64],
    /// Whether bounds are at the χ of `dual` or at the batch's best.
    pub chi: ChiUpdate,
}

/// The weights a_i w_i of the cloning loss (they sum to 1 for each policy) and the statistics
/// beside them, for all policies at once.
///
/// With a = r/Σr and s = I_p + Σ λ_k I_k (closed form, section 2 of docs/math.md):
/// w = exp(s/τ)/Σ a exp(s/τ), the sum over the batch or the response's prompt. All in log space:
/// 1/τ = 12.5 overflows f32 otherwise.
///
/// * `labels`: one batch for all policies or one for each.
/// * `log_ratio`: `[n_policies, n_responses]`, log π_ref(y|x) − log π_0(y|x), clipped at ±`ratio_clip`;
///   zeros before the first refresh.
///
/// Returns the weights, `[n_policies, n_responses]`, and one statistic per policy, read from the device
/// in one transfer.
///
/// # Panics
/// If the shapes do not belong together.
pub fn importance_weights<B: Backend>(
    policies: &[PolicyDual<'_>],
    labels: &ResponseLabels<B>,
    log_ratio: Tensor<B, 2>,
    ratio_clip: f64,
) -> (Tensor<B, 2>, Vec<BatchStatistics>) {
    let [_, n, _] = labels.indicators.dims();
    let p = policies.len();
    assert_eq!(log_ratio.dims(), [p, n], "one log-ratio per policy and response");
    let coefficients = table(policies, &log_ratio.device(), &|q, j| {
        (if j == q.dual.primary { 1.0 } else { q.dual.lambda[j] }) / q.tau
    });
    let score = (labels.indicators.clone() * coefficients).sum_dim(2).reshape([p, n]); // s_i/τ
    tilted_statistics(policies, labels, score, log_ratio.clamp(-ratio_clip, ratio_clip))
}

/// One number per policy and objective, `[n_policies, 1, n_objectives]`.
fn table<B: Backend>(
    policies: &[PolicyDual<'_>],
    device: &B::Device,
    of: &dyn Fn(&PolicyDual<'_>, usize) -> f64,
) -> Tensor<B, 3> {
    let (p, k) = (policies.len(), policies[0].radius.len());
    let values: Vec<f32> = policies.iter().flat_map(|q| (0..k).map(|j| of(q, j) as f32)).collect();
    Tensor::from_data(TensorData::new(values, [p, 1, k]), device)
}

/// [`importance_weights`] for weights w ∝ exp(score) relative to a ∝ exp(log_ratio), both
/// `[n_policies, n_responses]`.
pub(super) fn tilted_statistics<B: Backend>(
    policies: &[PolicyDual<'_>],
    labels: &ResponseLabels<B>,
    score: Tensor<B, 2>,
    log_ratio: Tensor<B, 2>,
) -> (Tensor<B, 2>, Vec<BatchStatistics>) {
    let [batches, n, k] = labels.indicators.dims();
    let p = policies.len();
    assert!(batches == 1 || batches == p, "one batch for all policies or one for each");
    for policy in policies {
        assert_eq!(policy.dual.lambda.len(), k, "one multiplier per objective");
        assert_eq!(policy.radius.len(), k, "one radius per objective");
    }
    let device = log_ratio.device();
    let indicators = labels.indicators.clone();
    let log_a = log_ratio.clone() - log_sum_exp(log_ratio);
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

    // One batch mean per objective over its labelled responses, with a and w normalised among them: by their logarithms,
    // since next to an unlabelled response with nearly all of the weight theirs may all be 0 in f32.
    let [log_a, log_aw] = [log_a, log_aw].map(|x| x.reshape([p, n, 1]));
    let present = labels.present.clone().expand([p, n, k]);
    let among = |log: &Tensor<B, 3>| log.clone() - log_sum_exp_of(log.clone(), present.clone());
    let log_a = among(&log_a);
    let w = ((among(&log_aw) - log_a.clone()) * present.clone()).exp() * present.clone();
    let a = (log_a * present.clone()).exp() * present.clone();
    let wq = w * indicators; // [p, n, k]
    let plain = (a.clone() * wq.clone()).sum_dim(1);
    let mut rows = vec![present.sum_dim(1), plain];

    // Weights and values of the lower bounds, where they are solved for on the host.
    let to_solve = (bounded(policies) && policies.iter().any(|q| q.chi == ChiUpdate::Optimum))
        .then(|| Tensor::cat(vec![a.clone(), wq.clone()], 1));

    // Without a ball there is no adversary.
    if bounded(policies) {
        // q̲ = −χ log Σ a exp(−w q/χ) − χ ε; the summands are ≤ a, so no overflow, and the
        // smallest exponent is taken out against underflow of all of them.
        let chi = table(policies, &device, &|q, j| q.dual.log_chi[j].exp());
        let epsilon = table(policies, &device, &|q, j| q.radius[j]);
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
    let mut parts = vec![table, sizes];
    let width = n_rows * k + 2 + to_solve.as_ref().map_or(0, |_| 2 * n * k);
    parts.extend(to_solve.map(|x| x.reshape([p, 2 * n * k])));
    let host: Vec<f64> = Tensor::cat(parts, 1).into_data().iter().collect();
    let statistics = policies
        .iter()
        .zip(host.chunks_exact(width))
        .map(|(policy, host)| {
            let labelled = |j: usize| host[j] > 0.0;
            // With radius 0 there is no optimal χ, and the bound is v itself.
            let bounded = |j: usize| policy.radius[j] > 0.0;
            let row = |of: &dyn Fn(usize) -> f64| -> Vec<Option<f64>> {
                (0..k).map(|j| labelled(j).then(|| of(j))).collect()
            };
            let best = |j: usize| {
                let solved = policy.chi == ChiUpdate::Optimum && bounded(j) && labelled(j);
                solved.then(|| best_bound(&host[n_rows * k + 2..], [n, k], j, policy.radius[j]))
            };
            let best: Vec<Option<LowerBound>> = (0..k).map(best).collect();
            let at =
                |j: usize, solved: &dyn Fn(&LowerBound) -> f64, row: usize, flat: f64| match &best
                    [j]
                {
                    Some(best) => solved(best),
                    None if bounded(j) => host[row * k + j],
                    None => flat,
                };
            BatchStatistics {
                plain: row(&|j| host[k + j]),
                lower_bound: row(&|j| at(j, &|best| best.value, 2, host[k + j])),
                chi_gradient: row(&|j| at(j, &|_| 0.0, 3, 0.0)),
                best_chi: best.iter().map(|best| best.as_ref().map(|b| b.chi)).collect(),
                ratio_sample_size: 1.0 / host[n_rows * k],
                effective_sample_size: 1.0 / host[n_rows * k + 1],
            }
        })
        .collect();
    (weights, statistics)
}

/// Whether any policy has an adversary.
fn bounded(policies: &[PolicyDual<'_>]) -> bool {
    policies.iter().any(|q| q.radius.iter().any(|&r| r > 0.0))
}

/// The lower bound of objective `j` at its best χ. `host`: `[2, n_responses, n_objectives]`, weights a and values
/// w q; the weights of what has no label are 0.
fn best_bound(host: &[f64], [n, k]: [usize; 2], j: usize, radius: f64) -> LowerBound {
    let column = |from: usize| (0..n).map(move |i| host[from + i * k + j]);
    // To f32's digits they sum to 1; the solver is exact.
    let total: f64 = column(0).sum();
    let p: Vec<f64> = column(0).map(|a| a / total).collect();
    let x: Vec<f64> = column(n * k).collect();
    lower_bound::solve(&p, &x, radius)
}

/// [`within_prompts`] for batches where reshaping is enough to group a prompt's responses.
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

/// log(a w) with E_ref\[w\] = 1 within each prompt: the prompt's share Σ a is unchanged.
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
    // One sum per prompt, distributed to its responses.
    let share = (of_prompt(log_a) - of_prompt(tilted.clone())).clamp(-1e20, 1e20);
    tilted + (share * prompts.clone()).sum_dim(1).reshape([p, n])
}

fn log_sum_exp<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let max = x.clone().max_dim(1);
    (x - max.clone()).exp().sum_dim(1).log() + max
}

/// The same over the responses with a label of each objective: `[n_policies, 1, n_objectives]` from `[n_policies, n_responses,
/// 1]` and `present`. Finite where there are none.
fn log_sum_exp_of<B: Backend>(x: Tensor<B, 3>, present: Tensor<B, 3>) -> Tensor<B, 3> {
    let absent = present.clone().mul_scalar(-1.0).add_scalar(1.0);
    let among = x * present.clone() - absent.mul_scalar(f32::MAX / 4.0);
    let max = among.clone().max_dim(1);
    let sum = ((among - max.clone()).exp() * present).sum_dim(1);
    sum.clamp_min(f32::MIN_POSITIVE).log() + max
}

fn sum_of_squares<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    x.clone().mul(x).sum_dim(1)
}
