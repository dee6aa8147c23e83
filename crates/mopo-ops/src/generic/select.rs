//! Selected rows in burn's own operations.

use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{Shape, TensorMetadata};

use crate::FusedBackend;

pub(crate) fn scatter_rows<B: FusedBackend>(
    grad: FloatTensor<B>,
    at: IntTensor<B>,
    rows: usize,
) -> FloatTensor<B> {
    let shape = Shape::new([rows, grad.shape()[1]]);
    let zeros = B::float_zeros(shape, &B::float_device(&grad), grad.dtype().into());
    // On GPUs burn divides by the size of what it adds.
    if grad.shape().num_elements() == 0 {
        return zeros;
    }
    B::float_select_add(zeros, 0, at, grad)
}
