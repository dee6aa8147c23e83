//! The generation engine: requests join and leave a running batch between steps.
//!
//! Each request has its own distribution (the base, a policy, or a mixture with its own weights and divergence), its own
//! settings and its own random stream. Its answer does not depend on who else is in the batch, nor on what was answered
//! before: on burn-flex bit for bit ([`FusedBackend::FEW_LINES`]).
//!
//! Keys and values are in blocks, of which the number is fixed. A request waits until there are as many as it can need;
//! the beginning of a prompt that is there already is shared. Long prompts are read in parts, so that the others go on.

mod blocks;
mod mix;
mod pass;
mod row;
mod sampling;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use mopo_ops::FusedBackend;

use crate::layers::{KvCache, block_bytes, blocks_for};
use crate::{Decoder, DecoderShape, Decoding, Error, GenerationConfig, PolicyParams, Result};
use blocks::Blocks;
pub(crate) use mix::failed;
use pass::Work;
use row::Row;
pub use sampling::TokenLogProbs;

/// Blocks of a new cache, which grows up to its limit as they are needed.
const FIRST_BLOCKS: usize = 64;

/// Limits of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// How many requests run at a time. Default 32.
    pub max_rows: usize,
    /// Memory for keys and values, in bytes; taken as it is needed. Default 1 GiB.
    pub cache_bytes: u64,
    /// How many tokens of prompts are read in a step, at most. Default 256.
    pub prefill_tokens: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_rows: 32, cache_bytes: 1 << 30, prefill_tokens: 256 }
    }
}

impl EngineConfig {
    /// As much of the cache as the largest of these prompts need that can run at a time, each in `n_lanes` lanes, within
    /// the default's other limits. Prompts are read in large parts, since nobody waits for single tokens.
    pub fn for_prompts(
        shape: &DecoderShape,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        n_lanes: usize,
    ) -> Self {
        let this = Self { prefill_tokens: 2048, ..Self::default() };
        let blocks = |prompt: &Vec<u32>| blocks_for(prompt.len().saturating_add(max_new_tokens));
        let mut needed: Vec<usize> = prompts.iter().map(blocks).collect();
        needed.sort_unstable_by(|a, b| b.cmp(a));
        let n = needed.iter().take(this.max_rows).fold(0usize, |n, more| n.saturating_add(*more));
        let n = (n as u64).saturating_mul(n_lanes.max(1) as u64);
        Self { cache_bytes: n.saturating_mul(block_bytes(shape)), ..this }
    }

    /// Room for this many requests that fill the model's context, each in `n_lanes` lanes, but within the default's memory.
    pub fn for_contexts(shape: &DecoderShape, n: usize, n_lanes: usize) -> Self {
        let tokens = blocks_for(shape.max_position_embeddings) as u64;
        let blocks = tokens.saturating_mul((n * n_lanes.max(1)) as u64);
        let needed = blocks.saturating_mul(block_bytes(shape));
        let this = Self::default();
        Self { max_rows: n, cache_bytes: needed.min(this.cache_bytes), ..this }
    }
}

/// A number that names a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What to generate.
#[derive(Debug, Clone)]
pub struct Request<B: FusedBackend> {
    /// Token ids; at least one.
    pub prompt: Vec<u32>,
    /// The distribution of the next token.
    pub decoding: Decoding,
    /// Other policies than the engine's.
    pub policies: Option<Arc<PolicyParams<B>>>,
    /// Settings; `stop` and `end_of_text` end the answer.
    pub generation: GenerationConfig,
    /// A token that ends the answer.
    pub end_of_text: u32,
    /// Chooses the random stream, together with the seed.
    pub row_id: u64,
}

/// What happened in a step.
#[derive(Debug)]
pub enum Event {
    /// A prompt is read; the first event of a request that does not fail before.
    PromptRead {
        /// The request.
        id: RequestId,
        /// Tokens of the prompt that were in the cache already.
        shared_tokens: usize,
    },
    /// A token of an answer; not the one that ends it.
    Token {
        /// The request.
        id: RequestId,
        /// The token.
        token: u32,
        /// What was asked about it.
        log_probs: Option<TokenLogProbs>,
    },
    /// An answer is complete.
    End {
        /// The request.
        id: RequestId,
        /// The token that ended it; `None` if the limit of tokens did.
        end: Option<u32>,
    },
    /// A request failed; the others go on.
    Failed {
        /// The request.
        id: RequestId,
        /// Why.
        error: Error,
    },
}

/// Numbers about an engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
    /// Blocks of the cache.
    pub blocks: usize,
    /// Blocks that running requests use.
    pub blocks_in_use: usize,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Tokens of prompts that were computed, so far.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were shared instead, so far.
    pub shared_tokens: u64,
    /// Tokens that were drawn, so far.
    pub drawn_tokens: u64,
}

/// A model with its policies, its cache, and the requests that run and wait. The crate's page has an example.
#[derive(Debug)]
pub struct Engine<'a, B: FusedBackend, M> {
    base: &'a M,
    policies: Option<&'a PolicyParams<B>>,
    shape: DecoderShape,
    config: EngineConfig,
    device: B::Device,
    cache: KvCache<B>,
    blocks: Blocks,
    running: Vec<Row<B>>,
    waiting: VecDeque<Row<B>>,
    next_id: u64,
    stats: EngineStats,
}

impl<'a, B: FusedBackend, M: Decoder<B>> Engine<'a, B, M> {
    /// An engine without requests.
    ///
    /// # Errors
    /// Limits of 0; a cache for which there is no memory.
    pub fn new(
        base: &'a M,
        policies: Option<&'a PolicyParams<B>>,
        config: EngineConfig,
        device: &B::Device,
    ) -> Result<Self> {
        let shape = base.shape();
        let of_block = block_bytes(&shape).max(1);
        for (field, value, least) in [
            ("max_rows", config.max_rows as u64, 1),
            ("prefill_tokens", config.prefill_tokens as u64, 1),
            ("cache_bytes", config.cache_bytes, of_block),
        ] {
            if value < least {
                let expected = format!("it must be at least {least}");
                return Err(Error::InvalidParameter { field, value: value.to_string(), expected });
            }
        }
        let what = || "the cache of keys and values".into();
        let remedy = "lower the number of new tokens, or give the cache fewer bytes";
        mopo_hub::check_memory(config.cache_bytes, what, remedy)?;
        // Blocks are counted in 32 bits.
        let n_blocks = (config.cache_bytes / of_block).min(1 << 30) as usize;
        Ok(Self {
            base,
            policies,
            config,
            device: device.clone(),
            cache: KvCache::new(&shape, n_blocks.min(FIRST_BLOCKS), device),
            shape,
            blocks: Blocks::new(n_blocks),
            running: vec![],
            waiting: VecDeque::new(),
            next_id: 0,
            stats: EngineStats::default(),
        })
    }

    /// Adds a request; it runs as soon as there is a place.
    ///
    /// # Errors
    /// An invalid configuration or head; no policies where the head needs them; a prompt that is empty, has an unknown
    /// token, is too long for the model with its new tokens, or needs more than the whole cache.
    pub fn submit(&mut self, request: Request<B>) -> Result<RequestId> {
        let id = RequestId(self.next_id);
        let own = request.policies.clone();
        let policies = own.as_deref().or(self.policies);
        let n_policies = policies.map_or(0, PolicyParams::n_policies);
        request.generation.check()?;
        request.decoding.check(n_policies)?;
        check_prompt(&self.shape, 0, &request.prompt, request.generation.max_new_tokens)?;
        let adapter_of = |k| policies.map_or(0, |params| params.adapter_index(k));
        let row = Row::new(id, request, adapter_of, n_policies);
        if row.n_blocks() > self.blocks.total() {
            return Err(Error::CacheTooSmall {
                n_tokens: row.request.prompt.len() + row.request.generation.max_new_tokens,
                n_lanes: row.lanes.len(),
                cache_tokens: self.blocks.total() * crate::layers::BLOCK_TOKENS,
            });
        }
        self.next_id += 1;
        self.waiting.push_back(row);
        Ok(id)
    }

    /// Takes a request out, wherever it is; nothing more is heard of it. Unknown ones are ignored.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|row| row.id != id);
        if let Some(i) = self.running.iter().position(|row| row.id == id) {
            self.running.remove(i).release(&mut self.blocks);
        }
    }

    /// Whether nothing runs or waits.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Numbers about it.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks: self.blocks.total(),
            blocks_in_use: self.blocks.in_use(),
            block_bytes: block_bytes(&self.shape),
            ..self.stats
        }
    }

    /// One step: waiting requests join, some tokens of prompts are read, and each answer whose prompt is read gets a
    /// token.
    pub fn step(&mut self) -> Vec<Event> {
        self.admit();
        let mut events = vec![];
        self.read_prompts(&mut events);
        self.continue_answers(&mut events);
        events
    }

    /// Starts waiting requests, in their order, as long as there is a place.
    fn admit(&mut self) {
        while self.running.len() < self.config.max_rows {
            let Some(next) = self.waiting.front_mut() else { return };
            if !next.reserve(&mut self.blocks) {
                return;
            }
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// Reads parts of prompts, and draws the first tokens of those that are complete.
    fn read_prompts(&mut self, events: &mut Vec<Event>) {
        let mut left = self.config.prefill_tokens;
        let (mut work, mut begun) = (vec![], HashSet::new());
        for (i, row) in self.running.iter_mut().enumerate() {
            if row.is_prefilled() || left == 0 {
                continue;
            }
            row.share(&mut self.blocks);
            let keys = row.next_keys();
            // Another one computes the same block in this pass: it can be shared in the next.
            if keys.iter().any(|key| begun.contains(key)) {
                continue;
            }
            begun.extend(keys);
            let n = left.min(row.request.prompt.len() - row.len());
            left -= n;
            row.grow(n, &mut self.blocks);
            let tokens = row.request.prompt[row.len()..row.len() + n].to_vec();
            let wants_next = row.len() + n == row.request.prompt.len();
            work.push(Work { row: i, tokens, wants_next });
        }
        if work.is_empty() {
            return;
        }
        let from: Vec<usize> = work.iter().map(|work| self.running[work.row].len()).collect();
        self.run(&work, true);
        for (work, from) in work.iter().zip(from) {
            let row = &mut self.running[work.row];
            row.publish(from, &mut self.blocks);
            self.stats.prompt_tokens += work.tokens.len() as u64;
            if work.wants_next {
                self.stats.shared_tokens += row.n_shared as u64;
                events.push(Event::PromptRead { id: row.id, shared_tokens: row.n_shared });
            }
        }
        self.draw(work.iter().filter(|work| work.wants_next).map(|work| work.row), events);
    }

    /// Adds each answer's last token to the cache, and draws the next.
    fn continue_answers(&mut self, events: &mut Vec<Event>) {
        let mut work = vec![];
        for (i, row) in self.running.iter_mut().enumerate() {
            let Some(last) = row.state.last.filter(|_| row.is_prefilled()) else { continue };
            row.grow(1, &mut self.blocks);
            work.push(Work { row: i, tokens: vec![last], wants_next: true });
        }
        if work.is_empty() {
            return;
        }
        self.run(&work, false);
        self.draw(work.iter().map(|work| work.row), events);
    }

    /// Draws the next token of these rows, which have logits, and takes out those that are done.
    fn draw(&mut self, rows: impl Iterator<Item = usize>, events: &mut Vec<Event>) {
        use rayon::prelude::*;
        let chosen: HashSet<usize> = rows.collect();
        let states = self.running.iter_mut().enumerate().filter(|(i, _)| chosen.contains(i));
        let mut states: Vec<_> = states.map(|(i, row)| (i, &mut row.state)).collect();
        let of = |(i, state): &mut (usize, &mut row::RowState)| (*i, state.draw());
        let drawn: Vec<_> = match &mut states[..] {
            // No other thread is worth waking.
            [one] => vec![of(one)],
            states => states.par_iter_mut().map(of).collect(),
        };
        let mut done = HashSet::new();
        for (i, drawn) in drawn {
            let row = &self.running[i];
            let id = row.id;
            let ended = match drawn {
                Err(error) => {
                    events.push(Event::Failed { id, error });
                    true
                }
                Ok(drawn) => {
                    self.stats.drawn_tokens += 1;
                    let generation = &row.request.generation;
                    let token = drawn.token;
                    if token == row.request.end_of_text || generation.stop.contains(&token) {
                        events.push(Event::End { id, end: Some(token) });
                        true
                    } else {
                        events.push(Event::Token { id, token, log_probs: drawn.log_probs });
                        let is_last = row.state.n_new == generation.max_new_tokens;
                        if is_last {
                            events.push(Event::End { id, end: None });
                        }
                        is_last
                    }
                }
            };
            if ended {
                done.insert(i);
            }
        }
        let mut i = 0;
        let blocks = &mut self.blocks;
        self.running.retain_mut(|row| {
            let is_done = done.contains(&i);
            i += 1;
            if is_done {
                row.release(blocks);
            }
            !is_done
        });
    }
}

/// Checks that a model can continue a prompt; `index` is the prompt's for errors.
pub(crate) fn check_prompt(
    shape: &DecoderShape,
    index: usize,
    prompt: &[u32],
    n_new: usize,
) -> Result<()> {
    let (max, vocab_size, n_prompt) =
        (shape.max_position_embeddings, shape.vocab_size, prompt.len());
    if prompt.is_empty() {
        return Err(Error::EmptyPrompt { index });
    }
    if n_prompt.saturating_add(n_new) > max {
        return Err(Error::TooLong { index, n_prompt, n_new, max });
    }
    match prompt.iter().copied().find(|id| *id as usize >= vocab_size) {
        Some(token) => Err(Error::TokenOutOfRange { index, token, vocab_size }),
        None => Ok(()),
    }
}
