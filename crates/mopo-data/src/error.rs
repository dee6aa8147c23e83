//! The one error type of this crate. Every message names what is wrong and what to do about it.

use std::path::{Path, PathBuf};

/// What can go wrong while reading, writing or preparing data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `list`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file or folder that has to be there is not.
    #[error("{} is not there; {remedy}", path.display())]
    NotFound {
        /// What was looked for.
        path: PathBuf,
        /// What to do.
        remedy: String,
    },
    /// There is a file, but nothing usable in it.
    #[error("{what} holds no usable row; {remedy}")]
    Empty {
        /// The file or set.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// One line of a file is wrong.
    #[error("{}:{line}: {why}; {remedy}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// A gzip stream that ends early or is damaged.
    #[error(
        "{}: the gzip stream is truncated or damaged after {lines_read} whole lines ({source}); \
         fetch the file again and compare its sha256 with the publisher's",
        file.display()
    )]
    Gzip {
        /// The file.
        file: PathBuf,
        /// How many whole lines were readable.
        lines_read: usize,
        /// The decoder's reason.
        source: std::io::Error,
    },
    /// A field of a record is wrong.
    #[error("record `{id}`, field `{field}`: {why}")]
    Record {
        /// The record's id.
        id: String,
        /// The field.
        field: &'static str,
        /// What is wrong and what would be right.
        why: String,
    },
    /// A parameter outside of its range.
    #[error("`{field}` is {value}, but {expected}")]
    InvalidParameter {
        /// The field or argument.
        field: &'static str,
        /// The value found.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// The tokenizer library refused, or a tokenizer is unsuitable.
    #[error("tokenizer {what}: {why}; {remedy}")]
    Tokenizer {
        /// Which tokenizer, or which operation.
        what: String,
        /// The reason.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A tokenizer whose ids do not fit into a model's embedding.
    #[error(
        "the tokenizer has {tokenizer} ids, the model's vocabulary {model}; use the tokenizer \
         that belongs to the model, or set the model's vocabulary to at least {tokenizer}"
    )]
    VocabularyTooSmall {
        /// Highest id of the tokenizer + 1.
        tokenizer: usize,
        /// Rows of the model's embedding.
        model: usize,
    },
    /// A file could not be written.
    #[error(transparent)]
    Hub(#[from] mopo_hub::Error),
    /// A wrong objective name or list.
    #[error(transparent)]
    Core(#[from] mopo_core::Error),
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err` on input and output: `action` is a verb.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
