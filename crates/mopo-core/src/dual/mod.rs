//! The multipliers λ and χ: updated during training ([`DualState`], Algorithm 1), or solved for
//! exactly, on a table of probabilities ([`TabularProblem`]) or on a data set ([`ResponseGroups`], [`ScoredPrompts`]).

mod data;
mod equilibrium;
mod newton;
mod one_shot;
mod state;
mod tabular;

pub use data::{DualProblem, ExactDual, ResponseGroups};
pub use newton::KktResidual;
pub(crate) use newton::cholesky_solve;
pub use one_shot::{OneShotDual, OneShotProblem, ScoredPrompts};
pub use state::{DualState, DualStep};
pub use tabular::{Context, CopSolution, TabularProblem, log_weights};

use crate::{Error, Result};

/// Normalises non-negative numbers to probabilities.
pub(crate) fn normalised(field: &'static str, mass: &[f64]) -> Result<Vec<f64>> {
    for (i, &m) in mass.iter().enumerate() {
        if !m.is_finite() {
            return Err(Error::NonFinite(format!("`{field}` (index {i})")));
        }
        if m < 0.0 {
            return Err(Error::InvalidParameter {
                field,
                value: format!("{m} (index {i})"),
                expected: "a probability is never negative".into(),
            });
        }
    }
    let total: f64 = mass.iter().sum();
    if !(total > 0.0 && total.is_finite()) {
        return Err(Error::InvalidParameter {
            field,
            value: format!("{} numbers that sum to {total}", mass.len()),
            expected: "at least one must be positive and the sum finite".into(),
        });
    }
    Ok(mass.iter().map(|m| m / total).collect())
}
