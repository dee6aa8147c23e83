//! Newton's method for a convex function of a few multipliers between 0 and a cap.

use serde::{Deserialize, Serialize};

/// How far multipliers are from optimal; all zero at the solution.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct KktResidual {
    /// max over k of b_k − E\[w q_k\] where that is positive, in units of the preference; on a data
    /// set with q̲_k instead. A multiplier at its cap is ignored: its constraint is given up there.
    pub violation: f64,
    /// max over k of |λ_k (E\[w q_k\] − b_k)|, capped multipliers excluded.
    pub complementarity: f64,
    /// The largest step that the projected gradient would still take:
    /// max over k of |λ_k − clip(λ_k − slack_k, 0, cap)|.
    pub stationarity: f64,
}

impl KktResidual {
    /// From multipliers, slacks E\[w q\] − b and the caps of the multipliers.
    pub(crate) fn new(lambda: &[f64], slack: &[f64], cap: f64) -> Self {
        let mut out = Self::default();
        for (&l, &s) in lambda.iter().zip(slack) {
            let moved = (l - s).clamp(0.0, cap);
            out.stationarity = out.stationarity.max((l - moved).abs());
            if l < cap {
                out.violation = out.violation.max(-s);
                out.complementarity = out.complementarity.max((l * s).abs());
            }
        }
        out
    }
}

/// A function at one point.
pub(super) struct Local {
    pub(super) value: f64,
    pub(super) gradient: Vec<f64>,
    /// Row by row.
    pub(super) hessian: Vec<Vec<f64>>,
}

/// The end of a minimisation.
pub(super) struct Minimum {
    pub(super) at: Vec<f64>,
    pub(super) local: Local,
    pub(super) iterations: usize,
    /// Whether `stop` ended it: the point is a certificate, not a minimum.
    pub(super) stopped: bool,
}

/// Minimises a convex function over \[0, cap\]^n from `start`: projected Newton steps on the
/// multipliers that are free to move, with a ridge where the Hessian is singular, limited steps
/// where it vanishes, and backtracking. Ends when no coordinate's projected gradient exceeds
/// `tolerance`, when rounding prevents further improvement, after `limit` iterations, or when
/// `stop` holds.
pub(super) fn minimise(
    start: Vec<f64>,
    cap: f64,
    tolerance: f64,
    limit: usize,
    evaluate: &mut dyn FnMut(&[f64]) -> Local,
    stop: &mut dyn FnMut(&[f64]) -> bool,
) -> Minimum {
    let mut at = start;
    let mut local = evaluate(&at);
    for iterations in 0..limit {
        if stop(&at) {
            return Minimum { at, local, iterations, stopped: true };
        }
        let residual = KktResidual::new(&at, &local.gradient, cap).stationarity;
        if residual <= tolerance {
            return Minimum { at, local, iterations, stopped: false };
        }
        let free: Vec<usize> = (0..at.len())
            .filter(|&k| {
                let g = local.gradient[k];
                !(at[k] <= 0.0 && g > 0.0 || at[k] >= cap && g < 0.0)
            })
            .collect();
        let spread = |free: &[usize], steps: Vec<f64>| {
            let mut direction = vec![0.0; at.len()];
            for (&k, d) in free.iter().zip(steps) {
                direction[k] = d;
            }
            direction
        };
        let newton = spread(&free, newton_step(&local, &free));
        let moved = search(&at, &local, &newton, cap, residual, evaluate)
            .or_else(|| {
                // A multiplier at a bound that the coupled step would push out of range is fixed
                // there. The rest of the step need not be a descent direction then, so compute one
                // without such multipliers.
                let pushed =
                    |k: usize| at[k] <= 0.0 && newton[k] < 0.0 || at[k] >= cap && newton[k] > 0.0;
                let inside: Vec<usize> = free.iter().copied().filter(|&k| !pushed(k)).collect();
                let fewer = spread(&inside, newton_step(&local, &inside));
                search(&at, &local, &fewer, cap, residual, evaluate)
            })
            .or_else(|| {
                let steepest = free.iter().map(|&k| local.hessian[k][k]).fold(1e-290, f64::max);
                let downhill = free.iter().map(|&k| -local.gradient[k] / steepest).collect();
                search(&at, &local, &spread(&free, downhill), cap, residual, evaluate)
            });
        match moved {
            Some((next, there)) => (at, local) = (next, there),
            None => return Minimum { at, local, iterations, stopped: false },
        }
    }
    Minimum { at, local, iterations: limit, stopped: false }
}

/// Backtracks along a direction, within the bounds; `None` if no length improves.
fn search(
    at: &[f64],
    local: &Local,
    direction: &[f64],
    cap: f64,
    residual: f64,
    evaluate: &mut dyn FnMut(&[f64]) -> Local,
) -> Option<(Vec<f64>, Local)> {
    // Where the function is almost linear, the Newton step is unbounded.
    let longest = direction.iter().fold(0.0f64, |m, d| m.max(d.abs()));
    let reach = 4.0 * (1.0 + at.iter().fold(0.0f64, |m, l| m.max(*l)));
    let mut length = if longest > reach { reach / longest } else { 1.0 };
    for _ in 0..60 {
        let next: Vec<f64> =
            at.iter().zip(direction).map(|(l, d)| (l + length * d).clamp(0.0, cap)).collect();
        let gain: f64 = (0..at.len()).map(|k| local.gradient[k] * (next[k] - at[k])).sum::<f64>();
        let there = evaluate(&next);
        let enough = there.value <= local.value + 1e-4 * gain.min(0.0);
        // Once the digits of the value are used up, the gradient still tells better from worse.
        let rounding = 1e-14 * (1.0 + local.value.abs());
        let closer = KktResidual::new(&next, &there.gradient, cap).stationarity < residual;
        if there.value.is_finite()
            && (enough && gain < -rounding || closer && there.value <= local.value + rounding)
        {
            return Some((next, there));
        }
        length *= 0.5;
    }
    None
}

/// The same minimum over λ > 0 by an interior-point method: Newton steps on f(λ) − μ Σ log λ with μ
/// falling to 1e-18. Slower, but without the sets of free multipliers between which [`minimise`]
/// may wander in degenerate corners (more constraints than choices, thresholds within 1e-9 of the
/// edge).
pub(super) fn minimise_inside(
    start: Vec<f64>,
    evaluate: &mut dyn FnMut(&[f64]) -> Local,
    stop: &mut dyn FnMut(&[f64]) -> bool,
) -> Minimum {
    let mut at: Vec<f64> = start.into_iter().map(|l| l.max(1e-3)).collect();
    let mut local = evaluate(&at);
    let mut iterations = 0;
    let all: Vec<usize> = (0..at.len()).collect();
    let mut mu = 1e-2;
    while mu > 1e-18 {
        for _ in 0..60 {
            iterations += 1;
            if stop(&at) {
                return Minimum { at, local, iterations, stopped: true };
            }
            let with_barrier = |at: &[f64], local: &Local| Local {
                value: local.value - mu * at.iter().map(|l| l.ln()).sum::<f64>(),
                gradient: local.gradient.iter().zip(at).map(|(g, l)| g - mu / l).collect(),
                hessian: (0..at.len())
                    .map(|i| {
                        let mut row = local.hessian[i].clone();
                        row[i] += mu / (at[i] * at[i]);
                        row
                    })
                    .collect(),
            };
            let here = with_barrier(&at, &local);
            let step = newton_step(&here, &all);
            // At most 0.9 of the way to a bound, and bounded growth where f is almost linear.
            let room = at.iter().zip(&step).filter(|(_, d)| **d < 0.0).map(|(l, d)| -0.9 * l / d);
            let growth = at.iter().zip(&step).filter(|(_, d)| **d > 0.0);
            let mut length =
                growth.map(|(l, d)| (4.0 + 9.0 * l) / d).chain(room).fold(1.0, f64::min);
            // The Newton decrement, in units of the barrier: below this it is close enough to the
            // centre.
            let decrement: f64 = -step.iter().zip(&here.gradient).map(|(d, g)| d * g).sum::<f64>();
            if decrement <= 1e-3 * mu {
                break;
            }
            let mut moved = None;
            for _ in 0..40 {
                let next: Vec<f64> = at.iter().zip(&step).map(|(l, d)| l + length * d).collect();
                let there = evaluate(&next);
                let with = with_barrier(&next, &there);
                if with.value <= here.value - 1e-4 * length * decrement {
                    moved = Some((next, there));
                    break;
                }
                length *= 0.5;
            }
            match moved {
                Some((next, there)) => (at, local) = (next, there),
                None => break,
            }
        }
        mu *= 0.1;
    }
    Minimum { at, local, iterations, stopped: false }
}

/// −H⁻¹ g on the free coordinates, with the smallest ridge that makes H positive definite.
fn newton_step(local: &Local, free: &[usize]) -> Vec<f64> {
    let n = free.len();
    let scale = free.iter().map(|&k| local.hessian[k][k]).fold(0.0, f64::max);
    let gradient: Vec<f64> = free.iter().map(|&k| local.gradient[k]).collect();
    let mut ridge = (scale * 1e-14).max(1e-290);
    loop {
        let matrix: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                (0..n)
                    .map(|j| local.hessian[free[i]][free[j]] + if i == j { ridge } else { 0.0 })
                    .collect()
            })
            .collect();
        if let Some(step) = cholesky_solve(matrix, &gradient) {
            let step: Vec<f64> = step.into_iter().map(|d| -d).collect();
            let descent: f64 = step.iter().zip(&gradient).map(|(d, g)| d * g).sum();
            if step.iter().all(|d| d.is_finite()) && descent < 0.0 {
                return step;
            }
        }
        ridge *= 100.0;
        if ridge > 1e30 * (1.0 + scale) {
            return gradient.iter().map(|g| -g).collect();
        }
    }
}

/// Solves A x = b for a symmetric positive definite A; `None` if it is not.
pub(crate) fn cholesky_solve(mut a: Vec<Vec<f64>>, b: &[f64]) -> Option<Vec<f64>> {
    let n = b.len();
    for j in 0..n {
        for k in 0..j {
            a[j][j] -= a[j][k] * a[j][k];
        }
        if a[j][j].is_nan() || a[j][j] <= 0.0 {
            return None;
        }
        a[j][j] = a[j][j].sqrt();
        for i in j + 1..n {
            for k in 0..j {
                let product = a[i][k] * a[j][k];
                a[i][j] -= product;
            }
            a[i][j] /= a[j][j];
        }
    }
    let mut x = b.to_vec();
    for i in 0..n {
        for k in 0..i {
            x[i] -= a[i][k] * x[k];
        }
        x[i] /= a[i][i];
    }
    for i in (0..n).rev() {
        for k in i + 1..n {
            x[i] -= a[k][i] * x[k];
        }
        x[i] /= a[i][i];
    }
    Some(x)
}
