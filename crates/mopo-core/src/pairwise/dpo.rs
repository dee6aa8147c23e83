//! Direct preference optimisation with one objective (Rafailov et al., 2023), the baseline of every
//! comparison.

use burn::tensor::{Tensor, activation::log_sigmoid, backend::Backend};

use super::labelled_loss;

/// −Σ_i m_i \[I_i log σ(β h_i) + (1 − I_i) log σ(−β h_i)\] with
/// h_i = log(π/π_ref)(first) − log(π/π_ref)(second): the loss of equation 7 of the paper, with soft
/// labels as in conservative DPO (Mitchell, 2023). Shape `[1]`.
///
/// * `first`, `second`: log(π/π_ref) of the two responses, `[…, n_pairs]`, in nats.
/// * `indicators`: I, the same shape; 1 where `first` is preferred, or the probability that it is.
/// * `mass`: m, the same shape; 1/n for a mean over pairs.
/// * `beta`: β > 0, the strength of the KL term.
pub fn dpo_loss<B: Backend, const D: usize>(
    first: Tensor<B, D>,
    second: Tensor<B, D>,
    indicators: Tensor<B, D>,
    mass: Tensor<B, D>,
    beta: f64,
) -> Tensor<B, 1> {
    logistic_loss((first - second).mul_scalar(beta), indicators, mass)
}

/// [`dpo_loss`] of margins β h.
pub(crate) fn logistic_loss<B: Backend, const D: usize>(
    margins: Tensor<B, D>,
    indicators: Tensor<B, D>,
    mass: Tensor<B, D>,
) -> Tensor<B, 1> {
    labelled_loss(margins, indicators, mass, |won| log_sigmoid(won).neg())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mopo_testkit::TestBackend as B;

    #[test]
    fn hand_computed_values() {
        let t = |x: [f32; 2]| Tensor::<B, 1>::from_data(x, &Default::default());
        // h = 0: log 2 whatever the label. h = 2 at β = 0.5 and I = 1: log(1 + e⁻¹).
        let loss = dpo_loss(t([0.3, 1.5]), t([0.3, -0.5]), t([0.2, 1.0]), t([0.5, 0.5]), 0.5);
        let value: f32 = loss.into_data().iter().next().unwrap();
        let expected = 0.5 * 2f64.ln() + 0.5 * (-1f64).exp().ln_1p();
        assert!((f64::from(value) - expected).abs() < 1e-6, "{value} and {expected}");
        // Far apart on the wrong side: linear, not infinite.
        let loss = dpo_loss(t([-400.0, 0.0]), t([400.0, 0.0]), t([1.0, 1.0]), t([1.0, 0.0]), 1.0);
        let value: f32 = loss.into_data().iter().next().unwrap();
        assert!((value - 800.0).abs() < 1e-2, "{value}");
    }
}
