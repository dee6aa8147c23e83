//! Uncertainty of the indicators of policy sets: prompts are resampled with replacement, and all
//! policies are compared on the same resample.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::quality::{Judge, Quality};
use crate::{Result, SetRef};

/// A percentile interval of a bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A value with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value on all prompts.
    pub value: f64,
    /// Percentile interval (level [`crate::FrontConfig::confidence`]) of the bootstrap over
    /// prompts; `None` without resamples.
    pub interval: Option<Interval>,
}

/// The difference of two sets' hypervolumes, **positive if the first is better**.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HypervolumeDifference {
    /// The first set.
    pub of: SetRef,
    /// The second set, which is subtracted.
    pub minus: SetRef,
    /// The difference on all prompts.
    pub value: f64,
    /// Percentile interval (level [`crate::FrontConfig::confidence`]) of the paired bootstrap over
    /// prompts.
    pub interval: Interval,
    /// The dominance probability: the share of resamples in which the first set's front has the
    /// larger hypervolume.
    pub probability_positive: f64,
    /// The share in which the second one's is larger. Both sum to 1 except for ties.
    pub probability_negative: f64,
}

/// For each resample, the quality of each set: `[n_resamples][n_sets]`.
///
/// `scores[policy][prompt][objective]`; `sets` are indices of policies. All policies use the same
/// resample of prompts (paired), and distances are measured from the resample's own front.
/// Complexity: O(n_resamples · policies · prompts · objectives), plus the indicators. Source: Efron
/// and Tibshirani, *An Introduction to the Bootstrap*, 1993.
pub(crate) fn resampled(
    scores: &[&[Vec<f32>]],
    sets: &[Vec<usize>],
    judge: &Judge<'_>,
    n_resamples: usize,
    seed: u64,
) -> Result<Vec<Vec<Quality>>> {
    let n_prompts = scores.first().map_or(0, |s| s.len());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut out = Vec::with_capacity(n_resamples);
    for _ in 0..n_resamples {
        let mut times = vec![0.0_f64; n_prompts];
        for _ in 0..n_prompts {
            times[rng.random_range(0..n_prompts)] += 1.0;
        }
        let points: Vec<Vec<f64>> =
            scores.iter().map(|policy| weighted_mean(policy, &times)).collect();
        out.push(judge.judge(&points, sets)?);
    }
    Ok(out)
}

pub(crate) fn weighted_mean(scores: &[Vec<f32>], times: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; scores.first().map_or(0, Vec::len)];
    for (row, &t) in scores.iter().zip(times) {
        for (s, &v) in sum.iter_mut().zip(row) {
            *s += t * f64::from(v);
        }
    }
    let total: f64 = times.iter().sum();
    sum.iter().map(|s| s / total).collect()
}

/// The central interval that contains a share `confidence` of `values`, linear between order
/// statistics.
///
/// # Panics
/// If `values` is empty.
pub fn percentile_interval(mut values: Vec<f64>, confidence: f64) -> Interval {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let position = share * (values.len() - 1) as f64;
        let below = position.floor() as usize;
        let above = (below + 1).min(values.len() - 1);
        values[below] + (position - below as f64) * (values[above] - values[below])
    };
    let tail = (1.0 - confidence) / 2.0;
    Interval { low: at(tail), high: at(1.0 - tail) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectiveStatistics;

    fn draws(
        scores: &[&[Vec<f32>]],
        sets: &[Vec<usize>],
        n: usize,
        seed: u64,
    ) -> Vec<Vec<Quality>> {
        let k = scores[0][0].len();
        let statistics: Vec<ObjectiveStatistics> =
            (0..k).map(|_| ObjectiveStatistics::of("x", [0.0, 1.0], "test").unwrap()).collect();
        let ref_point = vec![0.0; k];
        resampled(scores, sets, &Judge::new(&ref_point, &statistics), n, seed).unwrap()
    }

    #[test]
    fn percentiles_interpolate() {
        let interval = percentile_interval((0..=100).rev().map(f64::from).collect(), 0.9);
        assert!((interval.low - 5.0).abs() < 1e-9 && (interval.high - 95.0).abs() < 1e-9);
        let one = percentile_interval(vec![3.0], 0.95);
        assert_eq!((one.low, one.high), (3.0, 3.0));
    }

    #[test]
    fn resampling_one_objective_has_the_spread_of_the_mean() {
        // 400 scores with mean 1 and standard deviation 0.5: standard error 0.025.
        let scores: Vec<Vec<f32>> =
            (0..400).map(|i| vec![if i % 2 == 0 { 0.5 } else { 1.5 }]).collect();
        let found = draws(&[&scores], &[vec![0]], 2000, 3);
        let values: Vec<f64> = found.iter().map(|d| d[0].hypervolume).collect();
        let interval = percentile_interval(values, 0.95);
        assert!((interval.low - (1.0 - 1.96 * 0.025)).abs() < 0.006, "{interval:?}");
        assert!((interval.high - (1.0 + 1.96 * 0.025)).abs() < 0.006, "{interval:?}");
        assert_eq!(found, draws(&[&scores], &[vec![0]], 2000, 3));
    }

    #[test]
    fn the_same_draw_serves_all_policies() {
        let worse: Vec<Vec<f32>> = (0..50).map(|i| vec![i as f32, 50.0 - i as f32]).collect();
        let better: Vec<Vec<f32>> =
            worse.iter().map(|row| row.iter().map(|v| v + 1.0).collect()).collect();
        let found = draws(&[&worse, &better], &[vec![0], vec![1]], 200, 0);
        assert!(
            found.iter().all(|d| d[1].hypervolume > d[0].hypervolume),
            "a constant lead is a lead in every draw"
        );
        // √2 in units of the deviation of {0, 1}, √½: the lead of 1 in each objective is 2 behind.
        for draw in &found {
            let [igd, epsilon] = draw[0].distances.unwrap();
            assert!((igd - 2.0).abs() < 1e-6 && (epsilon - 2.0_f64.sqrt()).abs() < 1e-6);
            assert_eq!(draw[1].distances, Some([0.0, 0.0]));
        }
    }
}
