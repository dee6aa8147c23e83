//! Simple preference optimisation (Meng et al., 2024): no reference.

use burn::tensor::{Tensor, activation::log_sigmoid, backend::Backend};

use super::labelled_loss;

/// −Σ_i m_i \[I_i log σ(β h_i − γ) + (1 − I_i) log σ(−β h_i − γ)\] with
/// h_i = log π(first)/|first| − log π(second)/|second|: equation 6 of the paper. Shape `[1]`.
///
/// * `first`, `second`: log π of the two responses divided by their numbers of tokens, `[…, n_pairs]`.
/// * `indicators`: I, the same shape; 1 where `first` is preferred, or the probability that it is.
/// * `mass`: m, the same shape; 1/n for a mean over pairs.
/// * `beta`: β > 0, the scale of the reward.
/// * `margin`: γ ≥ 0, by how much the preferred response should be ahead.
pub fn simpo_loss<B: Backend, const D: usize>(
    first: Tensor<B, D>,
    second: Tensor<B, D>,
    indicators: Tensor<B, D>,
    mass: Tensor<B, D>,
    beta: f64,
    margin: f64,
) -> Tensor<B, 1> {
    let ahead = (first - second).mul_scalar(beta);
    labelled_loss(ahead, indicators, mass, |won| log_sigmoid(won.sub_scalar(margin)).neg())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mopo_testkit::TestBackend as B;

    #[test]
    fn the_margin_is_asked_of_the_preferred_response() {
        let t = |x: f32| Tensor::<B, 1>::from_data([x], &Default::default());
        let of = |indicator: f32| -> f64 {
            let loss = simpo_loss(t(-1.0), t(-1.5), t(indicator), t(1.0), 2.0, 0.3);
            f64::from(loss.into_scalar())
        };
        let softplus = |x: f64| x.exp().ln_1p();
        // β h = 1.
        assert!((of(1.0) - softplus(-(1.0 - 0.3))).abs() < 1e-6);
        assert!((of(0.0) - softplus(1.0 + 0.3)).abs() < 1e-6);
    }
}
