//! Progress reporting. The program draws bars; tests ignore it.

/// A watcher.
pub trait Progress {
    /// A phase of `total` steps begins, of which `done` are done already.
    fn begin(&mut self, phase: &str, done: usize, total: usize);
    /// One step is done; `message` holds a few figures.
    fn advance(&mut self, message: &str);
    /// The phase is over.
    fn end(&mut self, message: &str);
    /// Something worth a line of its own.
    fn note(&mut self, text: &str);
}

/// Tells nobody.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str, _: usize, _: usize) {}
    fn advance(&mut self, _: &str) {}
    fn end(&mut self, _: &str) {}
    fn note(&mut self, _: &str) {}
}
