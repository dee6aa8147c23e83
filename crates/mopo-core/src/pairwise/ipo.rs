//! Identity preference optimisation (Azar et al., 2023).

use burn::tensor::{Tensor, backend::Backend};

use super::labelled_loss;

/// Σ_i m_i \[I_i (h_i − t)² + (1 − I_i) (h_i + t)²\] with h_i = Δ(first) − Δ(second) and
/// t = 1/(2β): equation 17 of the paper, whose τ is β here. Shape `[1]`.
///
/// * `first`, `second`: Δ of the two responses, `[…, n_pairs]`, in nats.
/// * `indicators`: I, the same shape; 1 where `first` is preferred, or the probability that it is.
/// * `mass`: m, the same shape; 1/n for a mean over pairs.
/// * `beta`: β > 0, the strength of the KL term.
pub fn ipo_loss<B: Backend, const D: usize>(
    first: Tensor<B, D>,
    second: Tensor<B, D>,
    indicators: Tensor<B, D>,
    mass: Tensor<B, D>,
    beta: f64,
) -> Tensor<B, 1> {
    let target = 1.0 / (2.0 * beta);
    labelled_loss(first - second, indicators, mass, |won| won.sub_scalar(target).square())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mopo_testkit::{TestAutodiffBackend, TestBackend as B};

    #[test]
    fn hand_computed_values() {
        let t = |x: [f32; 2]| Tensor::<B, 1>::from_data(x, &Default::default());
        // β = 0.25: the margin aims at 2. 3 − 0.5 = 2.5 is half a nat beyond it; with I = ½ both signs count.
        let loss = ipo_loss(t([3.0, 1.0]), t([0.5, 0.0]), t([1.0, 0.5]), t([0.5, 0.5]), 0.25);
        let value: f32 = loss.into_scalar();
        let expected = 0.5 * 0.25 + 0.5 * (0.5 * 1.0 + 0.5 * 9.0);
        assert!((value - expected).abs() < 1e-6, "{value} and {expected}");
    }

    /// The minimiser over h is (2I − 1)/(2β): the closed form of the paper's section 5.
    #[test]
    fn the_best_margin_is_the_preference_over_beta() {
        type A = TestAutodiffBackend;
        let device = Default::default();
        for (indicator, beta) in [(1.0, 0.1), (0.7, 0.5), (0.2, 2.0)] {
            let best = (2.0 * indicator - 1.0) / (2.0 * beta);
            let h = Tensor::<A, 1>::from_data([best as f32], &device).require_grad();
            let (zero, one) = (Tensor::zeros([1], &device), Tensor::ones([1], &device));
            let label = Tensor::from_data([indicator as f32], &device);
            let gradients = ipo_loss(h.clone(), zero, label, one, beta).backward();
            let slope: f32 = h.grad(&gradients).unwrap().into_scalar();
            assert!(slope.abs() < 1e-4, "{indicator} {beta}: {slope}");
        }
    }
}
