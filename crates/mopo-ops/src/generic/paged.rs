//! The store of past keys and values, and attention to it, in burn's own operations.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Slice, TensorData, TensorMetadata};

use super::attention::{MASKED, scores};
use crate::{FusedBackend, Heads, KvStore, PagedRow};

pub(crate) fn write<B: FusedBackend>(
    mut store: KvStore<B>,
    new: FloatTensor<B>,
    at: &[(usize, usize)],
) -> KvStore<B> {
    let d = new.shape()[1];
    // Consecutive tokens are written in one go.
    let mut start = 0;
    while start < at.len() {
        let (block, place) = at[start];
        let mut end = start + 1;
        while end < at.len() && at[end] == (block, place + end - start) {
            end += 1;
        }
        let tokens = B::float_slice(new.clone(), &[Slice::from(start..end), Slice::full()]);
        let tokens = B::float_reshape(tokens, Shape::new([1, end - start, d]));
        let to =
            [Slice::from(block..block + 1), Slice::from(place..place + end - start), Slice::full()];
        store = B::float_slice_assign(store, &to, tokens);
        start = end;
    }
    store
}

pub(crate) fn attention<B: FusedBackend>(
    q: FloatTensor<B>,
    keys: &KvStore<B>,
    values: &KvStore<B>,
    rows: &[PagedRow],
    heads: &Heads,
) -> FloatTensor<B> {
    let [n, width] = q.shape().dims();
    let (device, dtype) = (B::float_device(&q), q.dtype());
    let (mut start, mut parts) = (0, vec![]);
    // Rows of as many queries in one go: in generation all but a prompt have one.
    for rows in rows.chunk_by(|a, b| a.queries == b.queries) {
        let end = start + rows.iter().map(|row| row.queries).sum::<usize>();
        if end > start {
            let q = B::float_slice(q.clone(), &[Slice::from(start..end), Slice::full()]);
            parts.push(alike::<B>(q, keys, values, rows, heads));
        }
        start = end;
    }
    assert!(start <= n, "{start} queries in {n} tokens");
    if start < n {
        parts.push(B::float_zeros(Shape::new([n - start, width]), &device, dtype.into()));
    }
    B::float_cat(parts, 0)
}

/// Attention of rows that all have as many queries.
fn alike<B: FusedBackend>(
    q: FloatTensor<B>,
    keys: &KvStore<B>,
    values: &KvStore<B>,
    rows: &[PagedRow],
    heads: &Heads,
) -> FloatTensor<B> {
    let (n, queries, width) = (rows.len(), rows[0].queries, q.shape()[1]);
    let dim = heads.dim(width);
    let device = B::float_device(&q);
    let size = keys.shape()[1];
    let longest = rows.iter().map(|row| row.len).max().unwrap_or(0);
    let n_blocks = longest.div_ceil(size);
    // Any block stands for one that a shorter row lacks: it is masked.
    let table = rows.iter().flat_map(|row| {
        (0..n_blocks).map(|i| row.blocks.get(i).copied().unwrap_or(0).cast_signed())
    });
    let table: Vec<i32> = table.collect();
    let table = B::int_from_data(TensorData::new(table, [n * n_blocks]), &device);
    // [n, keys' heads, longest, dim]
    let filled = |store: &KvStore<B>| {
        let part = B::float_select(store.clone(), 0, table.clone());
        let part = B::float_reshape(part, Shape::new([n, n_blocks * size, heads.keys * dim]));
        let part = B::float_slice(part, &[Slice::full(), Slice::from(0..longest), Slice::full()]);
        let part = B::float_reshape(part, Shape::new([n, longest, heads.keys, dim]));
        B::float_swap_dims(part, 1, 2)
    };
    let window = heads.window.unwrap_or(usize::MAX);
    let group = heads.group();
    // Queries of a head of keys: one position after the other, in each all heads of the group.
    let mask: Vec<f32> = rows
        .iter()
        .flat_map(|row| (0..queries).map(|query| row.seen(query)))
        .flat_map(|seen| (0..group * longest).map(move |i| (seen, i % longest)))
        .map(|(seen, j)| if j < seen && seen - j <= window { 0.0 } else { MASKED })
        .collect();
    let mask = TensorData::new(mask, [n, 1, queries * group, longest]).convert_dtype(q.dtype());
    let q = B::float_reshape(q, Shape::new([n, queries, heads.keys, group, dim]));
    let q = B::float_reshape(
        B::float_swap_dims(q, 1, 2),
        Shape::new([n, heads.keys, queries * group, dim]),
    );
    let scores = scores::<B>(q, filled(keys), heads);
    let weights = B::softmax(B::float_add(scores, B::float_from_data(mask, &device)), 3);
    let out = B::float_matmul(weights, filled(values));
    let out = B::float_reshape(out, Shape::new([n, heads.keys, queries, group, dim]));
    B::float_reshape(B::float_swap_dims(out, 1, 2), Shape::new([n * queries, width]))
}
