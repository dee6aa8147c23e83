//! A step of Adam and sums of squares in burn's own operations.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata, TensorPrimitive};

use crate::{AdamFactors, FusedBackend, SQUARES_PART};

pub(crate) fn step<B: FusedBackend>(
    param: FloatTensor<B>,
    grad: FloatTensor<B>,
    moments: Option<[FloatTensor<B>; 2]>,
    factors: AdamFactors,
) -> (FloatTensor<B>, [FloatTensor<B>; 2]) {
    let AdamFactors { beta_1, beta_2, rate, correction_2, epsilon } = factors;
    let scaled = |x, factor: f32| B::float_mul_scalar(x, factor.into());
    let square = B::float_mul(grad.clone(), grad.clone());
    let (mut first, mut second) = (scaled(grad, 1.0 - beta_1), scaled(square, 1.0 - beta_2));
    if let Some([m, v]) = moments {
        first = B::float_add(first, scaled(m, beta_1));
        second = B::float_add(second, scaled(v, beta_2));
    }
    let root = B::float_sqrt(scaled(second.clone(), correction_2));
    let root = B::float_add_scalar(root, epsilon.into());
    let step = B::float_div(scaled(first.clone(), rate), root);
    (B::float_sub(param, step), [first, second])
}

pub(crate) fn sums_of_squares<B: FusedBackend>(x: FloatTensor<B>) -> Vec<f64> {
    let n = x.shape().num_elements();
    let flat = B::float_reshape(x, burn::tensor::Shape::new([n]));
    let flat = Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(flat));
    let whole = n / SQUARES_PART;
    let mut sums = Vec::with_capacity(whole + 1);
    if whole > 0 {
        let rows = flat.clone().narrow(0, 0, whole * SQUARES_PART).reshape([whole, SQUARES_PART]);
        sums.extend(rows.square().sum_dim(1).into_data().iter::<f64>());
    }
    let rest = n - whole * SQUARES_PART;
    if rest > 0 {
        // Filled up to a part: how a device sums may depend on the length, and on where in a tensor its numbers are.
        let zeros = Tensor::zeros([SQUARES_PART - rest], &flat.device());
        let part = Tensor::cat(vec![flat.narrow(0, n - rest, rest), zeros], 0);
        let sum = part.reshape([1, SQUARES_PART]).square().sum_dim(1);
        sums.push(sum.into_data().iter::<f64>().next().expect("one part"));
    }
    sums
}
