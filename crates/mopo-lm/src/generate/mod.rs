//! Sampling responses: one batch without padding, a key-value cache, one random stream per row.
//! Works on token ids; stop words and text belong to the caller.

mod hub;
mod mixture;
#[cfg(test)]
mod mixture_tests;
mod sampling;
mod stream;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use burn::tensor::{Tensor, activation};
use mopo_ops::FusedBackend;
use serde::{Deserialize, Serialize};

use crate::{AdapterSharing, Decoder, DecoderShape, Error, HeadChoice, PolicyParams, Result};
pub use hub::HubGeneration;
pub use mixture::Decoding;
use mixture::{HostMixture, host};
use sampling::RowSampler;
use stream::{PolicyStates, StepTokens, Streams};

/// Fed to rows that have no response yet: any token that every model has. The result is not used.
const PAD: u32 = 0;

/// How to sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationConfig {
    /// Maximum number of tokens per prompt. Default 64.
    pub max_new_tokens: usize,
    /// Logits are divided by the temperature; 0 takes the most likely token. Default 1.
    pub temperature: f64,
    /// Sample from the K most likely tokens. Default 0: all tokens.
    pub top_k: usize,
    /// Sample from the smallest set of these with this total probability, in (0, 1]. Default 1:
    /// all.
    pub top_p: f64,
    /// Only ids below this limit are chosen, as if the others had no probability. Default: no
    /// limit. A model may have more rows than its tokenizer has tokens (phi-1.5: 51,200 and
    /// 50,295); the extra rows are not text.
    pub n_tokens: Option<usize>,
    /// More tokens that end a response, and are not returned either. Default: none.
    pub stop: Vec<u32>,
    /// Seeds the random streams of all rows. Default 0.
    pub seed: u64,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            n_tokens: None,
            stop: vec![],
            seed: 0,
        }
    }
}

impl GenerationConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field out of range.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, value: f64, expected: &str| {
            let (value, expected) = (value.to_string(), expected.into());
            Err(Error::InvalidParameter { field, value, expected })
        };
        if self.max_new_tokens == 0 {
            return refuse("generation.max_new_tokens", 0.0, "it must be at least 1");
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse(
                "generation.temperature",
                self.temperature,
                "it must be finite and at least 0, where 0 is greedy",
            );
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("generation.top_p", self.top_p, "it must lie in (0, 1]");
        }
        if self.n_tokens == Some(0) {
            return refuse("generation.n_tokens", 0.0, "it must be at least 1");
        }
        Ok(())
    }
}

/// Continues each prompt until `end_of_text` (which is not returned), a `stop` token or
/// `max_new_tokens`. A row's random stream depends only on the seed and the prompt's tokens, so its
/// response does not depend on the batch; equal prompts get equal responses (see
/// [`generate_with_row_ids`]).
///
/// `head`: a [`HeadChoice`], or a [`Decoding`] for a mixture under another divergence than reverse
/// KL, which also runs the base model: twice the forward passes, and some milliseconds per token
/// for a large vocabulary. Where policies have adapters of their own, each that takes part runs too.
///
/// # Errors
/// An invalid configuration or head; no `params` where the head needs them; a prompt that is empty,
/// has an unknown token, or is too long for the model with its new tokens; logits that are not
/// finite; too little memory for the key-value cache.
#[allow(clippy::too_many_arguments)]
pub fn generate<B: FusedBackend>(
    base: &impl Decoder<B>,
    params: Option<&PolicyParams<B>>,
    head: impl Into<Decoding>,
    prompts: &[Vec<u32>],
    end_of_text: u32,
    config: &GenerationConfig,
    device: &B::Device,
) -> Result<Vec<Vec<u32>>> {
    let all = generate_with_ends(base, params, head, prompts, None, end_of_text, config, device)?;
    Ok(all.into_iter().map(|response| response.ids).collect())
}

/// [`generate`] for one prompt, calling `on_token` with the response so far after each of its tokens; a
/// [`Break`](ControlFlow::Break) ends it there.
///
/// # Errors
/// Those of [`generate`].
#[allow(clippy::too_many_arguments)]
pub fn generate_streaming<B: FusedBackend>(
    base: &impl Decoder<B>,
    params: Option<&PolicyParams<B>>,
    head: impl Into<Decoding>,
    prompt: &[u32],
    end_of_text: u32,
    config: &GenerationConfig,
    device: &B::Device,
    on_token: &mut dyn FnMut(&[u32]) -> ControlFlow<()>,
) -> Result<Vec<u32>> {
    let (prompts, row_ids) = ([prompt.to_vec()], [hash(prompt)]);
    let rows = Rows { prompts: &prompts, row_ids: &row_ids, end_of_text };
    let mut responses = run(base, params, &head.into(), &rows, config, device, on_token)?;
    Ok(responses.pop().expect("one for each prompt").ids)
}

/// [`generate`] with a number per row that selects its random stream, for example its index in the
/// data set: several responses to one prompt then differ.
///
/// # Errors
/// Those of [`generate`]. Panics if there is not one number per prompt.
#[allow(clippy::too_many_arguments)]
pub fn generate_with_row_ids<B: FusedBackend>(
    base: &impl Decoder<B>,
    params: Option<&PolicyParams<B>>,
    head: impl Into<Decoding>,
    prompts: &[Vec<u32>],
    row_ids: &[u64],
    end_of_text: u32,
    config: &GenerationConfig,
    device: &B::Device,
) -> Result<Vec<Vec<u32>>> {
    let row_ids = Some(row_ids);
    let all =
        generate_with_ends(base, params, head, prompts, row_ids, end_of_text, config, device)?;
    Ok(all.into_iter().map(|response| response.ids).collect())
}

/// A response as it was sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sampled {
    /// Its tokens without the one that ended it.
    pub ids: Vec<u32>,
    /// The token that ended it: the end of text or a stop token; `None` if the limit of tokens did.
    pub end: Option<u32>,
}

impl Sampled {
    /// All tokens that were drawn, the end included: what the policy is accountable for. Never empty.
    pub fn drawn(&self) -> Vec<u32> {
        self.ids.iter().copied().chain(self.end).collect()
    }
}

/// [`generate`] with the tokens that ended the responses. `row_ids`: as for [`generate_with_row_ids`], or `None` for
/// [`generate`]'s own.
///
/// # Errors
/// Those of [`generate`]. Panics if there is not one number per prompt.
#[allow(clippy::too_many_arguments)]
pub fn generate_with_ends<B: FusedBackend>(
    base: &impl Decoder<B>,
    params: Option<&PolicyParams<B>>,
    head: impl Into<Decoding>,
    prompts: &[Vec<u32>],
    row_ids: Option<&[u64]>,
    end_of_text: u32,
    config: &GenerationConfig,
    device: &B::Device,
) -> Result<Vec<Sampled>> {
    let own: Vec<u64>;
    let row_ids = match row_ids {
        Some(row_ids) => row_ids,
        None => {
            own = prompts.iter().map(|prompt| hash(prompt)).collect();
            &own
        }
    };
    assert_eq!(prompts.len(), row_ids.len(), "one row id for each prompt");
    let rows = Rows { prompts, row_ids, end_of_text };
    let go_on = &mut |_: &[u32]| ControlFlow::Continue(());
    run(base, params, &head.into(), &rows, config, device, go_on)
}

/// What is continued.
struct Rows<'a> {
    prompts: &'a [Vec<u32>],
    row_ids: &'a [u64],
    end_of_text: u32,
}

/// Continues all rows; `on_token` gets a row's response after each of its tokens, and may end it.
fn run<B: FusedBackend>(
    base: &impl Decoder<B>,
    params: Option<&PolicyParams<B>>,
    decoding: &Decoding,
    rows: &Rows<'_>,
    config: &GenerationConfig,
    device: &B::Device,
    on_token: &mut dyn FnMut(&[u32]) -> ControlFlow<()>,
) -> Result<Vec<Sampled>> {
    let Rows { prompts, row_ids, end_of_text } = *rows;
    config.check()?;
    let head = &decoding.head;
    decoding.check(params.map_or(0, |params| params.n_policies()))?;
    let shape = base.shape();
    check_prompts(&shape, prompts, config)?;
    if prompts.is_empty() {
        return Ok(vec![]);
    }

    let rows = prompts.len();
    let n_streams = match params.map(PolicyParams::sharing) {
        Some(AdapterSharing::PerPolicy) => {
            head.policies(params.map_or(0, PolicyParams::n_policies)).len()
        }
        _ => 1,
    };
    check_cache(&shape, prompts, config.max_new_tokens, n_streams.max(1))?;
    let mut samplers: Vec<_> = row_ids.iter().map(|id| RowSampler::new(config, *id)).collect();
    let mut responses = vec![Sampled { ids: vec![], end: None }; rows];
    let mut done = vec![false; rows];
    let n_new = config.max_new_tokens;
    let mut streams = Streams::new(base, params, head, prompts, n_new, device);
    let mut mixture = HostMixture::new(base, params, decoding, prompts, n_new, device);

    // The first step sees the whole prompts, later ones the tokens just sampled.
    let n_tokens = config.n_tokens.unwrap_or(usize::MAX);
    let mut next: Vec<u32> = vec![];
    for step in 0..n_new {
        let tokens = if step == 0 { StepTokens::Prompts(prompts) } else { StepTokens::Next(&next) };
        let states = streams.step(tokens);
        let logits = match &mut mixture {
            Some(mixture) => mixture.step(tokens, &states, &done, step)?,
            None => host(next_token_logits(base, params, head, states)),
        };
        let vocab = logits.len() / rows;

        next.clear();
        for (row, logits) in logits.chunks_exact(vocab).enumerate() {
            if !done[row] {
                // Ids beyond the tokenizer's are never chosen, whatever their logits.
                let logits = &logits[..n_tokens.min(vocab)];
                finite(logits, step)?;
                let token = samplers[row].sample(logits);
                let response = &mut responses[row];
                if token == end_of_text || config.stop.contains(&token) {
                    response.end = Some(token);
                    done[row] = true;
                } else {
                    response.ids.push(token);
                    done[row] = on_token(&response.ids).is_break();
                }
            }
            // Finished rows keep running; their input does not matter.
            next.push(responses[row].ids.last().copied().unwrap_or(PAD));
        }
        if done.iter().all(|done| *done) {
            break;
        }
    }
    Ok(responses)
}

/// Refuses logits that are not finite, `n_new` tokens after the prompt.
fn finite(logits: &[f32], n_new: usize) -> Result<()> {
    match logits.iter().position(|logit| !logit.is_finite()) {
        None => Ok(()),
        Some(token) => Err(Error::LogitsNotFinite { n_new, token, value: logits[token] }),
    }
}

/// Checks that keys and values of all rows fit into memory, for each stream of tokens.
fn check_cache(
    shape: &DecoderShape,
    prompts: &[Vec<u32>],
    n_new: usize,
    n_streams: usize,
) -> Result<()> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let of_row = [2, 4, shape.num_hidden_layers, shape.key_value_width, longest + n_new];
    let sizes = of_row.into_iter().chain([prompts.len(), n_streams]);
    let n_bytes = sizes.fold(1_u64, |n, size| n.saturating_mul(size as u64));
    let what = || format!("the cache of {} prompts with {n_new} new tokens", prompts.len());
    Ok(mopo_hub::check_memory(n_bytes, what, "lower `max_new_tokens`, or give fewer prompts")?)
}

/// Logits of the next token, or for a mixture (under reverse KL) unnormalised log-probabilities:
/// `[rows, vocab]`.
fn next_token_logits<B: FusedBackend>(
    base: &impl Decoder<B>,
    params: Option<&PolicyParams<B>>,
    head: &HeadChoice,
    states: Vec<PolicyStates<B>>,
) -> Tensor<B, 2> {
    let heads = params.map_or(&[][..], |params| &params.heads.heads);
    let mut states = states.into_iter();
    match head {
        HeadChoice::Mixture(weights) => {
            let part = |(k, hidden): PolicyStates<B>| {
                activation::log_softmax(heads[k].logits(hidden), 1).mul_scalar(weights[k])
            };
            states.map(part).reduce(|a, b| a + b).expect("checked weights")
        }
        HeadChoice::Base => base.lm_head().logits(states.next().expect("the base's").1),
        HeadChoice::Policy(_) | HeadChoice::WorstCase => {
            let (k, hidden) = states.next().expect("that policy's");
            heads[k].logits(hidden)
        }
    }
}

fn check_prompts(
    shape: &DecoderShape,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
) -> Result<()> {
    let (max, vocab_size) = (shape.max_position_embeddings, shape.vocab_size);
    for (index, prompt) in prompts.iter().enumerate() {
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt { index });
        }
        let (n_prompt, n_new) = (prompt.len(), config.max_new_tokens);
        if n_prompt + n_new > max {
            return Err(Error::TooLong { index, n_prompt, n_new, max });
        }
        if let Some(token) = prompt.iter().copied().find(|id| *id as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { index, token, vocab_size });
        }
    }
    Ok(())
}

/// The number of a prompt's random stream.
fn hash(prompt: &[u32]) -> u64 {
    mopo_hub::fnv1a(prompt.iter().flat_map(|id| id.to_le_bytes()))
}
