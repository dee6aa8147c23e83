//! The rewards of f-DPO (Wang et al., 2023): DPO under another divergence than reverse KL.

use burn::tensor::{Tensor, activation::log_sigmoid, backend::Backend};

use crate::divergence::Divergence;
use crate::{Error, Result};

/// Exponents beyond this are cut off: e^30 still leaves room for sums of squares in 32 bits. A response
/// beyond it has no gradient.
pub const MAX_EXPONENT: f64 = 30.0;

/// f'(e^Δ) up to a constant, which cancels between the responses of a prompt: the implicit reward over β
/// (theorem 1 of the paper). [`dpo_loss`](super::dpo_loss) of these instead of Δ is f-DPO's loss.
///
/// | divergence | reward/β |
/// |---|---|
/// | `reverse_kl` | Δ: plain DPO |
/// | `forward_kl` | −e^{−Δ} |
/// | `jensen_shannon` | −log(1 + e^{−Δ}) |
/// | `alpha:a` | (1 − e^{−aΔ})/a |
/// | `jeffreys` | Δ − e^{−Δ} |
///
/// Shape as `log_ratio`. Exponents are at most [`MAX_EXPONENT`].
///
/// # Panics
/// If the divergence is refused by [`check_reward_divergence`].
pub fn f_reward<B: Backend, const D: usize>(
    log_ratio: Tensor<B, D>,
    divergence: Divergence,
) -> Tensor<B, D> {
    // e^{−aΔ}.
    let inverse = |l: Tensor<B, D>, a: f64| l.mul_scalar(-a).clamp_max(MAX_EXPONENT).exp();
    match divergence {
        Divergence::ReverseKl => log_ratio,
        Divergence::ForwardKl => inverse(log_ratio, 1.0).neg(),
        Divergence::JensenShannon => log_sigmoid(log_ratio),
        Divergence::Alpha(a) => inverse(log_ratio, a).neg().add_scalar(1.0).div_scalar(a),
        Divergence::Jeffreys => log_ratio.clone() - inverse(log_ratio, 1.0),
        Divergence::TotalVariation | Divergence::ChiSquared => {
            unreachable!("refused by check_reward_divergence")
        }
    }
}

/// Whether [`f_reward`] cuts off the exponent of a response with this Δ.
pub fn is_clamped(log_ratio: f64, divergence: Divergence) -> bool {
    match divergence {
        Divergence::ForwardKl | Divergence::Jeffreys => -log_ratio > MAX_EXPONENT,
        Divergence::Alpha(a) => -a * log_ratio > MAX_EXPONENT,
        _ => false,
    }
}

/// Refuses divergences whose optimum may have π = 0, where the reward does not follow from the policy.
///
/// # Errors
/// [`Error::InvalidParameter`] names `field`; as [`Divergence::check`].
pub fn check_reward_divergence(field: &'static str, divergence: Divergence) -> Result<()> {
    divergence.check()?;
    if divergence.has_barrier() {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        field,
        value: divergence.to_string(),
        expected: "under it an optimal policy may have π = 0, where f'(π/π_ref) is no reward: use reverse_kl, \
                   forward_kl, jensen_shannon, alpha:a with 0 < a < 1, or jeffreys"
            .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mopo_testkit::TestBackend as B;

    fn rewards(log_ratios: [f32; 3], divergence: Divergence) -> Vec<f64> {
        let l = Tensor::<B, 1>::from_data(log_ratios, &Default::default());
        f_reward(l, divergence).into_data().iter::<f64>().collect()
    }

    #[test]
    fn differences_are_those_of_the_derivative() {
        for divergence in Divergence::ALL.into_iter().filter(Divergence::has_barrier) {
            let l = [-2.5, 0.0, 1.5];
            let found = rewards(l, divergence);
            let exact = l.map(|l| divergence.derivative_at_log(f64::from(l)));
            for i in 1..3 {
                let (a, b) = (found[i] - found[0], exact[i] - exact[0]);
                assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{divergence}: {a} and {b}");
            }
        }
    }

    #[test]
    fn exponents_are_cut_off_and_counted() {
        for divergence in [Divergence::ForwardKl, Divergence::Alpha(0.5), Divergence::Jeffreys] {
            let found = rewards([-1e4, 0.0, 1e4], divergence);
            assert!(found.iter().all(|r| r.is_finite()), "{divergence}: {found:?}");
            assert!(is_clamped(-1e4, divergence) && !is_clamped(1e4, divergence));
        }
        assert!(!is_clamped(-1e4, Divergence::JensenShannon));
        assert!(
            is_clamped(-31.0, Divergence::ForwardKl) && !is_clamped(-29.0, Divergence::ForwardKl)
        );
        assert!(
            !is_clamped(-59.0, Divergence::Alpha(0.5)) && is_clamped(-61.0, Divergence::Alpha(0.5))
        );
    }

    #[test]
    fn divergences_without_a_barrier_are_refused() {
        for divergence in Divergence::ALL {
            let checked = check_reward_divergence("f_dpo.divergence", divergence);
            assert_eq!(checked.is_ok(), divergence.has_barrier());
        }
        let e = check_reward_divergence("f_dpo.divergence", Divergence::ChiSquared).unwrap_err();
        assert!(e.to_string().contains("f_dpo.divergence") && e.to_string().contains("forward_kl"));
    }
}
