//! The mixture under the preference weights that are worst for it.
//!
//! For policies π_k that are optimal for rewards r_k under one KL penalty, log(π_k/π_ref) is r_k/τ up to a constant.
//! A policy that is to be best for the worst weights solves max_π min_w Σ_k w_k E_π[log(π_k/π_ref)] − KL(π ‖ π_ref) over
//! the simplex. The game has a saddle point: for given w the best π is the mixture ∝ Π_k π_k^{w_k}, whose value is
//! F(w) = log Σ_y Π_k π_k(y)^{w_k}, so w minimises F, which is convex (docs/math.md, section 6). There, the mixture
//! is equally far (KL) from all policies with a weight, and closer to the others: Chernoff's point between them.

/// Gradients may differ by this, in nats, at the end.
const TOLERANCE: f64 = 1e-6;
/// Actions on which every policy has less than e to this power do not move the weights.
const NEGLIGIBLE: f64 = -25.0;
const MAX_MOVES: usize = 200;

/// Preference weights w that minimise log Σ_y Π_k π_k(y)^{w_k} over the simplex, by moves of weight from one policy to
/// another. `log_policies[k][y]` is log π_k(y); at least one policy, all of the same length. If the policies have no
/// action in common, the weights of the last mixture that has one.
///
/// ```
/// use mopo_core::divergence::worst_case;
///
/// let log = |p: [f64; 2]| p.map(f64::ln);
/// // Two policies that want the opposite, equally strongly.
/// let weights = worst_case(&[&log([0.9, 0.1]), &log([0.1, 0.9])]);
/// assert!((weights[0] - 0.5).abs() < 1e-6);
/// // The second wants nothing that the first does not: the mixture is the one that is closer to uniform.
/// let weights = worst_case(&[&log([0.9, 0.1]), &log([0.5, 0.5])]);
/// assert!(weights[0] > 0.0 && weights[1] > 0.0);
/// ```
pub fn worst_case(log_policies: &[&[f64]]) -> Vec<f64> {
    let n = log_policies.len();
    let mut weights = vec![1.0 / n as f64; n];
    if n < 2 {
        return weights;
    }
    let actions: Vec<usize> = (0..log_policies[0].len())
        .filter(|&y| log_policies.iter().any(|log| log[y] > NEGLIGIBLE))
        .collect();
    for _ in 0..MAX_MOVES {
        let Some(at) = Moments::at(log_policies, &actions, &weights) else { break };
        // F falls where weight goes to the policy with the smallest gradient.
        let to = (0..n).min_by(|a, b| at.mean[*a].total_cmp(&at.mean[*b])).expect("two policies");
        let from = (0..n)
            .filter(|&k| weights[k] > 0.0 && k != to)
            .max_by(|a, b| at.mean[*a].total_cmp(&at.mean[*b]));
        let Some(from) = from.filter(|&k| at.mean[k] - at.mean[to] > TOLERANCE) else { break };
        move_weight(log_policies, &actions, &mut weights, from, to);
    }
    weights
}

/// What a mixture expects of the policies' log-probabilities.
struct Moments {
    /// E\[log π_k\], the gradient of F.
    mean: Vec<f64>,
    /// Probabilities of the actions.
    mixture: Vec<f64>,
}

impl Moments {
    /// `None` if no action is possible under the mixture.
    fn at(log_policies: &[&[f64]], actions: &[usize], weights: &[f64]) -> Option<Self> {
        let mixed = |y: usize| -> f64 {
            let used = log_policies.iter().zip(weights).filter(|(_, weight)| **weight > 0.0);
            used.map(|(log, weight)| weight * log[y]).sum()
        };
        let logs: Vec<f64> = actions.iter().map(|&y| mixed(y)).collect();
        let max = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if !max.is_finite() {
            return None;
        }
        let mut mixture: Vec<f64> = logs.iter().map(|log| (log - max).exp()).collect();
        let total: f64 = mixture.iter().sum();
        mixture.iter_mut().for_each(|p| *p /= total);
        let mean = log_policies.iter().map(|log| {
            let of = actions.iter().zip(&mixture).filter(|(_, p)| **p > 0.0);
            of.map(|(&y, p)| p * log[y]).sum()
        });
        Some(Self { mean: mean.collect(), mixture })
    }
}

/// Minimises F along the line on which `from` gives weight to `to`: Newton's steps within a bracket.
fn move_weight(
    log_policies: &[&[f64]],
    actions: &[usize],
    weights: &mut [f64],
    from: usize,
    to: usize,
) {
    let (start_from, start_to) = (weights[from], weights[to]);
    let (mut low, mut high) = (0.0, start_from);
    let mut step = 0.0;
    for _ in 0..60 {
        let set = |weights: &mut [f64], step: f64| {
            weights[from] = if step == start_from { 0.0 } else { start_from - step };
            weights[to] = start_to + step;
        };
        set(weights, step);
        let Some(at) = Moments::at(log_policies, actions, weights) else {
            // Nothing is possible there: less weight.
            high = step;
            step = 0.5 * (low + high);
            continue;
        };
        let slope = at.mean[to] - at.mean[from];
        if slope.abs() < 0.1 * TOLERANCE || (slope < 0.0 && step == start_from) {
            return;
        }
        if slope < 0.0 {
            low = step;
        } else {
            high = step;
        }
        let curvature: f64 = (actions.iter().zip(&at.mixture))
            .filter(|(_, p)| **p > 0.0)
            .map(|(&y, p)| p * (log_policies[to][y] - log_policies[from][y] - slope).powi(2))
            .sum();
        let newton = step - slope / curvature;
        step = match newton > low && newton < high {
            true => newton,
            // Beyond the end of the line: the end itself, once.
            false if newton >= high && high == start_from && low < high => start_from,
            false => 0.5 * (low + high),
        };
        if high - low < 1e-12 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log_value(log_policies: &[Vec<f64>], weights: &[f64]) -> f64 {
        let n = log_policies[0].len();
        let mixed = |y: usize| -> f64 {
            log_policies.iter().zip(weights).map(|(log, w)| w * log[y]).sum::<f64>().exp()
        };
        (0..n).map(mixed).sum::<f64>().ln()
    }

    fn policies(n: usize, n_actions: usize) -> impl Strategy<Value = Vec<Vec<f64>>> {
        let one = prop::collection::vec(-4.0..4.0_f64, n_actions).prop_map(|logits| {
            let total: f64 = logits.iter().map(|x| x.exp()).sum();
            logits.iter().map(|x| x - total.ln()).collect()
        });
        prop::collection::vec(one, n)
    }

    fn found(all: &[Vec<f64>]) -> Vec<f64> {
        worst_case(&all.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn no_weights_on_a_grid_are_worse(all in policies(3, 6)) {
            let weights = found(&all);
            prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let least = log_value(&all, &weights);
            for i in 0..=20 {
                for j in 0..=20 - i {
                    let other = [i, j, 20 - i - j].map(|x| f64::from(x) / 20.0);
                    prop_assert!(least <= log_value(&all, &other) + 1e-6, "{other:?}");
                }
            }
        }

        #[test]
        fn the_mixture_of_two_is_equally_far_from_both(all in policies(2, 5)) {
            let weights = found(&all);
            let total = log_value(&all, &weights);
            let log = |y: usize| weights[0] * all[0][y] + weights[1] * all[1][y] - total;
            let far = |k: usize| -> f64 {
                (0..5).map(|y| log(y).exp() * (log(y) - all[k][y])).sum()
            };
            prop_assert!((far(0) - far(1)).abs() < 1e-4, "{} and {}", far(0), far(1));
        }
    }

    #[test]
    fn one_policy_and_policies_that_exclude_each_other_have_weights() {
        assert_eq!(worst_case(&[&[0.0]]), [1.0]);
        let never = f64::NEG_INFINITY;
        // Actions in common: only the second.
        let half = 0.5_f64.ln();
        let weights = worst_case(&[&[half, half, never], &[never, half, half]]);
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        // None: the weights stay valid.
        let weights = worst_case(&[&[0.0, never], &[never, 0.0]]);
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
