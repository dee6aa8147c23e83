//! Keys and values of past tokens, for generation.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use mopo_ops::{KvStore, PackedRows, primitive, tensor};

use crate::DecoderShape;

/// Keys and values of past tokens: one row per sequence, filled from the left.
#[derive(Debug)]
pub struct KvCache<B: Backend> {
    /// Keys and values per layer, `[rows, capacity, key_value_width]`.
    layers: Vec<Option<[Tensor<B, 3>; 2]>>,
    lens: Vec<usize>,
    capacity: usize,
    device: B::Device,
}

/// New tokens of a cache's sequences: whole prompts, or one token per sequence.
#[derive(Debug)]
pub struct NewTokens<B: Backend> {
    /// Token ids, `[n_tokens]`.
    pub ids: Tensor<B, 1, Int>,
    /// Their positions, `[n_tokens]`.
    pub positions: Tensor<B, 1, Int>,
    /// One row for each sequence.
    pub rows: Arc<PackedRows>,
    /// Where each token goes: its sequence and position.
    pub at: Vec<(usize, usize)>,
    /// With one token per sequence: the lengths of all sequences, the token included.
    pub lens: Option<Vec<usize>>,
}

impl<B: Backend> KvCache<B> {
    /// A cache with room for `capacity` tokens in each of `rows` sequences.
    pub fn new(shape: &DecoderShape, rows: usize, capacity: usize, device: &B::Device) -> Self {
        let store = || Tensor::zeros([rows, capacity, shape.key_value_width], device);
        let layers = (0..shape.num_hidden_layers).map(|_| Some([store(), store()])).collect();
        Self { layers, lens: vec![0; rows], capacity, device: device.clone() }
    }

    /// Number of cached tokens per row.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// The prompts as the first tokens of all sequences. Panics if the cache is in use.
    pub(crate) fn prompts(&mut self, prompts: &[Vec<u32>]) -> NewTokens<B> {
        assert!(self.lens.iter().all(|n| *n == 0), "the cache is in use");
        let rows = PackedRows::new(prompts.iter().map(|prompt| [prompt.len(), 0, 0]));
        let ids: Vec<i32> = prompts.iter().flatten().map(|id| *id as i32).collect();
        let places = prompts.iter().enumerate();
        let at = places.flat_map(|(row, prompt)| (0..prompt.len()).map(move |p| (row, p)));
        self.new_tokens(&ids, rows, at.collect(), false)
    }

    /// One more token for every sequence.
    pub(crate) fn next(&mut self, tokens: &[u32]) -> NewTokens<B> {
        let ids: Vec<i32> = tokens.iter().map(|id| *id as i32).collect();
        let at = self.lens.iter().copied().enumerate().collect();
        let rows = PackedRows::new(tokens.iter().map(|_| [1, 0, 0]));
        self.new_tokens(&ids, rows, at, true)
    }

    fn new_tokens(
        &mut self,
        ids: &[i32],
        rows: PackedRows,
        at: Vec<(usize, usize)>,
        one_each: bool,
    ) -> NewTokens<B> {
        assert_eq!(rows.rows().len(), self.lens.len(), "a cache of other rows");
        let positions: Vec<i32> = at.iter().map(|(_, position)| *position as i32).collect();
        for (row, position) in &at {
            assert!(*position < self.capacity, "the cache holds {} tokens a row", self.capacity);
            self.lens[*row] = position + 1;
        }
        NewTokens {
            ids: Tensor::from_data(ids, &self.device),
            positions: Tensor::from_data(positions.as_slice(), &self.device),
            rows: Arc::new(rows),
            at,
            lens: one_each.then(|| self.lens.clone()),
        }
    }

    /// Lends the stores of a layer to `f`, which returns them with its result.
    pub(crate) fn with_layer<T>(
        &mut self,
        layer: usize,
        f: impl FnOnce([KvStore<B>; 2]) -> (T, [KvStore<B>; 2]),
    ) -> T {
        // Taken out, so that there is one owner and they are written in place.
        let stores = self.layers[layer].take().expect("put back below").map(primitive);
        let (result, stores) = f(stores);
        self.layers[layer] = Some(stores.map(tensor));
        result
    }
}
