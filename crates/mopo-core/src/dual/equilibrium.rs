//! The equilibrium of the joint steps of λ: a solver for a few multipliers between 0 and a cap
//! whose F has no potential. F itself is in `data`.

use super::newton::KktResidual;

/// F and its Jacobian, row by row.
type Slopes = (Vec<f64>, Vec<Vec<f64>>);

/// Multipliers, their slacks, and the number of steps.
type Found = (Vec<f64>, Vec<f64>, usize);

/// Maximum number of steps of path following or Newton's method.
const STEPS: usize = 400;

/// The equilibrium of dλ/dt = −F(λ), kept within \[0, cap\], that is reached from `start`; the
/// caller
/// checks the residual of the result.
///
/// First the path is followed with long steps. Where weights switch, F is nearly a step function,
/// and
/// long steps jump back and forth across it; if that fails, the path is followed again with steps
/// that do
/// not cross a constraint. Around an equilibrium that repels the path both circle; Newton steps
/// from
/// their end points reach it. Paths that no local method can follow, plateaus between slopes
/// that are nearly steps, end with a residual: about one random problem in 300,000 does.
pub(super) fn equilibrium(
    start: Vec<f64>,
    cap: f64,
    tolerance: f64,
    evaluate: &mut dyn FnMut(&[f64]) -> Slopes,
) -> Found {
    let mut iterations = 0;
    let mut best: Option<(f64, Found)> = None;
    for crossing in [true, false] {
        let followed = follow(start.clone(), cap, tolerance, crossing, evaluate);
        let settled = settle(followed.0, cap, tolerance, evaluate);
        iterations += followed.2 + settled.2;
        let residual = KktResidual::new(&settled.0, &settled.1, cap).stationarity;
        if best.as_ref().is_none_or(|(least, _)| residual < *least) {
            best = Some((residual, settled));
        }
        if residual <= tolerance {
            break;
        }
    }
    let (_, (at, f, _)) = best.expect("the path was followed twice");
    (at, f, iterations)
}

/// Newton steps from `at`, each of a length that reduces the residual.
fn settle(
    mut at: Vec<f64>,
    cap: f64,
    tolerance: f64,
    evaluate: &mut dyn FnMut(&[f64]) -> Slopes,
) -> Found {
    let (mut f, mut jacobian) = evaluate(&at);
    for iterations in 0..STEPS {
        let residual = KktResidual::new(&at, &f, cap).stationarity;
        if residual <= tolerance {
            return (at, f, iterations);
        }
        let free = free(&at, &f, cap);
        let step = implicit_step(&free, &f, &jacobian, f64::INFINITY);
        let shorter = (0..30).find_map(|halvings| {
            let next = moved(&at, &step, &free, 0.5f64.powi(halvings), cap);
            let (there, slopes) = evaluate(&next);
            let after = KktResidual::new(&next, &there, cap).stationarity;
            (after < residual).then_some((next, there, slopes))
        });
        match shorter {
            Some(found) => (at, f, jacobian) = found,
            None => return (at, f, iterations),
        }
    }
    (at, f, STEPS)
}

/// The coordinates that are not at a limit.
fn free(at: &[f64], f: &[f64], cap: f64) -> Vec<usize> {
    (0..at.len()).filter(|&k| !(at[k] <= 0.0 && f[k] > 0.0 || at[k] >= cap && f[k] < 0.0)).collect()
}

/// `at + length · step` on the free coordinates, within the limits. Values just below the cap
/// become the cap.
fn moved(at: &[f64], step: &[f64], free: &[usize], length: f64, cap: f64) -> Vec<f64> {
    let mut next = at.to_vec();
    for (d, &k) in step.iter().zip(free) {
        let to = (at[k] + length * d).max(0.0);
        next[k] = if to >= cap * (1.0 - 1e-13) { cap } else { to };
    }
    next
}

/// Follows the path. Unless `crossing`, a step that crosses a constraint is shortened.
fn follow(
    start: Vec<f64>,
    cap: f64,
    tolerance: f64,
    crossing: bool,
    evaluate: &mut dyn FnMut(&[f64]) -> Slopes,
) -> Found {
    let mut at = start;
    let (mut f, mut jacobian) = evaluate(&at);
    let mut time = 1.0;
    for iterations in 0..STEPS {
        let residual = KktResidual::new(&at, &f, cap).stationarity;
        if residual <= tolerance || time < 1e-12 {
            return (at, f, iterations);
        }
        let free = free(&at, &f, cap);
        let step = implicit_step(&free, &f, &jacobian, time);
        let along: f64 = step.iter().zip(&free).map(|(d, &k)| -d * f[k]).sum();
        if along.is_nan() || along <= 0.0 {
            // Beyond a singularity of the implicit step, which would follow the path backwards.
            time *= 0.25;
            continue;
        }
        let longest = step.iter().fold(0.0f64, |m, d| m.max(d.abs()));
        let reach = at.iter().fold(1.0f64, |m, l| m.max(0.25 * l));
        let length = (reach / longest).min(1.0);
        let next = moved(&at, &step, &free, length, cap);
        let (there, slopes) = evaluate(&next);
        let after = KktResidual::new(&next, &there, cap).stationarity;
        // Whether a constraint changed sign during the step. Small steps never count.
        let crossed = free
            .iter()
            .any(|&k| f[k] * there[k] < 0.0 && f[k].abs().min(there[k].abs()) > 0.25 * residual);
        if !after.is_finite() || after > 2.0 * residual || crossed && !crossing {
            time *= 0.25;
            continue;
        }
        // Lengthen steps near the end, along a plateau, and on a gentle slope to the cap.
        let growth = if after <= 1.1 * residual { 2.0 } else { 0.7 };
        time = (time * (residual / after.max(1e-300)).clamp(growth, 10.0)).min(1e15);
        (at, f, jacobian) = (next, there, slopes);
    }
    (at, f, STEPS)
}

/// d of (I/time + J) d = −F on the free coordinates, by elimination with pivoting.
fn implicit_step(free: &[usize], f: &[f64], jacobian: &[Vec<f64>], time: f64) -> Vec<f64> {
    let n = free.len();
    let mut a: Vec<Vec<f64>> = free
        .iter()
        .enumerate()
        .map(|(i, &k)| {
            let mut row: Vec<f64> = free.iter().map(|&j| jacobian[k][j]).collect();
            row[i] += 1.0 / time;
            row.push(-f[k]);
            row
        })
        .collect();
    for i in 0..n {
        let pivot = (i..n).max_by(|&x, &y| a[x][i].abs().total_cmp(&a[y][i].abs())).unwrap_or(i);
        a.swap(i, pivot);
        if a[i][i] == 0.0 {
            return vec![0.0; n];
        }
        let row = a[i].clone();
        for (r, other) in a.iter_mut().enumerate() {
            if r != i {
                let factor = other[i] / row[i];
                other.iter_mut().zip(&row).for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    (0..n).map(|i| a[i][n] / a[i][i]).collect()
}
