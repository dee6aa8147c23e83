//! Log-probabilities under several output layers that differ by low-rank updates, in burn's own operations: a chunk of
//! tokens at a time, whose product with the weight serves all layers.

use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{Shape, Slice, TensorMetadata};

use super::log_prob::{capped, chunk_targets, chunks, residual, rows, through_cap};
use crate::{FusedBackend, Init, OutputParams, UpdatedLayers, UpdatedLayersGradients};

/// The columns of `inner` that belong to layer `k` of `layers`.
fn columns<B: FusedBackend>(
    inner: &FloatTensor<B>,
    k: usize,
    layers: &UpdatedLayers<B>,
) -> FloatTensor<B> {
    let rank = inner.shape()[1] / layers.n_layers;
    B::float_slice(inner.clone(), &[Slice::full(), Slice::from(k * rank..(k + 1) * rank)])
}

/// B of layer `k`, `[rank, vocabulary]`, and its bias.
fn own<B: FusedBackend>(
    layers: &UpdatedLayers<B>,
    k: usize,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let [all, vocab] = layers.b.shape().dims();
    let rank = all / layers.n_layers;
    let bias = layers
        .bias
        .as_ref()
        .map(|bias| B::float_reshape(rows::<B>(bias, (k, k + 1)), Shape::new([vocab])));
    (rows::<B>(&layers.b, (k * rank, (k + 1) * rank)), bias)
}

/// `hidden · W`, the same for all layers, and the logits of layer `k` from it.
fn logits<B: FusedBackend>(
    shared: FloatTensor<B>,
    inner: FloatTensor<B>,
    layers: &UpdatedLayers<B>,
    k: usize,
) -> FloatTensor<B> {
    let (b, bias) = own(layers, k);
    let init = Init { add: Some(shared), bias };
    capped::<B>(B::gemm(init, 1.0, inner, false, b, false), layers.soft_cap)
}

pub(crate) fn forward<B: FusedBackend>(
    hidden: FloatTensor<B>,
    inner: FloatTensor<B>,
    layers: &UpdatedLayers<B>,
    targets: IntTensor<B>,
) -> FloatTensor<B> {
    let mut found = vec![vec![]; layers.n_layers];
    for chunk in chunks(hidden.shape()[0]) {
        let shared =
            B::weight_matmul(Init::zero(), rows::<B>(&hidden, chunk), &layers.weight, false);
        let inner = rows::<B>(&inner, chunk);
        let targets = chunk_targets::<B>(&targets, chunk);
        for (k, found) in found.iter_mut().enumerate() {
            let logits = logits::<B>(shared.clone(), columns::<B>(&inner, k, layers), layers, k);
            let one = B::float_gather(1, B::log_softmax(logits, 1), targets.clone());
            found.push(B::float_reshape(one, Shape::new([1, chunk.1 - chunk.0])));
        }
    }
    B::float_cat(found.into_iter().map(|of| B::float_cat(of, 1)).collect(), 0)
}

pub(crate) fn backward<B: FusedBackend>(
    hidden: FloatTensor<B>,
    inner: FloatTensor<B>,
    layers: &UpdatedLayers<B>,
    targets: IntTensor<B>,
    _log_probs: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> UpdatedLayersGradients<B> {
    let capped =
        OutputParams { weight: layers.weight.clone(), bias: None, soft_cap: layers.soft_cap };
    let add = |sum: Option<FloatTensor<B>>, x| match sum {
        None => x,
        Some(sum) => B::float_add(sum, x),
    };
    let n_layers = layers.n_layers;
    let (mut d_hidden, mut d_inner) = (vec![], vec![]);
    let (mut d_b, mut d_bias) = (vec![None; n_layers], vec![None; n_layers]);
    for chunk in chunks(hidden.shape()[0]) {
        let shared =
            B::weight_matmul(Init::zero(), rows::<B>(&hidden, chunk), &layers.weight, false);
        let inner = rows::<B>(&inner, chunk);
        let targets = chunk_targets::<B>(&targets, chunk);
        let (mut total, mut inner_parts) = (None, vec![]);
        for k in 0..n_layers {
            let inner = columns::<B>(&inner, k, layers);
            let logits = logits::<B>(shared.clone(), inner.clone(), layers, k);
            let before_cap = layers.soft_cap.is_some().then(|| logits.clone());
            let scale = B::float_slice(
                grad.clone(),
                &[Slice::from(k..k + 1), Slice::from(chunk.0..chunk.1)],
            );
            let scale = B::float_reshape(scale, Shape::new([chunk.1 - chunk.0, 1]));
            let probabilities = B::float_exp(B::log_softmax(logits, 1));
            let residual = residual::<B>(probabilities, targets.clone(), Some(scale));
            let residual = through_cap::<B>(residual, before_cap, &capped);
            let (b, bias) = own(layers, k);
            inner_parts.push(B::gemm(Init::zero(), 1.0, residual.clone(), false, b, true));
            d_b[k] =
                Some(B::gemm(Init::add(d_b[k].take()), 1.0, inner, true, residual.clone(), false));
            if bias.is_some() {
                d_bias[k] = Some(add(d_bias[k].take(), B::float_sum_dim(residual.clone(), 0)));
            }
            total = Some(add(total, residual));
        }
        let total = total.expect("at least one layer");
        d_hidden.push(B::weight_matmul(Init::zero(), total, &layers.weight, true));
        d_inner.push(B::float_cat(inner_parts, 1));
    }
    let below = |parts: Vec<Option<FloatTensor<B>>>| {
        let parts: Option<Vec<_>> = parts.into_iter().collect();
        parts.map(|parts| B::float_cat(parts, 0))
    };
    UpdatedLayersGradients {
        hidden: B::float_cat(d_hidden, 0),
        inner: B::float_cat(d_inner, 0),
        b: below(d_b).expect("at least one token"),
        bias: below(d_bias),
    }
}
