//! Scores of a training set in standard deviations, and the scores that are asked for.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, Pairs, Result};

/// Draws whose extremes are the published range of targets.
const DRAWS: usize = 25_000;
/// Of those draws, so that all runs have the same range.
const SEED: u64 = 2_024;

/// Mean and deviation of an objective's scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScoreStatistics {
    pub(crate) mean: f64,
    /// Of the population, above 0.
    pub(crate) std: f64,
}

impl ScoreStatistics {
    /// Those of both responses of all pairs, for the objective at index `k`; `name`: its name, for errors.
    ///
    /// # Errors
    /// Pairs without scores, or all of them equal.
    pub(crate) fn of(pairs: &Pairs, k: usize, name: &str) -> Result<Self> {
        let scores: Vec<f64> =
            pairs.scores.iter().flatten().flatten().map(|of| f64::from(of[k])).collect();
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let std = (scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n).sqrt();
        if std > 0.0 && std.is_finite() {
            return Ok(Self { mean, std });
        }
        Err(Error::Config {
            origin: "`policies`".into(),
            message: format!(
                "the training set's scores of `{name}` do not differ, so there is nothing to aim at: leave it out, or \
                 score the responses with `mopo label`"
            ),
        })
    }

    /// A score in standard deviations from the mean.
    pub(crate) fn z(&self, score: f32) -> f64 {
        (f64::from(score) - self.mean) / self.std
    }
}

/// The extremes of standard normal draws, `[lowest, highest]` for each of `n` objectives: the range of targets of RiC's
/// authors, whose draws are not known. The median of such a maximum is 4.03.
pub(crate) fn normal_extremes(n: usize) -> Vec<[f64; 2]> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut extremes = |_| {
        (0..DRAWS)
            .map(|_| normal(&mut rng))
            .fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], z| [low.min(z), high.max(z)])
    };
    (0..n).map(&mut extremes).collect()
}

/// A standard normal draw.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    // Box and Muller; 1 − u is never 0.
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Uniform on the unit vectors without negative entries.
pub(crate) fn direction(n: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let all: Vec<f64> = (0..n).map(|_| normal(rng).abs()).collect();
    let norm = all.iter().map(|x| x * x).sum::<f64>().sqrt();
    match norm > 0.0 {
        true => all.into_iter().map(|x| x / norm).collect(),
        false => vec![(n as f64).sqrt().recip(); n],
    }
}

/// How preference weights become the scores to ask for (RiC's appendix).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetMap {
    /// The highest score of the objective with the largest weight; of each other one the share min(K α, 1) of its range.
    #[default]
    Linf,
    /// The share α/‖α‖₂ of each range.
    L2,
    /// The share α of each range.
    Linear,
}

impl TargetMap {
    /// The scores for weights on the simplex, from the ranges `[lowest, highest]`.
    pub(crate) fn targets(self, weights: &[f64], range: &[[f64; 2]]) -> Vec<f64> {
        let n = weights.len() as f64;
        let norm = weights.iter().map(|weight| weight * weight).sum::<f64>().sqrt();
        // The first of several maxima.
        let largest = (0..weights.len()).rev().max_by(|a, b| weights[*a].total_cmp(&weights[*b]));
        let share = |i: usize| match self {
            Self::Linf if Some(i) == largest => 1.0,
            Self::Linf => (n * weights[i]).min(1.0),
            Self::L2 => weights[i] / norm,
            Self::Linear => weights[i],
        };
        range.iter().enumerate().map(|(i, [low, high])| low + share(i) * (high - low)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_follow_their_formulas() {
        let range = [[-4.0, 4.0], [-3.0, 5.0]];
        for (map, weights, expected) in [
            (TargetMap::Linf, [0.8, 0.2], [4.0, 0.2]),
            (TargetMap::Linf, [0.5, 0.5], [4.0, 5.0]),
            (TargetMap::Linf, [0.0, 1.0], [-4.0, 5.0]),
            (TargetMap::L2, [0.6, 0.8], [0.8, 3.4]),
            (TargetMap::L2, [1.0, 0.0], [4.0, -3.0]),
            (TargetMap::Linear, [0.25, 0.75], [-2.0, 3.0]),
        ] {
            for (found, expected) in map.targets(&weights, &range).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-12, "{map:?} {weights:?}: {found}");
            }
        }
    }

    #[test]
    fn extremes_are_those_of_normal_draws() {
        let found = normal_extremes(3);
        assert_eq!(found, normal_extremes(3));
        assert_eq!(found[..2], normal_extremes(2));
        for [low, high] in found {
            assert!((3.4..5.5).contains(&high) && (3.4..5.5).contains(&-low), "{low} {high}");
        }
    }

    #[test]
    fn statistics_are_those_of_both_responses() {
        let mut pairs = Pairs::without_scores(vec![], vec![]);
        pairs.scores =
            vec![Some([vec![1.0, 5.0], vec![3.0, 5.0]]), Some([vec![5.0, 5.0], vec![7.0, 5.0]])];
        let found = ScoreStatistics::of(&pairs, 0, "a").unwrap();
        assert_eq!((found.mean, found.std), (4.0, 5f64.sqrt()));
        assert_eq!(found.z(4.0), 0.0);
        let e = ScoreStatistics::of(&pairs, 1, "b").unwrap_err().to_string();
        assert!(e.contains("`b` do not differ"), "{e}");
        pairs.scores = vec![None];
        assert!(ScoreStatistics::of(&pairs, 0, "a").is_err());
    }

    #[test]
    fn directions_are_unit_vectors_without_a_preferred_axis() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let all: Vec<_> = (0..4000).map(|_| direction(3, &mut rng)).collect();
        for v in &all {
            assert!(v.iter().all(|x| *x >= 0.0));
            assert!((v.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-9);
        }
        for k in 0..3 {
            // E|x| on the sphere in three dimensions is 1/2.
            let mean = all.iter().map(|v| v[k]).sum::<f64>() / all.len() as f64;
            assert!((mean - 0.5).abs() < 0.02, "{mean}");
        }
    }
}
