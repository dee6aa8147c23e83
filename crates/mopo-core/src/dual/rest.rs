//! Where the joint steps of λ come to rest: a solver for a few multipliers between 0 and a cap whose
//! F has no potential. Not here: what F is, which is `data`'s.

use super::newton::KktResidual;
use super::simplicial;

/// F and its Jacobian, row by row.
type Slopes = (Vec<f64>, Vec<Vec<f64>>);

/// Multipliers, their slacks, and the steps it took.
type Rest = (Vec<f64>, Vec<f64>, usize);

/// Steps of a walk before it is given up.
const STEPS: usize = 400;

/// A residual at which nothing else is tried.
const ACCEPTED: f64 = 1e-9;

/// Where dλ/dt = −F(λ), kept within \[0, cap\], comes to rest from `start`.
///
/// The first walk takes long steps. Where weights switch, F is as good as a step and long steps leap
/// over it to and fro; a second walk that does not leap ends there. A point of rest that repels the
/// path makes both circle around it; Newton's steps from the nearest point found go to it. What is
/// left are paths that nothing local can follow: plains between slopes that are nearly steps. There
/// simplices close in on a point of rest, which exists since F is continuous.
pub(super) fn rest(
    start: Vec<f64>,
    cap: f64,
    tolerance: f64,
    evaluate: &mut dyn FnMut(&[f64]) -> Slopes,
) -> Rest {
    let mut iterations = 0;
    let mut best: Option<(f64, Rest)> = None;
    for leaps in [true, false] {
        let walked = walk(start.clone(), cap, tolerance, leaps, evaluate);
        iterations += walked.2;
        let walked = settle(walked.0, cap, tolerance, evaluate);
        iterations += walked.2;
        let residual = KktResidual::new(&walked.0, &walked.1, cap).stationarity;
        if best.as_ref().is_none_or(|(least, _)| residual < *least) {
            best = Some((residual, walked));
        }
        if residual <= tolerance {
            break;
        }
    }
    let (least, (mut at, mut f, _)) = best.expect("two walks");
    if least > ACCEPTED {
        let (found, pivots) = simplicial::close_in(&at, cap, &mut |at| evaluate(at).0);
        let (there, slopes, steps) = settle(found, cap, tolerance, evaluate);
        iterations += pivots + steps;
        if KktResidual::new(&there, &slopes, cap).stationarity < least {
            (at, f) = (there, slopes);
        }
    }
    (at, f, iterations)
}

/// Newton's steps from `at`, each as long as makes the residual smaller.
fn settle(
    mut at: Vec<f64>,
    cap: f64,
    tolerance: f64,
    evaluate: &mut dyn FnMut(&[f64]) -> Slopes,
) -> Rest {
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

/// The coordinates that no limit holds.
fn free(at: &[f64], f: &[f64], cap: f64) -> Vec<usize> {
    (0..at.len()).filter(|&k| !(at[k] <= 0.0 && f[k] > 0.0 || at[k] >= cap && f[k] < 0.0)).collect()
}

/// `at + length · step` on the free coordinates, within the limits. A hair below the cap is the cap.
fn moved(at: &[f64], step: &[f64], free: &[usize], length: f64, cap: f64) -> Vec<f64> {
    let mut next = at.to_vec();
    for (d, &k) in step.iter().zip(free) {
        let to = (at[k] + length * d).max(0.0);
        next[k] = if to >= cap * (1.0 - 1e-13) { cap } else { to };
    }
    next
}

/// One walk. Unless it `leaps`, a step that jumps over a constraint is made shorter.
fn walk(
    start: Vec<f64>,
    cap: f64,
    tolerance: f64,
    leaps: bool,
    evaluate: &mut dyn FnMut(&[f64]) -> Slopes,
) -> Rest {
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
            // Beyond a singularity of the implicit step: it would walk the path backwards.
            time *= 0.25;
            continue;
        }
        let longest = step.iter().fold(0.0f64, |m, d| m.max(d.abs()));
        let reach = at.iter().fold(1.0f64, |m, l| m.max(0.25 * l));
        let length = (reach / longest).min(1.0);
        let next = moved(&at, &step, &free, length, cap);
        let (there, slopes) = evaluate(&next);
        let after = KktResidual::new(&next, &there, cap).stationarity;
        // Violated on one side of the step, as slack on the other. Small steps never are.
        let jumped = free
            .iter()
            .any(|&k| f[k] * there[k] < 0.0 && f[k].abs().min(there[k].abs()) > 0.25 * residual);
        if !after.is_finite() || after > 2.0 * residual || jumped && !leaps {
            time *= 0.25;
            continue;
        }
        // Longer steps as the end comes near, along a plain, and down a gentle slope to the cap.
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
