//! Uncertainty of hypervolumes: prompts are drawn anew, with replacement, and all policies are
//! compared on the same draw.

use mopo_core::pareto::{Direction, hypervolume};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::Result;

/// A percentile interval of a bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The difference of two sets' hypervolumes, **positive if the first is better**.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HypervolumeDifference {
    /// The set that is subtracted from.
    pub of: crate::PolicySet,
    /// The set that is subtracted.
    pub minus: crate::PolicySet,
    /// The difference on all prompts.
    pub value: f64,
    /// Percentile interval (level [`crate::FrontConfig::confidence`]) of the paired bootstrap over
    /// prompts.
    pub interval: Interval,
    /// The share of resamples in which the difference is above 0.
    pub probability_positive: f64,
}

/// For each resample, the hypervolume of each set: `[n_resamples][n_sets]`.
///
/// `scores[policy][prompt][objective]`; `sets` are indices of policies. The same draw of prompts
/// serves all policies (paired). Complexity: O(n_resamples · policies · prompts · objectives), plus
/// the hypervolumes. Source: Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993.
pub(crate) fn resampled_hypervolumes(
    scores: &[&[Vec<f32>]],
    sets: &[Vec<usize>],
    ref_point: &[f64],
    n_resamples: usize,
    seed: u64,
) -> Result<Vec<Vec<f64>>> {
    let n_prompts = scores.first().map_or(0, |s| s.len());
    let directions = vec![Direction::Maximize; ref_point.len()];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut out = Vec::with_capacity(n_resamples);
    for _ in 0..n_resamples {
        let mut times = vec![0.0_f64; n_prompts];
        for _ in 0..n_prompts {
            times[rng.random_range(0..n_prompts)] += 1.0;
        }
        let points: Vec<Vec<f64>> =
            scores.iter().map(|policy| weighted_mean(policy, &times, ref_point.len())).collect();
        let volumes: Result<Vec<f64>> = sets
            .iter()
            .map(|set| {
                let chosen: Vec<&[f64]> = set.iter().map(|&p| points[p].as_slice()).collect();
                Ok(hypervolume(&chosen, ref_point, &directions)?)
            })
            .collect();
        out.push(volumes?);
    }
    Ok(out)
}

fn weighted_mean(scores: &[Vec<f32>], times: &[f64], n_objectives: usize) -> Vec<f64> {
    let mut sum = vec![0.0; n_objectives];
    for (row, &t) in scores.iter().zip(times) {
        for (s, &v) in sum.iter_mut().zip(row) {
            *s += t * f64::from(v);
        }
    }
    let total: f64 = times.iter().sum();
    sum.iter().map(|s| s / total).collect()
}

/// The central interval of `values` that holds a share of `confidence`, linear between order
/// statistics.
///
/// # Panics
/// If `values` is empty.
pub(crate) fn percentile_interval(mut values: Vec<f64>, confidence: f64) -> Interval {
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
        let draws = resampled_hypervolumes(&[&scores], &[vec![0]], &[0.0], 2000, 3).unwrap();
        let values: Vec<f64> = draws.iter().map(|d| d[0]).collect();
        let interval = percentile_interval(values, 0.95);
        assert!((interval.low - (1.0 - 1.96 * 0.025)).abs() < 0.006, "{interval:?}");
        assert!((interval.high - (1.0 + 1.96 * 0.025)).abs() < 0.006, "{interval:?}");
        let again = resampled_hypervolumes(&[&scores], &[vec![0]], &[0.0], 2000, 3).unwrap();
        assert_eq!(draws, again);
    }

    #[test]
    fn the_same_draw_serves_all_policies() {
        let worse: Vec<Vec<f32>> = (0..50).map(|i| vec![i as f32, 50.0 - i as f32]).collect();
        let better: Vec<Vec<f32>> =
            worse.iter().map(|row| row.iter().map(|v| v + 1.0).collect()).collect();
        let sets = [vec![0], vec![1]];
        let draws = resampled_hypervolumes(&[&worse, &better], &sets, &[0.0, 0.0], 200, 0).unwrap();
        assert!(draws.iter().all(|d| d[1] > d[0]), "a constant lead is a lead in every draw");
    }
}
