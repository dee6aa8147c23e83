//! The product of matrices that is measured: the library's that the native kernels call.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// `c = a · b`, all row-major; `shape` is `[rows, inner, columns]`.
pub(super) fn multiply(c: &mut [f32], a: &[f32], b: &[f32], shape: [usize; 3], threads: usize) {
    let [rows, inner, columns] = shape;
    let a = MatRef::from_row_major_slice(a, rows, inner);
    let b = MatRef::from_row_major_slice(b, inner, columns);
    let c = MatMut::from_row_major_slice_mut(c, rows, columns);
    matmul(c, Accum::Replace, a, b, 1.0, Par::rayon(threads));
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_product_by_hand() {
        let mut c = [9.0; 4];
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        super::multiply(&mut c, &a, &b, [2, 3, 2], 1);
        assert_eq!(c, [4.0, 5.0, 10.0, 11.0]);
    }
}
