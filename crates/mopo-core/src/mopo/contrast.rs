//! Pairwise extraction: the policy is fitted to the differences of the closed form's scores between the two
//! responses of a pair, instead of cloning weighted responses (docs/math.md, section 13).

use burn::tensor::{Tensor, TensorData, backend::Backend};

use super::weights::{PolicyDual, tilted_statistics};
use super::{BatchStatistics, ContrastLoss, Prompts, ResponseLabels};
use crate::dual::DualState;
use crate::lower_bound::solve as worst_mean;
use crate::pairwise::logistic_loss;

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

/// β = 4 τ/(1 + Σ_k λ_k) of the logistic loss, so that it asks for the closed form's differences wherever labels are
/// near ½ on average ([`contrastive_loss`]).
pub fn logistic_beta(tau: f64, dual: &DualState) -> f64 {
    let secondary = |(k, lambda): (usize, &f64)| if k == dual.primary { 0.0 } else { *lambda };
    let sum: f64 = dual.lambda.iter().enumerate().map(secondary).sum();
    4.0 * tau / (1.0 + sum)
}

/// How well a policy tells the two responses of pairs apart; with d = Δ(y) − Δ(y′), Δ = log π − log π_ref, shape `[1]`
/// (docs/math.md, section 13):
///
/// * squared: Σ_i m_i (d_i − t_i/τ)². Its minimiser over all functions is the closed form's
///   log(w(y)/w(y′)) = (s(y) − s(y′))/τ on the mean labels, although every pair has only its own.
/// * logistic: −Σ_i m_i \[P_i log σ(β_i d_i) + (1 − P_i) log σ(−β_i d_i)\] with the label P = (I_p + Σ_k λ_k I_k)/(1 + Σ_k λ_k).
///   Its minimiser is logit(P)/β on the mean labels.
///
/// Arguments, all of shape `[n_pairs]`:
///
/// * `first`, `second`: Δ of the two responses, in nats.
/// * `targets`: t/τ ([`contrast_targets`]).
/// * `betas`: β of the logistic loss ([`logistic_beta`]).
/// * `mass`: m; 1/n for a mean over pairs.
pub fn contrastive_loss<B: Backend>(
    loss: ContrastLoss,
    first: Tensor<B, 1>,
    second: Tensor<B, 1>,
    targets: Tensor<B, 1>,
    betas: Tensor<B, 1>,
    mass: Tensor<B, 1>,
) -> Tensor<B, 1> {
    let difference = first - second;
    match loss {
        ContrastLoss::Squared => ((difference - targets).square() * mass).sum(),
        ContrastLoss::Logistic => {
            // P − ½ = t/(1 + Σ λ).
            let labels = (targets * betas.clone()).mul_scalar(0.25).add_scalar(0.5);
            logistic_loss(difference * betas, labels, mass)
        }
    }
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
    use crate::pairwise::dpo_loss;
    use crate::{ChiUpdate, MopoConfig};
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
                ContrastLoss::Squared,
                log_pi.clone().select(0, first.clone()),
                log_pi.select(0, second.clone()),
                targets.clone(),
                mass.clone(),
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
    fn the_logistic_loss_without_constraints_is_dpos() {
        let t = |x: [f32; 3]| Tensor::<B, 1>::from_data(x, &Default::default());
        let dual = dual([0.0, 0.0]);
        let policy = PolicyDual { tau: 0.05, dual: &dual, radius: &[0.0; 2], chi: ChiUpdate::Step };
        let indicators = [1.0, 0.0, 0.7];
        let rows: Vec<Vec<Option<f32>>> = indicators
            .iter()
            .flat_map(|i| [vec![Some(*i), None], vec![Some(1.0 - i), None]])
            .collect();
        let (targets, beta) = (contrast_targets(&rows, &policy), logistic_beta(policy.tau, &dual));
        assert!((beta - 0.2).abs() < 1e-12, "{beta}");
        let (first, second, mass) = (t([1.0, -3.0, 0.5]), t([0.2, 9.0, 2.0]), t([0.2, 0.3, 0.5]));
        let found = contrastive_loss(
            ContrastLoss::Logistic,
            first.clone(),
            second.clone(),
            t(std::array::from_fn(|i| targets[i] as f32)),
            t([beta as f32; 3]),
            mass.clone(),
        );
        let expected = dpo_loss(first, second, t(indicators), mass, beta);
        let value = |x: Tensor<B, 1>| x.into_data().iter::<f32>().next().unwrap();
        let (found, expected) = (value(found), value(expected));
        assert!((found - expected).abs() < 1e-6, "{found} and {expected}");
    }

    /// Where the mixed label is p, the loss has its minimum at logit(p)/β, which for p near ½ is the closed form's t/τ.
    #[test]
    fn the_logistic_loss_has_its_minimum_at_the_mixed_labels_log_odds() {
        type A = TestAutodiffBackend;
        let dual = dual([0.0, 1.5]);
        let policy = PolicyDual { tau: 0.2, dual: &dual, radius: &[0.0; 2], chi: ChiUpdate::Step };
        let beta = logistic_beta(policy.tau, &dual);
        assert!((beta - 0.8 / 2.5).abs() < 1e-12, "{beta}");
        let row = |x: [f32; 2]| vec![Some(x[0]), Some(x[1])];
        for labels in [[0.9, 0.2], [0.52, 0.49]] {
            let rows = [row(labels), row(labels.map(|x| 1.0 - x))];
            let target = contrast_targets(&rows, &policy)[0];
            let p = f64::from(labels[0] + 1.5 * labels[1]) / 2.5;
            let best = (p / (1.0 - p)).ln() / beta;
            let t = |x: f64| Tensor::<A, 1>::from_data([x as f32], &Default::default());
            let at = t(best).require_grad();
            let loss = contrastive_loss(
                ContrastLoss::Logistic,
                at.clone(),
                t(0.0),
                t(target),
                t(beta),
                t(1.0),
            );
            let gradient = at.grad(&loss.backward()).unwrap();
            let gradient: f32 = gradient.into_data().iter().next().unwrap();
            assert!(gradient.abs() < 1e-6, "{gradient}");
            if (p - 0.5).abs() < 0.01 {
                assert!((best - target).abs() < 1e-2 * target.abs(), "{best} and {target}");
            }
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
