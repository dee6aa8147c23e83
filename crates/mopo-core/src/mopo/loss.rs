//! The cloning loss, and which responses it needs.

use burn::tensor::{Tensor, backend::Backend};

/// The importance-weighted cloning loss −Σ a_i w_i log π(y_i|x_i), shape `[1]`: summed over
/// responses
/// and, if there is such a dimension, over policies.
///
/// Both arguments are `[n_responses]` or `[n_policies, n_responses]`; the weights carry no
/// gradient.
pub fn cloning_loss<B: Backend, const D: usize>(
    weights: Tensor<B, D>,
    log_probs: Tensor<B, D>,
) -> Tensor<B, 1> {
    (weights.detach() * log_probs).sum().neg()
}

/// Which responses a policy's backward pass needs: those with at least `prune_below` of the weight,
/// and always the one with the largest weight.
pub fn needed_responses(weights: &[f64], prune_below: f64) -> Vec<bool> {
    let total: f64 = weights.iter().sum();
    let heaviest = weights.iter().cloned().fold(0.0, f64::max);
    weights.iter().map(|&w| w == heaviest || w >= prune_below * total && w > 0.0).collect()
}
