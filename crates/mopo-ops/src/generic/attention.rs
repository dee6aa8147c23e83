//! Attention of packed rows in burn's own operations.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Slice, TensorData, TensorMetadata};

use crate::{FusedBackend, Heads, KeyRun, PackedRow, PackedRows};

/// Added to a masked score: its softmax is then exactly 0.
pub(super) const MASKED: f32 = -1.0e9;

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

/// `[keys' heads, t, dim]` to `[heads, t, dim]`: each head as often as queries' heads share it.
fn repeat_heads<B: FusedBackend>(x: FloatTensor<B>, heads: &Heads) -> FloatTensor<B> {
    let (t, dim, group) = (x.shape()[1], x.shape()[2], heads.group());
    if group == 1 {
        return x;
    }
    let x = B::float_reshape(x, Shape::new([heads.keys, 1, t, dim]));
    let x = B::float_expand(x, Shape::new([heads.keys, group, t, dim]));
    B::float_reshape(x, Shape::new([heads.queries, t, dim]))
}

/// Its gradient: the sum over each group.
fn sum_groups<B: FusedBackend>(x: FloatTensor<B>, heads: &Heads) -> FloatTensor<B> {
    let (t, dim, group) = (x.shape()[1], x.shape()[2], heads.group());
    if group == 1 {
        return x;
    }
    let x = B::float_reshape(x, Shape::new([heads.keys, group, t, dim]));
    B::float_reshape(B::float_sum_dim(x, 1), Shape::new([heads.keys, t, dim]))
}

/// Scores of a row's queries and keys, scaled, `[…, queries, dim]` and `[…, keys, dim]`, with their soft cap.
pub(super) fn scores<B: FusedBackend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    heads: &Heads,
) -> FloatTensor<B> {
    let n = q.shape().num_dims();
    let scale = heads.scale(q.shape()[n - 1]);
    let scores = B::float_matmul(q, B::float_swap_dims(k, n - 2, n - 1));
    let scores = B::float_mul_scalar(scores, scale.into());
    match heads.soft_cap {
        None => scores,
        Some(cap) => {
            let part = B::float_tanh(B::float_mul_scalar(scores, (1.0 / cap).into()));
            B::float_mul_scalar(part, cap.into())
        }
    }
}

/// Softmax weights of one row, `[heads, t, keys]`, of its scores.
fn weights<B: FusedBackend>(
    scores: FloatTensor<B>,
    row: &PackedRow,
    heads: &Heads,
) -> FloatTensor<B> {
    if row.keys.is_some() {
        return B::softmax(scores, 2);
    }
    let (t, keys) = (row.len(), row.key_run().len);
    let mask: Vec<f32> = (0..t)
        .flat_map(|i| (0..keys).map(move |j| (i, j)))
        .map(|(i, j)| if heads.sees(row, i, j) { 0.0 } else { MASKED })
        .collect();
    let data = TensorData::new(mask, [1, t, keys]).convert_dtype(scores.dtype());
    let mask = B::float_from_data(data, &B::float_device(&scores));
    B::softmax(B::float_add(scores, mask), 2)
}

pub(crate) fn forward<B: FusedBackend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    rows: &PackedRows,
    heads: &Heads,
) -> FloatTensor<B> {
    let parts = rows.rows().iter().filter(|row| !row.is_empty()).map(|row| {
        let part = |x, start, len, n| split_heads::<B>(slice_tokens::<B>(x, start, len), n);
        let KeyRun { start, len } = row.key_run();
        let keys = |x| repeat_heads::<B>(part(x, start, len, heads.keys), heads);
        let q = part(&q, row.start, row.len(), heads.queries);
        let weights = weights::<B>(scores::<B>(q, keys(&k), heads), row, heads);
        join_heads::<B>(B::float_matmul(weights, keys(&v)))
    });
    B::float_cat(parts.collect(), 0)
}

pub(crate) fn backward<B: FusedBackend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    grad: FloatTensor<B>,
    rows: &PackedRows,
    heads: &Heads,
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
        let part = |x, start, len, n| split_heads::<B>(slice_tokens::<B>(x, start, len), n);
        let queries = |x| part(x, row.start, row.len(), heads.queries);
        let keys = |x| repeat_heads::<B>(part(x, start, len, heads.keys), heads);
        let (q, g, k, v) = (queries(&q), queries(&grad), keys(&k), keys(&v));
        let dim = q.shape()[2];
        let scores = scores::<B>(q.clone(), k.clone(), heads);
        let p = weights::<B>(scores.clone(), row, heads);
        let transpose = |x| B::float_swap_dims(x, 1, 2);
        let dv = B::float_matmul(transpose(p.clone()), g.clone());
        let dp = B::float_matmul(g, transpose(v));
        let along = B::float_sum_dim(B::float_mul(dp.clone(), p.clone()), 2);
        let mut ds = B::float_mul(p, B::float_sub(dp, along));
        if let Some(cap) = heads.soft_cap {
            // 1 − tanh².
            let part = B::float_mul_scalar(scores, (1.0 / cap).into());
            let square = B::float_mul_scalar(B::float_mul(part.clone(), part), (-1f32).into());
            ds = B::float_mul(ds, B::float_add_scalar(square, 1f32.into()));
        }
        let ds = B::float_mul_scalar(ds, heads.scale(dim).into());
        let dq = B::float_matmul(ds.clone(), k);
        let dk = B::float_matmul(transpose(ds), q);
        let sums = [dq, sum_groups::<B>(dk, heads), sum_groups::<B>(dv, heads)];
        for (parts, part) in parts.iter_mut().zip(sums) {
            parts.push(join_heads::<B>(part));
        }
    }
    parts.map(|parts| B::float_cat(parts, 0))
}
