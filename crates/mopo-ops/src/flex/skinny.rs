//! Products of a few lines with a matrix, as in generation. They are limited by reading the matrix, which is read once,
//! in the order of memory. A line's product does not depend on how many lines there are, bit for bit: an answer then
//! does not depend on who else is answered.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::by_output::{ByOutput, Columns};
use super::view::MatRef;
use super::{Kernel, vectorised};

/// Maximum number of lines.
pub(super) const LINES: usize = 16;
/// The same where `a` is transposed: the products of training's gradients, for which bits are not kept.
pub(super) const TRANSPOSED_LINES: usize = 8;
/// A smaller matrix takes one thread, and is not worth the special case for a transposed `a`.
const LARGE: usize = 16 * 1024;

/// Calls `f` with the index and the numbers of each piece, on all threads unless there is one piece.
fn pieces(sums: &mut [f32], size: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if sums.len() <= size {
        return f(0, sums);
    }
    sums.par_chunks_mut(size).enumerate().for_each(|(i, sums)| f(i, sums));
}

/// `out = (out if add else 0) + alpha · a · b` if `a` has at most [`LINES`] lines; otherwise does nothing and
/// returns false.
pub(super) fn multiply(
    out: &mut [f32],
    add: bool,
    a: MatRef<'_>,
    b: MatRef<'_>,
    alpha: f32,
) -> bool {
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    let few = if a.has_rows() { m <= LINES } else { m <= TRANSPOSED_LINES && k * n >= LARGE };
    if m == 0 || !few {
        return false;
    }
    let lines = gathered(a, alpha);
    let transposed = b.transpose();
    if transposed.has_rows() {
        by_output(out, add, lines, &Columns(transposed));
    } else if b.has_rows() {
        // `[n, m]` in pieces of columns, then transposed: pieces of one line are not contiguous in `out`.
        let mut sums = vec![0f32; n * m];
        let piece = match k * n < LARGE {
            true => n,
            false => n.div_ceil(2 * rayon::current_num_threads()).next_multiple_of(64).min(512),
        };
        pieces(&mut sums, piece * m, |i, sums| {
            let columns = sums.len() / m;
            // Lines one after the other while summing.
            let mut wide = vec![0f32; sums.len()];
            for j in 0..k {
                let row = &b.row(j)[i * piece..i * piece + columns];
                vectorised(Axpy { row, lines: &lines, j, k, wide: &mut wide });
            }
            for (line, wide) in wide.chunks_exact(columns).enumerate() {
                for (column, x) in wide.iter().enumerate() {
                    sums[column * m + line] = *x;
                }
            }
        });
        transpose(out, add, &sums, m);
    } else {
        return false;
    }
    true
}

/// The lines of `alpha · a`, one after the other.
pub(super) fn gathered(a: MatRef<'_>, alpha: f32) -> Vec<f32> {
    let (m, k) = (a.rows(), a.columns());
    if a.has_rows() {
        return (0..m).flat_map(|i| a.row(i)).map(|x| alpha * x).collect();
    }
    (0..m).flat_map(|i| (0..k).map(move |j| (i, j))).map(|(i, j)| alpha * a[(i, j)]).collect()
}

/// `out = (out if add else 0) + lines · W`, with at least one line.
pub(super) fn by_output(out: &mut [f32], add: bool, lines: Vec<f32>, weight: &impl ByOutput) {
    let [inputs, outputs] = weight.shape();
    let m = out.len() / outputs;
    let packed = weight.packed(lines);
    let piece = match inputs * outputs < LARGE {
        true => outputs,
        false => outputs.div_ceil(4 * rayon::current_num_threads()).next_multiple_of(8),
    };
    let fill = |sums: &mut [f32]| {
        pieces(sums, piece * m, |i, sums| weight.products(i * piece, &packed, m, sums));
    };
    if m == 1 && !add {
        return fill(out);
    }
    // `[outputs, m]`, then transposed.
    let mut sums = vec![0f32; outputs * m];
    fill(&mut sums);
    transpose(out, add, &sums, m);
}

/// [`ByOutput::products`] of one output after the other.
pub(super) fn dots(
    weight: &(impl ByOutput + ?Sized),
    first: usize,
    lines: &[f32],
    m: usize,
    sums: &mut [f32],
) {
    let mut buffer = vec![0f32; weight.shape()[0]];
    for (output, sums) in (first..).zip(sums.chunks_exact_mut(m)) {
        let column = weight.line(output, &mut buffer);
        pulp::Arch::new().dispatch(Dots { column, lines, sums });
    }
}

/// `out = (out if add else 0) + sumsᵀ`, out of `m` lines.
fn transpose(out: &mut [f32], add: bool, sums: &[f32], m: usize) {
    for (i, out) in out.chunks_exact_mut(sums.len() / m).enumerate() {
        for (j, x) in out.iter_mut().enumerate() {
            *x = if add { *x } else { 0.0 } + sums[j * m + i];
        }
    }
}

/// A column of the matrix, the lines, and their products.
struct Dots<'a> {
    column: &'a [f32],
    lines: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Dots { column, lines, sums } = self;
        let k = column.len();
        // Four lines read the column once. A line's sums have the same order, alone or not.
        let (fours, ones) = sums.split_at_mut(sums.len() / 4 * 4);
        let (of_fours, of_ones) = lines.split_at(fours.len() * k);
        for (lines, sums) in of_fours.chunks_exact(4 * k).zip(fours.chunks_exact_mut(4)) {
            let (left, right) = lines.split_at(2 * k);
            let ((a, b), (c, d)) = (left.split_at(k), right.split_at(k));
            sums.copy_from_slice(&products(simd, column, [a, b, c, d]));
        }
        for (line, sum) in of_ones.chunks_exact(k).zip(ones) {
            [*sum] = products(simd, column, [line]);
        }
    }
}

/// The products of some lines with a column. Loops over arrays, not iterators of closures, which would be compiled
/// without vector instructions.
#[inline(always)]
fn products<S: Simd, const LINES: usize>(
    simd: S,
    column: &[f32],
    lines: [&[f32]; LINES],
) -> [f32; LINES] {
    let (whole, rest) = S::as_simd_f32s(column);
    let (pairs, last) = whole.as_chunks::<2>();
    let mut of = [pairs; LINES];
    for (of, line) in of.iter_mut().zip(lines) {
        *of = &S::as_simd_f32s(line).0.as_chunks::<2>().0[..pairs.len()];
    }
    let mut totals = [[simd.splat_f32s(0.0); 2]; LINES];
    for i in 0..pairs.len() {
        let [b, d] = pairs[i];
        for n in 0..LINES {
            let ([a, c], [left, right]) = (of[n][i], totals[n]);
            totals[n] = [simd.mul_add_f32s(a, b, left), simd.mul_add_f32s(c, d, right)];
        }
    }
    let mut out = [0f32; LINES];
    for n in 0..LINES {
        let (own, own_rest) = S::as_simd_f32s(lines[n]);
        let mut total = simd.add_f32s(totals[n][0], totals[n][1]);
        if let ([b], Some(a)) = (last, own.last()) {
            total = simd.mul_add_f32s(*a, *b, total);
        }
        out[n] = simd.reduce_sum_f32s(total);
        for (a, b) in own_rest.iter().zip(rest) {
            out[n] += a * b;
        }
    }
    out
}

struct Axpy<'a> {
    row: &'a [f32],
    lines: &'a [f32],
    j: usize,
    k: usize,
    wide: &'a mut [f32],
}

impl Kernel for Axpy<'_> {
    #[inline(always)]
    fn run(self) {
        let Axpy { row, lines, j, k, wide } = self;
        for (line, wide) in wide.chunks_exact_mut(row.len()).enumerate() {
            let x = lines[line * k + j];
            for (w, b) in wide.iter_mut().zip(row) {
                *w += x * b;
            }
        }
    }
}
