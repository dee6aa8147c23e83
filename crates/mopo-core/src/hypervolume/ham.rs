//! HaM's step on a batch: mean rewards of policies by importance ratios, and where each policy goes.

use serde::{Deserialize, Serialize};

use super::VolumeGradient;

/// Over which responses importance ratios are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RatioNormalization {
    /// All responses of the batch: the self-normalised estimate.
    Batch,
    /// The two responses of each pair: the mean reward of the policy's choice between them.
    Pair,
}

/// One policy's mean rewards on a batch, estimated from responses of another policy.
#[derive(Debug, Clone, PartialEq)]
pub struct RatioMeans {
    /// ŷ_j per objective.
    pub mean: Vec<f64>,
    /// (Σ w)²/Σ w²: how many responses the estimate rests on.
    pub sample_size: f64,
    /// Normalised ratios; they sum to 1.
    weights: Vec<f64>,
    /// Mean rewards of each group of responses, `[n_groups][n_objectives]`.
    group_means: Vec<Vec<f64>>,
    /// Responses per group.
    group_size: usize,
    /// Whether the ratio was cut off, so that it does not change with the policy.
    is_clipped: Vec<bool>,
}

impl RatioMeans {
    /// ŷ = Σ_i w_i r_i with w_i ∝ exp(clip(log π − log π_0, ±`clip`)), normalised over the batch, or within each pair
    /// with all pairs alike.
    ///
    /// * `log_ratios`: log π − log π_0 of each response, in nats, `[n_responses]`; a pair's two next to each other.
    /// * `rewards`: `[n_responses][n_objectives]`.
    ///
    /// # Panics
    /// If the lengths differ, or there are no responses, or an odd number for pairs.
    pub fn new(
        log_ratios: &[f64],
        rewards: &[Vec<f64>],
        clip: f64,
        normalization: RatioNormalization,
    ) -> Self {
        let n = log_ratios.len();
        assert!(
            n > 0 && n == rewards.len(),
            "one log-ratio and one vector of rewards per response"
        );
        let group_size = match normalization {
            RatioNormalization::Batch => n,
            RatioNormalization::Pair => 2,
        };
        assert!(n.is_multiple_of(group_size), "pairs have two responses");
        let share = group_size as f64 / n as f64;
        let clipped: Vec<f64> = log_ratios.iter().map(|d| d.clamp(-clip, clip)).collect();
        let mut weights = Vec::with_capacity(n);
        let mut group_means = Vec::with_capacity(n / group_size);
        for (ratios, rewards) in clipped.chunks(group_size).zip(rewards.chunks(group_size)) {
            let most = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = ratios.iter().map(|d| (d - most).exp()).sum();
            let own = ratios.iter().map(|d| (d - most).exp() / total).collect::<Vec<f64>>();
            let mean = |j: usize| own.iter().zip(rewards).map(|(w, r)| w * r[j]).sum();
            group_means.push((0..rewards[0].len()).map(mean).collect::<Vec<f64>>());
            weights.extend(own.into_iter().map(|w| share * w));
        }
        let mean = |j: usize| group_means.iter().map(|of| share * of[j]).sum();
        Self {
            mean: (0..rewards[0].len()).map(mean).collect(),
            sample_size: 1.0 / weights.iter().map(|w| w * w).sum::<f64>(),
            weights,
            group_means,
            group_size,
            is_clipped: log_ratios.iter().map(|d| d.abs() > clip).collect(),
        }
    }

    /// d(Σ_j g_j ŷ_j)/d log π of each response, w_i g · (r_i − mean of its group): zero where the ratio is clipped.
    ///
    /// # Panics
    /// If `rewards` are not those of [`new`](Self::new), or there is not one g_j per objective.
    pub fn slopes(&self, direction: &[f64], rewards: &[Vec<f64>]) -> Vec<f64> {
        assert!(direction.len() == self.mean.len() && rewards.len() == self.weights.len());
        let slope = |i: usize| {
            if self.is_clipped[i] {
                return 0.0;
            }
            let ahead = rewards[i].iter().zip(&self.group_means[i / self.group_size]);
            let gain: f64 = direction.iter().zip(ahead).map(|(g, (r, mean))| g * (r - mean)).sum();
            self.weights[i] * gain
        };
        (0..self.weights.len()).map(slope).collect()
    }
}

/// Where each policy goes: the hypervolume's gradient, and for a policy without one, which would stay where it is for
/// ever, another direction (ours). At or below the corner in some objectives, it is these, alike; else the policy is
/// dominated, and it is the preference weights `own` of the policy: what maximises their mean is on the front, and
/// differs from policy to policy. Policies that are equal all go their own ways, also the one that has the gradient. These directions are `weight` times as long as the
/// gradients are on average (in sums of absolute values; 1 if there is none).
///
/// * `points`: `[n_policies][n_objectives]`, those of `volume`.
/// * `own`: one vector on the simplex per policy ([`spread_weights`](super::spread_weights)).
///
/// # Panics
/// If the lengths do not belong together.
pub fn ascent(
    points: &[Vec<f64>],
    corner: &[f64],
    volume: &VolumeGradient,
    own: &[Vec<f64>],
    weight: f64,
) -> Vec<Vec<f64>> {
    assert!(own.len() == points.len() && volume.gradient.len() == points.len());
    let sizes: Vec<f64> = volume.gradient.iter().map(|g| g.iter().map(|g| g.abs()).sum()).collect();
    let alive: Vec<f64> = sizes.iter().copied().filter(|size| *size > 0.0).collect();
    let mean = if alive.is_empty() { 1.0 } else { alive.iter().sum::<f64>() / alive.len() as f64 };
    let direction = |k: usize| -> Vec<f64> {
        let is_copy = points.iter().enumerate().any(|(i, of)| i != k && *of == points[k]);
        if sizes[k] > 0.0 && !is_copy {
            return volume.gradient[k].clone();
        }
        let is_short: Vec<bool> = points[k].iter().zip(corner).map(|(y, z)| y <= z).collect();
        let n_short = is_short.iter().filter(|short| **short).count();
        let of = |j: usize| match n_short {
            0 => own[k][j],
            n => f64::from(u8::from(is_short[j])) / n as f64,
        };
        (0..corner.len()).map(|j| weight * mean * of(j)).collect()
    };
    (0..points.len()).map(direction).collect()
}

#[cfg(test)]
mod tests {
    use super::super::volume_gradient;
    use super::*;

    fn rewards() -> Vec<Vec<f64>> {
        vec![vec![1.0, -0.5], vec![-1.0, 0.5], vec![0.3, 0.2], vec![0.1, 2.0]]
    }

    #[test]
    fn means_of_the_behaviour_policy_are_plain_and_odds_move_them() {
        for normalization in [RatioNormalization::Batch, RatioNormalization::Pair] {
            let means = RatioMeans::new(&[0.0; 4], &rewards(), 5.0, normalization);
            assert!((means.mean[0] - 0.1).abs() < 1e-12 && (means.mean[1] - 0.55).abs() < 1e-12);
            assert!((means.sample_size - 4.0).abs() < 1e-12);
        }
        // Odds of 3 in the first pair; the level of a pair counts over the batch only.
        let log_ratios = [3f64.ln() - 0.7, -0.7, 0.0, 0.0];
        let pair = RatioMeans::new(&log_ratios, &rewards(), 5.0, RatioNormalization::Pair);
        assert!((pair.mean[0] - 0.5 * (0.5 + 0.2)).abs() < 1e-12, "{:?}", pair.mean);
        let batch = RatioMeans::new(&log_ratios, &rewards(), 5.0, RatioNormalization::Batch);
        let e = (-0.7f64).exp();
        let expected = (3.0 * e - e + 0.4) / (4.0 * e + 2.0);
        assert!((batch.mean[0] - expected).abs() < 1e-12, "{:?}", batch.mean);
    }

    #[test]
    fn slopes_are_differences_of_the_means() {
        let (log_ratios, g) = ([0.4, -0.3, 1.7, 0.1], [0.7, -0.2]);
        // The third ratio is cut off.
        let clip = 1.5;
        for normalization in [RatioNormalization::Batch, RatioNormalization::Pair] {
            let value = |at: &[f64]| {
                let mean = RatioMeans::new(at, &rewards(), clip, normalization).mean;
                g[0] * mean[0] + g[1] * mean[1]
            };
            let found = RatioMeans::new(&log_ratios, &rewards(), clip, normalization)
                .slopes(&g, &rewards());
            for i in 0..4 {
                let moved = |by: f64| {
                    let mut at = log_ratios;
                    at[i] += by;
                    value(&at)
                };
                let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((found[i] - expected).abs() < 1e-8, "{i}: {found:?} and {expected}");
            }
            assert_eq!(found[2], 0.0);
        }
    }

    #[test]
    fn policies_without_a_gradient_follow_their_weights_or_the_corner() {
        let points = vec![vec![1.0, 1.0], vec![1.0, 1.0], vec![3.0, -0.5]];
        let corner = [0.0, 0.0];
        let volume = volume_gradient(&points, &corner, 0, 0);
        let own = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![0.5, 0.5]];
        // The first has (1, 1), of size 2.
        let found = ascent(&points, &corner, &volume, &own, 0.5);
        assert_eq!(found, [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]);
        let below = vec![vec![-1.0, -1.0]];
        let volume = volume_gradient(&below, &corner, 0, 0);
        assert_eq!(ascent(&below, &corner, &volume, &own[..1], 1.0), [[0.5, 0.5]]);
    }
}
