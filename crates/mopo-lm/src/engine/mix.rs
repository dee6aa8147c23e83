//! The distribution of the next token from the logits of the policies that take part, on the host.
//!
//! Under reverse KL the reference cancels, and the logits of a mixture with fixed weights are an average. Under the other
//! divergences it does not: the base model then takes part as well.

use mopo_core::divergence::{Divergence, mix, worst_case};

use crate::{Error, Result};

/// How the parts of a request make a distribution.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mixture {
    /// There is one.
    Single,
    /// Log-probabilities are averaged with these weights, with sum 1.
    Average(Vec<f64>),
    /// The policies are mixed exactly under a divergence; the last part is the reference.
    Exact {
        /// With which the policies were regularised.
        divergence: Divergence,
        /// One for each part but the last, with sum 1.
        weights: Vec<f64>,
    },
    /// Log-probabilities are averaged with the weights that are worst for this token.
    WorstCase,
}

/// The logits of the next token, for a mixture its log-probabilities up to a constant.
///
/// # Errors
/// Parts of a mixture that are not finite, `n_new` tokens after the prompt; a mixture that has no solution.
pub(super) fn next_logits(
    mixture: &Mixture,
    mut parts: Vec<Vec<f32>>,
    n_new: usize,
) -> Result<Vec<f32>> {
    if *mixture != Mixture::Single {
        // NaN in one part makes the mixture NaN, so it is reported as such.
        parts.iter().try_for_each(|logits| finite(logits, n_new))?;
    }
    match mixture {
        Mixture::Single => Ok(parts.pop().expect("one part")),
        Mixture::Average(weights) => {
            let mut out = vec![0f32; parts[0].len()];
            for (logits, weight) in parts.iter().zip(weights) {
                let (weight, log_total) = (*weight as f32, log_total(logits) as f32);
                for (x, logit) in out.iter_mut().zip(logits) {
                    *x += weight * (logit - log_total);
                }
            }
            Ok(out)
        }
        Mixture::Exact { divergence, weights } => {
            let log_probs: Vec<Vec<f64>> = parts.iter().map(|logits| log_softmax(logits)).collect();
            let (reference, policies) = log_probs.split_last().expect("the reference is the last");
            let policies: Vec<&[f64]> = policies.iter().map(Vec::as_slice).collect();
            let mixed = mix(*divergence, &policies, reference, weights)
                .map_err(|error| failed(*divergence, &error))?;
            Ok(mixed.into_iter().map(|log| log as f32).collect())
        }
        Mixture::WorstCase => {
            let log_probs: Vec<Vec<f64>> = parts.iter().map(|logits| log_softmax(logits)).collect();
            let policies: Vec<&[f64]> = log_probs.iter().map(Vec::as_slice).collect();
            let weights = worst_case(&policies);
            let used = || policies.iter().zip(&weights).filter(|(_, w)| **w > 0.0);
            let mean = |y: usize| used().map(|(log, w)| w * log[y]).sum::<f64>() as f32;
            Ok((0..parts[0].len()).map(mean).collect())
        }
    }
}

/// The error for heads that cannot be mixed under a divergence.
pub(crate) fn failed(divergence: Divergence, error: &mopo_core::Error) -> Error {
    Error::InvalidParameter {
        field: "divergence",
        value: divergence.to_string(),
        expected: format!("the heads cannot be mixed under it: {error}"),
    }
}

/// Refuses logits that are not finite, `n_new` tokens after the prompt.
pub(super) fn finite(logits: &[f32], n_new: usize) -> Result<()> {
    match logits.iter().position(|logit| !logit.is_finite()) {
        None => Ok(()),
        Some(token) => Err(Error::LogitsNotFinite { n_new, token, value: logits[token] }),
    }
}

/// The logarithm of the sum of exponentials.
pub(super) fn log_total(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total = logits.iter().map(|logit| (f64::from(*logit) - max).exp()).sum::<f64>();
    max + total.ln()
}

/// In `f64`, so that the reference's tail keeps its ratios.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let log_total = log_total(logits);
    logits.iter().map(|logit| f64::from(*logit) - log_total).collect()
}
