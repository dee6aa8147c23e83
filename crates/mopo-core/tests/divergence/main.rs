//! Divergences against finite differences, values by hand and a plain bisection; the mixture
//! against the optimum for the mixed reward; the example's claims.

mod barrier;
mod decoding;
mod extreme;
mod function;
mod mixing;
mod refusals;

use mopo_core::divergence::Divergence;

/// The divergences that policies can be mixed under, the α-divergence in several orders.
fn mixable() -> Vec<Divergence> {
    let orders = [1e-3, 0.1, 0.5, 0.9, 0.999].map(Divergence::Alpha);
    let named = Divergence::ALL.into_iter().filter(Divergence::has_barrier);
    named.chain(orders).collect()
}

/// Normalised log-probabilities.
fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total = max + logits.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln();
    logits.iter().map(|logit| logit - total).collect()
}

fn total(log_policy: &[f64]) -> f64 {
    log_policy.iter().map(|log| log.exp()).sum()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (action, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = found == expected || (found - expected).abs() <= tolerance;
        assert!(close, "{what}: {found} instead of {expected} at action {action}");
    }
}
