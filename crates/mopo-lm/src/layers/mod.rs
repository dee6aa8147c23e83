//! The parts that architectures are made of: norms, rotary embeddings, linear layers, output layers, and the
//! cache of keys and values. Which of them a model has, and in which order, is in the architecture's
//! own file.

pub(crate) mod cache;
pub(crate) mod dense;
mod norm;
mod output;
pub(crate) mod projection;
mod rotary;

pub use cache::{BLOCK_TOKENS, KvCache, NewTokens, Sequence};
pub(crate) use cache::{block_bytes, blocks_for};
pub use norm::Norm;
pub use output::{LowRankUpdate, OutputLayer};
pub(crate) use output::{in_f32, updated_layers};
pub use projection::{Projection, Weight};
pub(crate) use rotary::{Rotary, RotaryKeys, Scaling};
