//! f, f', its inverse and D_f itself, also where u overflows or p or q is zero.

use std::f64::consts::LN_2;

use super::solve::softplus;
use super::{Divergence, omega, refuse};
use crate::{Error, Result};

impl Divergence {
    /// f(u) for u ≥ 0, with the limits at 0 and ∞; NaN for u < 0.
    pub fn f(&self, u: f64) -> f64 {
        if u.is_nan() || u < 0.0 {
            return f64::NAN;
        }
        match self {
            Self::ReverseKl if u == 0.0 => 0.0,
            Self::ReverseKl => u * u.ln(),
            Self::ForwardKl => -u.ln(),
            _ if u == f64::INFINITY => u,
            _ => self.excess(u, 1.0),
        }
    }

    /// f'(u) for u ≥ 0, with the limits at 0 and ∞; NaN for u < 0. For total variation it is 0 at
    /// 1, where it jumps from −½ to ½.
    pub fn derivative(&self, u: f64) -> f64 {
        match self {
            _ if u < 0.0 => f64::NAN,
            // Without the logarithm, which would cost a few digits.
            Self::ForwardKl if u == 0.0 => f64::NEG_INFINITY,
            Self::ForwardKl => -1.0 / u,
            Self::ChiSquared => 2.0 * (u - 1.0),
            _ => self.derivative_at_log(u.ln()),
        }
    }

    /// f'(e^l): [`derivative`](Self::derivative) where u itself might over- or underflow.
    pub fn derivative_at_log(&self, log_u: f64) -> f64 {
        let l = log_u;
        match *self {
            Self::ReverseKl => l + 1.0,
            Self::ForwardKl => -(-l).exp(),
            // log(2/(1 + 1/u)); the second form does not overflow for small u.
            Self::JensenShannon if l >= 0.0 => -((-l).exp_m1() / 2.0).ln_1p(),
            Self::JensenShannon if l == f64::NEG_INFINITY => l,
            Self::JensenShannon => l - (l.exp_m1() / 2.0).ln_1p(),
            Self::Alpha(a) => -(-a * l).exp_m1() / a,
            Self::Jeffreys => l - (-l).exp_m1(),
            Self::TotalVariation if l == 0.0 => 0.0,
            Self::TotalVariation if l.is_nan() => l,
            Self::TotalVariation => 0.5 * l.signum(),
            Self::ChiSquared => 2.0 * l.exp_m1(),
        }
    }

    /// The u ≥ 0 with f'(u) = v. `None` where there is none or more than one: total variation
    /// always, chi-squared for v < −2, Jensen-Shannon for v ≥ log 2, forward KL for v ≥ 0, alpha
    /// for v ≥ 1/a, and NaN. At v = −∞ a barrier gives 0.
    pub fn inverse_derivative(&self, v: f64) -> Option<f64> {
        let log_u = self.log_inverse_derivative(v)?;
        Some(match *self {
            Self::ForwardKl => -1.0 / v,
            Self::ChiSquared => 1.0 + v / 2.0,
            _ => log_u.exp(),
        })
    }

    /// log of [`inverse_derivative`](Self::inverse_derivative), where that might over- or underflow.
    ///
    /// For Jeffreys 1/u = ω(1 − v) with Wright's ω, the solution of ω(x) + log ω(x) = x; the others
    /// are elementary.
    pub fn log_inverse_derivative(&self, v: f64) -> Option<f64> {
        if v.is_nan() {
            return None;
        }
        match *self {
            Self::ReverseKl => Some(v - 1.0),
            Self::ForwardKl => (v < 0.0).then(|| -(-v).ln()),
            // u = e^v/(2 − e^v), the denominator written for v near 0 and for v near log 2.
            Self::JensenShannon if v < 0.5 => Some(v - (-v.exp_m1()).ln_1p()),
            Self::JensenShannon => (v < LN_2).then(|| v - LN_2 - (-(v - LN_2).exp_m1()).ln()),
            Self::Alpha(a) => (a * v < 1.0).then(|| -(-a * v).ln_1p() / a),
            Self::Jeffreys if v.is_infinite() => Some(v),
            Self::Jeffreys => {
                let l = omega::log_reciprocal(1.0 - v);
                // One step of Newton's method recovers the digits that 1 − v loses when v is small.
                let step = (l - (-l).exp_m1() - v) / (1.0 + (-l).exp());
                Some(if step.is_finite() { l - step } else { l })
            }
            Self::TotalVariation => None,
            Self::ChiSquared => (v >= -2.0).then(|| (v / 2.0).ln_1p()),
        }
    }

    /// D_f(p ‖ q) = Σ_i q_i f(p_i/q_i), with the limits where p_i or q_i is 0: it can be infinite.
    /// Probabilities, not logarithms: `[n_actions]` each.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the lengths differ, or if `p` or `q` is not a distribution (a
    /// negative entry, a sum that differs from 1 by more than 1e-6); [`Error::NonFinite`] for NaN.
    pub fn between(&self, p: &[f64], q: &[f64]) -> Result<f64> {
        self.check()?;
        check_distribution("p", p)?;
        check_distribution("q", q)?;
        if p.len() != q.len() {
            let value = format!("{} long", p.len());
            return Err(refuse("p", value, format!("q has {} actions", q.len())));
        }
        Ok(p.iter().zip(q).map(|(p, q)| self.excess(*p, *q)).sum())
    }

    /// q f(p/q) + f'(1) (q − p): never negative, and for sums over two distributions the same.
    fn excess(&self, p: f64, q: f64) -> f64 {
        if p == q {
            return 0.0;
        }
        if p == 0.0 || q == 0.0 {
            return self.excess_of_zero(p, q);
        }
        let d = (p - q) / q;
        let near = d.abs() < 0.5;
        let l = if near { d.ln_1p() } else { p.ln() - q.ln() };
        // f of reverse KL at 1 + d, less its linear part.
        let reverse = |d: f64| (1.0 + d) * log1p_less(d) + d * d;
        match *self {
            Self::ReverseKl if near => q * reverse(d),
            Self::ReverseKl => p * l - (p - q),
            Self::ForwardKl if near => -q * log1p_less(d),
            Self::ForwardKl => (p - q) - q * l,
            Self::JensenShannon if near => q * (reverse(d) - 2.0 * reverse(d / 2.0)),
            Self::JensenShannon => p * (LN_2 - softplus(-l)) + q * (LN_2 - softplus(l)),
            Self::Alpha(a) if near => {
                let b = 1.0 - a;
                q * (b * exp_m1_less(l) - exp_m1_less(b * l)) / (a * b)
            }
            Self::Alpha(a) => {
                let b = 1.0 - a;
                (b * p + a * q - (b * p.ln() + a * q.ln()).exp()) / (a * b)
            }
            Self::Jeffreys => (p - q) * l,
            Self::TotalVariation => 0.5 * (p - q).abs(),
            Self::ChiSquared => (p - q) * d,
        }
    }

    /// [`excess`](Self::excess) where one of the two is zero.
    fn excess_of_zero(&self, p: f64, q: f64) -> f64 {
        let (of_p, of_q) = match *self {
            Self::ReverseKl => (f64::INFINITY, 1.0),
            Self::ForwardKl => (1.0, f64::INFINITY),
            Self::JensenShannon => (LN_2, LN_2),
            Self::Alpha(a) => (1.0 / a, 1.0 / (1.0 - a)),
            Self::Jeffreys => (f64::INFINITY, f64::INFINITY),
            Self::TotalVariation => (0.5, 0.5),
            Self::ChiSquared => (f64::INFINITY, 1.0),
        };
        if q == 0.0 { p * of_p } else { q * of_q }
    }
}

/// log(1 + d) − d without cancellation, for |d| < 0.5.
fn log1p_less(d: f64) -> f64 {
    if d.abs() > 0.05 {
        return d.ln_1p() - d;
    }
    // −d²/2 + d³/3 − …, from the smallest term.
    let series = (2..=14).rev().fold(0.0, |sum, n| 1.0 / f64::from(n) - d * sum);
    -d * d * series
}

/// e^x − 1 − x without cancellation, for |x| < 1.
fn exp_m1_less(x: f64) -> f64 {
    if x.abs() > 0.1 {
        return x.exp_m1() - x;
    }
    // x²/2 (1 + x/3 (1 + x/4 (…))).
    x * x / 2.0 * (3..=11).rev().fold(1.0, |sum, n| 1.0 + x / f64::from(n) * sum)
}

fn check_distribution(field: &'static str, values: &[f64]) -> Result<()> {
    if values.iter().any(|value| value.is_nan()) {
        return Err(Error::NonFinite(format!("a probability in `{field}`")));
    }
    if let Some(action) = values.iter().position(|value| *value < 0.0) {
        let value = format!("{} at action {action}", values[action]);
        return Err(refuse(
            field,
            value,
            "probabilities are not negative; give no logarithms here",
        ));
    }
    let sum: f64 = values.iter().sum();
    if (sum - 1.0).abs() > 1e-6 {
        let value = format!("a table with sum {sum}");
        return Err(refuse(field, value, "probabilities have sum 1; normalise them"));
    }
    Ok(())
}
