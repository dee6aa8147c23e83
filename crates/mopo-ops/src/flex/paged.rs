//! The store of past keys and values, and attention to it, for generation: written in place, read once. A query is
//! computed by itself, so that its result does not depend on what else is in the batch.

use burn::tensor::TensorMetadata;
use rayon::prelude::*;

use super::math::{exp, largest, sum, tanh};
use super::{Kernel, T, contiguous, new, values, vectorised};
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

/// A head of one query.
struct Query<'a> {
    query: &'a [f32],
    /// From the head's first feature on.
    keys: &'a [f32],
    values: &'a [f32],
    /// Where the store has the positions that are seen: the first token of a run, and how many.
    runs: &'a [(usize, usize)],
    width: usize,
    heads: &'a Heads,
    weights: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Query<'_> {
    #[inline(always)]
    fn run(self) {
        let Query { query, keys, values, runs, width, heads, weights, out } = self;
        let dim = query.len();
        let scale = heads.scale(dim);
        let mut rest = &mut weights[..];
        for (start, n) in runs {
            let (here, after) = rest.split_at_mut(*n);
            let keys = keys[start * width..].chunks(width);
            for (weight, key) in here.iter_mut().zip(keys) {
                let key = &key[..dim];
                *weight = sum(dim, |j| query[j] * key[j]) * scale;
            }
            rest = after;
        }
        if let Some(cap) = heads.soft_cap {
            weights.iter_mut().for_each(|weight| *weight = cap * tanh(*weight / cap));
        }
        let top = largest(weights);
        for weight in weights.iter_mut() {
            *weight = exp(*weight - top);
        }
        let factor = 1.0 / sum(weights.len(), |i| weights[i]);
        out.fill(0.0);
        let mut rest = &weights[..];
        for (start, n) in runs {
            let (here, after) = rest.split_at(*n);
            for (weight, value) in here.iter().zip(values[start * width..].chunks(width)) {
                for (x, v) in out.iter_mut().zip(&value[..dim]) {
                    *x += weight * factor * v;
                }
            }
            rest = after;
        }
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

pub(super) fn attention(q: T, keys: &T, stored: &T, rows: &[PagedRow], heads: &Heads) -> T {
    let [_, size, width] = keys.shape().dims();
    let [n, q_width] = q.shape().dims();
    let dim = heads.dim(q_width);
    let (q, keys, stored) = (contiguous(q), contiguous(keys.clone()), contiguous(stored.clone()));
    let queries: Vec<_> = rows
        .iter()
        .flat_map(|row| {
            (0..row.queries).map(|query| {
                let seen = row.seen(query);
                let from = seen - seen.min(heads.window.unwrap_or(usize::MAX));
                (seen - from, runs(row, from, seen, size))
            })
        })
        .collect();
    assert!(queries.len() <= n, "{} queries in {n} tokens", queries.len());
    let mut out = vec![0f32; n * q_width];
    let used = &mut out[..queries.len() * q_width];
    used.par_chunks_mut(dim).enumerate().with_min_len(4).for_each(|(i, out)| {
        let (token, head) = (i / heads.queries, i % heads.queries / heads.group());
        let (seen, runs) = &queries[token];
        vectorised(Query {
            query: &values(&q)[i * dim..(i + 1) * dim],
            keys: &values(&keys)[head * dim..],
            values: &values(&stored)[head * dim..],
            runs,
            width,
            heads,
            weights: &mut vec![0f32; *seen],
            out,
        });
    });
    new(out, [n, q_width])
}
