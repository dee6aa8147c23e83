//! Sums of exponentials without overflow or underflow.

/// log Σ exp; −∞ for none, and exact for entries of −∞.
pub(crate) fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if max.is_infinite() {
        return max;
    }
    max + values.map(|value| (value - max).exp()).sum::<f64>().ln()
}
