//! Attention of packed rows, and over a store of past keys and values, in burn's own operations.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Slice, TensorData, TensorMetadata};

use crate::{FusedBackend, KeyRun, KvStore, PackedRow, PackedRows};

/// Added to a masked score: its softmax is then exactly 0.
const MASKED: f32 = -1.0e9;

fn slice_tokens<B: FusedBackend>(x: &FloatTensor<B>, start: usize, len: usize) -> FloatTensor<B> {
    B::float_slice(x.clone(), &[Slice::from(start..start + len), Slice::full()])
}

/// `[t, heads · dim]` to `[heads, t, dim]`.
fn split_heads<B: FusedBackend>(x: FloatTensor<B>, n_heads: usize) -> FloatTensor<B> {
    let (t, d) = (x.shape()[0], x.shape()[1]);
    B::float_swap_dims(B::float_reshape(x, Shape::new([t, n_heads, d / n_heads])), 0, 1)
}

/// The inverse.
fn join_heads<B: FusedBackend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let (h, t, dim) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    B::float_reshape(B::float_swap_dims(x, 0, 1), Shape::new([t, h * dim]))
}

fn scale(dim: usize) -> f32 {
    (dim as f32).powf(-0.5)
}

/// Softmax weights of one row, `[heads, t, keys]`.
fn weights<B: FusedBackend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    row: &PackedRow,
) -> FloatTensor<B> {
    let (t, keys, dim) = (row.len(), row.key_run().len, q.shape()[2]);
    let device = B::float_device(&q);
    let dtype = q.dtype();
    let scores = B::float_matmul(q, B::float_swap_dims(k, 1, 2));
    let scores = B::float_mul_scalar(scores, scale(dim).into());
    if row.keys.is_some() {
        return B::softmax(scores, 2);
    }
    let mask: Vec<f32> = (0..t)
        .flat_map(|i| (0..keys).map(move |j| if row.sees(i, j) { 0.0 } else { MASKED }))
        .collect();
    let data = TensorData::new(mask, [1, t, keys]).convert_dtype(dtype);
    B::softmax(B::float_add(scores, B::float_from_data(data, &device)), 2)
}

pub(crate) fn forward<B: FusedBackend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    rows: &PackedRows,
    n_heads: usize,
) -> FloatTensor<B> {
    let parts = rows.rows().iter().filter(|row| !row.is_empty()).map(|row| {
        let part = |x, start, len| split_heads::<B>(slice_tokens::<B>(x, start, len), n_heads);
        let KeyRun { start, len } = row.key_run();
        let weights = weights::<B>(part(&q, row.start, row.len()), part(&k, start, len), row);
        join_heads::<B>(B::float_matmul(weights, part(&v, start, len)))
    });
    B::float_cat(parts.collect(), 0)
}

pub(crate) fn backward<B: FusedBackend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    grad: FloatTensor<B>,
    rows: &PackedRows,
    n_heads: usize,
) -> [FloatTensor<B>; 3] {
    let mut parts = [vec![], vec![], vec![]];
    for row in rows.rows() {
        let KeyRun { start, len } = row.key_run();
        if row.is_empty() {
            // No query sees its keys, if it has any.
            let keys = slice_tokens::<B>(&k, start, len);
            let none = || B::float_zeros(keys.shape(), &B::float_device(&k), k.dtype().into());
            parts[1].push(none());
            parts[2].push(none());
            continue;
        }
        let part = |x, start, len| split_heads::<B>(slice_tokens::<B>(x, start, len), n_heads);
        let (q, g) = (part(&q, row.start, row.len()), part(&grad, row.start, row.len()));
        let (k, v) = (part(&k, start, len), part(&v, start, len));
        let dim = q.shape()[2];
        let p = weights::<B>(q.clone(), k.clone(), row);
        let transpose = |x| B::float_swap_dims(x, 1, 2);
        let dv = B::float_matmul(transpose(p.clone()), g.clone());
        let dp = B::float_matmul(g, transpose(v));
        let along = B::float_sum_dim(B::float_mul(dp.clone(), p.clone()), 2);
        let ds = B::float_mul(p, B::float_sub(dp, along));
        let ds = B::float_mul_scalar(ds, scale(dim).into());
        let dq = B::float_matmul(ds.clone(), k);
        let dk = B::float_matmul(transpose(ds), q);
        for (parts, part) in parts.iter_mut().zip([dq, dk, dv]) {
            parts.push(join_heads::<B>(part));
        }
    }
    parts.map(|parts| B::float_cat(parts, 0))
}

pub(crate) fn kv_write<B: FusedBackend>(
    mut store: KvStore<B>,
    new: FloatTensor<B>,
    at: &[(usize, usize)],
) -> KvStore<B> {
    let d = new.shape()[1];
    // Consecutive tokens are written in one go.
    let mut start = 0;
    while start < at.len() {
        let (row, position) = at[start];
        let mut end = start + 1;
        while end < at.len() && at[end] == (row, position + end - start) {
            end += 1;
        }
        let tokens = B::float_slice(new.clone(), &[Slice::from(start..end), Slice::full()]);
        let tokens = B::float_reshape(tokens, Shape::new([1, end - start, d]));
        let to = [
            Slice::from(row..row + 1),
            Slice::from(position..position + end - start),
            Slice::full(),
        ];
        store = B::float_slice_assign(store, &to, tokens);
        start = end;
    }
    store
}

pub(crate) fn cached<B: FusedBackend>(
    q: FloatTensor<B>,
    keys: &KvStore<B>,
    values: &KvStore<B>,
    lens: &[usize],
    n_heads: usize,
) -> FloatTensor<B> {
    let (rows, d) = (q.shape()[0], q.shape()[1]);
    let dim = d / n_heads;
    let device = B::float_device(&q);
    let longest = lens.iter().copied().max().unwrap_or(0);
    // [rows, heads, longest, dim]
    let filled = |store: &KvStore<B>| {
        let part = [Slice::full(), Slice::from(0..longest), Slice::full()];
        let part = B::float_slice(store.clone(), &part);
        let part = B::float_reshape(part, Shape::new([rows, longest, n_heads, dim]));
        B::float_swap_dims(part, 1, 2)
    };
    let mask: Vec<f32> = lens
        .iter()
        .flat_map(|&n| (0..longest).map(move |j| if j < n { 0.0 } else { MASKED }))
        .collect();
    let mask = TensorData::new(mask, [rows, 1, 1, longest]).convert_dtype(q.dtype());
    let q = B::float_reshape(q, Shape::new([rows, n_heads, 1, dim]));
    let scores = B::float_matmul(q, B::float_swap_dims(filled(keys), 2, 3));
    let scores = B::float_mul_scalar(scores, scale(dim).into());
    let weights = B::softmax(B::float_add(scores, B::float_from_data(mask, &device)), 3);
    B::float_reshape(B::float_matmul(weights, filled(values)), Shape::new([rows, d]))
}
