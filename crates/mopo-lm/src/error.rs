//! The one error type of this crate: each variant carries what was found, where, and the remedy.

use std::path::PathBuf;

/// What can go wrong with models, adapters and their files. Shape contracts of tensors panic.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A JSON file that does not parse, or lacks a key.
    #[error("{}: {reason}; expected {expected}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's message, which names the key or the line.
        reason: String,
        /// What the file should be.
        expected: &'static str,
    },
    /// A configuration value outside of its range.
    #[error("`{field}` is {value}, but {expected}")]
    InvalidParameter {
        /// The field of the configuration.
        field: &'static str,
        /// The value found.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// An error inside of a named file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<Error>,
    },
    /// A directory without a file of weights.
    #[error(
        "{} holds no weights: neither {}; give a directory as on the hub",
        dir.display(), names.join(", nor ")
    )]
    NoWeights {
        /// The directory.
        dir: PathBuf,
        /// The names that were looked for.
        names: &'static [&'static str],
    },
    /// A safetensors file or PyTorch checkpoint that is cut short or not one at all.
    #[error(
        "{} ({n_bytes} bytes) is not a complete {kind} file: {reason}; copy, download or write it again",
        path.display()
    )]
    CorruptTensors {
        /// The file.
        path: PathBuf,
        /// Its length.
        n_bytes: u64,
        /// What it should be: `safetensors`, `PyTorch`.
        kind: &'static str,
        /// What the reader stumbled over.
        reason: String,
    },
    /// Tensors that the model needs and the file lacks.
    #[error(
        "{} lacks {} of the model's tensors: {}; is it a checkpoint of this architecture and configuration?",
        path.display(), names.len(), list(names)
    )]
    MissingTensors {
        /// The file or directory.
        path: PathBuf,
        /// The missing names, in the model's order.
        names: Vec<String>,
    },
    /// Tensors in the file that the model has no place for.
    #[error(
        "{} holds {} tensors that the model has no place for: {}; does its configuration (layers, targets, policies) match?",
        path.display(), names.len(), list(names)
    )]
    UnusedTensors {
        /// The file or directory.
        path: PathBuf,
        /// The names left over, sorted.
        names: Vec<String>,
    },
    /// A tensor of another shape.
    #[error(
        "{}: tensor `{name}` has shape {found:?}, but the configuration asks for {expected:?}; use the configuration that belongs to these weights",
        path.display()
    )]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape of the model's tensor, in the file's layout.
        expected: Vec<usize>,
    },
    /// A tensor of a data type that is not read here.
    #[error(
        "{}: tensor `{name}` has data type {dtype}, but only F32, F16 and BF16 are read; convert it first",
        path.display()
    )]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its data type.
        dtype: String,
    },
    /// A weight that has no 4- or 8-bit form.
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
    /// Nothing predicts the first response token, or there is nothing to continue.
    #[error(
        "prompt {index} is empty: put at least one token (the end-of-text token will do) in it"
    )]
    EmptyPrompt {
        /// The index in the given slice.
        index: usize,
    },
    /// A response without a token.
    #[error(
        "pair {index}: the {} response has no tokens; end every response with the end-of-text token, or drop it with `keep`",
        if *side == 0 { "first" } else { "second" }
    )]
    EmptyResponse {
        /// The index of the pair in the given slice.
        index: usize,
        /// 0 the first, 1 the second response.
        side: usize,
    },
    /// A token id beyond the model's vocabulary.
    #[error(
        "prompt {index} holds token {token}, but the model's vocabulary ends before {vocab_size}; use the model's own tokenizer"
    )]
    TokenOutOfRange {
        /// The index of the prompt.
        index: usize,
        /// The token id.
        token: u32,
        /// The first id that does not exist.
        vocab_size: usize,
    },
    /// A prompt that leaves no room.
    #[error(
        "prompt {index} has {n_prompt} tokens, and {n_new} new ones would exceed the model's {max} positions; shorten the prompt or lower `max_new_tokens`"
    )]
    TooLong {
        /// The index of the prompt.
        index: usize,
        /// Its tokens.
        n_prompt: usize,
        /// `max_new_tokens`.
        n_new: usize,
        /// `max_position_embeddings`.
        max: usize,
    },
    /// A policy head was asked for and there are no policies, or fewer.
    #[error("policy {index} was asked for, but there are {n_policies} (counted from 0)")]
    PolicyOutOfRange {
        /// The index asked for.
        index: usize,
        /// How many there are.
        n_policies: usize,
    },
    /// Preference weights that are no point of the simplex.
    #[error(
        "preference weights {weights:?} do not fit: {reason}; give one weight ≥ 0 for each policy, with sum 1"
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

/// The first few names: a wrong checkpoint has hundreds.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}
