//! The exact lower bound of a secondary preference (docs/math.md, section 3), on the host in `f64`.
//!
//! Training approaches it batch by batch ([`crate::DualState::step`]); here it is solved exactly,
//! for the exact dual and for tests.

use crate::{Error, Result};

/// The worst mean within a KL ball, and the distribution that attains it.
#[derive(Debug, Clone, PartialEq)]
pub struct LowerBound {
    /// q̲ = min over π̂ with KL(π̂ ‖ p) ≤ ε of E_π̂\[x\].
    pub value: f64,
    /// χ: 0 where the ball reaches the minimum of the support, infinite where it has no radius.
    pub chi: f64,
    /// ω_i: the ratio of the adversary's probabilities to the given ones, with Σ p ω = 1.
    pub reweighting: Vec<f64>,
}

/// Solves max over χ > 0 of −χ log E_p\[exp(−x/χ)\] − χ ε, which equals the least mean of `values`
/// among all distributions within `epsilon` nats of `probabilities`.
///
/// The slope in log χ is χ (KL(ω_χ ‖ p) − ε), and the divergence falls as χ grows: the root is
/// bracketed and then found by Newton's method in log χ, safeguarded by bisection. ε = 0 gives
/// the mean, and a ball that contains the minimum's own distribution gives the minimum; both
/// exactly.
///
/// * `probabilities`: p_i ≥ 0, not necessarily normalised, at least one of them positive.
/// * `values`: x_i; those of probability 0 are ignored.
///
/// Complexity: O(n) per iteration, at most 200 iterations, usually about 8.
///
/// # Errors
/// [`Error::InvalidParameter`] for different lengths, a negative probability or radius, or no
/// mass; [`Error::NonFinite`] for NaN and infinities.
pub fn lower_bound(probabilities: &[f64], values: &[f64], epsilon: f64) -> Result<LowerBound> {
    if probabilities.len() != values.len() {
        return Err(Error::InvalidParameter {
            field: "values",
            value: format!("{} values", values.len()),
            expected: format!("one is needed for each of {} probabilities", probabilities.len()),
        });
    }
    if epsilon.is_nan() || epsilon < 0.0 {
        return Err(Error::InvalidParameter {
            field: "epsilon",
            value: epsilon.to_string(),
            expected: "the radius must be a number ≥ 0, in nats".into(),
        });
    }
    let p = crate::dual::normalised("probabilities", probabilities)?;
    for (i, (&p, &x)) in p.iter().zip(values).enumerate() {
        if p > 0.0 && !x.is_finite() {
            return Err(Error::NonFinite(format!("`values` (index {i})")));
        }
    }
    Ok(solve(&p, values, epsilon))
}

/// The same without the checks: `p` normalised, everything finite.
pub(crate) fn solve(p: &[f64], x: &[f64], epsilon: f64) -> LowerBound {
    let support = || (0..p.len()).filter(|&i| p[i] > 0.0);
    let mean: f64 = support().map(|i| p[i] * x[i]).sum();
    let variance: f64 = support().map(|i| p[i] * (x[i] - mean).powi(2)).sum();
    let flat = |value| LowerBound { value, chi: f64::INFINITY, reweighting: vec![1.0; p.len()] };
    let lowest = support().map(|i| x[i]).fold(f64::INFINITY, f64::min);
    let highest = support().map(|i| x[i]).fold(f64::NEG_INFINITY, f64::max);
    if epsilon == 0.0 || lowest == highest || variance == 0.0 {
        return flat(if lowest == highest { lowest } else { mean });
    }
    let mass: f64 = support().filter(|&i| x[i] == lowest).map(|i| p[i]).sum();
    if epsilon >= -mass.ln() {
        let reweighting = (0..p.len())
            .map(|i| if p[i] > 0.0 && x[i] == lowest { 1.0 / mass } else { 0.0 })
            .collect();
        return LowerBound { value: lowest, chi: 0.0, reweighting };
    }
    // For a small ball KL ≈ Var/(2χ²): start there, in t = log χ.
    let mut t = 0.5 * (variance / (2.0 * epsilon)).ln();
    let (mut low, mut high) = (f64::NEG_INFINITY, f64::INFINITY);
    for _ in 0..200 {
        let tilt = Tilt::new(p, x, lowest, mean, t.exp());
        if tilt.divergence > epsilon {
            low = t;
        } else {
            high = t;
        }
        if (tilt.divergence - epsilon).abs() <= 1e-14 * epsilon {
            break;
        }
        // Newton on log KL, which is nearly linear in t at both ends.
        let slope = -tilt.variance / (tilt.chi * tilt.chi * tilt.divergence);
        let step = (epsilon / tilt.divergence).ln() / slope;
        let next = t + step.clamp(-3.0, 3.0);
        let inside = next.is_finite() && next > low && next < high;
        let next = match (inside, low.is_finite(), high.is_finite()) {
            (true, _, _) => next,
            (false, true, true) => 0.5 * (low + high),
            (false, true, false) => low + 1.0,
            (false, _, _) => high - 1.0,
        };
        if next == t || (next - t).abs() <= 1e-15 * t.abs().max(1.0) {
            break;
        }
        t = next;
    }
    let tilt = Tilt::new(p, x, lowest, mean, t.exp());
    LowerBound { value: tilt.mean, chi: tilt.chi, reweighting: tilt.omega }
}

/// p reweighted by ω ∝ exp(−x/χ).
struct Tilt {
    chi: f64,
    omega: Vec<f64>,
    mean: f64,
    variance: f64,
    /// KL(ω p ‖ p).
    divergence: f64,
}

impl Tilt {
    fn new(p: &[f64], x: &[f64], lowest: f64, mean: f64, chi: f64) -> Self {
        let support = |i: &usize| p[*i] > 0.0;
        // For small exponents, sums of exp − 1 keep digits that 1 + … would lose.
        let largest = x.iter().zip(p).filter(|(_, p)| **p > 0.0);
        let gentle = largest.map(|(x, _)| (x - mean).abs()).fold(0.0, f64::max) < 0.1 * chi;
        let centre = if gentle { mean } else { lowest };
        let log_sum = if gentle {
            let rest =
                (0..p.len()).filter(support).map(|i| p[i] * ((centre - x[i]) / chi).exp_m1());
            rest.sum::<f64>().ln_1p()
        } else {
            let all = (0..p.len()).filter(support).map(|i| p[i] * ((centre - x[i]) / chi).exp());
            all.sum::<f64>().ln()
        };
        let log_omega = |i: usize| (centre - x[i]) / chi - log_sum;
        let omega: Vec<f64> =
            (0..p.len()).map(|i| if p[i] > 0.0 { log_omega(i).exp() } else { 0.0 }).collect();
        let (mut tilted_mean, mut divergence) = (0.0, 0.0);
        for i in (0..p.len()).filter(support) {
            tilted_mean += p[i] * omega[i] * x[i];
            divergence += p[i] * bregman(log_omega(i));
        }
        let variance = (0..p.len())
            .filter(support)
            .map(|i| p[i] * omega[i] * (x[i] - tilted_mean).powi(2))
            .sum();
        Self { chi, omega, mean: tilted_mean, variance, divergence }
    }
}

/// ω log ω − ω + 1 for ω = e^d: its sum is the divergence, without cancellation near d = 0.
fn bregman(d: f64) -> f64 {
    if d.abs() < 1e-2 {
        // Taylor: Σ_{n≥2} (n − 1)/n! dⁿ.
        return d * d * (0.5 + d * (1.0 / 3.0 + d * (0.125 + d * (1.0 / 30.0 + d / 144.0))));
    }
    d.exp() * d - d.exp_m1()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(p: &[f64], x: &[f64], epsilon: f64) -> f64 {
        lower_bound(p, x, epsilon).unwrap().value
    }

    #[test]
    fn limits_are_exact() {
        let (p, x) = ([0.2, 0.5, 0.3, 0.0], [0.9, 0.4, 0.1, -7.0]);
        assert_eq!(value(&p, &x, 0.0), 0.2 * 0.9 + 0.5 * 0.4 + 0.3 * 0.1);
        assert_eq!(value(&p, &x, f64::INFINITY), 0.1);
        // The smallest ball that contains "always the third".
        assert_eq!(value(&p, &x, -(0.3f64.ln())), 0.1);
        assert!(value(&p, &x, -(0.3f64.ln()) - 1e-9) > 0.1);
        // Equal values leave nothing to the adversary.
        assert_eq!(value(&p, &[0.5, 0.5, 0.5, 9.0], 0.3), 0.5);
        assert_eq!(value(&[3.0], &[0.25], 1.0), 0.25);
    }

    #[test]
    fn small_balls_cost_the_standard_deviation() {
        // q̲ = mean − √(2 ε Var) + O(ε).
        let (p, x) = ([0.25, 0.75], [1.0, 0.0]);
        for epsilon in [1e-4, 1e-8, 1e-12, 1e-16, 1e-20] {
            let expected = (2.0 * epsilon * 0.1875_f64).sqrt();
            let found = 0.25 - value(&p, &x, epsilon);
            assert!((found - expected).abs() < 2.0 * epsilon + 1e-16, "{epsilon}: {found}");
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        for (p, x, e) in [
            (vec![1.0], vec![], 0.1),
            (vec![-1.0, 2.0], vec![0.0, 1.0], 0.1),
            (vec![0.0, 0.0], vec![0.0, 1.0], 0.1),
            (vec![1.0], vec![f64::NAN], 0.1),
            (vec![1.0], vec![1.0], -0.1),
            (vec![1.0], vec![1.0], f64::NAN),
            (vec![], vec![], 0.1),
        ] {
            assert!(lower_bound(&p, &x, e).is_err(), "{p:?} {x:?} {e}");
        }
    }

    proptest! {
        /// Optimality: the adversary is feasible and on the ball's surface, and the dual value at χ
        /// equals the primal one, so there is no gap.
        #[test]
        fn the_duality_gap_is_zero(
            terms in prop::collection::vec((0.0f64..1.0, -3.0f64..40.0), 2..30),
            log_epsilon in -25.0f64..3.0,
        ) {
            let (mut p, x): (Vec<f64>, Vec<f64>) = terms.into_iter().unzip();
            p[0] += 0.1;
            let total: f64 = p.iter().sum();
            p.iter_mut().for_each(|p| *p /= total);
            let epsilon = log_epsilon.exp();
            let found = lower_bound(&p, &x, epsilon).unwrap();
            let mass: f64 = p.iter().zip(&found.reweighting).map(|(p, w)| p * w).sum();
            prop_assert!((mass - 1.0).abs() < 1e-9, "mass {mass}");
            let kl: f64 = p.iter().zip(&found.reweighting).filter(|(p, w)| **p > 0.0 && **w > 0.0)
                .map(|(p, w)| p * w * w.ln()).sum();
            prop_assert!(kl <= epsilon * (1.0 + 1e-6) + 1e-12, "{kl} beyond {epsilon}");
            if found.chi > 0.0 && found.chi.is_finite() {
                let low = x.iter().zip(&p).filter(|(_, p)| **p > 0.0).map(|(x, _)| *x)
                    .fold(f64::INFINITY, f64::min);
                let sum: f64 = p.iter().zip(&x).map(|(p, x)| p * ((low - x) / found.chi).exp()).sum();
                let dual = low - found.chi * sum.ln() - found.chi * epsilon;
                prop_assert!((dual - found.value).abs() < 1e-8 * (1.0 + dual.abs()),
                    "{dual} and {}", found.value);
            }
        }

        #[test]
        fn a_larger_ball_never_raises_it(
            x in prop::collection::vec(0.0f64..1.0, 2..20), a in 0.0f64..1.0, b in 0.0f64..1.0,
        ) {
            let p = vec![1.0; x.len()];
            let (small, large) = (a.min(b), a.max(b));
            prop_assert!(value(&p, &x, large) <= value(&p, &x, small) + 1e-12);
        }
    }
}
