//! Random inputs for the readers of MOPO: targets, what makes inputs of their seeds, and the processes that run them.
//!
//! A [`Target`] calls a reader as the program does, with the bytes of one file (or request). An input follows from
//! target, seed and number alone ([`Target::input`]), so whatever was found can be repeated. Nothing here looks for
//! inputs by coverage.
#![doc = include_str!("../README.md")]

mod campaign;
mod mutate;
mod page;
mod place;
mod targets;
mod watch;
mod worker;

pub use campaign::{Amount, Campaign, Found, Report, TargetReport};
pub use mutate::Form;
pub use page::page;
pub use place::Place;
pub use targets::targets;
pub use worker::{Inputs, Work, read_one, run_worker};

/// Memory that a target may take, in bytes.
pub const MEMORY: usize = 1 << 30;
/// Seconds that an input may take.
pub const SECONDS: u64 = 10;

/// What a reader made of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was read.
    Accepted,
    /// It was refused with an error.
    Refused,
    /// Something else is wrong, such as a configuration that differs after it was written and read.
    Wrong(String),
}

impl<T, E> From<Result<T, E>> for Outcome {
    fn from(result: Result<T, E>) -> Self {
        if result.is_ok() { Self::Accepted } else { Self::Refused }
    }
}

/// Reads one input.
pub type Runner = Box<dyn FnMut(&[u8]) -> Outcome>;

/// Makes valid inputs.
pub type Seeds = fn() -> Vec<Vec<u8>>;

/// Makes what runs inputs, whose files are in a folder.
pub type Start = fn(&Place) -> Runner;

/// A reader.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it reads.
    pub reads: &'static str,
    /// How inputs are made.
    pub form: Form,
    /// Words of its format, for the inputs.
    pub words: &'static [&'static str],
    /// Valid inputs.
    pub seeds: Seeds,
    /// Makes what runs inputs, whose files are in a folder.
    pub start: Start,
    /// About how many thousand inputs per second and core; the shares of a number of inputs follow from it.
    pub rate: f64,
}

impl Target {
    /// The input with this number.
    pub fn input(&self, seeds: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
        mutate::input(self.form, seeds, self.words, self.name, seed, number)
    }
}

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    targets().into_iter().find(|target| target.name == name)
}
