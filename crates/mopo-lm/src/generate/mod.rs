//! Sampling responses to a batch of prompts, each with its own random stream. Works on token ids; stop words and
//! text belong to the caller.

mod decoding;
mod hub;
#[cfg(test)]
mod mixture_tests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use mopo_ops::FusedBackend;
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, EngineConfig, Event, Request, check_prompt};
use crate::{AdapterSharing, Decoder, Error, HeadChoice, PolicyParams, Result};
pub use decoding::Decoding;
pub use hub::HubGeneration;

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
    /// Only tokens at least this probable, relative to the most likely one, in [0, 1]. Default 0: all.
    #[serde(skip_serializing_if = "is_zero")]
    pub min_p: f64,
    /// Logits of tokens of the prompt and of the response so far are divided by it if they are positive, and multiplied
    /// otherwise, as in transformers; above 0. Default 1: no penalty.
    #[serde(skip_serializing_if = "is_one")]
    pub repetition_penalty: f64,
    /// Subtracted from the logits of tokens that the response has. Default 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub presence_penalty: f64,
    /// Subtracted from the logits of tokens for each time that the response has them. Default 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub frequency_penalty: f64,
    /// Report each token's log-probability, and those of so many of the most likely ones. Default: neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_probs: Option<usize>,
}

// Settings that earlier versions did not have are left out of records where they change nothing.
fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

fn is_one(x: &f64) -> bool {
    *x == 1.0
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
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            log_probs: None,
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
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("generation.min_p", self.min_p, "it must lie in [0, 1]");
        }
        let penalty = self.repetition_penalty;
        if !(penalty > 0.0 && penalty.is_finite()) {
            let expected = "it must be finite and above 0, where 1 is no penalty";
            return refuse("generation.repetition_penalty", penalty, expected);
        }
        for (field, penalty) in [
            ("generation.presence_penalty", self.presence_penalty),
            ("generation.frequency_penalty", self.frequency_penalty),
        ] {
            if !penalty.is_finite() {
                return refuse(field, penalty, "it must be finite");
            }
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
    let none = &mut || ();
    let all =
        generate_with_ends(base, params, head, prompts, None, end_of_text, config, device, none)?;
    Ok(all.into_iter().map(|response| response.ids).collect())
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
    let (row_ids, none) = (Some(row_ids), &mut || ());
    let all = generate_with_ends(
        base,
        params,
        head,
        prompts,
        row_ids,
        end_of_text,
        config,
        device,
        none,
    )?;
    Ok(all.into_iter().map(|response| response.ids).collect())
}

/// A response as it was sampled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
/// [`generate`]'s own. `on_end` is called after each response.
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
    on_end: &mut dyn FnMut(),
) -> Result<Vec<Sampled>> {
    let own: Vec<u64>;
    let row_ids = match row_ids {
        Some(row_ids) => row_ids,
        None => {
            own = prompts.iter().map(|prompt| prompt_row_id(prompt)).collect();
            &own
        }
    };
    assert_eq!(prompts.len(), row_ids.len(), "one row id for each prompt");
    let decoding = head.into();
    config.check()?;
    decoding.check(params.map_or(0, PolicyParams::n_policies))?;
    let shape = base.shape();
    for (index, prompt) in prompts.iter().enumerate() {
        check_prompt(&shape, index, prompt, config.max_new_tokens)?;
    }
    if prompts.is_empty() {
        return Ok(vec![]);
    }
    let n_lanes = match params {
        Some(params) if params.sharing() == AdapterSharing::PerPolicy => {
            decoding.head.policies(params.n_policies()).len()
        }
        _ => 1,
    };
    // Beside the policies' the base's, for any divergence but reverse KL.
    let n_lanes = n_lanes + usize::from(matches!(decoding.head, HeadChoice::Mixture(_)));
    let limits = EngineConfig::for_prompts(&shape, prompts, config.max_new_tokens, n_lanes);
    let mut engine = Engine::new(base, params, limits, device)?;
    let mut rows = HashMap::new();
    for (row, (prompt, row_id)) in prompts.iter().zip(row_ids).enumerate() {
        let request = Request {
            prompt: prompt.clone(),
            decoding: decoding.clone(),
            policies: None,
            generation: config.clone(),
            end_of_text,
            row_id: *row_id,
        };
        rows.insert(engine.submit(request)?, row);
    }
    let mut responses = vec![Sampled { ids: vec![], end: None }; prompts.len()];
    while !engine.is_idle() {
        for event in engine.step() {
            match event {
                Event::Token { id, token, .. } => responses[rows[&id]].ids.push(token),
                Event::End { id, end } => {
                    responses[rows[&id]].end = end;
                    on_end();
                }
                Event::Failed { error, .. } => return Err(error),
                Event::PromptRead { .. } => {}
            }
        }
    }
    Ok(responses)
}

/// The row id that [`generate`] gives a prompt.
pub fn prompt_row_id(prompt: &[u32]) -> u64 {
    mopo_hub::fnv1a(prompt.iter().flat_map(|id| id.to_le_bytes()))
}
