//! Pairwise extraction: the policy is fitted to the differences of the closed form's scores between the two
//! responses of a pair, instead of cloning weighted responses (docs/math.md, section 13).

use burn::tensor::{Tensor, TensorData, backend::Backend};

use super::weights::{PolicyDual, tilted_statistics};
use super::{BatchStatistics, Prompts, ResponseLabels};
use crate::lower_bound::solve as worst_mean;

/// t/τ of each pair, t = ½ (s(y) − s(y′)) with s = I_p + Σ_k λ_k I_k: with antisymmetric labels
/// t = (I_p − ½) + Σ_k λ_k (I_k − ½). A missing label counts as a tie.
///
/// `rows`: the indicators of both responses of every pair, `[2 n_pairs][n_objectives]`, a pair's two next to
/// each other.
///
/// # Panics
/// If a row has another number of objectives than the policy.
pub fn contrast_targets(rows: &[Vec<Option<f32>>], policy: &PolicyDual<'_>) -> Vec<f64> {
    let dual = policy.dual;
    let score = |row: &Vec<Option<f32>>| -> f64 {
        assert_eq!(row.len(), dual.lambda.len(), "one indicator per objective");
        let scored = row.iter().map(|label| f64::from(label.unwrap_or(0.5))).enumerate();
        scored
            .map(|(k, label)| if k == dual.primary { label } else { dual.lambda[k] * label })
            .sum()
    };
    rows.chunks_exact(2)
        .map(|pair| 0.5 * (score(&pair[0]) - score(&pair[1])) / policy.tau)
        .collect()
}

/// Σ_i m_i (Δ_i(y) − Δ_i(y′) − t_i/τ)², shape `[1]`: its minimiser over all functions is the closed form's
/// log(w(y)/w(y′)) = (s(y) − s(y′))/τ on the mean labels, although every pair has only its own (docs/math.md).
///
/// * `first`, `second`: Δ = log π − log π_ref of the two responses, `[n_pairs]`, in nats.
/// * `targets`: t/τ, the same shape ([`contrast_targets`]).
/// * `mass`: m, the same shape; 1/n for a mean over pairs.
pub fn contrastive_loss<B: Backend>(
    first: Tensor<B, 1>,
    second: Tensor<B, 1>,
    targets: Tensor<B, 1>,
    mass: Tensor<B, 1>,
) -> Tensor<B, 1> {
    ((first - second - targets).square() * mass).sum()
}

/// What [`importance_weights`](super::importance_weights) has for the closed form's weights, for the policy's
/// own choice between the two responses of each pair: w ∝ π/π_0 within the pair. To first order in log(π/π_0)
/// the means are those under the policy, and they are bounded, whatever the length of the responses.
///
/// * `labels`: one batch for all policies, a pair's two responses next to each other; its prompts are ignored.
/// * `log_ratios`: log π − log π_0, `[n_policies × n_responses]`, policy by policy.
///
/// Returns the weights, which sum to 1 for each policy, in the order of `log_ratios`, and one statistic per policy.
///
/// # Panics
/// If the shapes do not belong together.
pub fn choice_statistics<B: Backend>(
    policies: &[PolicyDual<'_>],
    labels: &ResponseLabels<B>,
    log_ratios: Vec<f32>,
    device: &B::Device,
) -> (Vec<f64>, Vec<BatchStatistics>) {
    let [_, n, _] = labels.indicators.dims();
    let shape = [policies.len(), n];
    let labels = ResponseLabels { prompts: Prompts::Blocks(n / 2), ..labels.clone() };
    let uniform = Tensor::<B, 2>::zeros(shape, device);
    let score = Tensor::<B, 2>::from_data(TensorData::new(log_ratios, shape), device);
    let (weights, statistics) = tilted_statistics(policies, &labels, score, uniform);
    (weights.into_data().iter().collect(), statistics)
}

/// q̲_k of a reference by its own choices, on a whole set: what [`choice_statistics`] estimates of a batch, at the
/// best χ. `None`: no label.
///
/// * `rows`: indicators of both responses of every pair, next to each other.
/// * `log_ratios`: log π_ref − log π_0 of each row.
/// * `radius`: ε per objective, in nats; with 0 the plain mean.
///
/// # Panics
/// If the lengths do not belong together.
pub fn choice_levels(
    rows: &[[Vec<Option<f32>>; 2]],
    log_ratios: &[[f32; 2]],
    radius: &[f64],
) -> Vec<Option<f64>> {
    assert_eq!(rows.len(), log_ratios.len(), "one log-ratio per response");
    let level = |k: usize| {
        let gains: Vec<f64> = rows
            .iter()
            .zip(log_ratios)
            .flat_map(|(pair, log_ratio)| {
                let ahead = f64::from(log_ratio[0] - log_ratio[1]);
                let first = 1.0 / (1.0 + (-ahead).exp());
                [(&pair[0], first), (&pair[1], 1.0 - first)]
            })
            .filter_map(|(row, share)| row[k].map(|label| 2.0 * share * f64::from(label)))
            .collect();
        let n = gains.len();
        (n > 0).then(|| worst_mean(&vec![1.0 / n as f64; n], &gains, radius[k]).value)
    };
    (0..radius.len()).map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChiUpdate, DualState, MopoConfig};
    use mopo_testkit::{TestAutodiffBackend, TestBackend as B};

    fn dual(lambda: [f64; 2]) -> DualState {
        let mut dual = DualState::new(&MopoConfig::default(), 0, 2);
        dual.lambda = lambda.to_vec();
        dual
    }

    #[test]
    fn targets_are_half_the_difference_of_scores_over_tau() {
        let dual = dual([0.0, 2.0]);
        let policy = PolicyDual { tau: 0.5, dual: &dual, radius: &[0.0; 2], chi: ChiUpdate::Step };
        let rows = [
            // Preferred on both: ½ + 2 · ½.
            vec![Some(1.0), Some(1.0)],
            vec![Some(0.0), Some(0.0)],
            // They disagree: ½ − 2 · ½.
            vec![Some(1.0), Some(0.0)],
            vec![Some(0.0), Some(1.0)],
            // The secondary label is missing; the primary is a mean over occurrences.
            vec![Some(0.75), None],
            vec![Some(0.25), None],
        ];
        assert_eq!(contrast_targets(&rows, &policy), [3.0, -1.0, 0.5]);
    }

    /// A policy over three responses, each pair compared several times with labels that contradict each other:
    /// the regression finds the scores P_p(y ≻ μ)/τ of the mean labels, where cloning exp(I/τ) would not.
    #[test]
    fn single_comparisons_give_the_closed_form_on_mean_labels() {
        type A = TestAutodiffBackend;
        let device = Default::default();
        // P(first preferred) of the pairs (0, 1), (0, 2), (1, 2), as counts out of four.
        let wins = [((0, 1), 3), ((0, 2), 4), ((1, 2), 2)];
        let tau = 0.5;
        let mut pairs = Vec::new();
        for ((a, b), won) in wins {
            pairs.extend((0..4).map(|i| (a, b, if i < won { 0.5 } else { -0.5 } / tau)));
        }
        let n = pairs.len();
        let row = |of: &dyn Fn(&(usize, usize, f64)) -> i32| {
            let values: Vec<i32> = pairs.iter().map(of).collect();
            Tensor::<A, 1, burn::tensor::Int>::from_data(values.as_slice(), &device)
        };
        let (first, second) = (row(&|p| p.0 as i32), row(&|p| p.1 as i32));
        let targets: Vec<f32> = pairs.iter().map(|p| p.2 as f32).collect();
        let targets = Tensor::<A, 1>::from_data(targets.as_slice(), &device);
        let mass = Tensor::<A, 1>::full([n], 1.0 / n as f64, &device);
        let mut logits = Tensor::<A, 1>::zeros([3], &device);
        for _ in 0..400 {
            let leaf = logits.clone().detach().require_grad();
            let log_pi = burn::tensor::activation::log_softmax(leaf.clone(), 0);
            let loss = contrastive_loss(
                log_pi.clone().select(0, first.clone()),
                log_pi.select(0, second.clone()),
                targets.clone(),
                mass.clone(),
            );
            let gradient = leaf.grad(&loss.backward()).unwrap();
            logits = leaf - Tensor::from_inner(gradient).mul_scalar(0.3);
        }
        // P(y ≻ μ) for the uniform μ, ties with itself included.
        let mean = [(0.5 + 0.75 + 1.0) / 3.0, (0.25 + 0.5 + 0.5) / 3.0, (0.0 + 0.5 + 0.5) / 3.0];
        let found: Vec<f64> = logits.into_data().iter::<f64>().collect();
        for (a, b) in [(0, 1), (0, 2)] {
            let (found, exact) = (found[a] - found[b], (mean[a] - mean[b]) / tau);
            assert!((found - exact).abs() < 1e-3, "{a} {b}: {found} and {exact}");
        }
    }

    #[test]
    fn a_policys_choice_between_two_responses_is_its_preference() {
        let dual = dual([0.0, 0.0]);
        let policy = PolicyDual { tau: 0.2, dual: &dual, radius: &[0.0; 2], chi: ChiUpdate::Step };
        let device = Default::default();
        let rows = [
            vec![Some(1.0), Some(0.0)],
            vec![Some(0.0), Some(1.0)],
            vec![Some(1.0), None],
            vec![Some(0.0), None],
        ];
        let labels = ResponseLabels::<B>::from_rows(&rows, &device);
        // Odds of 3 in the first pair, none in the second, which is far less likely as a whole.
        let log_ratios = vec![3f32.ln(), 0.0, -40.0, -40.0];
        let (weights, statistics) = choice_statistics(&[policy], &labels, log_ratios, &device);
        for (found, expected) in weights.iter().zip([0.375, 0.125, 0.25, 0.25]) {
            assert!((found - expected).abs() < 1e-6, "{weights:?}");
        }
        let plain = |k: usize| statistics[0].plain[k].unwrap();
        assert!((plain(0) - 0.5 * (0.75 + 0.5)).abs() < 1e-6, "{}", plain(0));
        assert!((plain(1) - 0.25).abs() < 1e-6, "{}", plain(1));

        // The same on a whole set, and below it with a ball.
        let pairs = rows.chunks_exact(2).map(|p| [p[0].clone(), p[1].clone()]).collect::<Vec<_>>();
        let ratios = [[3f32.ln(), 0.0], [-40.0, -40.0]];
        let levels = choice_levels(&pairs, &ratios, &[0.0, 0.0]);
        assert!((levels[0].unwrap() - plain(0)).abs() < 1e-6, "{levels:?}");
        assert!((levels[1].unwrap() - plain(1)).abs() < 1e-6, "{levels:?}");
        let below = choice_levels(&pairs, &ratios, &[0.05, 0.0])[0].unwrap();
        assert!(0.0 < below && below < plain(0), "{below}");
    }
}
