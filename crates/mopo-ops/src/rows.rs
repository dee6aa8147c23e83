//! Which tokens of a batch belong together: rows of a prompt and up to two responses that do not
//! see each other, one behind the other without padding.

/// One row: a prompt and two responses, either of which may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedRow {
    /// Index of the row's first token in the batch.
    pub start: usize,
    /// Tokens of the prompt; both responses see it.
    pub prompt: usize,
    /// Tokens of the first response.
    pub first: usize,
    /// Tokens of the second response; it does not see the first.
    pub second: usize,
}

/// A run of queries and the keys that they see: a prefix as a whole, then their own run causally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First token of the prefix, counted from the row's start.
    pub prefix_start: usize,
    /// Tokens of the prefix.
    pub prefix: usize,
    /// First token of the run, counted from the row's start.
    pub start: usize,
    /// Tokens of the run.
    pub len: usize,
}

/// The rows of a batch, in order and without gaps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackedRows {
    rows: Vec<PackedRow>,
    n_tokens: usize,
}

impl PackedRow {
    /// Tokens of the row.
    pub fn len(&self) -> usize {
        self.prompt + self.first + self.second
    }

    /// Whether the row has no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row as causal runs: prompt and first response are one, the second response another.
    pub fn pieces(&self) -> [Piece; 2] {
        let joined = self.prompt + self.first;
        [
            Piece { prefix_start: 0, prefix: 0, start: 0, len: joined },
            Piece { prefix_start: 0, prefix: self.prompt, start: joined, len: self.second },
        ]
    }

    /// Whether the query at `query` sees the key at `key`, both counted from the row's start.
    pub fn sees(&self, query: usize, key: usize) -> bool {
        let second = self.prompt + self.first;
        key <= query && (query < second || key < self.prompt || key >= second)
    }
}

impl PackedRows {
    /// Rows of the given lengths (prompt, first, second), one behind the other.
    pub fn new(lengths: impl IntoIterator<Item = [usize; 3]>) -> Self {
        let mut this = Self::default();
        for [prompt, first, second] in lengths {
            let row = PackedRow { start: this.n_tokens, prompt, first, second };
            this.n_tokens += row.len();
            this.rows.push(row);
        }
        this
    }

    /// The rows.
    pub fn rows(&self) -> &[PackedRow] {
        &self.rows
    }

    /// Tokens of all rows.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Pairs of a query and a key that see each other: the work of attention.
    pub fn n_scores(&self) -> usize {
        let triangle = |n: usize| n * (n + 1) / 2;
        let row =
            |r: &PackedRow| triangle(r.prompt + r.first) + r.second * r.prompt + triangle(r.second);
        self.rows.iter().map(row).sum()
    }
}
