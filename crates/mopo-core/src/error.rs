//! The error type of this crate.

/// Errors of the mathematics. Broken shape contracts panic; everything that a user can cause is
/// returned as one of these.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that is not among the objectives.
    #[error("unknown objective `{name}`; the objectives here are: {known}")]
    UnknownObjective {
        /// The unknown name.
        name: String,
        /// The names that exist, joined with commas.
        known: String,
    },
    /// An invalid list of objectives.
    #[error("invalid list of objectives: {0}")]
    InvalidObjectives(String),
    /// An indicator outside [0, 1], or NaN.
    #[error("an indicator must lie in [0, 1] (1: first preferred, 0: second, 0.5: tie), got {0}")]
    InvalidIndicator(f64),
    /// A hyper-parameter out of range.
    #[error("`{field}` is {value}, but {expected}")]
    InvalidParameter {
        /// The field of the configuration.
        field: &'static str,
        /// The value found.
        value: String,
        /// The accepted values.
        expected: String,
    },
    /// Thresholds that no policy can meet.
    #[error(
        "the threshold {threshold} of objective {objective_idx} is out of reach: the best that any \
         policy attains{} is {attainable}; lower it to that or less",
        together(given)
    )]
    Infeasible {
        /// Index of the objective.
        objective_idx: usize,
        /// The threshold.
        threshold: f64,
        /// Its largest value that a policy can attain.
        attainable: f64,
        /// Objectives whose thresholds are met at that value; empty if none has to be.
        given: Vec<usize>,
    },
    /// An error in one of several contexts.
    #[error("context {context}: {source}")]
    InContext {
        /// Its index.
        context: usize,
        /// The error.
        source: Box<Error>,
    },
    /// An iteration that did not converge.
    #[error("{what} did not converge: residual {residual:e} after {iterations} iterations")]
    NotConverged {
        /// What was being solved.
        what: &'static str,
        /// The remaining residual.
        residual: f64,
        /// Number of iterations.
        iterations: usize,
    },
    /// NaN or infinity where a number is needed.
    #[error("{0} is not finite")]
    NonFinite(String),
    /// Points that cannot be compared.
    #[error(transparent)]
    Pareto(#[from] mopo_pareto::Error),
}

fn together(given: &[usize]) -> String {
    if given.is_empty() {
        return String::new();
    }
    let names: Vec<String> = given.iter().map(usize::to_string).collect();
    format!(" with the thresholds of objectives {} met", names.join(", "))
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
