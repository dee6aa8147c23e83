//! LayerNorm and RMSNorm in burn's own operations.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, TensorMetadata};

use crate::FusedBackend;

fn row<B: FusedBackend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let n = x.shape()[0];
    B::float_reshape(x, Shape::new([1, n]))
}

/// Each token at mean 0 and variance 1, and the factor by which it was scaled, `[n, 1]`.
fn normalised<B: FusedBackend>(
    x: FloatTensor<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let centred = B::float_sub(x.clone(), B::float_mean_dim(x, 1));
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let root = B::float_sqrt(B::float_add_scalar(variance, (epsilon as f32).into()));
    // Not the reciprocal operation: burn-ndarray takes the processor's estimate, with 12 bits.
    let ones = B::float_ones(root.shape(), &B::float_device(&root), root.dtype().into());
    let factor = B::float_div(ones, root);
    (B::float_mul(centred, factor.clone()), factor)
}

pub(crate) fn forward<B: FusedBackend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let (unit, _) = normalised::<B>(x, epsilon);
    B::float_add(B::float_mul(unit, row::<B>(gamma)), row::<B>(beta))
}

pub(crate) fn backward<B: FusedBackend>(
    init: Option<FloatTensor<B>>,
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    grad: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let (unit, factor) = normalised::<B>(x, epsilon);
    let grad = B::float_mul(grad, row::<B>(gamma));
    let mean = B::float_mean_dim(grad.clone(), 1);
    let along = B::float_mean_dim(B::float_mul(grad.clone(), unit.clone()), 1);
    let free = B::float_sub(B::float_sub(grad, mean), B::float_mul(unit, along));
    let dx = B::float_mul(free, factor);
    match init {
        None => dx,
        Some(init) => B::float_add(init, dx),
    }
}

/// Each token at a mean square of 1, and the factor by which it was scaled, `[n, 1]`.
fn scaled_to_one<B: FusedBackend>(
    x: FloatTensor<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let square = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
    let root = B::float_sqrt(B::float_add_scalar(square, (epsilon as f32).into()));
    let ones = B::float_ones(root.shape(), &B::float_device(&root), root.dtype().into());
    let factor = B::float_div(ones, root);
    (B::float_mul(x, factor.clone()), factor)
}

/// `gamma`, `[1, features]`, or 1 + gamma.
fn weight_row<B: FusedBackend>(gamma: FloatTensor<B>, plus_one: bool) -> FloatTensor<B> {
    let gamma = row::<B>(gamma);
    if plus_one { B::float_add_scalar(gamma, 1f32.into()) } else { gamma }
}

pub(crate) fn rms_forward<B: FusedBackend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    epsilon: f64,
    plus_one: bool,
) -> FloatTensor<B> {
    B::float_mul(scaled_to_one::<B>(x, epsilon).0, weight_row::<B>(gamma, plus_one))
}

pub(crate) fn rms_backward<B: FusedBackend>(
    init: Option<FloatTensor<B>>,
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    grad: FloatTensor<B>,
    epsilon: f64,
    plus_one: bool,
) -> FloatTensor<B> {
    let (unit, factor) = scaled_to_one::<B>(x, epsilon);
    let grad = B::float_mul(grad, weight_row::<B>(gamma, plus_one));
    let along = B::float_mean_dim(B::float_mul(grad.clone(), unit.clone()), 1);
    let dx = B::float_mul(B::float_sub(grad, B::float_mul(unit, along)), factor);
    match init {
        None => dx,
        Some(init) => B::float_add(init, dx),
    }
}

/// The gradient of gamma, `[features]`.
pub(crate) fn rms_parameter_gradient<B: FusedBackend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let d = x.shape()[1];
    let total = B::float_sum_dim(B::float_mul(grad, scaled_to_one::<B>(x, epsilon).0), 0);
    B::float_reshape(total, Shape::new([d]))
}

/// The gradients of gamma and beta, `[features]` each.
pub(crate) fn parameter_gradients<B: FusedBackend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
    epsilon: f64,
) -> [FloatTensor<B>; 2] {
    let d = x.shape()[1];
    let (unit, _) = normalised::<B>(x, epsilon);
    let total = |t| B::float_reshape(B::float_sum_dim(t, 0), Shape::new([d]));
    [total(B::float_mul(grad.clone(), unit)), total(grad)]
}
