//! Products of matrices in burn's own operations.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, TensorMetadata};

use crate::{FusedBackend, Init, Matrix};

pub(crate) fn gemm<B: FusedBackend>(
    init: Init<B>,
    alpha: f64,
    a: FloatTensor<B>,
    transpose_a: bool,
    b: FloatTensor<B>,
    transpose_b: bool,
) -> FloatTensor<B> {
    let maybe = |x: FloatTensor<B>, transpose| if transpose { B::float_transpose(x) } else { x };
    let product = B::float_matmul(maybe(a, transpose_a), maybe(b, transpose_b));
    let product =
        if alpha == 1.0 { product } else { B::float_mul_scalar(product, (alpha as f32).into()) };
    plus(init, product)
}

pub(crate) fn weight_matmul<B: FusedBackend>(
    init: Init<B>,
    x: FloatTensor<B>,
    weight: &Matrix<B>,
    transpose: bool,
) -> FloatTensor<B> {
    match weight {
        Matrix::Dense(weight) => {
            let weight = cast_like::<B>(weight.clone(), &x);
            B::gemm(init, 1.0, x, false, weight, transpose)
        }
        Matrix::Quantised(weight) => super::quant::weight_matmul::<B>(init, x, weight, transpose),
    }
}

/// `x` in the data type of `like`.
pub(crate) fn cast_like<B: FusedBackend>(
    x: FloatTensor<B>,
    like: &FloatTensor<B>,
) -> FloatTensor<B> {
    if x.dtype() == like.dtype() { x } else { B::float_cast(x, like.dtype().into()) }
}

/// `init + product`.
pub(crate) fn plus<B: FusedBackend>(init: Init<B>, product: FloatTensor<B>) -> FloatTensor<B> {
    let mut sum = product;
    if let Some(bias) = init.bias {
        let n = bias.shape()[0];
        let bias = cast_like::<B>(bias, &sum);
        sum = B::float_add(sum, B::float_reshape(bias, Shape::new([1, n])));
    }
    if let Some(add) = init.add {
        sum = B::float_add(sum, add);
    }
    sum
}
