//! Batches of texts for classifiers: one after the other, without padding.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use mopo_ops::PackedRows;

/// A text as token ids, and the position at which the model's state is classified.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenRow {
    /// At least one, each below the vocabulary's size.
    pub ids: Vec<u32>,
    /// An index into `ids`.
    pub pool: usize,
}

/// Texts one after the other.
pub(crate) struct Batch<B: Backend> {
    /// `[n_tokens]`.
    pub(crate) ids: Tensor<B, 1, Int>,
    /// Position of each token in its text, from 0, `[n_tokens]`.
    pub(crate) positions: Tensor<B, 1, Int>,
    /// Tokens of each text.
    pub(crate) lens: Vec<usize>,
    /// Which tokens are classified, `[n_rows]`.
    pub(crate) pooled: Tensor<B, 1, Int>,
}

impl<B: Backend> Batch<B> {
    /// Panics if a text has no tokens, or is pooled at a position that it does not have: shape
    /// contracts.
    pub(crate) fn new(rows: &[TokenRow], device: &B::Device) -> Self {
        let mut pooled = Vec::with_capacity(rows.len());
        let mut start = 0;
        for row in rows {
            assert!(row.pool < row.ids.len(), "pooled at {} of {}", row.pool, row.ids.len());
            pooled.push((start + row.pool) as i32);
            start += row.ids.len();
        }
        let ids: Vec<i32> = rows.iter().flat_map(|row| &row.ids).map(|id| *id as i32).collect();
        let positions: Vec<i32> = rows.iter().flat_map(|row| 0..row.ids.len() as i32).collect();
        let ints = |values: &[i32]| Tensor::from_data(values, device);
        Self {
            ids: ints(&ids),
            positions: ints(&positions),
            lens: rows.iter().map(|row| row.ids.len()).collect(),
            pooled: ints(&pooled),
        }
    }

    /// Tokens see themselves and earlier ones.
    pub(crate) fn causal(&self) -> Arc<PackedRows> {
        Arc::new(PackedRows::new(self.lens.iter().map(|n| [*n, 0, 0])))
    }

    /// Queries only at the pooled tokens, one per text, which see all of it.
    pub(crate) fn of_pooled(&self) -> Arc<PackedRows> {
        Arc::new(PackedRows::across(self.lens.iter().map(|n| [1, *n])))
    }

    /// Tokens see all of their text.
    pub(crate) fn bidirectional(&self) -> Arc<PackedRows> {
        Arc::new(PackedRows::bidirectional(self.lens.iter().copied()))
    }
}
