//! Keys and values of past tokens, for generation: blocks of a store, and the new tokens of a pass.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use mopo_ops::{FusedBackend, KvStore, PackedRows, PagedRow, primitive, tensor};

use crate::DecoderShape;

/// Tokens of a block.
pub const BLOCK_TOKENS: usize = 16;

/// Keys and values of past tokens in blocks of [`BLOCK_TOKENS`], which sequences use in any order and may share.
#[derive(Debug)]
pub struct KvCache<B: Backend> {
    /// Keys and values per layer, `[n_blocks, BLOCK_TOKENS, key_value_width]`.
    layers: Vec<Option<[Tensor<B, 3>; 2]>>,
    n_blocks: usize,
}

/// A sequence in a cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sequence {
    /// Its length in tokens.
    pub len: usize,
    /// Its blocks, in order: enough for its length and the tokens that are to come.
    pub blocks: Vec<u32>,
}

/// New tokens of some sequences, for one forward pass.
#[derive(Debug)]
pub struct NewTokens<B: Backend> {
    /// Token ids, `[n_tokens]`.
    pub ids: Tensor<B, 1, Int>,
    /// Their positions, `[n_tokens]`.
    pub positions: Tensor<B, 1, Int>,
    /// The tokens as one row.
    pub rows: Arc<PackedRows>,
    /// Where each sequence is in the cache.
    pub paged: Vec<PagedRow>,
    /// Number of tokens, those included that only fill the batch up.
    pub n_tokens: usize,
}

impl<B: Backend> KvCache<B> {
    /// A cache of `n_blocks` blocks.
    pub fn new(shape: &DecoderShape, n_blocks: usize, device: &B::Device) -> Self {
        let store = || Tensor::zeros([n_blocks, BLOCK_TOKENS, shape.key_value_width], device);
        let layers = (0..shape.num_hidden_layers).map(|_| Some([store(), store()])).collect();
        Self { layers, n_blocks }
    }

    /// A cache with a place for each of some sequences of at most these lengths.
    pub fn for_sequences(
        shape: &DecoderShape,
        lengths: impl IntoIterator<Item = usize>,
        device: &B::Device,
    ) -> (Self, Vec<Sequence>) {
        let mut n_blocks = 0;
        let sequence = |len: usize| {
            let first = n_blocks;
            n_blocks += blocks_for(len) as u32;
            Sequence { len: 0, blocks: (first..n_blocks).collect() }
        };
        let sequences = lengths.into_iter().map(sequence).collect();
        (Self::new(shape, n_blocks as usize, device), sequences)
    }

    /// Adds blocks until there are `n_blocks`.
    pub fn grow(&mut self, n_blocks: usize) {
        if n_blocks <= self.n_blocks {
            return;
        }
        for stores in self.layers.iter_mut().flatten() {
            for store in stores {
                let [old, size, width] = store.dims();
                let larger = Tensor::zeros([n_blocks, size, width], &store.device());
                *store = larger.slice_assign([0..old, 0..size, 0..width], store.clone());
            }
        }
        self.n_blocks = n_blocks;
    }

    /// The number of blocks.
    pub fn n_blocks(&self) -> usize {
        self.n_blocks
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

/// Blocks for this many tokens.
pub(crate) fn blocks_for(n_tokens: usize) -> usize {
    n_tokens.div_ceil(BLOCK_TOKENS)
}

/// Bytes of a block in all layers.
pub(crate) fn block_bytes(shape: &DecoderShape) -> u64 {
    let sizes = [2, 4, shape.num_hidden_layers, shape.key_value_width, BLOCK_TOKENS];
    sizes.into_iter().fold(1, |n: u64, size| n.saturating_mul(size as u64))
}

impl<B: FusedBackend> NewTokens<B> {
    /// Parts of prompts: each sequence's next tokens, at least one. Sequences grow by them.
    ///
    /// The batch is filled up to more than [`FusedBackend::FEW_LINES`] tokens, so that the same kernels compute all
    /// parts of prompts: what is computed for a token then does not depend on the parts, bit for bit.
    pub fn of_prompts<'a>(
        parts: impl IntoIterator<Item = (&'a [u32], &'a mut Sequence)>,
        device: &B::Device,
    ) -> Self {
        Self::new(parts, true, device)
    }

    /// Tokens that follow prompts, at most [`FusedBackend::FEW_LINES`] in all. Sequences grow by them.
    ///
    /// # Panics
    /// With more tokens.
    pub fn of_answers<'a>(
        parts: impl IntoIterator<Item = (&'a [u32], &'a mut Sequence)>,
        device: &B::Device,
    ) -> Self {
        let this = Self::new(parts, false, device);
        assert!(
            B::FEW_LINES.is_none_or(|few| this.n_tokens <= few),
            "{} tokens in one pass",
            this.n_tokens
        );
        this
    }

    fn new<'a>(
        parts: impl IntoIterator<Item = (&'a [u32], &'a mut Sequence)>,
        is_prompt: bool,
        device: &B::Device,
    ) -> Self {
        let (mut ids, mut positions, mut paged) = (vec![], vec![], vec![]);
        for (tokens, sequence) in parts {
            let len = sequence.len + tokens.len();
            let used = blocks_for(len);
            assert!(used <= sequence.blocks.len(), "{len} tokens in too few blocks");
            ids.extend(tokens.iter().map(|id| id.cast_signed()));
            positions.extend((sequence.len..len).map(|position| position as i32));
            let blocks = sequence.blocks[..used].to_vec();
            paged.push(PagedRow { queries: tokens.len(), len, blocks, is_prompt });
            sequence.len = len;
        }
        let at_least = B::FEW_LINES.filter(|_| is_prompt).map_or(0, |few| few + 1);
        let n_tokens = ids.len().max(at_least);
        ids.resize(n_tokens, 0);
        positions.resize(n_tokens, 0);
        Self {
            ids: Tensor::from_data(ids.as_slice(), device),
            positions: Tensor::from_data(positions.as_slice(), device),
            rows: Arc::new(PackedRows::new([[n_tokens, 0, 0]])),
            paged,
            n_tokens,
        }
    }

    /// The index of the last token of each sequence.
    pub fn ends(&self) -> Vec<usize> {
        let ends = self.paged.iter().scan(0, |end, row| {
            *end += row.queries;
            Some(*end - 1)
        });
        ends.collect()
    }
}
