//! The error type of training: what failed, where, and what to do about it.

use std::path::{Path, PathBuf};

/// What can go wrong between a configuration and a finished run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used.
    #[error("configuration {origin}: {message}")]
    Config {
        /// File, preset or option that it came from.
        origin: String,
        /// What is wrong, with key and remedy.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// "reading", "writing", …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A file of a run does not hold what it should.
    #[error("{}: {message}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A run directory cannot be used as asked.
    #[error("run {}: {message}", path.display())]
    Run {
        /// The run directory.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// There is nothing to export there, or it cannot be replaced by an export.
    #[error("{}: {message}", path.display())]
    Export {
        /// The source or the place of the export.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// Training produced a value that is not finite.
    #[error(
        "{phase} step {step}: {what} is {value}; this step was discarded. {state} Remedies: a \
         smaller learning rate, gradient clipping{}",
        remedy(phase)
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
        /// What is left of the run, and what can be done with it.
        state: String,
    },
    /// From the mathematics.
    #[error(transparent)]
    Core(#[from] mopo_core::Error),
    /// From the files of a model, or a file could not be written.
    #[error(transparent)]
    Hub(#[from] mopo_hub::Error),
    /// From the data.
    #[error(transparent)]
    Data(#[from] mopo_data::Error),
    /// From the model.
    #[error(transparent)]
    Lm(#[from] mopo_lm::Error),
    /// From the evaluation.
    #[error(transparent)]
    Eval(#[from] mopo_eval::Error),
    /// From a report of it.
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

    /// The same error as one of the configuration that `origin` names.
    pub(crate) fn in_config(self, origin: &str) -> Self {
        let message = match self {
            Error::Config { message, .. } => message,
            other => other.to_string(),
        };
        Error::Config { origin: origin.into(), message }
    }
}

/// What else helps in a method's own terms.
fn remedy(phase: &str) -> &'static str {
    match phase {
        "mopo" => ", a larger `mopo.tau`",
        "dpo" => ", a smaller `dpo.beta`",
        _ => "",
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
