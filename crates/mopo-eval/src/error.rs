//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// What can go wrong in an evaluation. Each message names the file or field and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A list has another length than the one it belongs to.
    #[error("`{field}` has {found} entries, but {expected} are needed ({reason})")]
    Length {
        /// The list.
        field: String,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
        /// Why it should.
        reason: &'static str,
    },
    /// A value outside of its range.
    #[error("`{field}` is {value}, but {expected}")]
    InvalidParameter {
        /// The field.
        field: String,
        /// The value found.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// A score or coordinate that is NaN or infinite.
    #[error("`{field}` is {value}: only finite numbers can be compared; rescore these samples")]
    NonFinite {
        /// Which one.
        field: String,
        /// The value found.
        value: f64,
    },
    /// A text that a reward cannot score.
    #[error(
        "reward `{reward}`, record `{record}`, {side} response: {why}; leave the record out, or \
         label with another reward"
    )]
    Score {
        /// The reward.
        reward: String,
        /// The record's id.
        record: String,
        /// `first` or `second`.
        side: &'static str,
        /// What the reward says.
        why: String,
    },
    /// A file of rewards or a configuration that cannot be used.
    #[error("{}: {message}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong, with line or field.
        message: String,
    },
    /// Files of a labelling that do not belong together.
    #[error("{}: {message}", path.display())]
    Labels {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// Reading or writing a file failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried: "read", "write", "create".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
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
    /// An error inside of a named file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<Error>,
    },
    /// A model's tokenizer that cannot be built or used.
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
    /// A reward model that is not there.
    #[error("there is no model at `{model}`: {remedy}")]
    NoModel {
        /// A directory, or a name on Hugging Face.
        model: String,
        /// What to do.
        remedy: String,
    },
    /// A file could not be written, or a model directory is not as it should be.
    #[error(transparent)]
    Hub(#[from] mopo_hub::Error),
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

    /// The same about the text at another index.
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
