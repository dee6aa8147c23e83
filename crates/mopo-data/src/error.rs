//! The error type of this crate. Every message names what is wrong and what to do about it.

use std::path::{Path, PathBuf};

/// Errors of reading, writing or preparing data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A failed system call.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The failed action: `read`, `write`, `list`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The system starts no further thread.
    #[error(
        "{what}: no thread can be started for it ({source}); free memory, or raise the limits of this process \
         (`ulimit -u`, `ulimit -v`)"
    )]
    Thread {
        /// What needs the thread: a file, or the key of a file's metadata.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A missing file or folder.
    #[error("{} does not exist; {remedy}", path.display())]
    NotFound {
        /// Its path.
        path: PathBuf,
        /// What to do.
        remedy: String,
    },
    /// A file or set without any usable row.
    #[error("{what} has no usable row; {remedy}")]
    Empty {
        /// The file or set.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// An invalid line of a file, or row of a JSON array or Parquet file.
    #[error("{}:{line}: {why}; {remedy}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line or row, counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// A gzip stream that is truncated or damaged.
    #[error(
        "{}: the gzip stream is truncated or damaged after {rows_read} whole rows ({source}); \
         fetch the file again and compare its sha256 with the publisher's",
        file.display()
    )]
    Gzip {
        /// The file.
        file: PathBuf,
        /// How many complete rows were read.
        rows_read: usize,
        /// The decoder's error.
        source: std::io::Error,
    },
    /// A file in an unsupported format, or damaged as a whole.
    #[error("{}: {why}{}; {remedy}", file.display(), after(*rows_read))]
    Container {
        /// The file.
        file: PathBuf,
        /// How many rows were read before.
        rows_read: usize,
        /// What is wrong.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// Two files of a folder with the same rows.
    #[error(
        "{} and {} hold the same data and would count twice; remove one of them",
        first.display(),
        second.display()
    )]
    Doubled {
        /// The first file.
        first: PathBuf,
        /// The second file.
        second: PathBuf,
    },
    /// Labelled texts that are all of one kind.
    #[error(
        "{}: {}; the labels in `{column}` are {found}: choose one of them as the positive label; \
         texts of both kinds are needed",
        file.display(),
        one_kind(positive, *n_positive, *n_texts)
    )]
    Labels {
        /// The file.
        file: PathBuf,
        /// The column of labels.
        column: String,
        /// The positive label.
        positive: String,
        /// How many texts have it: none or all.
        n_positive: usize,
        /// Number of texts.
        n_texts: usize,
        /// The labels that occur, with their counts.
        found: String,
    },
    /// An invalid field of a record.
    #[error("record `{id}`, field `{field}`: {why}")]
    Record {
        /// The record's id.
        id: String,
        /// The field.
        field: &'static str,
        /// What is wrong, and what is accepted.
        why: String,
    },
    /// A parameter out of range.
    #[error("`{field}` is {value}, but {expected}")]
    InvalidParameter {
        /// The field or argument.
        field: &'static str,
        /// The value found.
        value: String,
        /// The accepted values.
        expected: String,
    },
    /// An error of the tokenizer library, or an unsuitable tokenizer.
    #[error("tokenizer {what}: {why}; {remedy}")]
    Tokenizer {
        /// The tokenizer or the operation.
        what: String,
        /// The reason.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A chat template that cannot be used, or cannot render some messages.
    #[error("chat template {what}{}: {why}; {remedy}", at_line(*line))]
    ChatTemplate {
        /// Where it is from: a file, or the key of a file's metadata.
        what: String,
        /// The line in the template, counted from 1.
        line: Option<usize>,
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
        /// The tokenizer's highest id + 1.
        tokenizer: usize,
        /// Rows of the model's embedding.
        model: usize,
    },
    /// A file could not be written.
    #[error(transparent)]
    Hub(#[from] mopo_hub::Error),
    /// An invalid list of objectives or name of one.
    #[error(transparent)]
    Core(#[from] mopo_core::Error),
}

fn after(rows_read: usize) -> String {
    if rows_read == 0 { String::new() } else { format!(" (after {rows_read} whole rows)") }
}

fn at_line(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line} of the template"))
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
    /// For `map_err` on I/O errors: `action` is a verb.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
