//! The store of past keys and values, and attention to it, for generation: written in place. A query's result does not
//! depend on what else is in the batch: an answer's token is computed by itself, and those of a prompt in tiles that
//! meet keys in whole blocks of a fixed size, as products that do not depend on the number of their lines.

use std::cell::RefCell;

use burn::tensor::TensorMetadata;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::attention::Scores;
use super::math::{exp, largest, sum, tanh};
use super::product::{Threads, multiply_finely};
use super::view::{MatMut, MatRef};
use super::{T, contiguous, new, values, vectorised};
use crate::{Heads, PagedRow};

pub(super) fn write(mut store: T, tokens: T, at: &[(usize, usize)]) -> T {
    let [_, size, d] = store.shape().dims();
    let tokens = contiguous(tokens);
    if store.as_slice::<f32>().is_none_or(|s| s.len() != store.storage::<f32>().len()) {
        store = store.to_contiguous();
    }
    // Copies only if the store is shared.
    let data = store.storage_mut::<f32>();
    for (token, (block, place)) in values(&tokens).chunks_exact(d).zip(at) {
        assert!(*place < size, "place {place} of a block of {size}");
        let start = (block * size + place) * d;
        data[start..start + d].copy_from_slice(token);
    }
    store
}

/// Features that a task of a query reads of each key: those of several heads stand side by side, and memory is
/// awaited less than with one.
const FEATURES: usize = 256;

/// Some heads of one query.
struct Query<'a> {
    /// `[heads, dim]`.
    query: &'a [f32],
    /// From the first head's first feature on.
    keys: &'a [f32],
    values: &'a [f32],
    /// Where the store has the positions that are seen: the first token of a run, and how many.
    runs: &'a [(usize, usize)],
    width: usize,
    heads: &'a Heads,
    dim: usize,
    n_positions: usize,
    /// `[heads, dim]`.
    out: &'a mut [f32],
}

impl Query<'_> {
    /// Where the store has each position's first feature.
    fn places(&self) -> impl Iterator<Item = usize> + use<'_> {
        let tokens = self.runs.iter().flat_map(|(start, n)| *start..start + n);
        tokens.map(|token| token * self.width)
    }
}

impl WithSimd for Query<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (dim, group) = (self.dim, self.heads.group());
        let scale = self.heads.scale(dim);
        let seen = self.n_positions;
        let mut weights = vec![0f32; self.query.len() / dim * seen];
        for (t, place) in self.places().enumerate() {
            for (h, query) in self.query.chunks_exact(dim).enumerate() {
                let key = &self.keys[place + h / group * dim..][..dim];
                weights[h * seen + t] = dot(simd, query, key) * scale;
            }
        }
        for weights in weights.chunks_exact_mut(seen) {
            if let Some(cap) = self.heads.soft_cap {
                weights.iter_mut().for_each(|weight| *weight = cap * tanh(*weight / cap));
            }
            let top = largest(weights);
            for weight in weights.iter_mut() {
                *weight = exp(*weight - top);
            }
            let factor = 1.0 / sum(seen, |i| weights[i]);
            weights.iter_mut().for_each(|weight| *weight *= factor);
        }
        let places: Vec<usize> = self.places().collect();
        self.out.fill(0.0);
        for (t, place) in places.into_iter().enumerate() {
            for (h, out) in self.out.chunks_exact_mut(dim).enumerate() {
                let value = &self.values[place + h / group * dim..][..dim];
                add(simd, out, weights[h * seen + t], value);
            }
        }
    }
}

/// The scalar product of two lines of the same length.
#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut total = simd.splat_f32s(0.0);
    for (a, b) in a.iter().zip(b) {
        total = simd.mul_add_f32s(*a, *b, total);
    }
    let mut total = simd.reduce_sum_f32s(total);
    for (a, b) in a_rest.iter().zip(b_rest) {
        total = a.mul_add(*b, total);
    }
    total
}

/// `to += weight · from`.
#[inline(always)]
fn add<S: Simd>(simd: S, to: &mut [f32], weight: f32, from: &[f32]) {
    let ((to, to_rest), (from, from_rest)) = (S::as_mut_simd_f32s(to), S::as_simd_f32s(from));
    let all = simd.splat_f32s(weight);
    for (to, from) in to.iter_mut().zip(from) {
        *to = simd.mul_add_f32s(all, *from, *to);
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = weight.mul_add(*from, *to);
    }
}

/// The runs of a query that sees positions `from..to`, for blocks of `size` tokens.
fn runs(row: &PagedRow, from: usize, to: usize, size: usize) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = vec![];
    let mut position = from;
    while position < to {
        let (block, place) = row.place(position, size);
        let n = (size - place).min(to - position);
        let start = block * size + place;
        match runs.last_mut() {
            // Blocks that follow each other in the store, too.
            Some((first, len)) if *first + *len == start => *len += n,
            _ => runs.push((start, n)),
        }
        position += n;
    }
    runs
}

/// Queries of a prompt per tile, and keys that they meet at a time.
const TILE: usize = 32;
const KEYS: usize = 64;

thread_local! {
    /// Queries, keys or values, weights and results of a tile.
    static SCRATCH: RefCell<[Vec<f32>; 4]> = const { RefCell::new([const { vec![] }; 4]) };
}

/// Some queries of a prompt's part and one head of keys, with all heads of queries that share it.
struct Tile<'a> {
    row: &'a PagedRow,
    /// Index of the first query in the row, and how many there are.
    first: usize,
    n: usize,
    /// Index of the first query in the batch.
    token: usize,
    head: usize,
}

/// Keys and values of all blocks, each `[tokens, width]`.
struct Stores<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    size: usize,
    width: usize,
}

impl Stores<'_> {
    /// One head of positions `from..to` of a row, `[KEYS, dim]`, zeros after them.
    fn copy(
        &self,
        store: &[f32],
        row: &PagedRow,
        [from, to]: [usize; 2],
        head: usize,
        out: &mut [f32],
    ) {
        let dim = out.len() / KEYS;
        for (position, line) in (from..to).zip(out.chunks_exact_mut(dim)) {
            let (block, place) = row.place(position, self.size);
            let start = (block * self.size + place) * self.width + head * dim;
            line.copy_from_slice(&store[start..start + dim]);
        }
        out[(to - from) * dim..].fill(0.0);
    }
}

impl Tile<'_> {
    /// Computes the tile; `q` are all queries. Writes `[group][n][dim]` to `out`.
    fn run(&self, q: &[f32], stores: &Stores<'_>, dim: usize, heads: &Heads, out: &mut Vec<f32>) {
        let (group, n) = (heads.group(), self.n);
        // One line is not multiplied by the same kernel as several.
        let lines = (group * n).max(2);
        let (seen, window) = (self.row.seen(self.first), heads.window.unwrap_or(usize::MAX));
        let end = seen + n - 1;
        // The first block that any query sees; the others are in whole blocks from there.
        let begin = (seen - seen.min(window)) / KEYS * KEYS;
        let columns = (end - begin).next_multiple_of(KEYS);
        SCRATCH.with_borrow_mut(|[queries, block, weights, result]| {
            queries.clear();
            for head in self.head * group..(self.head + 1) * group {
                for token in self.token..self.token + n {
                    let start = (token * heads.queries + head) * dim;
                    queries.extend_from_slice(&q[start..start + dim]);
                }
            }
            queries.resize(lines * dim, 0.0);
            block.resize(KEYS * dim, 0.0);
            weights.clear();
            weights.resize(lines * columns, 0.0);
            result.clear();
            result.resize(lines * dim, 0.0);
            let queries = MatRef::by_rows(queries, lines, dim, dim);
            let blocks = || (begin..end).step_by(KEYS).map(|from| [from, (from + KEYS).min(end)]);
            for part in blocks() {
                stores.copy(stores.keys, self.row, part, self.head, block);
                let keys = MatRef::by_rows(block, KEYS, dim, dim).transpose();
                let to = MatMut::by_rows(weights, lines, columns);
                let at = part[0] - begin;
                let to = to.take_columns(at..at + KEYS);
                multiply_finely(to, false, queries, keys, 1.0, Threads::One);
            }
            for lines in weights.chunks_exact_mut(n * columns).take(group) {
                vectorised(Scores {
                    scores: lines,
                    keys: columns,
                    seen: seen - begin,
                    scale: heads.scale(dim),
                    window,
                    soft_cap: heads.soft_cap,
                });
            }
            for part in blocks() {
                stores.copy(stores.values, self.row, part, self.head, block);
                let at = part[0] - begin;
                let weights = MatRef::by_rows(weights, lines, columns, columns);
                let weights = weights.take_columns(at..at + KEYS);
                let values = MatRef::by_rows(block, KEYS, dim, dim);
                let to = MatMut::by_rows(result, lines, dim);
                multiply_finely(to, true, weights, values, 1.0, Threads::One);
            }
            out.extend_from_slice(&result[..group * n * dim]);
        });
    }
}

pub(super) fn attention(q: T, keys: &T, stored: &T, rows: &[PagedRow], heads: &Heads) -> T {
    let [_, size, width] = keys.shape().dims();
    let [n, q_width] = q.shape().dims();
    let dim = heads.dim(q_width);
    let (q, keys, stored) = (contiguous(q), contiguous(keys.clone()), contiguous(stored.clone()));
    let (q, stores) =
        (values(&q), Stores { keys: values(&keys), values: values(&stored), size, width });
    let used: usize = rows.iter().map(|row| row.queries).sum();
    assert!(used <= n, "{used} queries in {n} tokens");
    let mut out = vec![0f32; n * q_width];

    let (mut singles, mut tiles, mut token) = (vec![], vec![], 0);
    for row in rows {
        for first in (0..row.queries).step_by(TILE).filter(|_| row.is_prompt) {
            let n = TILE.min(row.queries - first);
            let of = |head| Tile { row, first, n, token: token + first, head };
            tiles.extend((0..heads.keys).map(of));
        }
        for query in (0..row.queries).filter(|_| !row.is_prompt) {
            let seen = row.seen(query);
            let from = seen - seen.min(heads.window.unwrap_or(usize::MAX));
            singles.push((token + query, seen - from, runs(row, from, seen, size)));
        }
        token += row.queries;
    }

    // [tile][group][n][dim]
    let found: Vec<Vec<f32>> = tiles
        .par_iter()
        .map(|tile| {
            let mut found = Vec::with_capacity(heads.group() * tile.n * dim);
            tile.run(q, &stores, dim, heads, &mut found);
            found
        })
        .collect();
    for (tile, found) in tiles.iter().zip(found) {
        for (i, line) in found.chunks_exact(dim).enumerate() {
            let (head, token) = (tile.head * heads.group() + i / tile.n, tile.token + i % tile.n);
            let start = (token * heads.queries + head) * dim;
            out[start..start + dim].copy_from_slice(line);
        }
    }

    // Of each query as many heads per task as have that many features in a key.
    let part = FEATURES.div_ceil(dim).min(heads.keys) * heads.group() * dim;
    let mut tasks = vec![];
    let mut of_query = singles.iter().peekable();
    for (token, line) in out.chunks_exact_mut(q_width).enumerate() {
        if let Some(single) = of_query.next_if(|single| single.0 == token) {
            let parts = line.chunks_mut(part).enumerate();
            tasks.extend(parts.map(|(i, out)| (single, i * part, out)));
        }
    }
    tasks.into_par_iter().for_each(|((token, seen, runs), from, out)| {
        let of_keys = from / heads.group();
        pulp::Arch::new().dispatch(Query {
            query: &q[token * q_width + from..][..out.len()],
            keys: &stores.keys[of_keys..],
            values: &stores.values[of_keys..],
            runs,
            width,
            heads,
            dim,
            n_positions: *seen,
            out,
        });
    });
    new(out, [n, q_width])
}
