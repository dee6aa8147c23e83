//! Attention over a store of past keys and values, for generation: written in place, read once.

use burn::tensor::TensorMetadata;
use rayon::prelude::*;

use super::math::{exp, largest, sum, tanh};
use super::{Kernel, T, contiguous, new, values, vectorised};
use crate::Heads;

pub(super) fn write(mut store: T, tokens: T, at: &[(usize, usize)]) -> T {
    let [_, capacity, d] = store.shape().dims();
    let tokens = contiguous(tokens);
    if store.as_slice::<f32>().is_none_or(|s| s.len() != store.storage::<f32>().len()) {
        store = store.to_contiguous();
    }
    // Copies only if the store is shared.
    let data = store.storage_mut::<f32>();
    for (token, (row, position)) in values(&tokens).chunks_exact(d).zip(at) {
        assert!(*position < capacity, "position {position} of a store of {capacity}");
        let start = (row * capacity + position) * d;
        data[start..start + d].copy_from_slice(token);
    }
    store
}

struct Query<'a> {
    query: &'a [f32],
    /// Starts at the head's first feature of the first position that is seen.
    keys: &'a [f32],
    values: &'a [f32],
    width: usize,
    heads: &'a Heads,
    weights: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Query<'_> {
    #[inline(always)]
    fn run(self) {
        let Query { query, keys, values, width, heads, weights, out } = self;
        let dim = query.len();
        let scale = heads.scale(dim);
        for (i, weight) in weights.iter_mut().enumerate() {
            let key = &keys[i * width..i * width + dim];
            *weight = sum(dim, |j| query[j] * key[j]) * scale;
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
        for (i, weight) in weights.iter().enumerate() {
            let value = &values[i * width..i * width + dim];
            for (x, v) in out.iter_mut().zip(value) {
                *x += weight * factor * v;
            }
        }
    }
}

pub(super) fn attention(q: T, keys: &T, stored: &T, lens: &[usize], heads: &Heads) -> T {
    let [rows, capacity, width] = keys.shape().dims();
    let [_, q_width] = q.shape().dims();
    let dim = heads.dim(q_width);
    let (q, keys, stored) = (contiguous(q), contiguous(keys.clone()), contiguous(stored.clone()));
    let mut out = vec![0f32; rows * q_width];
    out.par_chunks_mut(dim).enumerate().with_min_len(4).for_each(|(i, out)| {
        let (row, head) = (i / heads.queries, i % heads.queries / heads.group());
        let seen = lens[row].min(heads.window.unwrap_or(usize::MAX));
        let start = (row * capacity + lens[row] - seen) * width + head * dim;
        let mut weights = vec![0f32; seen];
        vectorised(Query {
            query: &values(&q)[i * dim..(i + 1) * dim],
            keys: &values(&keys)[start..],
            values: &values(&stored)[start..],
            width,
            heads,
            weights: &mut weights,
            out,
        });
    });
    new(out, [rows, q_width])
}
