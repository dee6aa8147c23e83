//! Problems small enough to solve exactly, learned with the same loss, weights and multipliers as a
//! language model: an end-to-end check (docs/math.md, section 10).
//!
//! [`Structure`] names the paper's five canonical data sets, [`ToySet`] its fronts with contexts;
//! [`Comparisons`] has the pairs of either, [`learn`] trains many policies on them side by side.
//! The experiments, one function from settings to rows each, are in [`experiments`].

mod comparisons;
pub mod experiments;
mod initialisation;
mod learner;
mod learner_dpo;
mod structure;
mod toy;

pub use comparisons::{Comparison, Comparisons};
pub use initialisation::{KnownFront, StartCheck, insertion_index};
pub use learner::{Batch, Learned, LearnerConfig, Run, learn};
pub use learner_dpo::{PairPolicy, learn_dpo, learn_pairs};
pub use structure::Structure;
pub use toy::{Labels, ToySet};

/// ½ Σ |p − q|.
///
/// # Panics
/// If the lengths differ.
pub fn total_variation(p: &[f64], q: &[f64]) -> f64 {
    assert_eq!(p.len(), q.len(), "one probability for each action");
    p.iter().zip(q).map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0
}
