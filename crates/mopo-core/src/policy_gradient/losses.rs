//! Losses on tokens, differentiable in what the policy computes now.

use burn::tensor::{Tensor, backend::Backend};

/// Log-ratios are cut off at ± this, so that none overflows: e^20 is far beyond every clip range.
pub const MAX_LOG_RATIO: f64 = 20.0;

/// −Σ_t m_t min(ρ_t A_t, clip(ρ_t, 1 − ε, 1 + ε) A_t) with ρ = π/π_old: the clipped surrogate (Schulman et al., 2017,
/// equation 7), negated. Shape `[1]`.
///
/// * `log_probs`: log π of the tokens, `[n_tokens]`.
/// * `old`: log π_old, of the policy that sampled them, the same shape.
/// * `advantages`: A, the same shape.
/// * `mass`: m, the same shape; 1/n for a mean over tokens.
/// * `clip`: ε in (0, 1).
pub fn clipped_surrogate<B: Backend>(
    log_probs: Tensor<B, 1>,
    old: Tensor<B, 1>,
    advantages: Tensor<B, 1>,
    mass: Tensor<B, 1>,
    clip: f64,
) -> Tensor<B, 1> {
    let ratio = (log_probs - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp();
    let clipped = ratio.clone().clamp(1.0 - clip, 1.0 + clip) * advantages.clone();
    ((ratio * advantages).min_pair(clipped) * mass).sum().neg()
}

/// Whether [`clipped_surrogate`] has no gradient at a token: the ratio has left the clip range in the direction of
/// its advantage.
///
/// * `log_ratio`: log π − log π_old.
pub fn is_clipped(log_ratio: f64, advantage: f64, clip: f64) -> bool {
    let ratio = log_ratio.exp();
    (ratio > 1.0 + clip && advantage > 0.0) || (ratio < 1.0 - clip && advantage < 0.0)
}

/// ½ Σ_t m_t max((V_t − R_t)², (clip(V_t, V_old,t − ε, V_old,t + ε) − R_t)²): the value loss of PPO's public
/// implementations (OpenAI baselines, TRL), not in the paper. Shape `[1]`.
///
/// * `values`: V of the tokens, `[n_tokens]`.
/// * `old`: V_old when they were sampled, the same shape.
/// * `returns`: R, the same shape.
/// * `mass`: m, the same shape; 1/n for a mean over tokens.
/// * `clip`: ε > 0.
pub fn clipped_value_loss<B: Backend>(
    values: Tensor<B, 1>,
    old: Tensor<B, 1>,
    returns: Tensor<B, 1>,
    mass: Tensor<B, 1>,
    clip: f64,
) -> Tensor<B, 1> {
    let moved = (values.clone() - old.clone()).clamp(-clip, clip) + old;
    let square = |values: Tensor<B, 1>| (values - returns.clone()).square();
    (square(values).max_pair(square(moved)) * mass).sum().mul_scalar(0.5)
}

/// Σ_t m_t (e^{−d_t} + d_t − 1) with d = log π − log π_ref: the estimator k₃ of KL(π ‖ π_ref), unbiased on tokens
/// that π sampled and never negative (Schulman, 2020; Shao et al., 2024, equation 4). Shape `[1]`.
///
/// * `log_probs`, `reference`: log π and log π_ref of the tokens, `[n_tokens]`.
/// * `mass`: m, the same shape; 1/n for a mean over tokens.
pub fn k3_penalty<B: Backend>(
    log_probs: Tensor<B, 1>,
    reference: Tensor<B, 1>,
    mass: Tensor<B, 1>,
) -> Tensor<B, 1> {
    let back = reference - log_probs;
    let ratio = back.clone().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp();
    ((ratio - back).sub_scalar(1.0) * mass).sum()
}

#[cfg(test)]
mod tests {
    use mopo_testkit::{TestAutodiffBackend as A, TestBackend as B};

    use super::*;

    fn t<T: Backend>(values: &[f32]) -> Tensor<T, 1> {
        Tensor::from_data(values, &Default::default())
    }

    fn one(tensor: Tensor<B, 1>) -> f64 {
        f64::from(tensor.into_scalar())
    }

    #[test]
    fn the_surrogate_is_clipped_where_it_would_gain_too_much() {
        let ratios = [1.5f32, 1.5, 0.5, 0.5, 1.1];
        let log_probs: Vec<f32> = ratios.iter().map(|r| r.ln() - 1.0).collect();
        let advantages = [2.0f32, -2.0, 2.0, -2.0, 1.0];
        // min(3, 2.4), min(−3, −2.4), min(1, 1.6), min(−1, −1.6), 1.1.
        let terms = [2.4, -3.0, 1.0, -1.6, 1.1];
        let mass = [0.1f32, 0.2, 0.3, 0.25, 0.15];
        let found = one(clipped_surrogate::<B>(
            t(&log_probs),
            t(&[-1.0; 5]),
            t(&advantages),
            t(&mass),
            0.2,
        ));
        let expected: f64 = terms.iter().zip(mass).map(|(x, m)| -x * f64::from(m)).sum();
        assert!((found - expected).abs() < 1e-6, "{found} and {expected}");

        let log_probs = t::<A>(&log_probs).require_grad();
        let loss =
            clipped_surrogate(log_probs.clone(), t(&[-1.0; 5]), t(&advantages), t(&mass), 0.2);
        let slopes: Vec<f32> =
            log_probs.grad(&loss.backward()).unwrap().into_data().iter().collect();
        for i in 0..5 {
            let is_flat = is_clipped(f64::from(ratios[i].ln()), advantages[i].into(), 0.2);
            let expected = if is_flat { 0.0 } else { -mass[i] * ratios[i] * advantages[i] };
            assert!((slopes[i] - expected).abs() < 1e-6, "{i}: {slopes:?}");
        }
        assert_eq!(slopes.iter().filter(|slope| **slope == 0.0).count(), 2);
    }

    #[test]
    fn ratios_beyond_all_bounds_have_finite_losses_and_slopes() {
        for (log_prob, advantage) in [(200.0, 1.0), (200.0, -1.0), (-200.0, 1.0), (-200.0, -1.0)] {
            let x = t::<A>(&[log_prob]).require_grad();
            let loss = clipped_surrogate(x.clone(), t(&[0.0]), t(&[advantage]), t(&[1.0]), 0.2)
                + k3_penalty(x.clone(), t(&[0.0]), t(&[1.0]));
            let value: f32 = loss.clone().into_scalar();
            let slope: f32 = x.grad(&loss.backward()).unwrap().into_scalar();
            assert!(value.is_finite() && slope.is_finite(), "{log_prob} {advantage}");
        }
    }

    #[test]
    fn a_value_that_moved_too_far_has_no_gain_from_it() {
        // Old values 0, ε = 0.2. Towards the return: the worse of both, which is the cut-off one.
        for (value, target, expected) in
            [(0.1f32, 1.0f32, 0.81f64), (0.9, 1.0, 0.64), (-0.9, 1.0, 3.61), (0.5, 0.0, 0.25)]
        {
            let found =
                one(clipped_value_loss::<B>(t(&[value]), t(&[0.0]), t(&[target]), t(&[1.0]), 0.2));
            assert!((found - 0.5 * expected).abs() < 1e-6, "{value} {target}: {found}");
        }
    }

    /// Its mean over tokens of π is the KL, exactly, on a small vocabulary.
    #[test]
    fn k3_is_the_kl_on_average_and_never_negative() {
        let (p, q) = ([0.5f32, 0.3, 0.2], [0.2f32, 0.5, 0.3]);
        let log = |x: [f32; 3]| x.map(f32::ln);
        let found = one(k3_penalty::<B>(t(&log(p)), t(&log(q)), t(&p)));
        let kl: f64 = p.iter().zip(q).map(|(p, q)| f64::from(p * (p / q).ln())).sum();
        assert!((found - kl).abs() < 1e-6, "{found} and {kl}");
        for i in 0..3 {
            let term = one(k3_penalty::<B>(t(&[p[i].ln()]), t(&[q[i].ln()]), t(&[1.0])));
            let d = f64::from((p[i] / q[i]).ln());
            assert!(term >= 0.0 && (term - ((-d).exp() + d - 1.0)).abs() < 1e-6, "{term}");
        }
    }
}
