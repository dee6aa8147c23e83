//! The model in generation: the base with adapters or without, and a cache for each.

use burn::tensor::Tensor;
use mopo_ops::FusedBackend;

use crate::{AdapterSharing, Decoder, HeadChoice, KvCache, LoraAdapter, PolicyParams};

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

/// The streams of the policies that a choice needs: one for all where they share an adapter.
pub(super) struct Streams<'a, B: FusedBackend, M> {
    streams: Vec<Stream<'a, B, M>>,
    /// The policies, and the stream of each.
    policies: Vec<(usize, usize)>,
}

/// A policy, and its hidden states that predict the next token, `[rows, hidden_size]`.
pub(super) type PolicyStates<B> = (usize, Tensor<B, 2>);

impl<'a, B: FusedBackend, M: Decoder<B>> Streams<'a, B, M> {
    /// `params` is needed by all choices but the base. The choice must have been checked.
    pub(super) fn new(
        base: &'a M,
        params: Option<&'a PolicyParams<B>>,
        head: &HeadChoice,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        device: &B::Device,
    ) -> Self {
        let of = |adapter| Stream::new(base, adapter, prompts, max_new_tokens, device);
        let Some(params) = params.filter(|_| *head != HeadChoice::Base) else {
            return Self { streams: vec![of(None)], policies: vec![(0, 0)] };
        };
        let used = head.policies(params.n_policies());
        match params.sharing() {
            AdapterSharing::Shared => Self {
                streams: vec![of(Some(params.adapter(0)))],
                policies: used.into_iter().map(|k| (k, 0)).collect(),
            },
            AdapterSharing::PerPolicy => Self {
                streams: used.iter().map(|k| of(Some(params.adapter(*k)))).collect(),
                policies: used.into_iter().enumerate().map(|(i, k)| (k, i)).collect(),
            },
        }
    }

    /// Runs a step of every stream; the states of each policy, or those of the base as policy 0.
    pub(super) fn step(&mut self, tokens: StepTokens<'_>) -> Vec<PolicyStates<B>> {
        let states: Vec<_> = self.streams.iter_mut().map(|stream| stream.step(tokens)).collect();
        self.policies.iter().map(|(k, stream)| (*k, states[*stream].clone())).collect()
    }
}
