//! Advantages: how much better an action was than expected.

/// Added to a variance before its root is divided by, as in TRL's PPO.
const VARIANCE_EPSILON: f64 = 1e-8;
/// Added to a group's deviation before it is divided by, as in TRL's GRPO.
const DEVIATION_EPSILON: f64 = 1e-4;

/// Generalised advantage estimates (Schulman et al., 2016, equation 16) of one answer's tokens:
///
/// A_t = Σ_{l ≥ 0} (γλ)^l δ_{t+l},  δ_t = r_t + γ V_{t+1} − V_t,  V after the last token 0.
///
/// A_t + V_t is the target of the value of token t. With λ = γ = 1 that is the sum of the rewards from t on.
///
/// * `rewards`: r, `[n_tokens]`.
/// * `values`: V before each token, `[n_tokens]`.
///
/// Panics if the lengths differ.
///
/// ```
/// use mopo_core::policy_gradient::gae;
///
/// assert_eq!(gae(&[0.0, 1.0], &[0.5, 0.25], 1.0, 1.0), [0.5, 0.75]);
/// ```
pub fn gae(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> Vec<f64> {
    assert_eq!(rewards.len(), values.len(), "a value for each reward");
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    for t in (0..rewards.len()).rev() {
        let delta = rewards[t] + gamma * next_value - values[t];
        next_advantage = delta + gamma * lambda * next_advantage;
        next_value = values[t];
        advantages[t] = next_advantage;
    }
    advantages
}

/// Shifts and scales numbers to mean 0 and variance 1 (over n − 1). Equal ones, or a single one, become 0.
pub fn whiten(values: &mut [f64]) {
    let (mean, variance) = moments(values);
    let scale = (variance + VARIANCE_EPSILON).sqrt();
    values.iter_mut().for_each(|value| *value = (*value - mean) / scale);
}

/// (r − mean)/(std + 1e-4) within each group of `group_size` consecutive scores, with the deviation over n − 1
/// (Shao et al., 2024, section 4.1.2). Groups of equal scores, or of one, become 0: they teach nothing.
///
/// Panics if the number of scores is not a multiple of `group_size`, or that is 0.
///
/// ```
/// use mopo_core::policy_gradient::group_normalized;
///
/// let found = group_normalized(&[1.0, 3.0, 5.0, 5.0], 2);
/// assert!((found[1] - 1.0 / (2f64.sqrt() + 1e-4)).abs() < 1e-12 && found[0] == -found[1]);
/// assert_eq!(found[2..], [0.0, 0.0]);
/// ```
pub fn group_normalized(scores: &[f64], group_size: usize) -> Vec<f64> {
    assert_eq!(scores.len() % group_size, 0, "whole groups of {group_size}");
    let mut normalized = Vec::with_capacity(scores.len());
    for group in scores.chunks_exact(group_size) {
        let (mean, variance) = moments(group);
        let scale = variance.sqrt() + DEVIATION_EPSILON;
        normalized.extend(group.iter().map(|score| (score - mean) / scale));
    }
    normalized
}

/// Mean, and variance over n − 1; 0 for fewer than two.
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, squares / (n - 1.0).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{found:?} and {expected:?}");
        }
    }

    #[test]
    fn gae_by_hand() {
        let (rewards, values) = ([0.5, -1.0, 2.0], [1.0, 0.0, 4.0]);
        // γ = 0.5, λ = 0.5. δ = 0.5 + 0 − 1 = −0.5; −1 + 2 − 0 = 1; 2 − 4 = −2.
        // A_3 = −2; A_2 = 1 − 0.25 · 2 = 0.5; A_1 = −0.5 + 0.25 · 0.5 = −0.375.
        assert_close(&gae(&rewards, &values, 0.5, 0.5), &[-0.375, 0.5, -2.0]);
        // λ = 0: δ alone.
        assert_close(&gae(&rewards, &values, 0.5, 0.0), &[-0.5, 1.0, -2.0]);
        assert!(gae(&[], &[], 1.0, 1.0).is_empty());
    }

    #[test]
    fn without_discounts_an_advantage_is_the_return_less_the_value() {
        let rewards: Vec<f64> = (0..40).map(|i| ((i * 37) % 11) as f64 - 4.5).collect();
        let values: Vec<f64> = (0..40).map(|i| ((i * 13) % 7) as f64 * 0.3).collect();
        let expected: Vec<f64> =
            (0..40).map(|t| rewards[t..].iter().sum::<f64>() - values[t]).collect();
        assert_close(&gae(&rewards, &values, 1.0, 1.0), &expected);
        // And with a discount alone the return is discounted.
        let discounted = |t: usize| -> f64 {
            rewards[t..].iter().enumerate().map(|(l, r)| 0.9f64.powi(l as i32) * r).sum()
        };
        let expected: Vec<f64> = (0..40).map(|t| discounted(t) - values[t]).collect();
        assert_close(&gae(&rewards, &values, 0.9, 1.0), &expected);
    }

    #[test]
    fn whitened_numbers_have_mean_0_and_variance_1() {
        let mut values = [3.0, -1.0, 4.0, 10.0];
        whiten(&mut values);
        let mean: f64 = values.iter().sum::<f64>() / 4.0;
        let variance: f64 = values.iter().map(|x| x * x).sum::<f64>() / 3.0;
        assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-8, "{values:?}");
        // The order stays.
        assert!(values[1] < values[0] && values[0] < values[2] && values[2] < values[3]);
        for mut same in [vec![], vec![7.0], vec![2.0; 3]] {
            whiten(&mut same);
            assert!(same.iter().all(|x| *x == 0.0), "{same:?}");
        }
    }

    #[test]
    fn groups_are_normalized_apart() {
        let scores = [1.0, 2.0, 3.0, 100.0, 300.0, 200.0];
        let found = group_normalized(&scores, 3);
        let unit = 1.0 / 1.0001;
        let hundred = 100.0 / 100.0001;
        assert_close(&found, &[-unit, 0.0, unit, -hundred, hundred, 0.0]);
        assert_close(&group_normalized(&[5.0, -3.0], 1), &[0.0, 0.0]);
    }
}
