//! The model in generation: the base with an adapter or without, and its cache.

use burn::tensor::Tensor;
use mopo_ops::FusedBackend;

use crate::{Decoder, KvCache, LoraAdapter};

/// The input of a step: the prompts at first, then one token per row.
#[derive(Clone, Copy)]
pub(super) enum StepTokens<'a> {
    Prompts(&'a [Vec<u32>]),
    Next(&'a [u32]),
}

/// The base model with an adapter or without, and a cache.
pub(super) struct Stream<'a, B: FusedBackend, M> {
    base: &'a M,
    adapter: Option<&'a LoraAdapter<B>>,
    cache: KvCache<B>,
}

impl<'a, B: FusedBackend, M: Decoder<B>> Stream<'a, B, M> {
    /// A stream for these prompts and up to `max_new_tokens` more tokens each.
    pub(super) fn new(
        base: &'a M,
        adapter: Option<&'a LoraAdapter<B>>,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        device: &B::Device,
    ) -> Self {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let cache = KvCache::new(&base.shape(), prompts.len(), longest + max_new_tokens, device);
        Self { base, adapter, cache }
    }

    /// Runs a step. Returns the hidden states that predict the next token, `[rows, hidden_size]`.
    pub(super) fn step(&mut self, tokens: StepTokens<'_>) -> Tensor<B, 2> {
        match tokens {
            StepTokens::Prompts(all) => self.base.prefill(all, self.adapter, &mut self.cache),
            StepTokens::Next(next) => self.base.step(next, self.adapter, &mut self.cache),
        }
    }
}
