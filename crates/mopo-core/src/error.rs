//! The one error type of this crate.

/// What can go wrong in the mathematics. Shape contracts panic; everything that a user can cause
/// comes back as one of these.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A name that is not among the objectives.
    #[error("unknown objective `{name}`; the objectives here are: {known}")]
    UnknownObjective {
        /// The name that was asked for.
        name: String,
        /// The names that exist, joined with commas.
        known: String,
    },
    /// The list of objectives itself is unusable.
    #[error("invalid list of objectives: {0}")]
    InvalidObjectives(String),
    /// An indicator outside of [0, 1] or not a number.
    #[error("an indicator must lie in [0, 1] (1: first preferred, 0: second, 0.5: tie), got {0}")]
    InvalidIndicator(f64),
    /// A hyper-parameter outside of its range.
    #[error("`{field}` is {value}, but {expected}")]
    InvalidParameter {
        /// The field of the configuration.
        field: &'static str,
        /// The value found.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// A value that is NaN or infinite where the mathematics needs a number.
    #[error("{0} is not finite")]
    NonFinite(String),
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
