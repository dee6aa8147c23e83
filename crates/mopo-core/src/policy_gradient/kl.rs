//! The distance from the reference as part of the reward, and the controller of its weight.

use serde::{Deserialize, Serialize};

/// An answer's rewards, token by token: −c (log π − log π_ref) at each, and the score at the last (Ouyang et al.,
/// 2022, equation 2, token by token; Ziegler et al., 2019). Their sum is the score less c times the sample's KL.
///
/// * `log_ratios`: log π − log π_ref of the sampled tokens, in nats.
/// * `coefficient`: c ≥ 0.
///
/// ```
/// use mopo_core::policy_gradient::token_rewards;
///
/// assert_eq!(token_rewards(&[0.5, -1.0], 0.5, 2.0), [-0.25, 2.5]);
/// ```
pub fn token_rewards(log_ratios: &[f64], coefficient: f64, score: f64) -> Vec<f64> {
    let mut rewards: Vec<f64> = log_ratios.iter().map(|ratio| -coefficient * ratio).collect();
    if let Some(last) = rewards.last_mut() {
        *last += score;
    }
    rewards
}

/// The proportional controller of the KL coefficient (Ziegler et al., 2019, section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdaptiveKl {
    /// The coefficient now, ≥ 0.
    pub coefficient: f64,
    /// The KL per answer that it aims at, in nats, > 0.
    pub target: f64,
    /// Number of answers over which a KL that is 20 % off changes the coefficient by about 20 %, > 0.
    pub horizon: f64,
}

impl AdaptiveKl {
    /// The largest relative error of the KL that counts.
    const MAX_ERROR: f64 = 0.2;

    /// After `n_answers` answers whose mean KL was `kl`: c ← c (1 + e n/horizon) with e = KL/target − 1, cut off at
    /// ±0.2, and n at most the horizon.
    pub fn update(&mut self, kl: f64, n_answers: usize) {
        let error = (kl / self.target - 1.0).clamp(-Self::MAX_ERROR, Self::MAX_ERROR);
        self.coefficient *= 1.0 + error * (n_answers as f64 / self.horizon).min(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_sum_to_the_score_less_the_kl() {
        let ratios = [0.3, -0.1, 0.8];
        let rewards = token_rewards(&ratios, 0.2, 1.5);
        assert!((rewards.iter().sum::<f64>() - (1.5 - 0.2 * 1.0)).abs() < 1e-12);
        assert!((rewards[0] + 0.06).abs() < 1e-12);
        assert!(token_rewards(&[], 0.2, 1.5).is_empty());
    }

    #[test]
    fn the_coefficient_follows_the_error_by_hand() {
        let kl = AdaptiveKl { coefficient: 0.2, target: 3.0, horizon: 1000.0 };
        for (found, n, expected) in [
            (3.0, 100, 0.2),
            // 10 % too far: 10 % of 100/1000.
            (3.3, 100, 0.2 * 1.01),
            (2.7, 100, 0.2 * 0.99),
            // Cut off.
            (99.0, 100, 0.2 * 1.02),
            (-5.0, 100, 0.2 * 0.98),
            (99.0, 1_000_000, 0.2 * 1.2),
        ] {
            let mut kl = kl;
            kl.update(found, n);
            assert!((kl.coefficient - expected).abs() < 1e-12, "{found}: {}", kl.coefficient);
        }
    }
}
