//! Hypervolumes of fronts against the exact one's.

use serde::Serialize;

use super::problem::{Constrained, Problem};
use super::{METHODS, MethodRow, MethodSettings};
use crate::pareto::{Direction, hypervolume};
use crate::{Error, Result};

/// A mean over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Half the 95 % interval by Student's t; `None` with a single value.
    pub half_width: Option<f64>,
}

impl Mean {
    /// Of the values of all seeds; NaN if any is.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let value = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - value).powi(2)).sum::<f64>() / (n - 1.0);
        let half_width =
            (values.len() > 1).then(|| student(values.len() - 1) * (variance / n).sqrt());
        Self { value, half_width }
    }
}

/// The 97.5 % quantile of Student's t.
fn student(freedom: usize) -> f64 {
    const SMALL: [f64; 10] =
        [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    // Cornish and Fisher's expansion, within 0.003 beyond the table.
    let (z, v) = (1.959_964_f64, freedom as f64);
    SMALL.get(freedom - 1).copied().unwrap_or_else(|| {
        let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * v * v);
        z + (z.powi(3) + z) / (4.0 * v) + second
    })
}

/// The front of a method, mean over seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodShare {
    /// Name of the problem.
    pub problem: &'static str,
    /// A name of [`METHODS`].
    pub method: &'static str,
    /// Number of data sets; 1 where nothing was drawn.
    pub n_seeds: usize,
    /// Policies per front.
    pub n_policies: usize,
    /// Hypervolume of mean rewards above (0, 0) over that of the exact front.
    pub share: Mean,
    /// The same above the uniform policy's rewards: only gains of training count. NaN if the exact front has none.
    pub share_of_gain: Mean,
    /// The gain over that of the exact front whose policies are as far from uniform in the mean. NaN beyond the range
    /// of τ that was solved.
    pub share_at_kl: Mean,
    /// The same as [`share_of_gain`](Self::share_of_gain) with preferences instead of rewards.
    pub share_of_preference: Mean,
    /// Mean KL of the policies from uniform.
    pub kl: Mean,
}

/// Exact fronts over τ.
struct Yardstick {
    /// (mean KL, hypervolume of the gains), the KL ascending.
    fronts: Vec<(f64, f64)>,
}

impl Yardstick {
    fn new(problem: &Problem, settings: &MethodSettings, uniform: &[f64; 2]) -> Result<Self> {
        let (truth, shares) = (&problem.preference, vec![1.0; problem.n_contexts]);
        let mut fronts = Vec::new();
        for i in -16..=12 {
            let tau = settings.tau * 2f64.powf(f64::from(i) / 2.0);
            let front = match problem.front(truth, truth, &shares, tau, settings.n_points) {
                Ok(front) => front,
                // Sharper than the solver reaches.
                Err(Error::NotConverged { .. }) => continue,
                Err(e) => return Err(e),
            };
            if front.is_empty() {
                continue;
            }
            let kl = front.iter().map(|c| problem.kl(&c.policy)).sum::<f64>() / front.len() as f64;
            let point =
                |c: &Constrained| problem.rewards.each_ref().map(|r| problem.mean(r, &c.policy));
            let points: Vec<[f64; 2]> = front.iter().map(point).collect();
            fronts.push((kl, hypervolume(&points, uniform, &[Direction::Maximize; 2])?));
        }
        fronts.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(Self { fronts })
    }

    /// By linear interpolation.
    fn at(&self, kl: f64) -> f64 {
        let pair = self.fronts.windows(2).find(|w| w[0].0 <= kl && kl <= w[1].0);
        pair.map_or(f64::NAN, |w| {
            let [(low, a), (high, b)] = [w[0], w[1]];
            if high > low { a + (b - a) * (kl - low) / (high - low) } else { a }
        })
    }
}

/// One row per method of one problem's `rows`, in the order of [`METHODS`].
///
/// # Errors
/// Those of the hypervolume and of the exact solver.
pub(super) fn method_shares(
    problem: &Problem,
    settings: &MethodSettings,
    rows: &[MethodRow],
) -> Result<Vec<MethodShare>> {
    let uniform = problem.uniform();
    let reward = problem.rewards.each_ref().map(|r| problem.mean(r, &uniform));
    let preference = problem.preference.each_ref().map(|p| problem.mean(p, &uniform));
    let volume = |points: Vec<[f64; 2]>, corner: &[f64; 2]| {
        hypervolume(&points, corner, &[Direction::Maximize; 2])
    };
    let volumes = |of: &[&MethodRow]| -> Result<[f64; 3]> {
        let rewards = || of.iter().map(|r| r.reward).collect::<Vec<_>>();
        let preferences = of.iter().map(|r| r.preference).collect();
        Ok([
            volume(rewards(), &[0.0; 2])?,
            volume(rewards(), &reward)?,
            volume(preferences, &preference)?,
        ])
    };
    let of = |method: &str| rows.iter().filter(|r| r.method == method).collect::<Vec<_>>();
    let exact = volumes(&of("exact"))?;
    let yardstick = Yardstick::new(problem, settings, &reward)?;
    // Where nothing can be gained rounding alone is left.
    let ratio = |a: f64, b: f64| if b > 1e-9 { a / b } else { f64::NAN };
    let mut shares = Vec::new();
    for (method, _) in METHODS {
        let own = of(method);
        let mut seeds: Vec<Option<u64>> = own.iter().map(|r| r.seed).collect();
        seeds.dedup();
        if seeds.is_empty() {
            continue;
        }
        let mut columns: [Vec<f64>; 5] = Default::default();
        for seed in &seeds {
            let front: Vec<&MethodRow> = own.iter().copied().filter(|r| r.seed == *seed).collect();
            let found = volumes(&front)?;
            let kl = front.iter().map(|r| r.kl).sum::<f64>() / front.len() as f64;
            let values = [
                ratio(found[0], exact[0]),
                ratio(found[1], exact[1]),
                ratio(found[1], yardstick.at(kl)),
                ratio(found[2], exact[2]),
                kl,
            ];
            for (column, value) in columns.iter_mut().zip(values) {
                column.push(value);
            }
        }
        let [share, share_of_gain, share_at_kl, share_of_preference, kl] =
            columns.map(|column| Mean::of(&column));
        shares.push(MethodShare {
            problem: problem.name,
            method,
            n_seeds: seeds.len(),
            n_policies: own.len() / seeds.len(),
            share,
            share_of_gain,
            share_at_kl,
            share_of_preference,
            kl,
        });
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_students() {
        let mean = Mean::of(&[1.0, 2.0, 3.0]);
        assert!((mean.value - 2.0).abs() < 1e-12);
        assert!((mean.half_width.unwrap() - 4.303 / 3f64.sqrt()).abs() < 1e-9);
        assert_eq!(Mean::of(&[1.0]).half_width, None);
        // Tables have 2.201 and 2.042.
        assert!((student(11) - 2.201).abs() < 0.003 && (student(30) - 2.042).abs() < 0.003);
    }
}
