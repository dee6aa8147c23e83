//! Pareto dominance and the exact hypervolume indicator, on plain `f64` points.
//!
//! No tolerance anywhere: a difference in the last bit counts. Every function is told for each
//! objective whether it is to be maximised or minimised.

mod dominance;
mod hypervolume;

pub use dominance::{dominates, non_dominated, non_dominated_sort};
pub use hypervolume::hypervolume;

use serde::{Deserialize, Serialize};

/// Whether larger or smaller values of an objective are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Larger is better (rewards, scores).
    Maximize,
    /// Smaller is better (losses, costs).
    Minimize,
}

impl Direction {
    /// How much better `value` is than `base`: positive if it is better in this direction,
    /// negative if it is worse.
    pub fn gain(self, value: f64, base: f64) -> f64 {
        match self {
            Self::Maximize => value - base,
            Self::Minimize => base - value,
        }
    }

    /// Whether `a` is at least as good as `b`; false if either is NaN.
    pub(crate) fn at_least(self, a: f64, b: f64) -> bool {
        match self {
            Self::Maximize => a >= b,
            Self::Minimize => a <= b,
        }
    }

    /// Whether `a` is strictly better than `b`; false if either is NaN.
    pub(crate) fn better(self, a: f64, b: f64) -> bool {
        match self {
            Self::Maximize => a > b,
            Self::Minimize => a < b,
        }
    }
}
