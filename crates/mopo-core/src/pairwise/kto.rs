//! Kahneman-Tversky optimisation (Ethayarajh et al., 2024) on the responses of pairs.

use burn::tensor::{Tensor, activation::sigmoid, backend::Backend};

/// Weights of preferred responses, λ_D, and of the others, λ_U; both ≥ 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KtoWeights {
    /// λ_D.
    pub desirable: f64,
    /// λ_U.
    pub undesirable: f64,
}

/// Σ_i (m_i/2) \[I_i L(first, second) + (1 − I_i) L(second, first)\] with
/// L(w, l) = λ_D (1 − σ(β(Δ_w − z))) + λ_U (1 − σ(β(z − Δ_l))): equation 7 of the paper up to a constant, of both responses
/// of each pair, each on its own against the reference point z. Shape `[1]`.
///
/// * `first`, `second`: Δ = log(π/π_ref) of the two responses, `[…, n_pairs]`, in nats.
/// * `indicators`: I, the same shape; 1 where `first` is preferred, or the probability that it is.
/// * `mass`: m, the same shape; 1/n for a mean over pairs, and so over their responses.
/// * `kl`: z ≥ 0, an estimate of KL(π‖π_ref), without a gradient.
/// * `beta`: β > 0, the scale of the value function.
pub fn kto_loss<B: Backend, const D: usize>(
    first: Tensor<B, D>,
    second: Tensor<B, D>,
    indicators: Tensor<B, D>,
    mass: Tensor<B, D>,
    kl: f64,
    beta: f64,
    weights: KtoWeights,
) -> Tensor<B, 1> {
    let KtoWeights { desirable, undesirable } = weights;
    // 1 − σ(x) = σ(−x).
    let of = |won: Tensor<B, D>, lost: Tensor<B, D>| {
        let won = sigmoid(won.sub_scalar(kl).mul_scalar(-beta)).mul_scalar(desirable);
        let lost = sigmoid(lost.sub_scalar(kl).mul_scalar(beta)).mul_scalar(undesirable);
        won + lost
    };
    let as_labelled = of(first.clone(), second.clone()) * indicators.clone();
    let otherwise = of(second, first) * indicators.neg().add_scalar(1.0);
    ((as_labelled + otherwise) * mass).sum().div_scalar(2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mopo_testkit::TestBackend as B;

    #[test]
    fn hand_computed_values() {
        let t = |x: f32| Tensor::<B, 1>::from_data([x], &Default::default());
        let weights = KtoWeights { desirable: 1.5, undesirable: 0.5 };
        let of = |indicator: f32, kl: f64| -> f64 {
            f64::from(
                kto_loss(t(0.8), t(-0.4), t(indicator), t(1.0), kl, 2.0, weights).into_scalar(),
            )
        };
        let s = |x: f64| 1.0 / (1.0 + (-x).exp());
        // β(Δ_w − z) and β(z − Δ_l).
        let expected = 0.5 * (1.5 * (1.0 - s(2.0 * 0.5)) + 0.5 * (1.0 - s(2.0 * 0.7)));
        assert!((of(1.0, 0.3) - expected).abs() < 1e-6);
        // The other way round, and half of each for a tie.
        let other = 0.5 * (1.5 * (1.0 - s(2.0 * -0.7)) + 0.5 * (1.0 - s(2.0 * -0.5)));
        assert!((of(0.0, 0.3) - other).abs() < 1e-6);
        assert!((of(0.5, 0.3) - (expected + other) / 2.0).abs() < 1e-6);
    }

    #[test]
    fn at_the_reference_every_response_is_worth_a_half() {
        let zero = || Tensor::<B, 1>::zeros([3], &Default::default());
        let third = Tensor::<B, 1>::full([3], 1.0 / 3.0, &Default::default());
        let weights = KtoWeights { desirable: 1.0, undesirable: 1.0 };
        let loss = kto_loss(zero(), zero(), zero(), third, 0.0, 0.1, weights);
        assert!((f64::from(loss.into_scalar()) - 0.5).abs() < 1e-6);
    }
}
