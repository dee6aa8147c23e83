//! The one error type of this crate.

/// What can go wrong in the mathematics. Shape contracts panic; everything that a user can cause
/// comes back as one of these.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
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
    /// Thresholds that no policy can meet.
    #[error(
        "the threshold {threshold} of objective {objective_idx} is out of reach: the best that any \
         policy attains{} is {attainable}; lower it to that or less",
        together(given)
    )]
    Infeasible {
        /// Index of the objective.
        objective_idx: usize,
        /// What was asked.
        threshold: f64,
        /// The largest value of it that a policy can have.
        attainable: f64,
        /// Objectives whose thresholds are met at that; empty: none needs to be.
        given: Vec<usize>,
    },
    /// An error that belongs to one context of several.
    #[error("context {context}: {source}")]
    InContext {
        /// Its index.
        context: usize,
        /// What is wrong there.
        source: Box<Error>,
    },
    /// An iteration that ended short of its goal.
    #[error("{what} did not converge: residual {residual:e} after {iterations} iterations")]
    NotConverged {
        /// What was solved.
        what: &'static str,
        /// What is left.
        residual: f64,
        /// How many there were.
        iterations: usize,
    },
    /// A value that is NaN or infinite where the mathematics needs a number.
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
