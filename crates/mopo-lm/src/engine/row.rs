//! A request while it runs: its passes over the model, its blocks, and its next token.

use std::sync::Arc;

use mopo_core::divergence::Divergence;
use mopo_ops::FusedBackend;

use super::blocks::{Blocks, Key};
use super::mix::{Mixture, next_logits};
use super::sampling::{Drawn, RowSampler};
use super::{Request, RequestId};
use crate::layers::{BLOCK_TOKENS, Sequence, blocks_for};
use crate::{HeadChoice, LoraAdapter, OutputLayer, PolicyParams, Result};

/// The base model with an adapter or without: sequences in different lanes have different keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Without an adapter but the base's own.
    Base,
    /// With one of the policies' adapters.
    Adapter(usize),
}

/// A sequence in a lane.
#[derive(Debug)]
pub(super) struct LaneState {
    pub(super) lane: Lane,
    pub(super) sequence: Sequence,
    /// The serial number of the last block of the prompt that others may share.
    last: Option<u64>,
}

/// An output layer that a request needs, and the lane that it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Index in the request's lanes.
    pub(super) lane: usize,
    /// A policy's head; `None` for the base's output layer.
    pub(super) head: Option<usize>,
}

/// A request that runs.
#[derive(Debug)]
pub(super) struct Row<B: FusedBackend> {
    pub(super) id: RequestId,
    pub(super) request: Request<B>,
    pub(super) lanes: Vec<LaneState>,
    pub(super) parts: Vec<Part>,
    /// Blocks that are promised to it.
    reserved: usize,
    /// Tokens of the prompt that were shared instead of computed.
    pub(super) n_shared: usize,
    pub(super) state: RowState,
}

/// What the next token depends on, besides the logits.
#[derive(Debug)]
pub(super) struct RowState {
    mixture: Mixture,
    sampler: RowSampler,
    n_tokens: usize,
    pub(super) n_new: usize,
    /// The token that is not in the cache yet.
    pub(super) last: Option<u32>,
    /// Logits of each part, of a step.
    pub(super) logits: Vec<Vec<f32>>,
}

impl RowState {
    /// The next token.
    ///
    /// # Errors
    /// Logits that are not finite, or that cannot be mixed.
    pub(super) fn draw(&mut self) -> Result<Drawn> {
        let logits = next_logits(&self.mixture, std::mem::take(&mut self.logits), self.n_new)?;
        // Ids beyond the tokenizer's are never chosen, whatever their logits.
        let known = self.n_tokens.min(logits.len());
        super::mix::finite(&logits[..known], self.n_new)?;
        let drawn = self.sampler.draw(&logits[..known]);
        self.n_new += 1;
        self.last = Some(drawn.token);
        Ok(drawn)
    }
}

impl<B: FusedBackend> Row<B> {
    /// `adapter_of` and `n_policies` are those of the policies that the request uses. The request must have been checked.
    pub(super) fn new(
        id: RequestId,
        request: Request<B>,
        adapter_of: impl Fn(usize) -> usize,
        n_policies: usize,
    ) -> Self {
        let head = &request.decoding.head;
        let policies = head.policies(n_policies);
        let mut lanes: Vec<LaneState> = vec![];
        let mut lane = |lane: Lane| {
            lanes.iter().position(|known| known.lane == lane).unwrap_or_else(|| {
                lanes.push(LaneState { lane, sequence: Sequence::default(), last: None });
                lanes.len() - 1
            })
        };
        let mut parts: Vec<Part> = policies
            .iter()
            .map(|k| Part { lane: lane(Lane::Adapter(adapter_of(*k))), head: Some(*k) })
            .collect();
        let mixture = match head {
            HeadChoice::Mixture(weights) if policies.len() > 1 => {
                let used = policies.iter().map(|k| f64::from(weights[*k]));
                let sum: f64 = used.clone().sum();
                let weights = used.map(|weight| weight / sum).collect();
                match request.decoding.divergence {
                    // The reference cancels.
                    Divergence::ReverseKl => Mixture::Average(weights),
                    divergence => {
                        parts.push(Part { lane: lane(Lane::Base), head: None });
                        Mixture::Exact { divergence, weights }
                    }
                }
            }
            HeadChoice::WorstCase if policies.len() > 1 => Mixture::WorstCase,
            HeadChoice::Base => {
                parts.push(Part { lane: lane(Lane::Base), head: None });
                Mixture::Single
            }
            _ => Mixture::Single,
        };
        let state = RowState {
            mixture,
            sampler: RowSampler::new(&request.generation, request.row_id, &request.prompt),
            n_tokens: request.generation.n_tokens.unwrap_or(usize::MAX),
            n_new: 0,
            last: None,
            logits: vec![],
        };
        Self { id, request, lanes, parts, reserved: 0, n_shared: 0, state }
    }

    /// How many blocks the request can need at most.
    pub(super) fn n_blocks(&self) -> usize {
        // The last token is never read.
        let n = self.request.prompt.len() + self.request.generation.max_new_tokens - 1;
        self.lanes.len() * blocks_for(n)
    }

    /// Reserves all blocks that it can need, or none.
    pub(super) fn reserve(&mut self, blocks: &mut Blocks) -> bool {
        let n = self.n_blocks();
        let enough = blocks.reserve(n);
        if enough {
            self.reserved = n;
        }
        enough
    }

    /// Tokens in the cache; the same in every lane.
    pub(super) fn len(&self) -> usize {
        self.lanes[0].sequence.len
    }

    /// Whether the whole prompt is in the cache.
    pub(super) fn is_prefilled(&self) -> bool {
        self.len() >= self.request.prompt.len()
    }

    /// The keys of the prompt's next block, if it is full and is followed by another token of the prompt; empty
    /// for policies of the request's own, whose blocks nobody else can use.
    pub(super) fn next_keys(&self) -> Vec<Key> {
        let (from, prompt) = (self.len(), &self.request.prompt);
        if !from.is_multiple_of(BLOCK_TOKENS)
            || from + BLOCK_TOKENS >= prompt.len()
            || self.request.policies.is_some()
        {
            return vec![];
        }
        let tokens = prompt[from..].first_chunk().expect("there are more");
        let key = |lane: &LaneState| Key { lane: lane.lane, parent: lane.last, tokens: *tokens };
        self.lanes.iter().map(key).collect()
    }

    /// Takes over blocks of the prompt that are there already.
    pub(super) fn share(&mut self, blocks: &mut Blocks) {
        loop {
            let keys = self.next_keys();
            if keys.is_empty() || !keys.iter().all(|key| blocks.has(key)) {
                return;
            }
            for (lane, key) in self.lanes.iter_mut().zip(&keys) {
                let (block, serial) = blocks.share(key).expect("looked up above");
                lane.sequence.blocks.push(block);
                lane.sequence.len += BLOCK_TOKENS;
                lane.last = Some(serial);
                self.reserved -= 1;
            }
            self.n_shared += BLOCK_TOKENS;
        }
    }

    /// Provides blocks for `n` more tokens.
    pub(super) fn grow(&mut self, n: usize, blocks: &mut Blocks) {
        for lane in &mut self.lanes {
            let needed = blocks_for(lane.sequence.len + n);
            while lane.sequence.blocks.len() < needed {
                lane.sequence.blocks.push(blocks.take());
                self.reserved -= 1;
            }
        }
    }

    /// Lets others share the blocks of the prompt that were filled since it had `from` tokens.
    pub(super) fn publish(&mut self, from: usize, blocks: &mut Blocks) {
        if self.request.policies.is_some() {
            return;
        }
        let to = self.len().min(self.request.prompt.len());
        for lane in &mut self.lanes {
            for i in from / BLOCK_TOKENS..to / BLOCK_TOKENS {
                let tokens = self.request.prompt[i * BLOCK_TOKENS..].first_chunk();
                let tokens = *tokens.expect("the block is full");
                let key = Key { lane: lane.lane, parent: lane.last, tokens };
                lane.last = Some(blocks.publish(lane.sequence.blocks[i], key));
            }
        }
    }

    /// Gives up all blocks and promises.
    pub(super) fn release(&mut self, blocks: &mut Blocks) {
        for lane in &mut self.lanes {
            blocks.release(&std::mem::take(&mut lane.sequence.blocks));
        }
        blocks.unreserve(std::mem::take(&mut self.reserved));
    }

    /// The policies that it uses: its own, or the engine's.
    pub(super) fn policies<'p>(
        &'p self,
        engines: Option<&'p PolicyParams<B>>,
    ) -> Option<&'p PolicyParams<B>> {
        self.request.policies.as_deref().or(engines)
    }

    /// Tells rows apart that cannot run in one pass.
    pub(super) fn pass_key(&self, lane: usize) -> (Lane, Option<*const PolicyParams<B>>) {
        (self.lanes[lane].lane, self.request.policies.as_ref().map(Arc::as_ptr))
    }

    /// The adapter of a lane.
    pub(super) fn adapter<'p>(
        &'p self,
        lane: usize,
        engines: Option<&'p PolicyParams<B>>,
    ) -> Option<&'p LoraAdapter<B>> {
        match self.lanes[lane].lane {
            Lane::Base => None,
            Lane::Adapter(i) => self.policies(engines).map(|params| &params.adapters[i]),
        }
    }

    /// The output layer of a part, unless it is the base's.
    pub(super) fn head<'p>(
        &'p self,
        head: Option<usize>,
        engines: Option<&'p PolicyParams<B>>,
    ) -> Option<&'p OutputLayer<B>> {
        Some(&self.policies(engines)?.heads.heads[head?])
    }
}
