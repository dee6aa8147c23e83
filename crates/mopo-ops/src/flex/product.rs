//! The matrix product: kernels in assembly, and [loops](super::vectors) for shapes that do not suit them.
//!
//! Unsafe because the kernels take pointers.
#![allow(unsafe_code)]

use std::ops::Range;

use rayon::prelude::*;

use super::precision::matmul_precision;
#[cfg(target_arch = "x86_64")]
use super::rounded;
use super::vectorised;
use super::vectors::{Axpys, Dots, Outer};
use super::view::{MatMut, MatRef};
use crate::MatmulPrecision;

/// How many threads may compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    One,
    /// All of rayon's pool.
    All,
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    Zeros,
    /// The numbers at its place.
    There,
    /// In each row these; see [`takes_line`].
    Line(&'a [f32]),
}

impl Start<'_> {
    pub(super) fn there(add: bool) -> Self {
        if add { Self::There } else { Self::Zeros }
    }

    pub(super) fn take_columns(self, columns: Range<usize>) -> Self {
        match self {
            Self::Line(line) => Self::Line(&line[columns]),
            other => other,
        }
    }

    /// For a block of terms: later ones add to what is there.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn of_block(self, block: usize) -> Self {
        if block == 0 { self } else { Self::There }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn fits(&self, columns: usize) -> bool {
        !matches!(self, Self::Line(line) if line.len() != columns)
    }
}

/// `to = (to if add else 0) + alpha · a · b`, in the precision that products have.
///
/// # Panics
/// If the shapes do not fit.
pub(super) fn multiply(
    to: MatMut<'_>,
    add: bool,
    a: MatRef<'_>,
    b: MatRef<'_>,
    alpha: f32,
    threads: Threads,
) {
    in_precision(matmul_precision(), to, Start::there(add), a, b, alpha, threads);
}

/// The same, but not in int8: for sums over tokens or positions, where one large term beside many small ones would leave
/// nothing of these. So are attention and the gradients of weights.
pub(super) fn multiply_finely(
    to: MatMut<'_>,
    add: bool,
    a: MatRef<'_>,
    b: MatRef<'_>,
    alpha: f32,
    threads: Threads,
) {
    in_precision(fine_precision(), to, Start::there(add), a, b, alpha, threads);
}

/// The precision of [`multiply_finely`].
pub(super) fn fine_precision() -> MatmulPrecision {
    match matmul_precision() {
        MatmulPrecision::Int8 => MatmulPrecision::F32,
        other => other,
    }
}

/// Whether a product of several rows, `k` terms and `n` columns can begin with a line.
pub(super) fn takes_line(precision: MatmulPrecision, k: usize, n: usize) -> bool {
    cfg!(target_arch = "x86_64") && precision != MatmulPrecision::F32 && k.min(n) >= WORTH_ROUNDING
}

/// `to = start + alpha · a · b` in a precision. Nothing of `to` is read unless it is the start.
///
/// # Panics
/// If the shapes do not fit.
pub(super) fn in_precision(
    precision: MatmulPrecision,
    mut to: MatMut<'_>,
    start: Start<'_>,
    a: MatRef<'_>,
    b: MatRef<'_>,
    alpha: f32,
    threads: Threads,
) {
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    assert_eq!(k, b.rows(), "matrices of {m} × {k} and {} × {n}", b.rows());
    assert_eq!([to.rows(), to.columns()], [m, n], "the product of {m} × {k} and {k} × {n}");
    let add = match start {
        Start::Zeros => false,
        Start::There => true,
        Start::Line(line) => {
            assert_eq!(line.len(), n, "a line of another length");
            return kernel(precision, to, start, a, b, alpha, threads);
        }
    };
    if k == 0 {
        (0..m).filter(|_| !add).for_each(|i| to.row_mut(i).fill(0.0));
    } else if m == 1 && b.transpose().has_rows() {
        vectorised(Dots { to: to.row_mut(0), add, line: a, alpha, columns: b.transpose() });
    } else if m == 1 && b.has_rows() {
        vectorised(Axpys { to: to.row_mut(0), add, line: a, alpha, rows: b });
    } else if n == 1 && a.has_rows() {
        let mut sums = vec![0f32; m];
        let (line, columns) = (b.transpose(), a);
        vectorised(Dots { to: &mut sums, add: false, line, alpha, columns });
        for (i, sum) in sums.into_iter().enumerate() {
            let to = &mut to.row_mut(i)[0];
            *to = if add { *to } else { 0.0 } + sum;
        }
    } else if k == 1 && b.has_rows() {
        vectorised(Outer { to, add, column: a, alpha, row: b.row(0) });
    } else if m * n > 0 {
        kernel(precision, to, start, a, b, alpha, threads);
    }
}

/// From how many terms and columns on factors are rounded, if at all. LoRA's own have fewer; they
/// take little time.
pub(super) const WORTH_ROUNDING: usize = 32;

/// `m`, `n`, `k` ≥ 1.
fn kernel(
    precision: MatmulPrecision,
    to: MatMut<'_>,
    start: Start<'_>,
    a: MatRef<'_>,
    b: MatRef<'_>,
    alpha: f32,
    threads: Threads,
) {
    // The number of rows does not matter, so that it does not change a row's bits.
    let large = a.columns().min(b.columns()) >= WORTH_ROUNDING;
    #[cfg(target_arch = "x86_64")]
    match precision {
        MatmulPrecision::Bf16 if large => {
            return rounded::multiply::<rounded::Bf16>(to, start, a, b, alpha, threads);
        }
        MatmulPrecision::Int8 if large => {
            return rounded::multiply::<rounded::Int8>(to, start, a, b, alpha, threads);
        }
        _ => {}
    }
    // Without the instructions there is no choice.
    let _ = precision;
    let add = match start {
        Start::Zeros => false,
        Start::There => true,
        Start::Line(_) => panic!("products in f32 begin with no line"),
    };
    // LoRA's: to wake the threads that larger products keep for themselves takes as long as these.
    match large || threads == Threads::One {
        true => in_f32(to, add, a, b, alpha, threads),
        false => by_rows(to, a, |to, a| in_f32(to, add, a, b, alpha, Threads::One)),
    }
}

fn in_f32(to: MatMut<'_>, add: bool, a: MatRef<'_>, b: MatRef<'_>, alpha: f32, threads: Threads) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;

        use private_gemm_x86::InstrSet;
        if has!("avx512f") {
            return x86(InstrSet::Avx512, to, add, a, b, alpha, threads);
        } else if has!("avx2") && has!("fma") {
            return x86(InstrSet::Avx256, to, add, a, b, alpha, threads);
        }
    }
    portable(to, add, a, b, alpha, threads);
}

/// Computes a product's rows on all of rayon's threads.
fn by_rows(to: MatMut<'_>, a: MatRef<'_>, product: impl Fn(MatMut<'_>, MatRef<'_>) + Sync) {
    let m = a.rows();
    let size = m.div_ceil(rayon::current_num_threads()).next_multiple_of(16);
    let (mut parts, mut rest) = (vec![], to);
    for top in (0..m).step_by(size) {
        let (own, below) = rest.split_at_row(size.min(m - top));
        rest = below;
        parts.push((own, a.take_rows(top..m.min(top + size))));
    }
    parts.into_par_iter().for_each(|(to, a)| product(to, a));
}

#[cfg(target_arch = "x86_64")]
fn x86(
    instructions: private_gemm_x86::InstrSet,
    mut to: MatMut<'_>,
    add: bool,
    a: MatRef<'_>,
    b: MatRef<'_>,
    alpha: f32,
    threads: Threads,
) {
    use private_gemm_x86::{Accum, DType, DstKind, IType, gemm};
    use std::ptr::null;

    let threads = match threads {
        Threads::One => 1,
        Threads::All => rayon::current_num_threads(),
    };
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    let add = if add { Accum::Add } else { Accum::Replace };
    let (out, out_stride) = to.as_mut_ptr();
    let (a, [a_row, a_column]) = a.as_ptr();
    let (b, [b_row, b_column]) = b.as_ptr();
    // SAFETY: the pointers are of matrices of these shapes and distances, which nobody else writes
    // during the call; without indices and a diagonal, their pointers are not read.
    unsafe {
        gemm(
            DType::F32,
            IType::U64,
            instructions,
            m,
            n,
            k,
            out.cast(),
            out_stride as isize,
            1,
            null(),
            null(),
            DstKind::Full,
            add,
            a.cast(),
            a_row as isize,
            a_column as isize,
            false,
            null(),
            0,
            b.cast(),
            b_row as isize,
            b_column as isize,
            false,
            (&raw const alpha).cast(),
            threads,
        );
    }
}

/// For other processors.
fn portable(
    mut to: MatMut<'_>,
    add: bool,
    a: MatRef<'_>,
    b: MatRef<'_>,
    alpha: f32,
    threads: Threads,
) {
    let threads = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    let (out, out_stride) = to.as_mut_ptr();
    let (a, [a_row, a_column]) = a.as_ptr();
    let (b, [b_row, b_column]) = b.as_ptr();
    // SAFETY: the pointers are of matrices of these shapes and distances, which nobody else writes
    // during the call.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            out_stride as isize,
            add,
            a,
            a_column as isize,
            a_row as isize,
            b,
            b_column as isize,
            b_row as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests;
