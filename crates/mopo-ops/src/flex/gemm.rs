//! Matrix products of burn-flex's tensors.
//!
//! Unsafe because products write new memory that was not cleared.
#![allow(unsafe_code)]

use std::time::Instant;

use burn::tensor::TensorMetadata;
use burn_flex::FlexTensor;

use super::fresh::{changed, filled, written};
use super::precision::matmul_precision;
use super::product::{
    Start, Threads, WORTH_ROUNDING, fine_precision, in_precision, multiply, takes_line,
};
use super::view::{MatMut, MatRef};
use super::{T, into_values, new, skinny, values};
use crate::{Init, MatmulPrecision};

/// Products with fewer multiplications use one thread.
const PARALLEL: usize = 64 * 1024;

/// A matrix of burn-flex, without a copy if rows or columns are contiguous.
pub(super) struct View {
    tensor: FlexTensor,
    transposed: bool,
}

impl View {
    /// `transposed`: use the transpose of `tensor`.
    pub(super) fn new(tensor: FlexTensor, transposed: bool) -> Self {
        let strides = tensor.layout().strides();
        let fits = |long: isize, n: usize| long >= n as isize;
        let [rows, columns] = tensor.shape().dims();
        let by_rows = strides[1] == 1 && fits(strides[0], columns);
        let by_columns = strides[0] == 1 && fits(strides[1], rows);
        let tensor = if by_rows || by_columns { tensor } else { tensor.to_contiguous() };
        Self { tensor, transposed }
    }

    pub(super) fn get(&self) -> MatRef<'_> {
        let layout = self.tensor.layout();
        let [rows, columns] = self.tensor.shape().dims();
        let strides = layout.strides();
        let data = &self.tensor.storage::<f32>()[layout.start_offset()..];
        let matrix = if strides[1] == 1 && strides[0] >= columns as isize {
            MatRef::by_rows(data, rows, columns, strides[0] as usize)
        } else {
            MatRef::by_rows(data, columns, rows, strides[1] as usize).transpose()
        };
        if self.transposed { matrix.transpose() } else { matrix }
    }
}

/// How many threads a product of that size is worth.
pub(super) fn threads(m: usize, n: usize, k: usize) -> Threads {
    if m * n * k < PARALLEL { Threads::One } else { Threads::All }
}

/// The initial value of a product, and whether there is one.
pub(super) fn start(
    init: Init<burn::backend::Flex>,
    rows: usize,
    columns: usize,
) -> (Vec<f32>, bool) {
    let bias = init.bias.map(|bias| super::contiguous(bias.to_f32()));
    let bias = bias.as_ref().map(values);
    match (init.add, bias) {
        (None, None) => (vec![0.0; rows * columns], false),
        (None, Some(bias)) => {
            (filled(rows * columns, columns, |_, row| row.write_copy_of_slice(bias)), true)
        }
        (Some(add), None) => (into_values(add), true),
        (Some(add), Some(bias)) => {
            let change = |_, rows: &mut [f32]| {
                for row in rows.chunks_exact_mut(columns) {
                    row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
                }
            };
            (changed(add, columns * 64, change), true)
        }
    }
}

/// The sum of `init` and a product `[rows, terms] · [terms, columns]`, which `product` adds to its start, at least
/// `narrowest` columns at a time.
///
/// # Safety
/// `product` writes every element by the kernels of several rows, terms and columns, and reads none before unless it
/// starts with what is there.
pub(super) unsafe fn onto(
    init: Init<burn::backend::Flex>,
    [rows, terms, columns]: [usize; 3],
    narrowest: usize,
    precision: MatmulPrecision,
    product: impl FnOnce(MatMut<'_>, Start<'_>),
) -> Vec<f32> {
    let takes_start = match (&init.add, &init.bias) {
        (None, None) => true,
        (None, Some(_)) => takes_line(precision, terms, narrowest),
        (Some(_), _) => false,
    };
    // One row, term or column is computed by loops over slices, which must be of numbers.
    if !takes_start || rows.min(terms).min(narrowest) < 2 {
        let (mut out, add) = start(init, rows, columns);
        product(MatMut::by_rows(&mut out, rows, columns), Start::there(add));
        return out;
    }
    let bias = init.bias.map(|bias| super::contiguous(bias.to_f32()));
    let bias = bias.as_ref().map(values);
    assert!(bias.is_none_or(|bias| bias.len() == columns), "a bias of another length");
    let start = bias.map_or(Start::Zeros, Start::Line);
    // SAFETY: as the caller says.
    unsafe { written(rows * columns, |out| product(MatMut::of_new(out, rows, columns), start)) }
}

trait ToF32 {
    fn to_f32(self) -> Self;
}

impl ToF32 for FlexTensor {
    /// Half-precision tensors as f32.
    fn to_f32(self) -> Self {
        use burn::tensor::{DType, FloatDType, ops::FloatTensorOps};
        match self.dtype() {
            DType::F32 => self,
            _ => burn::backend::Flex::float_cast(self, FloatDType::F32),
        }
    }
}

/// `init + alpha · a · b`, each transposed on request.
pub(super) fn gemm(
    init: Init<burn::backend::Flex>,
    alpha: f64,
    a: T,
    transpose_a: bool,
    b: T,
    transpose_b: bool,
) -> T {
    let (a, b) = (View::new(a, transpose_a), View::new(b, transpose_b));
    let (a, b) = (a.get(), b.get());
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    assert_eq!(k, b.rows(), "matrices of {m} × {k} and {} × {n}", b.rows());
    if skinny::takes(a, b) {
        let (mut out, add) = start(init, m, n);
        skinny::multiply(&mut out, add, a, b, alpha as f32);
        return new(out, [m, n]);
    }
    // A transposed left factor is that of a weight's gradient, a sum over tokens; for LoRA's few lines int8 was seen
    // to do no harm.
    let is_gradient = transpose_a && m >= WORTH_ROUNDING;
    let precision = if is_gradient { fine_precision() } else { matmul_precision() };
    let product = |to: MatMut<'_>, start: Start<'_>| {
        in_precision(precision, to, start, a, b, alpha as f32, threads(m, n, k));
    };
    // SAFETY: all is written, and read only if it is the start.
    let out = unsafe { onto(init, [m, k, n], n, precision, product) };
    new(out, [m, n])
}

/// Floating-point operations per second of a product `[m, k] · [k, n]`, in 10⁹: the best of
/// `repeats`, on rayon's threads. The baseline for the speed of a training step.
pub fn matmul_rate(m: usize, n: usize, k: usize, repeats: usize) -> f64 {
    let a: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 * 0.1).collect();
    let b: Vec<f32> = (0..n * k).map(|i| (i % 13) as f32 * 0.1).collect();
    // Not zeros: the system would provide their memory while the clock runs.
    let mut out = vec![1f32; m * n];
    let mut best = f64::INFINITY;
    for _ in 0..repeats.max(1) {
        let clock = Instant::now();
        let to = MatMut::by_rows(&mut out, m, n);
        let (a, b) = (MatRef::by_rows(&a, m, k, k), MatRef::by_rows(&b, k, n, n));
        multiply(to, false, a, b, 1.0, threads(m, n, k));
        best = best.min(clock.elapsed().as_secs_f64());
    }
    2.0 * (m * n * k) as f64 / best / 1e9
}
