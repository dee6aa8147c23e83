//! The mathematics of Multi-Objective Preference Optimization (arXiv 2505.10892), generic over
//! burn's `Backend`. No files, no text, no tokenizer.

mod error;
mod objective;
pub mod pareto;

pub use error::{Error, Result};
pub use objective::Objectives;
