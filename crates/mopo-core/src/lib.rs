//! The mathematics of Multi-Objective Preference Optimization (arXiv 2505.10892), generic over
//! burn's `Backend`. No files, no text, no tokenizer.
#![doc = include_str!("../README.md")]

mod ball;
pub mod bandit;
pub mod conflict;
pub mod divergence;
pub mod dual;
mod error;
pub mod hypervolume;
pub mod importance;
mod log_space;
mod lower_bound;
pub mod mopo;
mod objective;
pub mod pairwise;
pub mod policy_gradient;
mod random;

pub use mopo_pareto as pareto;

pub use ball::Ball;
pub use dual::{CopSolution, DualState, DualStep, TabularProblem};
pub use error::{Error, Result};
pub use lower_bound::{LowerBound, lower_bound};
pub use mopo::{
    BatchStatistics, ChiUpdate, ContrastLoss, DualMethod, Extraction, FreshAnswers,
    IndicatorEstimator, MopoConfig, RatioSmoothing, ResponseLabels, ThresholdRule,
    ThresholdStatistic, WeightNormalization,
};
pub use objective::Objectives;

/// The example of that page, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/library.md")]
struct LibraryPage;
