//! Pareto dominance, fronts and the indicators of how good a front is, on plain `f64` points.
//!
//! No tolerance anywhere: a difference in the last bit counts. Every function takes, for each
//! objective, whether it is maximised or minimised. Everything is single-threaded.
#![doc = include_str!("../README.md")]

mod boxes;
mod contributions;
mod dominance;
mod dominators;
mod error;
mod hypervolume;
mod indicators;
mod layers;
mod points;
mod staircase;
mod volume;

pub use contributions::hypervolume_contributions;
pub use dominance::{dominates, non_dominated};
pub use error::{Error, Result};
pub use hypervolume::hypervolume;
pub use indicators::{epsilon_additive, igd_plus};
pub use layers::non_dominated_sort;

/// Whether larger or smaller values of an objective are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
