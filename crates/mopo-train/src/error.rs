//! The error type of training: what failed, where, and what to do about it.

use std::path::{Path, PathBuf};

use crate::methods::MethodConfig;

/// Errors between a configuration and a finished run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An invalid configuration.
    #[error("configuration {origin}: {message}")]
    Config {
        /// The file, preset or option.
        origin: String,
        /// What is wrong, with key and remedy.
        message: String,
    },
    /// A file that cannot be read or written.
    #[error("{action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// "reading", "writing", …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file of a run with invalid content.
    #[error("{}: {message}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A run directory that cannot be used for the request.
    #[error("run {}: {message}", path.display())]
    Run {
        /// The run directory.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// Nothing to export, or a directory that an export must not replace.
    #[error("{}: {message}", path.display())]
    Export {
        /// The source or the target of the export.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A conversation that leaves no room for an answer.
    #[error(
        "the conversation has {n_prompt} tokens, and an answer of up to {n_new} more would exceed the model's \
         context of {max}; begin a new one, or ask for a shorter answer"
    )]
    ConversationTooLong {
        /// Tokens of the conversation.
        n_prompt: usize,
        /// `max_new_tokens`.
        n_new: usize,
        /// `max_position_embeddings`.
        max: usize,
    },
    /// Training produced a value that is not finite.
    #[error(
        "{phase} step {step}: {what} is {value}; this step was discarded. {state} Remedies: a \
         smaller learning rate, gradient clipping{}",
        MethodConfig::remedy(phase)
    )]
    NonFinite {
        /// Phase of the run.
        phase: String,
        /// Optimiser step, from 0.
        step: usize,
        /// Which quantity.
        what: String,
        /// Its value.
        value: f64,
        /// What remains of the run, and what can be done with it.
        state: String,
    },
    /// Processes that train one run together could not exchange something, or differ.
    #[error("{0}")]
    Communication(String),
    /// An error of the mathematics.
    #[error(transparent)]
    Core(#[from] mopo_core::Error),
    /// An error of a model's files, or a file that cannot be written.
    #[error(transparent)]
    Hub(#[from] mopo_hub::Error),
    /// An error of the data.
    #[error(transparent)]
    Data(#[from] mopo_data::Error),
    /// An error of the model.
    #[error(transparent)]
    Lm(#[from] mopo_lm::Error),
    /// An error of the evaluation.
    #[error(transparent)]
    Eval(#[from] mopo_eval::Error),
    /// An error of a report.
    #[error(transparent)]
    Report(#[from] mopo_report::Error),
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    pub(crate) fn corrupt(path: &Path, message: impl Into<String>) -> Self {
        Error::Corrupt { path: path.to_path_buf(), message: message.into() }
    }

    /// The same error as one of the configuration `origin`. A key that it was an error of is kept.
    pub(crate) fn in_config(self, origin: &str) -> Self {
        let message = match self {
            Error::Config { origin: key, message } if key.starts_with('`') => {
                let has_key = message.contains(key.trim_matches(['`', '[', ']']));
                if has_key { message } else { format!("{key}: {message}") }
            }
            Error::Config { message, .. } => message,
            other => other.to_string(),
        };
        Error::Config { origin: origin.into(), message }
    }
}

fn hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull => {
            "; free some space, then resume the run: it continues from its latest checkpoint"
        }
        _ => "",
    }
}
