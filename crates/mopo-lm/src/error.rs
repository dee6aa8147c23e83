//! The error type of this crate. Each variant says what was found, where, and what to do.

use std::path::PathBuf;

/// Errors of models, adapters and their files. Broken shape contracts of tensors panic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the files of a model directory.
    #[error(transparent)]
    Hub(#[from] mopo_hub::Error),
    /// A configuration value out of range.
    #[error("`{field}` is {value}, but {expected}")]
    InvalidParameter {
        /// The field of the configuration.
        field: &'static str,
        /// The value found.
        value: String,
        /// The accepted values.
        expected: String,
    },
    /// An error in a file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// The error.
        source: Box<Error>,
    },
    /// A value of a GGUF file's metadata that no model here can have.
    #[error("{}: `{key}` is {value}, but {expected}", path.display())]
    GgufValue {
        /// The file.
        path: PathBuf,
        /// The metadata's key, or the tensor.
        key: String,
        /// The value found.
        value: String,
        /// What is accepted, or what to do.
        expected: String,
    },
    /// An unsupported key of an adapter's configuration that would change what the model computes.
    #[error("`{key}` is {value}, but {expected}")]
    AdapterKey {
        /// The key of `adapter_config.json`.
        key: String,
        /// Its value.
        value: String,
        /// The accepted values.
        expected: String,
    },
    /// A weight that cannot be quantised.
    #[error(
        "tensor `{name}` cannot be quantised: {source}; repair the checkpoint, or load it without quantising"
    )]
    NotQuantised {
        /// Its name in files.
        name: String,
        /// What is wrong with it.
        source: mopo_ops::QuantError,
    },
    /// An adapter that belongs to another base model.
    #[error(
        "{}: `{field}` is {found}, but the base model has {expected}; load the base model that this policy was trained on",
        path.display()
    )]
    BaseMismatch {
        /// The file.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// The policy's value.
        found: String,
        /// The base model's value.
        expected: String,
    },
    /// An empty prompt: nothing predicts the first response token, and there is nothing to
    /// continue.
    #[error("prompt {index} is empty: give it at least one token (the end-of-text token will do)")]
    EmptyPrompt {
        /// The index in the given slice.
        index: usize,
    },
    /// A response without tokens.
    #[error(
        "pair {index}: the {} response has no tokens; end every response with the end-of-text token, or drop it with `keep`",
        if *in_pair == 0 { "first" } else { "second" }
    )]
    EmptyResponse {
        /// The index of the pair in the given slice.
        index: usize,
        /// 0 for the first response, 1 for the second.
        in_pair: usize,
    },
    /// A token id beyond the model's vocabulary.
    #[error(
        "prompt {index} has token {token}, but the model's vocabulary has only {vocab_size} tokens; use the model's own tokenizer"
    )]
    TokenOutOfRange {
        /// The index of the prompt.
        index: usize,
        /// The token id.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A prompt that is too long for the model with its new tokens.
    #[error(
        "prompt {index} has {n_prompt} tokens, and {n_new} new ones would exceed the model's {max} positions; shorten the prompt or lower `max_new_tokens`"
    )]
    TooLong {
        /// The index of the prompt.
        index: usize,
        /// Tokens of the prompt.
        n_prompt: usize,
        /// `max_new_tokens`.
        n_new: usize,
        /// `max_position_embeddings`.
        max: usize,
    },
    /// A request for which the whole cache is too small.
    #[error(
        "{n_tokens} tokens in {n_lanes} passes need more than the cache, which has room for {cache_tokens}; shorten the prompt, lower `max_new_tokens`, or give the cache more bytes"
    )]
    CacheTooSmall {
        /// Tokens of the prompt and new ones.
        n_tokens: usize,
        /// Passes over the model for each token.
        n_lanes: usize,
        /// Tokens of the cache in one pass.
        cache_tokens: usize,
    },
    /// Logits that are not finite.
    #[error(
        "after {n_new} new tokens the model's logits are not finite ({value} for token {token}): its weights are damaged, or training diverged; generate with an earlier checkpoint or another model"
    )]
    LogitsNotFinite {
        /// New tokens so far.
        n_new: usize,
        /// The first token with such a logit.
        token: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// A policy that does not exist.
    #[error("there is no policy {index}: there are {n_policies}, counted from 0")]
    PolicyOutOfRange {
        /// The index asked for.
        index: usize,
        /// How many there are.
        n_policies: usize,
    },
    /// Preference weights that are not a point of the simplex.
    #[error(
        "preference weights {weights:?} are invalid: {reason}; give one weight ≥ 0 for each policy, with sum 1"
    )]
    PreferenceWeights {
        /// The weights.
        weights: Vec<f32>,
        /// What is wrong with them.
        reason: String,
    },
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
