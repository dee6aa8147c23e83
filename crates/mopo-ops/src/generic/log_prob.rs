//! Log-probabilities of tokens from hidden states, a chunk of tokens at a time, in burn's own
//! operations.

use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{Shape, Slice, TensorMetadata};

use super::linear::cast_like;
use crate::{FusedBackend, Init, Matrix, OutputParams};

/// Tokens per chunk.
const CHUNK: usize = 256;

/// The chunks of `n` tokens.
pub(super) fn chunks(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(CHUNK).map(move |start| (start, (start + CHUNK).min(n)))
}

pub(super) fn rows<B: FusedBackend>(
    x: &FloatTensor<B>,
    (start, end): (usize, usize),
) -> FloatTensor<B> {
    B::float_slice(x.clone(), &[Slice::from(start..end), Slice::full()])
}

/// Logits of a chunk of tokens, `[chunk, vocabulary]`.
fn logits<B: FusedBackend>(hidden: FloatTensor<B>, layer: &OutputParams<B>) -> FloatTensor<B> {
    let init = Init { add: None, bias: layer.bias.clone() };
    capped::<B>(B::weight_matmul(init, hidden, &layer.weight, false), layer.soft_cap)
}

/// `cap · tanh(z / cap)` of logits z, if there is a cap.
pub(super) fn capped<B: FusedBackend>(
    logits: FloatTensor<B>,
    soft_cap: Option<f32>,
) -> FloatTensor<B> {
    match soft_cap {
        None => logits,
        Some(cap) => {
            let part = B::float_tanh(B::float_mul_scalar(logits, (1.0 / cap).into()));
            B::float_mul_scalar(part, cap.into())
        }
    }
}

/// The gradient of logits before their cap: times 1 − (z / cap)², z the logits.
pub(super) fn through_cap<B: FusedBackend>(
    grad: FloatTensor<B>,
    logits: Option<FloatTensor<B>>,
    layer: &OutputParams<B>,
) -> FloatTensor<B> {
    let Some((logits, cap)) = logits.zip(layer.soft_cap) else { return grad };
    let part = B::float_mul_scalar(logits, (1.0 / cap).into());
    let fall = B::float_mul(B::float_mul(part.clone(), part), grad.clone());
    B::float_sub(grad, fall)
}

pub(super) fn chunk_targets<B: FusedBackend>(
    targets: &IntTensor<B>,
    (start, end): (usize, usize),
) -> IntTensor<B> {
    let part = B::int_slice(targets.clone(), &[Slice::from(start..end)]);
    B::int_reshape(part, Shape::new([end - start, 1]))
}

/// Turns `p` into `scale · (onehot(target) − p)`, rows scaled by `[chunk, 1]` or not.
pub(super) fn residual<B: FusedBackend>(
    probabilities: FloatTensor<B>,
    targets: IntTensor<B>,
    scale: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let n = targets.shape()[0];
    let device = B::float_device(&probabilities);
    let ones = B::float_ones(Shape::new([n, 1]), &device, probabilities.dtype().into());
    let (minus, one) = match scale {
        None => (B::float_neg(probabilities), ones),
        Some(scale) => (B::float_neg(B::float_mul(probabilities, scale.clone())), scale),
    };
    B::float_scatter_add(1, minus, targets, one)
}

pub(crate) fn forward<B: FusedBackend>(
    hidden: FloatTensor<B>,
    layer: &OutputParams<B>,
    targets: IntTensor<B>,
    with_gradient: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let n = hidden.shape()[0];
    let (mut log_probs, mut gradients) = (vec![], vec![]);
    for chunk in chunks(n) {
        let logits = logits::<B>(rows::<B>(&hidden, chunk), layer);
        let capped = layer.soft_cap.is_some().then(|| logits.clone());
        let all = B::log_softmax(logits, 1);
        let targets = chunk_targets::<B>(&targets, chunk);
        log_probs.push(B::float_gather(1, all.clone(), targets.clone()));
        if with_gradient {
            let residual = residual::<B>(B::float_exp(all), targets, None);
            let residual = through_cap::<B>(residual, capped, layer);
            gradients.push(B::weight_matmul(Init::zero(), residual, &layer.weight, true));
        }
    }
    let log_probs = B::float_reshape(B::float_cat(log_probs, 0), Shape::new([n]));
    (log_probs, with_gradient.then(|| B::float_cat(gradients, 0)))
}

pub(crate) fn backward<B: FusedBackend>(
    hidden: FloatTensor<B>,
    layer: &OutputParams<B>,
    targets: IntTensor<B>,
    _log_probs: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> ([FloatTensor<B>; 2], Option<FloatTensor<B>>) {
    let n = hidden.shape()[0];
    let vocab = layer.weight.shape()[1];
    let weight = match &layer.weight {
        Matrix::Dense(weight) => Matrix::Dense(cast_like::<B>(weight.clone(), &hidden)),
        constant => constant.clone(),
    };
    let layer = OutputParams { weight, ..layer.clone() };
    let grad = B::float_reshape(grad, Shape::new([n, 1]));
    let mut d_hidden = vec![];
    let (mut d_weight, mut d_bias): (Option<FloatTensor<B>>, Option<FloatTensor<B>>) = (None, None);
    for chunk in chunks(n) {
        let part = rows::<B>(&hidden, chunk);
        let logits = logits::<B>(part.clone(), &layer);
        let capped = layer.soft_cap.is_some().then(|| logits.clone());
        let residual = residual::<B>(
            B::float_exp(B::log_softmax(logits, 1)),
            chunk_targets::<B>(&targets, chunk),
            Some(rows::<B>(&grad, chunk)),
        );
        let residual = through_cap::<B>(residual, capped, &layer);
        d_hidden.push(B::weight_matmul(Init::zero(), residual.clone(), &layer.weight, true));
        if layer.bias.is_some() {
            let total = B::float_sum_dim(residual.clone(), 0);
            d_bias = Some(match d_bias {
                None => total,
                Some(sum) => B::float_add(sum, total),
            });
        }
        d_weight = Some(B::gemm(Init::add(d_weight), 1.0, part, true, residual, false));
    }
    let d_bias = d_bias.map(|total| B::float_reshape(total, Shape::new([vocab])));
    ([B::float_cat(d_hidden, 0), d_weight.expect("at least one token")], d_bias)
}
