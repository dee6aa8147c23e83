//! The heads of an attention, and what their scores go through.

use crate::PackedRow;

/// The heads of an attention: how many, and what their scores go through before the softmax.
///
/// Heads stand side by side in the features. With fewer heads of keys and values than of queries (grouped-query
/// attention), each serves as many heads of queries as it takes, one group after the other.
///
/// ```
/// use mopo_ops::Heads;
///
/// // Llama 3.2 1B: 32 heads of queries share 8 of keys and values.
/// let heads = Heads { keys: 8, ..Heads::new(32) };
/// assert_eq!(heads.group(), 4);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Heads of queries.
    pub queries: usize,
    /// Heads of keys and of values; divides that of queries.
    pub keys: usize,
    /// What scores are multiplied with; 1/√(features of a head) if it is absent.
    pub scale: Option<f32>,
    /// How many of the last keys a query sees, its own included; all if it is absent. Not for rows with separate
    /// keys.
    pub window: Option<usize>,
    /// Scores become `cap · tanh(score / cap)`, as in Gemma 2.
    pub soft_cap: Option<f32>,
}

impl Heads {
    /// As many of keys as of queries; scores are only scaled.
    pub fn new(n: usize) -> Self {
        Self { queries: n, keys: n, scale: None, window: None, soft_cap: None }
    }

    /// How many heads of queries share one of keys.
    pub fn group(&self) -> usize {
        self.queries / self.keys
    }

    /// What scores are multiplied with, for heads of `dim` features.
    pub(crate) fn scale(&self, dim: usize) -> f32 {
        self.scale.unwrap_or_else(|| (dim as f32).powf(-0.5))
    }

    /// Whether a query of `row` sees a key, both counted as in [`PackedRow::sees`].
    pub(crate) fn sees(&self, row: &PackedRow, query: usize, key: usize) -> bool {
        let near = |window| row.position(query) - row.position(key) < window;
        row.sees(query, key) && self.window.is_none_or(near)
    }

    /// The features of one head of `width` features of queries.
    ///
    /// # Panics
    /// If heads and features do not fit each other.
    pub(crate) fn dim(&self, width: usize) -> usize {
        assert!(
            self.keys > 0 && self.queries.is_multiple_of(self.keys),
            "{} heads of queries for {} of keys",
            self.queries,
            self.keys
        );
        assert!(width.is_multiple_of(self.queries), "{width} features in {} heads", self.queries);
        width / self.queries
    }
}
