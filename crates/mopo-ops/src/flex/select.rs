//! The gradient of selected rows.

use burn::tensor::TensorMetadata;

use super::{Kernel, T, contiguous, indices, new, values, vectorised};

struct Add<'a> {
    to: &'a mut [f32],
    rows: &'a [f32],
    at: &'a [usize],
}

impl Kernel for Add<'_> {
    #[inline(always)]
    fn run(self) {
        let Add { to, rows, at } = self;
        let width = rows.len() / at.len();
        for (row, at) in rows.chunks_exact(width).zip(at) {
            let to = &mut to[at * width..(at + 1) * width];
            to.iter_mut().zip(row).for_each(|(to, x)| *to += x);
        }
    }
}

pub(super) fn scatter_rows(grad: T, at: T, rows: usize) -> T {
    let grad = contiguous(grad);
    let [_, width] = grad.shape().dims();
    let mut out = vec![0f32; rows * width];
    if !values(&grad).is_empty() {
        vectorised(Add { to: &mut out, rows: values(&grad), at: &indices(at) });
    }
    new(out, [rows, width])
}
