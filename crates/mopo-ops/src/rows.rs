//! Which tokens of a batch see each other: rows of a prompt and up to two responses that do not see
//! each other, or rows that see a whole run of keys; one after the other, without padding.

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
    /// The keys of the row, if every token sees all of them. Otherwise the row's own tokens are the
    /// keys, and a token sees none after itself.
    pub keys: Option<KeyRun>,
}

/// A run of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRun {
    /// Index of its first token in the batch of keys.
    pub start: usize,
    /// Its length in tokens.
    pub len: usize,
}

/// A run of queries and the keys that they see: a whole prefix, and then, unless the row has
/// separate keys ([`PackedRow::keys`]), their own run causally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First token of the prefix, counted from where the row's keys start.
    pub prefix_start: usize,
    /// Tokens of the prefix.
    pub prefix: usize,
    /// First token of the run, counted from the row's start.
    pub start: usize,
    /// Tokens of the run.
    pub len: usize,
    /// Whether the run's own tokens are keys.
    pub causal: bool,
}

/// The rows of a batch, in order and without gaps.
///
/// ```
/// use mopo_ops::PackedRows;
///
/// // A prompt of 2 tokens with responses of 2 and 1, then a prompt of 3 alone.
/// let rows = PackedRows::new([[2, 2, 1], [3, 0, 0]]);
/// assert_eq!((rows.n_tokens(), rows.rows()[1].start), (8, 5));
/// let pair = rows.rows()[0];
/// assert!(pair.sees(4, 1) && !pair.sees(4, 3)); // the second response sees the prompt, not the first one
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackedRows {
    rows: Vec<PackedRow>,
    n_tokens: usize,
    n_keys: usize,
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

    /// The run of keys that the row's tokens may see.
    pub fn key_run(&self) -> KeyRun {
        self.keys.unwrap_or(KeyRun { start: self.start, len: self.len() })
    }

    /// The row as runs: prompt and first response form one, the second response another. A row with
    /// separate keys is a single run.
    pub fn pieces(&self) -> [Piece; 2] {
        let joined = self.prompt + self.first;
        let (prefix, causal) = self.keys.map_or((0, true), |keys| (keys.len, false));
        [
            Piece { prefix_start: 0, prefix, start: 0, len: joined, causal },
            Piece { prefix_start: 0, prefix: self.prompt, start: joined, len: self.second, causal },
        ]
    }

    /// The position of a token in its sequence, which is the prompt and one response; `token` is counted from
    /// where the row starts.
    pub fn position(&self, token: usize) -> usize {
        let joined = self.prompt + self.first;
        if token < joined { token } else { token - self.first }
    }

    /// Whether the query at `query` sees the key at `key`, counted from where the row and its keys
    /// start.
    pub fn sees(&self, query: usize, key: usize) -> bool {
        if let Some(keys) = self.keys {
            return key < keys.len;
        }
        let second = self.prompt + self.first;
        key <= query && (query < second || key < self.prompt || key >= second)
    }
}

impl PackedRows {
    /// Rows of the given lengths (prompt, first, second), one behind the other.
    pub fn new(lengths: impl IntoIterator<Item = [usize; 3]>) -> Self {
        let mut this = Self::default();
        for [prompt, first, second] in lengths {
            let row = PackedRow { start: this.n_tokens, prompt, first, second, keys: None };
            this.n_tokens += row.len();
            this.rows.push(row);
        }
        this.n_keys = this.n_tokens;
        this
    }

    /// Rows of the given lengths whose tokens see the whole of their row, in both directions.
    pub fn bidirectional(lengths: impl IntoIterator<Item = usize>) -> Self {
        Self::across(lengths.into_iter().map(|n| [n, n]))
    }

    /// Rows of the given numbers of queries and keys, each query seeing all keys of its row: queries
    /// in one batch, keys in another, both in this order and without gaps.
    pub fn across(lengths: impl IntoIterator<Item = [usize; 2]>) -> Self {
        let mut this = Self::default();
        for [queries, keys] in lengths {
            let run = KeyRun { start: this.n_keys, len: keys };
            let start = this.n_tokens;
            this.rows.push(PackedRow {
                start,
                prompt: queries,
                first: 0,
                second: 0,
                keys: Some(run),
            });
            this.n_tokens += queries;
            this.n_keys += keys;
        }
        this
    }

    /// The rows.
    pub fn rows(&self) -> &[PackedRow] {
        &self.rows
    }

    /// Number of tokens in all rows.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Number of keys of all rows.
    pub fn n_keys(&self) -> usize {
        self.n_keys
    }

    /// Number of pairs of a query and a key that see each other: the work of attention.
    pub fn n_scores(&self) -> usize {
        let triangle = |n: usize| n * (n + 1) / 2;
        let row = |r: &PackedRow| match r.keys {
            Some(keys) => r.len() * keys.len,
            None => triangle(r.prompt + r.first) + r.second * r.prompt + triangle(r.second),
        };
        self.rows.iter().map(row).sum()
    }
}
