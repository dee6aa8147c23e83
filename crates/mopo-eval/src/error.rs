//! The error type of this crate.

use std::path::{Path, PathBuf};

/// Errors of an evaluation. Each message names the file or field and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A list of the wrong length.
    #[error("`{field}` has {found} entries, but {expected} are needed ({reason})")]
    Length {
        /// The list.
        field: String,
        /// Its length.
        found: usize,
        /// The expected length.
        expected: usize,
        /// Why it should have that length.
        reason: &'static str,
    },
    /// A value out of range.
    #[error("`{field}` is {value}, but {expected}")]
    InvalidParameter {
        /// The field.
        field: String,
        /// The value found.
        value: String,
        /// The accepted values.
        expected: String,
    },
    /// A score or coordinate that is NaN or infinite.
    #[error("`{field}` is {value}: only finite numbers can be compared; rescore these samples")]
    NonFinite {
        /// Its name.
        field: String,
        /// The value found.
        value: f64,
    },
    /// A text that a reward cannot score.
    #[error(
        "reward `{reward}`, record `{record}`, {response} response: {why}; leave the record out, or \
         label with another reward"
    )]
    Score {
        /// The reward.
        reward: String,
        /// The record's id.
        record: String,
        /// `first` or `second`.
        response: &'static str,
        /// The reward's message.
        why: String,
    },
    /// A file of rewards or a configuration that is invalid.
    #[error("{}: {message}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong, with line or field.
        message: String,
    },
    /// Files of a labelling that do not fit together.
    #[error("{}: {message}", path.display())]
    Labels {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A file that cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The failed action: "read", "write", "create".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file with invalid content.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what to do.
        message: String,
    },
    /// A value could not be written as JSON.
    #[error("cannot serialise {what}: {source}")]
    Json {
        /// What was to be written.
        what: String,
        /// The reason.
        source: serde_json::Error,
    },
    /// An error in a file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// The error.
        source: Box<Error>,
    },
    /// A tokenizer of a model that cannot be built or used.
    #[error("the tokenizer of {}: {why}; {remedy}", path.display())]
    Tokenizer {
        /// The model's directory, or the file in it.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A text that a reward model cannot score.
    #[error("reward `{reward}`: text {index} {why}")]
    Text {
        /// The reward.
        reward: String,
        /// The index of the text among those given.
        index: usize,
        /// What is wrong with it, and the remedy.
        why: String,
    },
    /// A program that does not score.
    #[error("the reward program `{command}`: {message}")]
    Program {
        /// The program and its arguments.
        command: String,
        /// What went wrong, and the remedy.
        message: String,
    },
    /// A judge that does not answer.
    #[error("the judge at {url}: {message}")]
    Judge {
        /// The address of its requests.
        url: String,
        /// What went wrong, and the remedy.
        message: String,
    },
    /// An error in a part of a reward.
    #[error("`{place}`: {source}")]
    Within {
        /// The key of the part.
        place: String,
        /// The error.
        source: Box<Error>,
    },
    /// A reward model that does not exist.
    #[error("there is no model at `{model}`: {remedy}")]
    NoModel {
        /// A directory, or a name on Hugging Face.
        model: String,
        /// What to do.
        remedy: String,
    },
    /// A file that could not be written, or an invalid model directory.
    #[error(transparent)]
    Hub(#[from] mopo_hub::Error),
    /// An invalid model.
    #[error(transparent)]
    Model(#[from] mopo_lm::Error),
    /// An error of the data.
    #[error(transparent)]
    Data(#[from] mopo_data::Error),
    /// An error of the mathematics.
    #[error(transparent)]
    Core(#[from] mopo_core::Error),
    /// Scores that cannot be compared, or a report that cannot be written or read.
    #[error(transparent)]
    Report(#[from] mopo_report::Error),
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn labels(path: &Path, message: impl Into<String>) -> Self {
        Self::Labels { path: path.into(), message: message.into() }
    }

    /// The same error for the text at another index.
    pub(crate) fn at(self, index: usize) -> Self {
        match self {
            Self::Text { reward, why, .. } => Self::Text { reward, index, why },
            other => other,
        }
    }

    pub(crate) fn invalid(
        field: impl Into<String>,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::InvalidParameter {
            field: field.into(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}
