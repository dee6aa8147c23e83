//! A step of Adam, and of gradients their sum of squares and multiples, one pass over memory each.

use burn::tensor::{Bytes, DType, TensorMetadata};
use rayon::prelude::*;

use super::math::sum;
use super::{GRAIN, Kernel, T, vectorised};
use crate::{AdamFactors, SQUARES_PART};

struct Adam<'a> {
    param: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    grad: &'a [f32],
    factors: AdamFactors,
}

impl Kernel for Adam<'_> {
    #[inline(always)]
    fn run(self) {
        let Adam { param, first, second, grad, factors } = self;
        let AdamFactors { beta_1, beta_2, rate, correction_2, epsilon } = factors;
        let moments = first.iter_mut().zip(second.iter_mut());
        for ((p, (m, v)), g) in param.iter_mut().zip(moments).zip(grad) {
            *m = beta_1 * *m + (1.0 - beta_1) * g;
            *v = beta_2 * *v + (1.0 - beta_2) * g * g;
            *p -= rate * *m / ((*v * correction_2).sqrt() + epsilon);
        }
    }
}

/// Whether the elements fill the memory without gaps, in whatever order.
fn is_dense(x: &T) -> bool {
    let n = x.shape().num_elements();
    let layout = x.layout();
    let span: usize = layout
        .shape()
        .iter()
        .zip(layout.strides())
        .map(|(n, stride)| n.saturating_sub(1) * stride.unsigned_abs())
        .sum();
    layout.start_offset() == 0
        && x.storage::<f32>().len() == n
        && span + 1 == n
        && layout.strides().iter().all(|stride| *stride >= 0)
}

pub(super) fn step(
    param: T,
    grad: T,
    moments: Option<[T; 2]>,
    factors: AdamFactors,
) -> (T, [T; 2]) {
    // Everything in the parameter's order of memory.
    let mut param = if is_dense(&param) { param } else { param.to_contiguous() };
    let layout = param.layout().clone();
    let same = |x: T| {
        if x.layout().strides() == layout.strides() && is_dense(&x) {
            return x;
        }
        let n = x.shape().num_elements();
        let mut out = vec![0f32; n];
        let x = x.to_contiguous();
        let strides = layout.strides();
        let x = x.storage::<f32>();
        match layout.shape().len() {
            2 => {
                let columns = layout.shape()[1];
                for (i, value) in x.iter().enumerate() {
                    let (row, column) = (i / columns, i % columns);
                    out[row * strides[0] as usize + column * strides[1] as usize] = *value;
                }
            }
            // Parameters of other ranks are always contiguous.
            _ => out.copy_from_slice(x),
        }
        T::new(Bytes::from_elems(out), layout.clone(), DType::F32)
    };
    let grad = same(grad);
    let [mut first, mut second] = match moments {
        Some(moments) => moments.map(same),
        None => [(); 2].map(|()| {
            let zeros = vec![0f32; layout.shape().num_elements()];
            T::new(Bytes::from_elems(zeros), layout.clone(), DType::F32)
        }),
    };
    param
        .storage_mut::<f32>()
        .par_chunks_mut(GRAIN)
        .zip(first.storage_mut::<f32>().par_chunks_mut(GRAIN))
        .zip(second.storage_mut::<f32>().par_chunks_mut(GRAIN))
        .zip(grad.storage::<f32>().par_chunks(GRAIN))
        .for_each(|(((param, first), second), grad)| {
            vectorised(Adam { param, first, second, grad, factors });
        });
    (param, [first, second])
}

struct Scale<'a> {
    x: &'a mut [f32],
    factor: f32,
}

impl Kernel for Scale<'_> {
    #[inline(always)]
    fn run(self) {
        self.x.iter_mut().for_each(|x| *x *= self.factor);
    }
}

pub(super) fn scaled(x: T, factor: f32) -> T {
    let mut x = if is_dense(&x) { x } else { x.to_contiguous() };
    let parts = x.storage_mut::<f32>().par_chunks_mut(GRAIN);
    parts.for_each(|x| vectorised(Scale { x, factor }));
    x
}

struct Squares<'a> {
    x: &'a [f32],
    total: &'a mut f64,
}

impl Kernel for Squares<'_> {
    #[inline(always)]
    fn run(self) {
        *self.total = f64::from(sum(self.x.len(), |i| self.x[i] * self.x[i]));
    }
}

/// The sums of squares of parts of a fixed size.
pub(super) fn sums_of_squares(x: &T) -> Vec<f64> {
    if let ([rows, columns], [1, _]) = (&x.layout().shape()[..], x.layout().strides())
        && is_dense(x)
        && *rows > 1
    {
        return of_transposed(x.storage::<f32>(), *rows, *columns);
    }
    let x = if is_dense(x) && x.layout().is_contiguous() { x.clone() } else { x.to_contiguous() };
    x.storage::<f32>().par_chunks(SQUARES_PART).map(squares).collect()
}

fn squares(x: &[f32]) -> f64 {
    let mut total = 0.0;
    vectorised(Squares { x, total: &mut total });
    total
}

/// Rows that are copied together: as many numbers as a line of the cache has.
const ROWS: usize = 16;

/// The same of a matrix that is stored column by column, such as the gradient of an output layer. Parts are row by row as
/// ever, so that the sums do not depend on how a matrix is stored.
fn of_transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f64> {
    let n = x.len();
    let of_rows = |first: usize| {
        let last = (first + ROWS).min(rows);
        let mut copy = vec![0f32; (last - first) * columns];
        for (j, column) in x.chunks_exact(rows).enumerate() {
            for (i, value) in column[first..last].iter().enumerate() {
                copy[i * columns + j] = *value;
            }
        }
        // Parts that begin in these rows. The last may end in later ones.
        let (from, to) = (first * columns, last * columns);
        let starts = (from.next_multiple_of(SQUARES_PART)..to).step_by(SQUARES_PART);
        let sums = starts.map(|start| {
            let end = (start + SQUARES_PART).min(n);
            if end <= to {
                return squares(&copy[start - from..end - from]);
            }
            let mut part = copy[start - from..].to_vec();
            part.extend((to..end).map(|at| x[at % columns * rows + at / columns]));
            squares(&part)
        });
        sums.collect::<Vec<_>>()
    };
    let blocks: Vec<usize> = (0..rows).step_by(ROWS).collect();
    blocks.into_par_iter().flat_map_iter(of_rows).collect()
}
