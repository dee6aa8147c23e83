//! Progress reporting. Libraries report; the program draws bars.

/// Unit of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Steps, batches or rows.
    Steps,
    /// Bytes of a file.
    Bytes,
}

/// Receives progress. By default each method does nothing.
#[allow(unused_variables)] // the names are the documentation
pub trait Progress {
    /// A phase of `total` units begins, of which `done` are done already. An interrupted phase
    /// begins again, for instance a download after a lost connection.
    fn begin(&mut self, phase: &str, done: u64, total: u64, unit: Unit) {}
    /// `n` more units are done; `message` contains a few figures.
    fn advance(&mut self, n: u64, message: &str) {}
    /// The phase is over.
    fn end(&mut self, message: &str) {}
    /// A message that deserves its own line.
    fn note(&mut self, text: &str) {}
}

/// Reports nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {}
