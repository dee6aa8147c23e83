//! Pareto-smoothed importance sampling (Vehtari et al., arXiv 1507.02646): weights whose largest are replaced by
//! quantiles of a fitted generalised Pareto distribution, and the diagnostic k̂ that says whether a mean under them can
//! be trusted.

use crate::log_space::log_sum_exp;

/// log of the mean of the components' probabilities of one draw, from their logarithms in nats: the density of a draw from
/// the mixture in which all components have the same share. A component's ratio to it is at most their number (the balance
/// heuristic of Veach & Guibas, 1995). −∞ if all of them are.
///
/// # Panics
/// If there are none.
pub fn mixture_log_prob(components: impl Iterator<Item = f32> + Clone) -> f32 {
    let n = components.clone().count();
    assert!(n > 0, "a mixture has components");
    (log_sum_exp(components.map(f64::from)) - (n as f64).ln()) as f32
}

/// Smoothed weights.
#[derive(Debug, Clone, PartialEq)]
pub struct SmoothedWeights {
    /// With sum 1, in the order of the ratios.
    pub weights: Vec<f64>,
    /// The smoothed ratios' logarithms: as given but for the largest.
    pub log_ratios: Vec<f64>,
    /// k̂, the shape of the tail: below 0.5 the weights have a variance, above 0.7 ([`MAX_SHAPE`]) means under them
    /// are not to be trusted at any sample size of practice. Infinite if there are too few ratios for a fit.
    pub shape: f64,
}

/// The largest k̂ at which means can be trusted.
pub const MAX_SHAPE: f64 = 0.7;

impl SmoothedWeights {
    /// From log-ratios of two distributions at draws from the second one. The largest min(n/5, 3√n) ratios are
    /// smoothed, and none is larger than the largest before. With fewer than 25 ratios nothing is.
    ///
    /// Complexity: O(n log n).
    ///
    /// # Panics
    /// If there are none, or one is NaN or +∞.
    pub fn of(log_ratios: &[f64]) -> Self {
        let n = log_ratios.len();
        assert!(n > 0 && log_ratios.iter().all(|l| *l < f64::INFINITY), "log-ratios are numbers");
        let max = log_ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut log_weights: Vec<f64> = log_ratios.iter().map(|l| l - max).collect();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| log_weights[a].total_cmp(&log_weights[b]));
        let n_tail = (0.2 * n as f64).min(3.0 * (n as f64).sqrt()).ceil() as usize;
        let mut shape = f64::INFINITY;
        let mut is_smoothed = vec![false; n];
        if n_tail > 4 && n_tail < n {
            let cutoff = log_weights[order[n - n_tail - 1]].exp();
            let tail: Vec<usize> = order[n - n_tail..]
                .iter()
                .copied()
                .filter(|&i| log_weights[i].exp() > cutoff)
                .collect();
            if tail.len() > 4 {
                let excess: Vec<f64> =
                    tail.iter().map(|&i| log_weights[i].exp() - cutoff).collect();
                let (k, scale) = generalised_pareto(&excess);
                shape = k;
                if k.is_finite() {
                    for (rank, &i) in tail.iter().enumerate() {
                        let p = (rank as f64 + 0.5) / tail.len() as f64;
                        let quantile = if k.abs() < 1e-12 {
                            -scale * (-p).ln_1p()
                        } else {
                            scale * (-k * (-p).ln_1p()).exp_m1() / k
                        };
                        log_weights[i] = (cutoff + quantile).ln().min(0.0);
                        is_smoothed[i] = true;
                    }
                }
            } else {
                // All large ratios are equal: no tail.
                shape = 0.0;
            }
        }
        let smoothed = log_weights.iter().zip(log_ratios).zip(&is_smoothed);
        let log_ratios =
            smoothed.map(|((w, raw), changed)| if *changed { w + max } else { *raw }).collect();
        let weights: Vec<f64> = log_weights.into_iter().map(f64::exp).collect();
        let total: f64 = weights.iter().sum();
        Self { weights: weights.into_iter().map(|w| w / total).collect(), log_ratios, shape }
    }

    /// Whether means under the weights can be trusted.
    pub fn is_trusted(&self) -> bool {
        self.shape <= MAX_SHAPE
    }
}

/// Shape and scale of a generalised Pareto distribution fitted to ascending excesses: the posterior mean of Zhang and
/// Stephens (2009), with a weak prior of shape 0.5 that counts as ten observations (Vehtari et al., appendix C).
fn generalised_pareto(excess: &[f64]) -> (f64, f64) {
    let n = excess.len();
    let m = 30 + (n as f64).sqrt() as usize;
    let quartile = excess[(n as f64 / 4.0 + 0.5) as usize - 1];
    let largest = excess[n - 1];
    let shape_at = |b: f64| excess.iter().map(|x| (-b * x).ln_1p()).sum::<f64>() / n as f64;
    let grid: Vec<f64> = (1..=m)
        .map(|j| 1.0 / largest + (1.0 - (m as f64 / (j as f64 - 0.5)).sqrt()) / (3.0 * quartile))
        .collect();
    let likelihood: Vec<f64> = grid
        .iter()
        .map(|&b| {
            let k = shape_at(b);
            n as f64 * ((-b / k).ln() - k - 1.0)
        })
        .collect();
    let largest = likelihood.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = likelihood.iter().map(|l| (l - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let b: f64 = grid.iter().zip(&weights).map(|(b, w)| b * w / total).sum();
    let k = shape_at(b);
    ((n as f64 * k + 10.0 * 0.5) / (n as f64 + 10.0), -k / b)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Quantiles of a Pareto distribution with this shape, as ratios.
    fn pareto(shape: f64, n: usize) -> Vec<f64> {
        (0..n).map(|i| -shape * (-(i as f64 + 0.5) / n as f64).ln_1p()).collect()
    }

    #[test]
    fn a_mixtures_log_prob_is_that_of_the_mean_and_bounds_every_ratio() {
        let of = |components: &[f32]| mixture_log_prob(components.iter().copied());
        let expected = ((0.2f64 + 0.6) / 2.0).ln() as f32;
        assert!((of(&[0.2f32.ln(), 0.6f32.ln()]) - expected).abs() < 1e-6);
        assert_eq!(of(&[-3.0]), -3.0);
        // Far below what exp holds, and one that cannot have drawn it.
        for components in [[-900.0, -1000.0, -905.0], [-2.0, f32::NEG_INFINITY, -1.0]] {
            let mixed = of(&components);
            let largest = components.iter().map(|c| c - mixed).fold(f32::MIN, f32::max);
            assert!((0.0..=3f32.ln() + 1e-4).contains(&largest), "{components:?} {largest}");
        }
    }

    #[test]
    fn the_shape_of_a_pareto_tail_is_found() {
        for shape in [0.2, 0.5, 0.8, 1.2] {
            let smoothed = SmoothedWeights::of(&pareto(shape, 20_000));
            // The prior pulls it towards 0.5.
            assert!((smoothed.shape - shape).abs() < 0.08, "{shape}: {}", smoothed.shape);
            assert_eq!(smoothed.is_trusted(), shape < 0.7);
            assert!((smoothed.weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            // The same weights on the ratios' own scale, on which most are unchanged.
            let total: f64 = smoothed.log_ratios.iter().map(|l| l.exp()).sum();
            for (l, w) in smoothed.log_ratios.iter().zip(&smoothed.weights) {
                assert!((l.exp() / total - w).abs() < 1e-9);
            }
            let raw = pareto(shape, 20_000);
            let changed = raw.iter().zip(&smoothed.log_ratios).filter(|(a, b)| a != b).count();
            assert!(changed > 100 && changed <= 425, "{changed}");
        }
    }

    #[test]
    fn equal_ratios_have_no_tail_and_few_ones_no_fit() {
        let equal = SmoothedWeights::of(&[0.3; 100]);
        assert!(equal.is_trusted() && equal.weights.iter().all(|w| (w - 0.01).abs() < 1e-12));
        let few = SmoothedWeights::of(&[0.0, 2f64.ln()]);
        assert!(few.shape == f64::INFINITY && (few.weights[1] - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn large_weights_shrink_to_the_quantiles_of_the_tail_and_keep_their_order() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut draws: Vec<f64> = (0..400).map(|_| 4.0 * rng.random::<f64>().powi(3)).collect();
        draws[17] = 9.0;
        let smoothed = SmoothedWeights::of(&draws);
        let raw: f64 = draws.iter().map(|l| (l - 9.0).exp()).sum();
        assert!(smoothed.weights[17] < 1.0 / raw, "{} and {}", smoothed.weights[17], 1.0 / raw);
        let mut order: Vec<usize> = (0..400).collect();
        order.sort_by(|&a, &b| draws[a].total_cmp(&draws[b]));
        assert!(order.windows(2).all(|w| smoothed.weights[w[0]] <= smoothed.weights[w[1]] + 1e-15));
        assert!(smoothed.shape > MAX_SHAPE && !smoothed.is_trusted(), "{}", smoothed.shape);
    }

    /// `psislw` of arviz 0.23.4 on the same log-ratios: k̂, the largest weight, the mean of the index under the
    /// weights, 1/Σw².
    #[test]
    fn weights_are_those_of_arviz() {
        let index = || (1..=300).map(f64::from);
        let powers: Vec<f64> = index().map(|i| 1.3 * i.ln()).collect();
        let waves: Vec<f64> = index().map(|i| 2.0 * (i * 1.7).sin() + (i % 7.0) * 0.4).collect();
        let heavy: Vec<f64> =
            index().map(|i| 3.0 * (1.0 / (1.0 - (i - 0.5) / 300.0)).ln()).collect();
        for (draws, expected) in [
            (
                powers,
                [-0.6900573202756775, 0.00761611227539431, 209.6667544853754, 203.91329630867617],
            ),
            (
                waves,
                [-0.16316643373986103, 0.025194421310886825, 152.32964931454413, 87.15336009023208],
            ),
            (
                heavy,
                [2.4618688348447275, 0.9008399586768204, 299.7495292737889, 1.2262095843963141],
            ),
        ] {
            let SmoothedWeights { weights, shape, .. } = SmoothedWeights::of(&draws);
            let found = [
                shape,
                weights.iter().copied().fold(0.0, f64::max),
                weights.iter().zip(index()).map(|(w, i)| w * i).sum(),
                1.0 / weights.iter().map(|w| w * w).sum::<f64>(),
            ];
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-8 * (1.0 + expected.abs()),
                    "{found} and {expected}"
                );
            }
        }
    }
}
