//! Losses on pairs of responses, for one preference: DPO and its relatives.
//!
//! All of them are functions of Δ(y) = log π(y|x) − log π_ref(y|x) of the two responses (KTO's also of an estimate of the
//! KL), and linear in the indicator I, the probability that the first response is preferred. So a weighted mean of several
//! objectives' losses is the loss at their weighted mean indicator, and wrong labels are corrected for by
//! another indicator: [`smoothed`], [`denoised`].

mod dpo;
mod f_dpo;
mod ipo;
mod kto;
mod simpo;

use burn::tensor::{Tensor, backend::Backend};

pub use dpo::dpo_loss;
pub(crate) use dpo::logistic_loss;
pub use f_dpo::{MAX_EXPONENT, check_reward_divergence, f_reward, is_clamped};
pub use ipo::ipo_loss;
pub use kto::{KtoWeights, kto_loss};
pub use simpo::simpo_loss;

/// Σ_i m_i \[I_i ℓ(h_i) + (1 − I_i) ℓ(−h_i)\]. Shape `[1]`.
///
/// * `margin`: h, how much the first response is ahead, `[…, n_pairs]`.
/// * `indicators`: I, the same shape.
/// * `mass`: m, the same shape; 1/n for a mean over pairs.
/// * `loss`: ℓ of a pair whose preferred response is ahead by h.
fn labelled_loss<B: Backend, const D: usize>(
    margin: Tensor<B, D>,
    indicators: Tensor<B, D>,
    mass: Tensor<B, D>,
    loss: impl Fn(Tensor<B, D>) -> Tensor<B, D>,
) -> Tensor<B, 1> {
    let won = loss(margin.clone()) * indicators.clone();
    let lost = loss(margin.neg()) * indicators.neg().add_scalar(1.0);
    ((won + lost) * mass).sum()
}

/// (1 − ε) I + ε (1 − I): the indicator if a label is wrong with probability `noise`, in \[0, 0.5)
/// (conservative DPO; Mitchell, 2023).
pub fn smoothed(indicator: f64, noise: f64) -> f64 {
    (1.0 - noise) * indicator + noise * (1.0 - indicator)
}

/// (I − ε)/(1 − 2ε), the inverse of [`smoothed`]: the mean loss over labels of which a share `noise` is
/// flipped is that over the right ones (robust DPO; Chowdhury et al., 2024, equation 9). It may lie outside
/// \[0, 1\].
pub fn denoised(indicator: f64, noise: f64) -> f64 {
    (indicator - noise) / (1.0 - 2.0 * noise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denoised_label_is_right_on_average() {
        for noise in [0.0, 0.1, 0.3] {
            for indicator in [0.0, 0.4, 1.0] {
                let back = denoised(smoothed(indicator, noise), noise);
                assert!((back - indicator).abs() < 1e-12, "{noise} {indicator}: {back}");
            }
            // A right label 1, seen as 0 with probability `noise`.
            let mean = (1.0 - noise) * denoised(1.0, noise) + noise * denoised(0.0, noise);
            assert!((mean - 1.0).abs() < 1e-12);
        }
    }
}
