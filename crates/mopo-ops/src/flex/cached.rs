//! Attention over a store of past keys and values, for generation: written in place, read once.

use burn::tensor::TensorMetadata;
use rayon::prelude::*;

use super::math::{exp, largest, sum};
use super::{Kernel, T, contiguous, new, values, vectorised};

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
    /// Starts at the head's first feature of the first position.
    keys: &'a [f32],
    values: &'a [f32],
    width: usize,
    weights: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Query<'_> {
    #[inline(always)]
    fn run(self) {
        let Query { query, keys, values, width, weights, out } = self;
        let dim = query.len();
        let scale = (dim as f32).powf(-0.5);
        for (i, weight) in weights.iter_mut().enumerate() {
            let key = &keys[i * width..i * width + dim];
            *weight = sum(dim, |j| query[j] * key[j]) * scale;
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

pub(super) fn attention(q: T, keys: &T, stored: &T, lens: &[usize], n_heads: usize) -> T {
    let [rows, capacity, d] = keys.shape().dims();
    let dim = d / n_heads;
    let (q, keys, stored) = (contiguous(q), contiguous(keys.clone()), contiguous(stored.clone()));
    let mut out = vec![0f32; rows * d];
    out.par_chunks_mut(dim).enumerate().with_min_len(4).for_each(|(i, out)| {
        let (row, head) = (i / n_heads, i % n_heads);
        let start = row * capacity * d + head * dim;
        let mut weights = vec![0f32; lens[row]];
        vectorised(Query {
            query: &values(&q)[i * dim..(i + 1) * dim],
            keys: &values(&keys)[start..],
            values: &values(&stored)[start..],
            width: d,
            weights: &mut weights,
            out,
        });
    });
    new(out, [rows, d])
}
