//! The operations that dominate the time of transformers (phi's decoder, the classifiers of
//! rewards), fused, on any backend of burn: [`FusedBackend`]. Bodies are written in burn's own
//! operations; burn-flex has native kernels. Gradients are written by hand.
//!
//! Everything works on tokens laid out one after the other, `[n_tokens, features]`, without
//! padding; [`PackedRows`] says which of them form a row. No models, parameters or files: those are
//! in `mopo-lm`.
#![doc = include_str!("../README.md")]

mod autodiff;
mod backend;
mod block;
mod generic;
mod heads;
mod linear;
mod matrix;
mod nodes;
mod output;
mod paged;
mod precision;
mod quant;
mod rows;
mod sublayer;
mod updated;

#[cfg(feature = "flex")]
mod flex;
#[cfg(test)]
mod tests;

pub use backend::{
    AdamFactors, FusedAutodiffBackend, FusedBackend, Gelu, Init, KvStore, SQUARES_PART,
};
pub use block::{BlockContext, BlockParams, LINEARS, block_with_store};
#[cfg(feature = "flex")]
pub use flex::{UnsupportedPrecision, matmul_precision, matmul_rate, set_matmul_precision};
pub use heads::Heads;
pub use linear::{LinearParams, LoraParams};
pub use matrix::{Matrix, primitive, tensor};
pub use output::{OutputParams, UpdatedLayers, UpdatedLayersGradients};
pub use paged::PagedRow;
pub use precision::MatmulPrecision;
pub use quant::{
    NF4 as NF4_VALUES, QuantError, QuantFormat, QuantLayout, QuantisedData, QuantisedMatrix,
};
pub use rows::{KeyRun, PackedRow, PackedRows, Piece};
pub use sublayer::{
    Activation, AttentionParams, FeedForwardParams, NormKind, NormParams, SublayerContext,
    attention_with_store,
};
