//! The one equation behind mixtures and optima: π = π_ref u with f'(u_i) = f'(u_best) − Δ_i and
//! Σ π = 1, for *deficits* Δ_i ≥ 0 that are 0 at the best action.
//!
//! The unknown is t = log u_best, which takes the place of c or λ: since u_i ≤ u_best,
//!
//! ```text
//! 1 ≤ (Σ π_ref) e^t   and   π_ref,best e^t ≤ 1
//! ```
//!
//! bracket it, and each u_i follows from t without cancellation however extreme the deficits are,
//!
//! ```text
//! power a (forward KL: 1)   u^{−a} = e^{−at} + Δ                  with Δ scaled by a
//! Jensen-Shannon            1/u = e^{−t} + (e^Δ − 1)(1 + e^{−t})
//! Jeffreys                  1/u − log u = e^{−t} − t + Δ           (Wright's ω)
//! ```
//!
//! log Σ π grows with t, with slope at most 1: Newton's method inside of the bracket, and bisection
//! where that would leave it.

use super::omega;
use crate::log_space::log_sum_exp;

/// A reference log-probability below this goes through logarithms: u may exceed `f64` there.
const EXTREME: f64 = -600.0;

/// The divergences for which the equation must be solved; reverse KL has a closed form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Family {
    /// f' = (const − u^{−a})/a: forward KL with 1, the α-divergence with a.
    Power(f64),
    /// f' = log(2u/(1+u)).
    JensenShannon,
    /// f' = log u + 1 − 1/u.
    Jeffreys,
}

/// The distance of each action from the best one, as the family's formula needs it: Δ, or for
/// Jensen-Shannon e^Δ − 1. `[n_actions]` each.
#[derive(Debug)]
pub(super) struct Deficits {
    plain: Vec<f64>,
    /// The logarithm of `plain`, also where that over- or underflows.
    log: Vec<f64>,
}

impl Deficits {
    /// From Δ itself, in units of f'.
    pub(super) fn new(family: Family, mut deltas: Vec<f64>) -> Self {
        let log = match family {
            Family::JensenShannon => deltas
                .iter_mut()
                .map(|delta| {
                    let plain = delta.exp_m1();
                    let log = if *delta > 40.0 { *delta } else { plain.ln() };
                    *delta = plain;
                    log
                })
                .collect(),
            Family::Power(_) | Family::Jeffreys => deltas.iter().map(|delta| delta.ln()).collect(),
        };
        Self { plain: deltas, log }
    }

    /// From log Δ.
    pub(super) fn from_log(family: Family, log_deltas: Vec<f64>) -> Self {
        let deltas = log_deltas.iter().map(|log| log.exp()).collect();
        let mut deficits = Self::new(family, deltas);
        for (log, log_delta) in deficits.log.iter_mut().zip(log_deltas) {
            // e^Δ − 1 and Δ are the same where Δ is small; where it overflows only log Δ is known.
            if log_delta < -40.0 || family != Family::JensenShannon {
                *log = log_delta;
            }
        }
        deficits
    }
}

/// What all actions share at one t.
#[derive(Clone, Copy)]
struct Level {
    t: f64,
    /// e^{−at}, with a = 1 where there is none.
    x: f64,
    /// x − 1.
    x_less_1: f64,
}

impl Family {
    fn level(self, t: f64) -> Level {
        let exponent = match self {
            Self::Power(a) => -a * t,
            Self::JensenShannon | Self::Jeffreys => -t,
        };
        Level { t, x: exponent.exp(), x_less_1: exponent.exp_m1() }
    }

    /// u and d log u/dt of an action.
    #[inline]
    fn ratio(self, level: Level, deficit: f64) -> (f64, f64) {
        let Level { t, x, .. } = level;
        match self {
            Self::Power(1.0) => ((x + deficit).recip(), x / (x + deficit)),
            // Faster: during the search for t, digits that a small order magnifies do not matter
            // yet.
            Self::Power(a) if a > 0.05 => (((x + deficit).ln() / -a).exp(), x / (x + deficit)),
            Self::Power(a) => ((-level.log_power(deficit) / a).exp(), x / (x + deficit)),
            Self::JensenShannon => {
                let u = (x + deficit * (1.0 + x)).recip();
                (u, (1.0 + u) * x / (1.0 + x))
            }
            Self::Jeffreys => {
                let w = omega::wright(x - t + deficit);
                (w.recip(), (1.0 + x) / (1.0 + w))
            }
        }
    }

    /// log u of an action.
    fn log_ratio(self, level: Level, deficit: f64, log_deficit: f64) -> f64 {
        let Level { t, x, .. } = level;
        match self {
            Self::Power(a) if x + deficit > 1e-200 && deficit < 1e200 => {
                -level.log_power(deficit) / a
            }
            Self::Power(a) => -add_exp(-a * t, log_deficit) / a,
            Self::JensenShannon => -add_exp(-t, log_deficit + x.ln_1p()),
            // 1/u − log u = Δ to the last digit.
            Self::Jeffreys if log_deficit > 600.0 => -log_deficit,
            Self::Jeffreys => omega::log_reciprocal(x - t + deficit),
        }
    }

    /// d log u/dt, given log u.
    fn rate(self, level: Level, log_u: f64) -> f64 {
        let Level { t, x, .. } = level;
        match self {
            Self::Power(a) => (a * (log_u - t)).exp(),
            Self::JensenShannon if log_u > 0.0 => {
                (log_u - t).exp() * (1.0 + (-log_u).exp()) / (1.0 + x)
            }
            Self::JensenShannon => (1.0 + log_u.exp()) * x / (1.0 + x),
            Self::Jeffreys => (1.0 + x) / (1.0 + (-log_u).exp()),
        }
    }
}

impl Level {
    /// log(e^{−at} + Δ), relatively precise near 1: a small order multiplies lost digits here.
    #[inline]
    fn log_power(self, deficit: f64) -> f64 {
        let power = self.x + deficit;
        if power < 0.5 { power.ln() } else { (self.x_less_1 + deficit).ln_1p() }
    }
}

/// The log-probabilities, normalised to rounding: `[n_actions]`.
///
/// `log_reference` must be finite, one deficit 0. `start`: a guess of t, which may be anything.
pub(super) fn solve(
    family: Family,
    log_reference: &[f64],
    deficits: &Deficits,
    start: f64,
) -> Vec<f64> {
    let actions = || log_reference.iter().copied().zip(&deficits.plain).zip(&deficits.log);
    let reference: Vec<f64> = log_reference.iter().map(|log| log.exp()).collect();
    // Σ π and its derivative.
    let total = |t: f64| {
        let level = family.level(t);
        let (mut sum, mut slope) = (0.0, 0.0);
        for (((log_reference, deficit), log_deficit), reference) in actions().zip(&reference) {
            let (p, rate) = if log_reference < EXTREME {
                let log_u = family.log_ratio(level, *deficit, *log_deficit);
                ((log_reference + log_u).exp(), family.rate(level, log_u))
            } else {
                let (u, rate) = family.ratio(level, *deficit);
                (reference * u, rate)
            };
            sum += p;
            slope += p * rate;
        }
        (sum, slope)
    };

    // Among several best actions the one with the tightest bound. By the logarithm: Δ underflows.
    let best = actions().filter(|(_, log)| **log == f64::NEG_INFINITY).map(|((log, _), _)| log);
    let mut high = -best.fold(f64::NEG_INFINITY, f64::max);
    let mut low = (-log_sum_exp(log_reference.iter().copied())).min(high);
    let mut t = if start.is_nan() { low } else { start.clamp(low, high) };
    // The rounding error of a sum over all actions; the normalisation below removes the rest.
    let enough = 1e-14 + 1e-18 * log_reference.len() as f64;
    for step in 0..MAX_STEPS {
        let (sum, slope) = total(t);
        let error = sum.ln();
        if error.abs() <= enough {
            break;
        }
        if error < 0.0 {
            low = t
        } else {
            high = t
        }
        let newton = t - error * sum / slope;
        // Newton's method may creep along a plateau of a function that is not convex.
        let creeps = step > 12 && step % 2 == 0;
        let inside = newton > low && newton < high;
        // The second derivative is at most about 1, so the remaining error is the square of this
        // step.
        if inside && (newton - t).abs() < 1e-7 {
            t = newton;
            break;
        }
        t = if inside && !creeps { newton } else { 0.5 * (low + high) };
        if high - low <= 1e-15 * (1.0 + high.abs()) {
            break;
        }
    }

    let level = family.level(t);
    let mut log_policy: Vec<f64> = actions()
        .map(|((log_reference, deficit), log_deficit)| {
            log_reference + family.log_ratio(level, *deficit, *log_deficit)
        })
        .collect();
    normalise(&mut log_policy);
    log_policy
}

/// Half of these bisect: from a bracket of 10^4 down to rounding takes 70.
const MAX_STEPS: usize = 160;

/// Subtracts log Σ exp.
pub(super) fn normalise(log_policy: &mut [f64]) {
    let total = log_sum_exp(log_policy.iter().copied());
    log_policy.iter_mut().for_each(|log| *log -= total);
}

/// log(e^a + e^b).
pub(super) fn add_exp(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// log(e^a − e^b) for a ≥ b > −∞; −∞ if they are equal.
pub(super) fn subtract_exp(a: f64, b: f64) -> f64 {
    let d = a - b;
    // Beyond 40 the smaller one does not count; and e^d may overflow.
    if d > 40.0 { a } else { b + d.exp_m1().ln() }
}

/// log(1 + e^x).
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// log log(1 + e^x), also where the inner logarithm underflows.
pub(super) fn log_softplus(x: f64) -> f64 {
    if x < -37.0 { x } else { softplus(x).ln() }
}
