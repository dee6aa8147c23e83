//! Progress reporting. Libraries report; the program draws bars from it.

/// What progress is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Steps, batches or rows.
    Steps,
    /// Bytes of a file.
    Bytes,
}

/// A receiver of progress. By default each method does nothing.
#[allow(unused_variables)] // the names are the documentation
pub trait Progress {
    /// A phase of `total` units begins, of which `done` are done already. The same phase begins again
    /// where it was interrupted, a download after a lost connection for instance.
    fn begin(&mut self, phase: &str, done: u64, total: u64, unit: Unit) {}
    /// Another `n` units are done; `message` holds a few figures.
    fn advance(&mut self, n: u64, message: &str) {}
    /// The phase is over.
    fn end(&mut self, message: &str) {}
    /// Something worth a line of its own.
    fn note(&mut self, text: &str) {}
}

/// Reports nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {}
