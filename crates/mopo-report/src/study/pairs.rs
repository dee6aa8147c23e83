//! How often one method is ahead of another: for any two of them.

use super::Draw;
use crate::{Estimate, percentile_interval};

/// For every two methods: the share of these seeds in which the first has the larger hypervolume; equal ones count half.
pub(super) fn shares(seeds: &[Draw], n_methods: usize) -> Vec<Vec<f64>> {
    let ahead = |a: usize, b: usize| {
        let of = |seed: &Draw| {
            let [a, b] = [a, b].map(|m| seed.quality[m].hypervolume);
            f64::from(u8::from(a > b)) + 0.5 * f64::from(u8::from(a == b))
        };
        seeds.iter().map(of).sum::<f64>() / seeds.len() as f64
    };
    (0..n_methods).map(|a| (0..n_methods).map(|b| ahead(a, b)).collect()).collect()
}

/// Means and intervals of these shares over resamples; `None` for a method and itself.
pub(super) fn ahead(
    draws: &[Draw],
    n_methods: usize,
    confidence: f64,
) -> Vec<Vec<Option<Estimate>>> {
    let of = |a: usize, b: usize| {
        (a != b).then(|| {
            let values: Vec<f64> = draws.iter().map(|draw| draw.ahead[a][b]).collect();
            let value = values.iter().sum::<f64>() / values.len() as f64;
            Estimate { value, interval: Some(percentile_interval(values, confidence)) }
        })
    };
    (0..n_methods).map(|a| (0..n_methods).map(|b| of(a, b)).collect()).collect()
}
