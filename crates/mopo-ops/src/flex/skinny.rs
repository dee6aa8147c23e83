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
/// Maximum number of columns at a time.
const COLUMNS: usize = 4;
/// Numbers of all lines from which on [`COLUMNS`] are read at a time: lines no longer stay in the L1 cache, and are read
/// less often so. With fewer the matrix itself is awaited, which comes faster in the order of memory.
const MANY: usize = 6 * 1024;
/// Columns that are transposed at a time.
const PART: usize = 256;
/// A smaller matrix takes one thread, and is not worth the special case for a transposed `a`.
const LARGE: usize = 16 * 1024;

/// Calls `f` with the index and the numbers of each piece, on all threads unless there is one piece.
fn pieces(sums: &mut [f32], size: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if sums.len() <= size {
        return f(0, sums);
    }
    sums.par_chunks_mut(size).enumerate().for_each(|(i, sums)| f(i, sums));
}

/// Whether [`multiply`] is for these factors: `a` has at most [`LINES`] lines.
pub(super) fn takes(a: MatRef<'_>, b: MatRef<'_>) -> bool {
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    let few = if a.has_rows() { m <= LINES } else { m <= TRANSPOSED_LINES && k * n >= LARGE };
    m > 0 && n > 0 && few && (b.has_rows() || b.transpose().has_rows())
}

/// `out = (out if add else 0) + alpha · a · b`.
///
/// # Panics
/// If it does not [take](takes) these.
pub(super) fn multiply(out: &mut [f32], add: bool, a: MatRef<'_>, b: MatRef<'_>, alpha: f32) {
    assert!(takes(a, b), "few lines, and columns or rows side by side");
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    let lines = gathered(a, alpha);
    let transposed = b.transpose();
    if transposed.has_rows() {
        by_output(out, add, lines, &Columns(transposed));
    } else {
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
    }
}

/// The lines of `alpha · a`, one after the other.
pub(super) fn gathered(a: MatRef<'_>, alpha: f32) -> Vec<f32> {
    let (m, k) = (a.rows(), a.columns());
    if a.has_rows() {
        let mut lines = Vec::with_capacity(m * k);
        for i in 0..m {
            lines.extend(a.row(i).iter().map(|x| alpha * x));
        }
        return lines;
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

/// [`ByOutput::products`] of a few outputs after the other.
pub(super) fn dots(
    weight: &(impl ByOutput + ?Sized),
    first: usize,
    lines: &[f32],
    m: usize,
    sums: &mut [f32],
) {
    let [inputs, _] = weight.shape();
    if inputs == 0 {
        return sums.fill(0.0);
    }
    pulp::Arch::new().dispatch(Outputs { weight, first, lines, m, sums });
}

/// See [`dots`]; with at least one input.
struct Outputs<'a, W: ?Sized> {
    weight: &'a W,
    first: usize,
    lines: &'a [f32],
    m: usize,
    sums: &'a mut [f32],
}

impl<W: ByOutput + ?Sized> WithSimd for Outputs<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Outputs { weight, first, lines, m, sums } = self;
        let [inputs, _] = weight.shape();
        if W::IN_PLACE && m * inputs < MANY {
            let mut buffer = vec![0f32; inputs];
            for (output, sums) in (first..).zip(sums.chunks_exact_mut(m)) {
                let column = weight.line(output, &mut buffer);
                Dots { columns: &[column], lines, sums }.run(simd);
            }
            return;
        }
        let mut buffer = vec![0f32; COLUMNS * inputs];
        for (i, sums) in sums.chunks_mut(COLUMNS * m).enumerate() {
            let (n, first) = (sums.len() / m, first + i * COLUMNS);
            let mut columns = [&[][..]; COLUMNS];
            let places = columns[..n].iter_mut().zip(buffer.chunks_exact_mut(inputs));
            for (output, (column, buffer)) in (first..).zip(places) {
                *column = weight.line(output, buffer);
            }
            Dots { columns: &columns[..n], lines, sums }.run(simd);
        }
    }
}

/// `out = (out if add else 0) + sumsᵀ`, out of `m` lines.
fn transpose(out: &mut [f32], add: bool, sums: &[f32], m: usize) {
    let n = sums.len() / m;
    // A part of the columns at a time, which stays in the L1 cache.
    for from in (0..n).step_by(PART) {
        let size = PART.min(n - from);
        let part = &sums[from * m..][..size * m];
        for (i, out) in out.chunks_exact_mut(n).enumerate() {
            for (x, sums) in out[from..from + size].iter_mut().zip(part.chunks_exact(m)) {
                *x = if add { *x } else { 0.0 } + sums[i];
            }
        }
    }
}

/// Some columns of the matrix, the lines, and their products, `[columns, lines]`.
struct Dots<'a> {
    columns: &'a [&'a [f32]],
    lines: &'a [f32],
    sums: &'a mut [f32],
}

impl Dots<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let m = self.sums.len() / self.columns.len();
        let mut from = 0;
        while from < m {
            from += match m - from {
                1 => self.lines_from::<S, 1>(simd, from, m),
                2 | 3 => self.lines_from::<S, 2>(simd, from, m),
                _ => self.lines_from::<S, 4>(simd, from, m),
            };
        }
    }

    /// The products of all columns with `LINES` of `m` lines. Returns `LINES`.
    #[inline(always)]
    fn lines_from<S: Simd, const LINES: usize>(&mut self, simd: S, from: usize, m: usize) -> usize {
        let k = self.columns[0].len();
        let mut lines = [self.columns[0]; LINES];
        for (i, line) in lines.iter_mut().enumerate() {
            *line = &self.lines[(from + i) * k..][..k];
        }
        // Sums stay in registers, of which AVX-512 has 32 and others have 16.
        let is_wide = LINES < 4 || size_of::<S::f32s>() >= 64;
        let (fours, rest) =
            if is_wide { self.columns.as_chunks::<4>() } else { (&[][..], self.columns) };
        let (twos, ones) = rest.as_chunks::<2>();
        let mut sums = &mut self.sums[..];
        for columns in fours {
            sums = put(sums, from, m, tile(simd, *columns, lines));
        }
        for columns in twos {
            sums = put(sums, from, m, tile(simd, *columns, lines));
        }
        for column in ones {
            sums = put(sums, from, m, tile(simd, [*column], lines));
        }
        LINES
    }
}

/// Writes a tile's sums to their places, and returns the places of the columns that follow.
#[inline(always)]
fn put<const COLUMNS: usize, const LINES: usize>(
    sums: &mut [f32],
    from: usize,
    m: usize,
    tile: [[f32; LINES]; COLUMNS],
) -> &mut [f32] {
    let (own, rest) = sums.split_at_mut(COLUMNS * m);
    for (own, tile) in own.chunks_exact_mut(m).zip(tile) {
        own[from..from + LINES].copy_from_slice(&tile);
    }
    rest
}

/// The products of some columns with some lines: each in one register, so that its bits do not depend on the others.
/// Loops over arrays, not iterators of closures, which would be compiled without vector instructions.
#[inline(always)]
fn tile<S: Simd, const COLUMNS: usize, const LINES: usize>(
    simd: S,
    columns: [&[f32]; COLUMNS],
    lines: [&[f32]; LINES],
) -> [[f32; LINES]; COLUMNS] {
    let (first, first_rest) = S::as_simd_f32s(columns[0]);
    let (mut wide, mut rest) = ([first; COLUMNS], [first_rest; COLUMNS]);
    let (mut of, mut of_rest) = ([first; LINES], [first_rest; LINES]);
    for c in 0..COLUMNS {
        let (whole, last) = S::as_simd_f32s(columns[c]);
        (wide[c], rest[c]) = (&whole[..first.len()], &last[..first_rest.len()]);
    }
    for l in 0..LINES {
        let (whole, last) = S::as_simd_f32s(lines[l]);
        (of[l], of_rest[l]) = (&whole[..first.len()], &last[..first_rest.len()]);
    }
    let mut totals = [[simd.splat_f32s(0.0); LINES]; COLUMNS];
    for i in 0..first.len() {
        for c in 0..COLUMNS {
            for l in 0..LINES {
                totals[c][l] = simd.mul_add_f32s(of[l][i], wide[c][i], totals[c][l]);
            }
        }
    }
    let mut out = [[0f32; LINES]; COLUMNS];
    for c in 0..COLUMNS {
        for l in 0..LINES {
            out[c][l] = simd.reduce_sum_f32s(totals[c][l]);
            for j in 0..first_rest.len() {
                out[c][l] += of_rest[l][j] * rest[c][j];
            }
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
