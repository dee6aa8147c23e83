//! Attention of packed rows: a task is one head of one row and processes its queries in tiles. Only
//! scores inside the mask are computed, up to the corner of a tile; they stay in cache.

use std::cell::RefCell;

use burn::tensor::TensorMetadata;
use rayon::prelude::*;

use super::math::{exp, largest, sum, tanh};
use super::product::{Threads, multiply_finely};
use super::view::{MatMut, MatRef};
use super::{Kernel, T, contiguous, new, values, vectorised};
use crate::{Heads, PackedRow, PackedRows, Piece};

/// Queries per tile.
const TILE: usize = 64;

thread_local! {
    /// Weights of a tile, gradients of scores, and products for the soft cap.
    static SCRATCH: RefCell<[Vec<f32>; 3]> = const { RefCell::new([vec![], vec![], vec![]]) };
}

/// Queries `from..to` of a piece (counted from the row's start), which see the piece's prefix and,
/// if it is causal, its own tokens up to themselves.
#[derive(Clone, Copy)]
struct Tile {
    piece: Piece,
    from: usize,
    to: usize,
}

impl Tile {
    fn n(&self) -> usize {
        self.to - self.from
    }

    /// Own keys that any query of the tile sees.
    fn own(&self) -> usize {
        if self.piece.causal { self.to - self.piece.start } else { 0 }
    }

    fn keys(&self) -> usize {
        self.piece.prefix + self.own()
    }
}

fn tiles(row: &PackedRow) -> impl Iterator<Item = Tile> {
    row.pieces().into_iter().flat_map(|piece| {
        let end = piece.start + piece.len;
        (piece.start..end).step_by(TILE).map(move |from| Tile {
            piece,
            from,
            to: (from + TILE).min(end),
        })
    })
}

/// `[len, dim]` of one head of one row.
#[derive(Clone, Copy)]
struct Head<'a> {
    data: &'a [f32],
    width: usize,
    dim: usize,
}

impl<'a> Head<'a> {
    /// `start`: the row's first token.
    fn new(data: &'a [f32], start: usize, head: usize, width: usize, dim: usize) -> Self {
        Self { data: &data[(start * width + head * dim).min(data.len())..], width, dim }
    }

    fn tokens(&self, from: usize, n: usize) -> MatRef<'a> {
        MatRef::by_rows(
            &self.data[(from * self.width).min(self.data.len())..],
            n,
            self.dim,
            self.width,
        )
    }
}

/// Scores of queries, which become weights.
pub(super) struct Scores<'a> {
    /// `[queries, keys]`, not yet scaled.
    pub(super) scores: &'a mut [f32],
    pub(super) keys: usize,
    /// Keys that the first query sees; each further query sees one more.
    pub(super) seen: usize,
    pub(super) scale: f32,
    pub(super) window: usize,
    pub(super) soft_cap: Option<f32>,
}

impl Kernel for Scores<'_> {
    /// Softmax of every line; masked weights become 0.
    #[inline(always)]
    fn run(self) {
        let Scores { scores, keys, seen, mut scale, window, soft_cap } = self;
        if let Some(cap) = soft_cap {
            scores.iter_mut().for_each(|x| *x = cap * tanh(*x * scale / cap));
            scale = 1.0;
        }
        for (i, line) in scores.chunks_exact_mut(keys).enumerate() {
            let (line, hidden) = line.split_at_mut((seen + i).min(keys));
            hidden.fill(0.0);
            let (far, line) = line.split_at_mut((seen + i).min(keys).saturating_sub(window));
            far.fill(0.0);
            let top = largest(line);
            for x in line.iter_mut() {
                *x = exp((*x - top) * scale);
            }
            let total = sum(line.len(), |j| line[j]);
            let factor = 1.0 / total;
            for x in line.iter_mut() {
                *x *= factor;
            }
        }
    }
}

/// Multiplies gradients of capped scores with the slope of the cap.
struct Uncap<'a> {
    /// Products of queries and keys.
    raw: &'a [f32],
    grad: &'a mut [f32],
    scale: f32,
    cap: f32,
}

impl Kernel for Uncap<'_> {
    #[inline(always)]
    fn run(self) {
        let Uncap { raw, grad, scale, cap } = self;
        for (x, grad) in raw.iter().zip(grad) {
            let part = tanh(*x * scale / cap);
            *grad *= 1.0 - part * part;
        }
    }
}

struct Gradients<'a> {
    weights: &'a [f32],
    /// Gradient of the weights; becomes that of the scores.
    grad: &'a mut [f32],
    keys: usize,
    scale: f32,
}

impl Kernel for Gradients<'_> {
    #[inline(always)]
    fn run(self) {
        let Gradients { weights, grad, keys, scale } = self;
        for (p, d) in weights.chunks_exact(keys).zip(grad.chunks_exact_mut(keys)) {
            let along = sum(keys, |j| p[j] * d[j]);
            for (d, p) in d.iter_mut().zip(p) {
                *d = p * (*d - along) * scale;
            }
        }
    }
}

/// `to[:, prefix] = x · prefixᵀ` and `to[:, own] = x · ownᵀ`.
fn against_keys(to: MatMut<'_>, x: MatRef<'_>, keys: &Head<'_>, tile: &Tile) {
    let Piece { prefix_start, prefix, start, .. } = tile.piece;
    let (left, right) = to.split_at_column(prefix);
    if prefix > 0 {
        let keys = keys.tokens(prefix_start, prefix);
        multiply_finely(left, false, x, keys.transpose(), 1.0, Threads::One);
    }
    if tile.own() > 0 {
        multiply_finely(
            right,
            false,
            x,
            keys.tokens(start, tile.own()).transpose(),
            1.0,
            Threads::One,
        );
    }
}

/// `to (+)= s[:, prefix] · prefix + s[:, own] · own`.
fn times_values(to: MatMut<'_>, add: bool, s: MatRef<'_>, v: &Head<'_>, tile: &Tile) {
    let Piece { prefix_start, prefix, start, .. } = tile.piece;
    let mut to = to;
    let (left, right) = s.split_at_column(prefix);
    if prefix > 0 {
        let values = v.tokens(prefix_start, prefix);
        multiply_finely(to.reborrow(), add, left, values, 1.0, Threads::One);
    }
    if tile.own() > 0 {
        multiply_finely(
            to,
            add || prefix > 0,
            right,
            v.tokens(start, tile.own()),
            1.0,
            Threads::One,
        );
    }
}

/// `to[prefix] += s[:, prefix]ᵀ · x` and `to[own] += s[:, own]ᵀ · x`; `to` is the whole row's.
fn onto_keys(to: MatMut<'_>, s: MatRef<'_>, x: MatRef<'_>, tile: &Tile) {
    let Piece { prefix_start, prefix, start, .. } = tile.piece;
    let mut to = to;
    let (left, right) = s.split_at_column(prefix);
    if prefix > 0 {
        let to = to.reborrow().take_rows(prefix_start..prefix_start + prefix);
        multiply_finely(to, true, left.transpose(), x, 1.0, Threads::One);
    }
    if tile.own() > 0 {
        multiply_finely(
            to.take_rows(start..start + tile.own()),
            true,
            right.transpose(),
            x,
            1.0,
            Threads::One,
        );
    }
}

/// The part of `[n, width]` of each (row, head); the parts do not overlap. `lengths`: lengths of
/// the rows, with sum n.
fn parts(
    data: &mut [f32],
    lengths: impl Iterator<Item = usize>,
    n_heads: usize,
    width: usize,
) -> Vec<MatMut<'_>> {
    let dim = width / n_heads;
    let n = data.len() / width;
    let mut rest = MatMut::by_rows(data, n, width);
    let mut parts = vec![];
    for len in lengths {
        let (mut tokens, below) = rest.split_at_row(len);
        rest = below;
        for _ in 0..n_heads {
            let (head, right) = tokens.split_at_column(dim);
            parts.push(head);
            tokens = right;
        }
    }
    parts
}

/// The (row, head) of each part, for `n_heads` heads.
fn tasks(rows: &PackedRows, n_heads: usize) -> Vec<(PackedRow, usize)> {
    rows.rows().iter().flat_map(|row| (0..n_heads).map(move |head| (*row, head))).collect()
}

/// Runs `f` with three buffers of `n` numbers.
fn with_scratch<R>(n: usize, f: impl FnOnce([&mut [f32]; 3]) -> R) -> R {
    SCRATCH.with_borrow_mut(|buffers| {
        for buffer in buffers.iter_mut().filter(|buffer| buffer.len() < n) {
            buffer.resize(n, 0.0);
        }
        f(buffers.each_mut().map(|buffer| &mut buffer[..n]))
    })
}

/// Writes the attention weights (softmax) of a tile to `scores`.
fn attention_weights(scores: &mut [f32], q: MatRef<'_>, k: &Head<'_>, tile: &Tile, heads: &Heads) {
    let keys = tile.keys();
    let to = MatMut::by_rows(scores, tile.n(), keys);
    against_keys(to, q, k, tile);
    let seen = tile.piece.prefix + tile.from - tile.piece.start + 1;
    let (scale, soft_cap) = (heads.scale(q.columns()), heads.soft_cap);
    let window = heads.window.unwrap_or(usize::MAX);
    vectorised(Scores { scores, keys, seen, scale, window, soft_cap });
}

/// Features of a head of queries.
fn check(q: &T, k: &T, rows: &PackedRows, heads: &Heads) -> usize {
    let ([n, width], [n_keys, key_width]) = (q.shape().dims(), k.shape().dims());
    assert_eq!(n, rows.n_tokens(), "tokens of another batch");
    assert_eq!(n_keys, rows.n_keys(), "keys of another batch");
    let dim = heads.dim(width);
    assert_eq!(key_width, heads.keys * dim, "keys with other heads");
    assert!(
        heads.window.is_none() || rows.rows().iter().all(|row| row.keys.is_none()),
        "a window on separate keys"
    );
    dim
}

pub(super) fn forward(q: T, k: T, v: T, rows: &PackedRows, heads: &Heads) -> T {
    let (q, k, v) = (contiguous(q), contiguous(k), contiguous(v));
    let dim = check(&q, &k, rows, heads);
    let [n, width] = q.shape().dims();
    let mut out = vec![0f32; n * width];
    let parts = parts(&mut out, rows.rows().iter().map(PackedRow::len), heads.queries, width);
    let tasks = tasks(rows, heads.queries).into_par_iter().zip(parts);
    tasks.for_each(|((row, head), mut out)| {
        let of = |x, start, head, n| Head::new(x, start, head, n * dim, dim);
        let keys = |x| of(x, row.key_run().start, head / heads.group(), heads.keys);
        let q = of(values(&q), row.start, head, heads.queries);
        let (k, v) = (keys(values(&k)), keys(values(&v)));
        for tile in tiles(&row) {
            with_scratch(tile.n() * tile.keys(), |[scores, ..]| {
                attention_weights(scores, q.tokens(tile.from, tile.n()), &k, &tile, heads);
                let scores = MatRef::by_rows(scores, tile.n(), tile.keys(), tile.keys());
                let out = out.reborrow().take_rows(tile.from..tile.from + tile.n());
                times_values(out, false, scores, &v, &tile);
            });
        }
    });
    new(out, [n, width])
}

pub(super) fn backward(q: T, k: T, v: T, grad: T, rows: &PackedRows, heads: &Heads) -> [T; 3] {
    let (q, k, v, grad) = (contiguous(q), contiguous(k), contiguous(v), contiguous(grad));
    let dim = check(&q, &k, rows, heads);
    let ([n, width], [n_keys, key_width]) = (q.shape().dims(), k.shape().dims());
    let scale = heads.scale(dim);
    let mut dq = vec![0f32; n * width];
    let [mut dk, mut dv] = [(); 2].map(|()| vec![0f32; n_keys * key_width]);
    let queries = rows.rows().iter().map(PackedRow::len);
    let keys = || rows.rows().iter().map(|row| row.key_run().len);
    let mut query_parts = parts(&mut dq, queries, heads.queries, width);
    // A task is a head of keys with all heads of queries that share it.
    let outs = query_parts
        .par_chunks_mut(heads.group())
        .zip(parts(&mut dk, keys(), heads.keys, key_width))
        .zip(parts(&mut dv, keys(), heads.keys, key_width));
    let tasks = tasks(rows, heads.keys).into_par_iter().zip(outs);
    tasks.for_each(|((row, head), ((group, mut dk), mut dv))| {
        let of = |x, start, head, n| Head::new(x, start, head, n * dim, dim);
        let keys = |x| of(x, row.key_run().start, head, heads.keys);
        let (k, v) = (keys(values(&k)), keys(values(&v)));
        for (i, dq) in group.iter_mut().enumerate() {
            let head = head * heads.group() + i;
            let queries = |x| of(x, row.start, head, heads.queries);
            let (q, grad) = (queries(values(&q)), queries(values(&grad)));
            for tile in tiles(&row) {
                let (n, keys) = (tile.n(), tile.keys());
                with_scratch(n * keys, |[weights, scores, raw]| {
                    let (queries, g) = (q.tokens(tile.from, n), grad.tokens(tile.from, n));
                    attention_weights(weights, queries, &k, &tile, heads);
                    against_keys(MatMut::by_rows(scores, n, keys), g, &v, &tile);
                    let weights_of = MatRef::by_rows(weights, n, keys, keys);
                    onto_keys(dv.reborrow(), weights_of, g, &tile);
                    vectorised(Gradients { weights, grad: scores, keys, scale });
                    if let Some(cap) = heads.soft_cap {
                        against_keys(MatMut::by_rows(raw, n, keys), queries, &k, &tile);
                        vectorised(Uncap { raw, grad: scores, scale, cap });
                    }
                    let scores = MatRef::by_rows(scores, n, keys, keys);
                    let to = dq.reborrow().take_rows(tile.from..tile.from + n);
                    times_values(to, false, scores, &k, &tile);
                    onto_keys(dk.reborrow(), scores, queries, &tile);
                });
            }
        }
    });
    [new(dq, [n, width]), new(dk, [n_keys, key_width]), new(dv, [n_keys, key_width])]
}
