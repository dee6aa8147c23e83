//! Products of f32 matrices whose factors are rounded as they are packed; sums and what comes out are f32.
//!
//! Every element is summed over the same blocks of terms in the same order, whatever is computed beside it: it has
//! the same bits in a product of fewer rows or columns.
//!
//! Unsafe because the instructions load and store through pointers.
#![allow(unsafe_code)]

mod bf16;
mod bytes;
mod int8;
mod rotation;

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::marker::PhantomData;

use rayon::prelude::*;

use super::product::{Start, Threads};
use super::scratch::Scratch;
use super::view::{MatMut, MatRef};

pub(super) use bf16::Bf16;
pub(super) use bytes::ByteMatrix;
pub(super) use int8::Int8;
#[cfg(test)]
pub(super) use rotation::rotate;

/// Numbers in a vector.
const LANES: usize = 16;

/// Numbers that factors are rounded to. Factors are packed as panels of lines (rows of the left one, columns of the right
/// one), the numbers of all lines of a panel side by side.
pub(super) trait Format: Sync {
    /// Rows and columns of the sums that registers hold.
    const ROWS: usize;
    const COLUMNS: usize;
    /// Terms that are summed before a sum goes to memory.
    const TERMS: usize;
    /// Columns that are packed at a time, for all rows of a task: as many panels as stay in a cache.
    const WIDTH: usize;

    /// Whether this machine has the instructions.
    fn available() -> bool;

    /// Words of a line of at most [`TERMS`](Self::TERMS) terms.
    fn words(terms: usize) -> usize;

    /// Rounds at most [`ROWS`](Self::ROWS) rows, or [`COLUMNS`](Self::COLUMNS) columns (transposed); zeros where there is
    /// no line or term.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn pack_rows(rows: MatRef<'_>, to: &mut [u32]);

    /// # Safety
    /// The machine has the instructions.
    unsafe fn pack_columns(columns: MatRef<'_>, to: &mut [u32]);

    /// `to = start + alpha · a · b` for a panel of each.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn tile(to: MatMut<'_>, start: Start<'_>, a: &[u32], b: &[u32], alpha: f32);
}

/// `to = start + alpha · a · b`; all sizes ≥ 1. Nothing of `to` is read unless it is the start.
///
/// # Panics
/// If the machine does not have the instructions.
pub(super) fn multiply<F: Format>(
    to: MatMut<'_>,
    start: Start<'_>,
    a: MatRef<'_>,
    b: MatRef<'_>,
    alpha: f32,
    threads: Threads,
) {
    let (m, n) = (a.rows(), b.columns());
    let tasks = match threads {
        Threads::One => 1,
        Threads::All => 4 * rayon::current_num_threads(),
    };
    // Columns are shared among tasks first: then each of them is packed once.
    let by_columns = n.div_ceil(F::WIDTH).min(tasks);
    let by_rows = (tasks / by_columns).min(m.div_ceil(16 * F::ROWS)).max(1);
    let [columns, rows] = [(n, by_columns, F::COLUMNS), (m, by_rows, F::ROWS)]
        .map(|(size, tasks, unit)| size.div_ceil(tasks).next_multiple_of(unit));
    if by_columns * by_rows == 1 {
        return task(to, start, (&Rows::<F>::new(a, false), 0), b, alpha);
    }
    let packed = Rows::<F>::new(a, true);
    let mut parts = Vec::with_capacity(by_columns * by_rows);
    let mut rest = to;
    for top in (0..m).step_by(rows) {
        let height = rows.min(m - top);
        let (mut line, below) = rest.split_at_row(height);
        rest = below;
        for left in (0..n).step_by(columns) {
            let width = columns.min(n - left);
            let (part, right) = line.split_at_column(width);
            line = right;
            let columns = left..left + width;
            let start = start.take_columns(columns.clone());
            parts.push((part, start, top / F::ROWS, b.take_columns(columns)));
        }
    }
    parts.into_par_iter().for_each(|(to, start, panel, b)| {
        task(to, start, (&packed, panel), b, alpha);
    });
}

/// A left matrix, for each block of terms panels of rows.
pub(super) struct Rows<F> {
    data: Scratch<u32>,
    rows: usize,
    terms: usize,
    panels: usize,
    format: PhantomData<F>,
}

impl<F: Format> Rows<F> {
    /// # Panics
    /// If the machine does not have the instructions.
    pub(super) fn new(a: MatRef<'_>, parallel: bool) -> Self {
        assert!(F::available(), "no instructions for products of this format");
        let (m, k) = (a.rows(), a.columns());
        let panels = m.div_ceil(F::ROWS);
        let whole = panels * F::ROWS * F::words(F::TERMS);
        let rest = panels * F::ROWS * F::words(k % F::TERMS);
        let mut data = Scratch::of(k / F::TERMS * whole + rest);
        for (block, data) in data.chunks_mut(whole).enumerate() {
            let first = block * F::TERMS;
            let terms = a.take_columns(first..k.min(first + F::TERMS));
            let size = data.len() / panels;
            let pack = |(panel, to): (usize, &mut [u32])| {
                let rows = terms.take_rows(panel * F::ROWS..m.min((panel + 1) * F::ROWS));
                // SAFETY: the machine has the instructions.
                unsafe { F::pack_rows(rows, to) }
            };
            match parallel {
                true => data.par_chunks_mut(size).enumerate().for_each(pack),
                false => data.chunks_mut(size).enumerate().for_each(pack),
            }
        }
        Self { data, rows: m, terms: k, panels, format: PhantomData }
    }

    /// A panel, in a block of terms.
    fn panel(&self, block: usize, panel: usize) -> &[u32] {
        let before = self.panels * F::ROWS * F::words(F::TERMS) * block;
        let size = F::ROWS * F::words(F::TERMS.min(self.terms - F::TERMS * block));
        &self.data[before + panel * size..][..size]
    }
}

/// A right matrix, for each block of terms panels of columns.
pub(super) struct Columns<F> {
    data: Scratch<u32>,
    columns: usize,
    terms: usize,
    panels: usize,
    format: PhantomData<F>,
}

impl<F: Format> Columns<F> {
    /// # Panics
    /// If the machine does not have the instructions.
    pub(super) fn new(b: MatRef<'_>) -> Self {
        assert!(F::available(), "no instructions for products of this format");
        let (k, n) = (b.rows(), b.columns());
        let panels = n.div_ceil(F::COLUMNS);
        let whole = panels * F::COLUMNS * F::words(F::TERMS);
        let rest = panels * F::COLUMNS * F::words(k % F::TERMS);
        let mut data = Scratch::of(k / F::TERMS * whole + rest);
        for (block, data) in data.chunks_mut(whole).enumerate() {
            let terms = block * F::TERMS..k.min((block + 1) * F::TERMS);
            let size = data.len() / panels;
            let columns = b.take_rows(terms).transpose();
            for (panel, to) in data.chunks_mut(size).enumerate() {
                let own = panel * F::COLUMNS..n.min((panel + 1) * F::COLUMNS);
                // SAFETY: the machine has the instructions.
                unsafe { F::pack_columns(columns.take_rows(own), to) }
            }
        }
        Self { data, columns: n, terms: k, panels, format: PhantomData }
    }

    /// Panels from `first` on, in a block of terms.
    fn panels(&self, block: usize, first: usize, n: usize) -> &[u32] {
        let size = F::COLUMNS * F::words(F::TERMS.min(self.terms - F::TERMS * block));
        let before = self.panels * F::COLUMNS * F::words(F::TERMS) * block;
        &self.data[before + first * size..][..n * size]
    }
}

/// [`multiply`] on one thread, with factors that several products share.
///
/// # Panics
/// If the shapes do not fit.
pub(super) fn multiply_packed<F: Format>(
    mut to: MatMut<'_>,
    start: Start<'_>,
    a: &Rows<F>,
    b: &Columns<F>,
) {
    let (m, n) = (to.rows(), to.columns());
    assert_eq!([a.terms, a.rows, b.columns], [b.terms, m, n], "terms, rows and columns");
    for left in (0..n).step_by(F::WIDTH) {
        let width = F::WIDTH.min(n - left);
        let mut to = to.reborrow().take_columns(left..left + width);
        let start = start.take_columns(left..left + width);
        for block in 0..a.terms.div_ceil(F::TERMS) {
            let panels = b.panels(block, left / F::COLUMNS, width.div_ceil(F::COLUMNS));
            tiles(to.reborrow(), start.of_block(block), (a, 0), block, panels, 1.0);
        }
    }
}

/// The part of a product that one thread computes: its rows begin with a panel of the left matrix.
fn task<F: Format>(
    mut to: MatMut<'_>,
    start: Start<'_>,
    (a, first): (&Rows<F>, usize),
    b: MatRef<'_>,
    alpha: f32,
) {
    let (n, k) = (to.columns(), a.terms);
    let width = F::WIDTH.min(n.next_multiple_of(F::COLUMNS));
    let mut buffer = Scratch::<u32>::of(width * F::words(k.min(F::TERMS)));
    for left in (0..n).step_by(F::WIDTH) {
        let width = F::WIDTH.min(n - left);
        for block in 0..k.div_ceil(F::TERMS) {
            let terms = block * F::TERMS..k.min((block + 1) * F::TERMS);
            let size = F::COLUMNS * F::words(terms.len());
            let source = b.take_rows(terms).transpose();
            let columns_of = |panel: usize| {
                let from = panel * F::COLUMNS;
                left + from..left + width.min(from + F::COLUMNS)
            };
            let panels = width.div_ceil(F::COLUMNS);
            for (i, panel) in buffer.chunks_mut(size).take(panels).enumerate() {
                // SAFETY: there are packed rows, so that the machine has the instructions.
                unsafe { F::pack_columns(source.take_rows(columns_of(i)), panel) };
            }
            let to = to.reborrow().take_columns(left..left + width);
            let start = start.take_columns(left..left + width).of_block(block);
            tiles(to, start, (a, first), block, &buffer[..panels * size], alpha);
        }
    }
}

/// Sums over a block of terms, for all rows and a few panels of columns.
fn tiles<F: Format>(
    mut to: MatMut<'_>,
    start: Start<'_>,
    (a, first): (&Rows<F>, usize),
    block: usize,
    panels: &[u32],
    alpha: f32,
) {
    let (m, n) = (to.rows(), to.columns());
    let size = panels.len() / n.div_ceil(F::COLUMNS);
    for top in (0..m).step_by(F::ROWS) {
        let lines = a.panel(block, first + top / F::ROWS);
        for (i, panel) in panels.chunks(size).enumerate() {
            let columns = i * F::COLUMNS..n.min((i + 1) * F::COLUMNS);
            let to = to.reborrow().take_rows(top..m.min(top + F::ROWS));
            let (to, start) = (to.take_columns(columns.clone()), start.take_columns(columns));
            // SAFETY: who packed factors has seen that the machine has the instructions.
            unsafe { F::tile(to, start, lines, panel, alpha) };
        }
    }
}

/// Writes a tile's sums of one row: `to = start + alpha · sums`.
///
/// # Safety
/// At `to` there are `columns` numbers, at most two vectors, and as many in a line.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put_sums(to: *mut f32, columns: usize, sums: [__m512; 2], start: Start<'_>, alpha: f32) {
    let alpha = _mm512_set1_ps(alpha);
    for (i, sum) in sums.into_iter().enumerate() {
        let (own, to) = (mask(columns.saturating_sub(i * LANES)), to.wrapping_add(i * LANES));
        // SAFETY: the mask leaves out what is beyond the line.
        unsafe {
            let sum = match start {
                Start::Zeros => _mm512_mul_ps(sum, alpha),
                Start::There => _mm512_fmadd_ps(sum, alpha, _mm512_maskz_loadu_ps(own, to)),
                Start::Line(line) => {
                    let at = line.as_ptr().wrapping_add(i * LANES);
                    _mm512_fmadd_ps(sum, alpha, _mm512_maskz_loadu_ps(own, at))
                }
            };
            _mm512_mask_storeu_ps(to, own, sum);
        }
    }
}

/// A square of 32-bit numbers with rows and columns exchanged.
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let zeros = [_mm512_setzero_si512(); LANES];
    // Of vectors 2 i and 2 i + 1, two numbers of each in turns, in each quarter.
    let mut twos = zeros;
    for i in 0..LANES / 2 {
        twos[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        twos[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Quarter q of vector 4 g + c: column 4 q + c of rows 4 g to 4 g + 3.
    let mut fours = zeros;
    for g in 0..4 {
        fours[4 * g] = _mm512_unpacklo_epi64(twos[4 * g], twos[4 * g + 2]);
        fours[4 * g + 1] = _mm512_unpackhi_epi64(twos[4 * g], twos[4 * g + 2]);
        fours[4 * g + 2] = _mm512_unpacklo_epi64(twos[4 * g + 1], twos[4 * g + 3]);
        fours[4 * g + 3] = _mm512_unpackhi_epi64(twos[4 * g + 1], twos[4 * g + 3]);
    }
    // Even quarters of two vectors, and odd ones.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut columns = zeros;
    for c in 0..4 {
        let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
        let (left, right) =
            (_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<EVEN>(d, e));
        columns[c] = _mm512_shuffle_i32x4::<EVEN>(left, right);
        columns[8 + c] = _mm512_shuffle_i32x4::<ODD>(left, right);
        let (left, right) = (_mm512_shuffle_i32x4::<ODD>(a, b), _mm512_shuffle_i32x4::<ODD>(d, e));
        columns[4 + c] = _mm512_shuffle_i32x4::<EVEN>(left, right);
        columns[12 + c] = _mm512_shuffle_i32x4::<ODD>(left, right);
    }
    columns
}

/// The first `n` lanes.
fn mask(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}
