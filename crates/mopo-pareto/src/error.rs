//! The error type of this crate.

use std::fmt;

/// Points that cannot be compared or measured. Each message names the field and the index.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// An empty set, or a point with the wrong number of values.
    InvalidParameter {
        /// The argument.
        field: &'static str,
        /// The value found.
        value: String,
        /// The accepted values.
        expected: String,
    },
    /// A coordinate that is NaN or infinite, or a result too large for an `f64`.
    NonFinite(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidParameter { field, value, expected } => {
                write!(f, "`{field}` is {value}, but {expected}")
            }
            Self::NonFinite(what) => write!(f, "{what} is not finite"),
        }
    }
}

impl std::error::Error for Error {}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
