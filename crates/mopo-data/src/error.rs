//! The one error type of this crate. Every message names what is wrong and what to do about it.

use std::path::{Path, PathBuf};

/// What can go wrong while reading, writing or preparing data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    #[error("{} does not exist; {remedy}", path.display())]
    NotFound {
        /// What was looked for.
        path: PathBuf,
        /// What to do.
        remedy: String,
    },
    /// There is a file, but nothing usable in it.
    #[error("{what} has no usable row; {remedy}")]
    Empty {
        /// The file or set.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// One line of a file is wrong, or one row of a JSON array or Parquet file.
    #[error("{}:{line}: {why}; {remedy}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line or row, from 1.
        line: usize,
        /// What is wrong.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// A gzip stream that ends early or is damaged.
    #[error(
        "{}: the gzip stream is truncated or damaged after {rows_read} whole rows ({source}); \
         fetch the file again and compare its sha256 with the publisher's",
        file.display()
    )]
    Gzip {
        /// The file.
        file: PathBuf,
        /// How many whole rows were readable.
        rows_read: usize,
        /// The decoder's reason.
        source: std::io::Error,
    },
    /// A file whose format is not read, or which is damaged as a whole.
    #[error("{}: {why}{}; {remedy}", file.display(), after(*rows_read))]
    Container {
        /// The file.
        file: PathBuf,
        /// How many rows were readable before.
        rows_read: usize,
        /// What is wrong.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// Two files of a folder that hold the same rows.
    #[error(
        "{} and {} hold the same data and would count twice; remove one of them",
        first.display(),
        second.display()
    )]
    Doubled {
        /// The file that comes first.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
    },
    /// Labelled texts of which all are of one kind.
    #[error(
        "{}: {}; the labels in `{column}` are {found}: choose one of them as the positive label; \
         texts of both kinds are needed",
        file.display(),
        one_kind(positive, *n_positive, *n_texts)
    )]
    Labels {
        /// The file.
        file: PathBuf,
        /// The column of the labels.
        column: String,
        /// The label that counts as positive.
        positive: String,
        /// Texts with it: none or all.
        n_positive: usize,
        /// Texts.
        n_texts: usize,
        /// The labels that occur, with their counts.
        found: String,
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

fn after(rows_read: usize) -> String {
    if rows_read == 0 { String::new() } else { format!(" (after {rows_read} whole rows)") }
}

fn one_kind(positive: &str, n_positive: usize, n_texts: usize) -> String {
    if n_positive == 0 {
        format!("none of the {n_texts} texts has the label `{positive}`")
    } else {
        format!("all {n_texts} texts have the label `{positive}`")
    }
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
