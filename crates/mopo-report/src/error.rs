//! The error type of this crate.

use std::path::PathBuf;

use serde_json::Value;

/// Errors of a comparison. Each message names the file or field and the remedy.
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
    /// Two policies of the same name.
    #[error("duplicate policy `{0}`; give each policy its own name")]
    DuplicatePolicy(String),
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
    /// Results of several runs that cannot be compared.
    #[error("{a} and {b} cannot be compared: their {difference}")]
    Incomparable {
        /// One run.
        a: String,
        /// The other.
        b: String,
        /// What differs.
        difference: Box<Difference>,
    },
    /// A figure could not be rendered to PNG.
    #[error("cannot render the figure: {0}")]
    Render(String),
    /// A value could not be written as JSON.
    #[error("cannot serialise {what}: {source}")]
    Json {
        /// What was to be written.
        what: String,
        /// The reason.
        source: serde_json::Error,
    },
    /// A file could not be written.
    #[error(transparent)]
    Files(#[from] mopo_hub::Error),
    /// Scores that cannot be compared.
    #[error(transparent)]
    Pareto(#[from] mopo_pareto::Error),
}

/// What keeps the results of two runs from being compared, each with the first run's value and the
/// second's.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Difference {
    /// Their axes.
    #[error(
        "objectives are {} and {}; give both the same `evaluation.rewards`",
        .0.join(", "), .1.join(", ")
    )]
    Objectives(Vec<String>, Vec<String>),
    /// What scored an axis.
    #[error("rewards differ, `{name}` is {a} and {b}; score both with the same one")]
    Reward {
        /// The axis.
        name: String,
        /// The first run's reward.
        a: Value,
        /// The second's.
        b: Value,
    },
    /// The point above which hypervolumes are measured.
    #[error("ref_point is {0:?} and {1:?}; give both the same")]
    RefPoint(Vec<f64>, Vec<f64>),
    /// The prompts that were answered.
    #[error(
        "prompts differ, {a} and {b}, of which {common} are the same; evaluate both with \
         `mopo pareto RUN --n-prompts N --seed S` on runs with the same held-out data"
    )]
    Prompts {
        /// How many the first run has.
        a: usize,
        /// How many the second has.
        b: usize,
        /// How many both have.
        common: usize,
    },
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
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
