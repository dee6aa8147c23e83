//! Which positions of a paged cache the queries of a batch see.

/// New tokens of one sequence, and where its keys and values are: in blocks of a store, one after the other, the
/// last one partly filled.
///
/// Query `j` of the row, counted from 0, sees the first `len - queries + 1 + j` positions: the past, the new tokens before it,
/// and itself.
///
/// ```
/// use mopo_ops::PagedRow;
///
/// // A sequence of 5 tokens, 2 of them new, in blocks 7 and 2 of four tokens each.
/// let row = PagedRow { queries: 2, len: 5, blocks: vec![7, 2], is_prompt: true };
/// assert_eq!((row.seen(0), row.seen(1)), (4, 5));
/// assert_eq!(row.place(4, 4), (2, 0)); // the last token is the first of block 2
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagedRow {
    /// Number of new tokens.
    pub queries: usize,
    /// Length of the sequence in tokens, the new ones included.
    pub len: usize,
    /// The blocks of the sequence, in order; at least as many as its length needs.
    pub blocks: Vec<u32>,
    /// Whether the new tokens are a part of a prompt: they are then computed by a kernel for many queries. A query's
    /// bits do not depend on how a prompt is cut into parts, but may differ by rounding from those of an answer's token.
    pub is_prompt: bool,
}

impl PagedRow {
    /// How many positions a query sees.
    pub fn seen(&self, query: usize) -> usize {
        self.len - self.queries + 1 + query
    }

    /// The block of a position and the place in it, for blocks of `size` tokens.
    pub fn place(&self, position: usize, size: usize) -> (usize, usize) {
        (self.blocks[position / size] as usize, position % size)
    }

    /// The places of the new tokens.
    pub fn new_places(&self, size: usize) -> impl Iterator<Item = (usize, usize)> {
        (self.len - self.queries..self.len).map(move |position| self.place(position, size))
    }
}
