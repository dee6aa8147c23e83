//! Constraints of a finished run, estimated on held-out pairs: the slack on training batches is optimistic, since the
//! multipliers were fitted to those.

use std::collections::BTreeMap;
use std::fmt;

use mopo_core::importance::{MAX_SHAPE, SmoothedWeights};
use mopo_report::{Interval, percentile_interval};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::log_probs::LogProbs;

/// Resamples of a bootstrap.
const N_RESAMPLES: usize = 1000;
/// Level of the intervals.
const CONFIDENCE: f64 = 0.95;

/// E_π\[I_k\] of a policy on held-out pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldoutEstimate {
    /// Mean indicator of the responses under ratios π/π_0, self-normalised and Pareto-smoothed.
    pub mean: f64,
    /// Percentile interval (95 %) of the bootstrap over prompts, whose pairs are not independent: they may even share
    /// responses.
    pub interval: Interval,
    /// k̂ of the ratios: above 0.7 the estimate cannot be trusted. `None`: too few pairs for it.
    pub pareto_k: Option<f64>,
    /// The same mean with the policy's own choice between the two responses of each pair as weights, which is
    /// bounded, and close to the mean only for policies that have not moved far.
    pub choice: f64,
    /// Its interval.
    pub choice_interval: Interval,
    /// Number of pairs with a label.
    pub n: usize,
}

/// What an estimate says of a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval lies at or above it.
    Kept,
    /// The interval includes it, or the ratios cannot be trusted.
    Undecided,
    /// The whole interval lies below it.
    Violated,
}

impl HeldoutEstimate {
    /// From indicators of the first responses (`None`: no label) and log(π/π_0) of both responses of each pair.
    /// `prompts`: the number of each pair's prompt. `None` if no pair has a label.
    pub(crate) fn of(
        labels: impl Iterator<Item = Option<f32>>,
        prompts: &[usize],
        log_ratio: impl Fn(usize) -> [f32; 2],
        seed: u64,
    ) -> Option<Self> {
        let pairs: Vec<(usize, f64, [f64; 2])> = labels
            .enumerate()
            .filter_map(|(i, label)| {
                Some((prompts[i], f64::from(label?), log_ratio(i).map(f64::from)))
            })
            .collect();
        let n = pairs.len();
        if n == 0 {
            return None;
        }
        let ratios: Vec<f64> = pairs.iter().flat_map(|(_, _, ratios)| *ratios).collect();
        let SmoothedWeights { weights, shape, .. } = SmoothedWeights::of(&ratios);
        // Each prompt's sums: w I and w of the ratios, I by choice, and 1 for each pair.
        let mut sums: BTreeMap<usize, [f64; 4]> = BTreeMap::new();
        for (&(prompt, label, ratios), weights) in pairs.iter().zip(weights.chunks_exact(2)) {
            let [first, second] = [label, 1.0 - label];
            let chosen = 1.0 / (1.0 + (ratios[1] - ratios[0]).exp());
            add(
                sums.entry(prompt).or_default(),
                &[
                    weights[0] * first + weights[1] * second,
                    weights[0] + weights[1],
                    chosen * first + (1.0 - chosen) * second,
                    1.0,
                ],
            );
        }
        let sums: Vec<[f64; 4]> = sums.into_values().collect();
        let means = |of: &mut dyn Iterator<Item = usize>| {
            let mut total = [0.0; 4];
            of.for_each(|i| add(&mut total, &sums[i]));
            [total[0] / total[1], total[2] / total[3]]
        };
        let [mean, choice] = means(&mut (0..sums.len()));
        let [interval, choice_interval] =
            bootstrap(sums.len(), means, &mut ChaCha8Rng::seed_from_u64(seed));
        let pareto_k = Some(shape).filter(|k| k.is_finite());
        Some(Self { mean, interval, pareto_k, choice, choice_interval, n })
    }

    /// Whether the ratios can be trusted.
    pub fn is_trusted(&self) -> bool {
        self.pareto_k.is_some_and(|k| k <= MAX_SHAPE)
    }

    /// What it says of a threshold.
    pub fn verdict(&self, threshold: f64) -> Verdict {
        match self.is_trusted() {
            true => Verdict::of(self.interval, threshold),
            false => Verdict::Undecided,
        }
    }
}

impl Verdict {
    /// By the interval alone.
    pub(crate) fn of(interval: Interval, threshold: f64) -> Self {
        if interval.low >= threshold {
            Self::Kept
        } else if interval.high < threshold {
            Self::Violated
        } else {
            Self::Undecided
        }
    }
}

fn add(total: &mut [f64; 4], sums: &[f64; 4]) {
    total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
}

/// Percentile intervals of means over `n` things, given by their indices, when these are resampled.
pub(crate) fn bootstrap<const N: usize>(
    n: usize,
    means: impl Fn(&mut dyn Iterator<Item = usize>) -> [f64; N],
    rng: &mut ChaCha8Rng,
) -> [Interval; N] {
    let mut resampled = [const { Vec::new() }; N];
    for _ in 0..N_RESAMPLES {
        let found = means(&mut (0..n).map(|_| rng.random_range(0..n)));
        for (all, value) in resampled.iter_mut().zip(found) {
            all.push(value);
        }
    }
    resampled.map(|values| percentile_interval(values, CONFIDENCE))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "kept",
            Self::Undecided => "undecided",
            Self::Violated => "VIOLATED",
        })
    }
}

/// log(π/π_0) of both responses of pair `i`.
pub(crate) fn log_ratio(policy: &LogProbs, initial: &LogProbs, i: usize) -> [f32; 2] {
    [policy[i][0] - initial[i][0], policy[i][1] - initial[i][1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` pairs whose first response is preferred in three of four cases.
    fn estimate(n: usize, ratio: impl Fn(usize) -> [f32; 2]) -> HeldoutEstimate {
        let labels = (0..n).map(|i| Some(if i % 4 == 3 { 0.0 } else { 1.0 }));
        HeldoutEstimate::of(labels, &Vec::from_iter(0..n), ratio, 1).unwrap()
    }

    #[test]
    fn pairs_of_one_prompt_are_one_observation() {
        let ratio = |_| [3f32.ln(), 0.0];
        let once = estimate(200, ratio);
        let labels = (0..800).map(|i| Some(if i / 4 % 4 == 3 { 0.0 } else { 1.0 }));
        let prompts: Vec<usize> = (0..800).map(|i| i / 4).collect();
        let four_times = HeldoutEstimate::of(labels, &prompts, ratio, 1).unwrap();
        assert!((once.mean - four_times.mean).abs() < 1e-12 && four_times.n == 800);
        let ends = [once, four_times].map(|found| (found.interval, found.choice_interval));
        for (a, b) in [(ends[0].0, ends[1].0), (ends[0].1, ends[1].1)] {
            assert!((a.low - b.low).abs() < 1e-12 && (a.high - b.high).abs() < 1e-12, "{ends:?}");
        }
    }

    #[test]
    fn the_initial_policy_has_half_of_all_comparisons() {
        let found = estimate(200, |_| [0.0; 2]);
        assert!((found.mean - 0.5).abs() < 1e-12 && (found.choice - 0.5).abs() < 1e-12);
        assert!(found.is_trusted());
        assert_eq!(found.interval, Interval { low: found.mean, high: found.mean });
        assert_eq!(found.verdict(0.5), Verdict::Kept);
    }

    #[test]
    fn verdicts_follow_the_interval() {
        // Odds of 3 for the first response, which is preferred in three of four pairs: 0.625.
        let found = estimate(400, |_| [3f32.ln(), 0.0]);
        assert!((found.mean - 0.625).abs() < 1e-6 && (found.choice - 0.625).abs() < 1e-6);
        let Interval { low, high } = found.interval;
        assert!(0.59 < low && low < 0.625 && 0.625 < high && high < 0.66, "{low} {high}");
        for (threshold, verdict) in
            [(0.55, Verdict::Kept), (0.62, Verdict::Undecided), (0.7, Verdict::Violated)]
        {
            assert_eq!(found.verdict(threshold), verdict, "{threshold}");
        }
    }

    #[test]
    fn heavy_ratios_decide_nothing() {
        let found = estimate(400, |i| [(i % 97) as f32 * 0.4, 0.0]);
        assert!(!found.is_trusted(), "{:?}", found.pareto_k);
        assert_eq!(found.verdict(0.0), Verdict::Undecided);
        let unlabelled = HeldoutEstimate::of([None, None].into_iter(), &[0, 1], |_| [0.0; 2], 1);
        assert_eq!(unlabelled, None);
    }
}
