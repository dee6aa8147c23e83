//! Products of f32 matrices in bfloat16: both are rounded as they are packed, products of pairs are added up in
//! f32, and what comes out is f32. An instruction of AVX512-BF16 takes twice as many terms as one for f32.
//!
//! Every element is summed over the same blocks of terms in the same order, whatever is computed beside it: it has
//! the same bits in a product of fewer rows or columns.
//!
//! Unsafe because the instructions load and store through pointers.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512bh, __m512i, __mmask16, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
    _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::mem::transmute;

use half::bf16;
use rayon::prelude::*;

use super::product::Threads;
use super::scratch::Scratch;
use super::view::{MatMut, MatRef};

/// Numbers in a vector.
const LANES: usize = 16;
/// Rows and columns of the sums that registers hold.
const ROWS: usize = 12;
const COLUMNS: usize = 2 * LANES;
/// Pairs of terms that are summed before a sum goes to memory: a panel of `COLUMNS` stays in the second
/// cache, one of `ROWS` in the first.
const PAIRS: usize = 256;
/// Columns that are packed at a time, for all rows of a task.
const WIDTH: usize = 8 * COLUMNS;

/// Two neighbouring terms of a sum, the first one in the lower half.
type Pair = u32;

/// Whether this machine has the instructions.
pub(super) fn available() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512bf16")
}

/// `to = (to if add else 0) + alpha · a · b`; all sizes ≥ 1.
///
/// # Panics
/// If the machine does not have the instructions.
pub(super) fn multiply(
    to: MatMut<'_>,
    add: bool,
    a: MatRef<'_>,
    b: MatRef<'_>,
    alpha: f32,
    threads: Threads,
) {
    assert!(available(), "no instructions for bfloat16");
    let (m, n) = (a.rows(), b.columns());
    let tasks = match threads {
        Threads::One => 1,
        Threads::All => 4 * rayon::current_num_threads(),
    };
    // Columns are shared among tasks first: then each of them is packed once.
    let by_columns = n.div_ceil(WIDTH).min(tasks);
    let by_rows = (tasks / by_columns).min(m.div_ceil(16 * ROWS)).max(1);
    let [columns, rows] = [(n, by_columns, COLUMNS), (m, by_rows, ROWS)]
        .map(|(size, tasks, unit)| size.div_ceil(tasks).next_multiple_of(unit));
    if by_columns * by_rows == 1 {
        return task(to, add, (&Packed::new(a, false), 0), b, alpha);
    }
    let packed = Packed::new(a, true);
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
            parts.push((part, top / ROWS, b.take_columns(left..left + width)));
        }
    }
    parts.into_par_iter().for_each(|(to, panel, b)| task(to, add, (&packed, panel), b, alpha));
}

/// The left matrix, for each block of terms panels of [`ROWS`] rows.
struct Packed {
    data: Scratch<Pair>,
    terms: usize,
    panels: usize,
}

impl Packed {
    fn new(a: MatRef<'_>, parallel: bool) -> Self {
        let (m, k) = (a.rows(), a.columns());
        let panels = m.div_ceil(ROWS);
        let mut data = Scratch::of(panels * ROWS * k.div_ceil(2));
        for (block, data) in data.chunks_mut(panels * ROWS * PAIRS).enumerate() {
            let first = block * 2 * PAIRS;
            let terms = a.take_columns(first..k.min(first + 2 * PAIRS));
            let size = data.len() / panels;
            let pack = |(panel, to): (usize, &mut [Pair])| {
                let rows = panel * ROWS..m.min((panel + 1) * ROWS);
                // SAFETY: the caller has seen that the machine has the instructions.
                unsafe { pack::<ROWS>(terms.take_rows(rows), to.as_chunks_mut().0) }
            };
            match parallel {
                true => data.par_chunks_mut(size).enumerate().for_each(pack),
                false => data.chunks_mut(size).enumerate().for_each(pack),
            }
        }
        Self { data, terms: k, panels }
    }

    /// A panel, in a block of terms.
    fn panel(&self, block: usize, panel: usize) -> &[[Pair; ROWS]] {
        let before = self.panels * ROWS * PAIRS * block;
        let pairs = PAIRS.min(self.terms.div_ceil(2) - PAIRS * block);
        let from = before + panel * ROWS * pairs;
        self.data[from..from + ROWS * pairs].as_chunks().0
    }
}

/// The part of a product that one thread computes: its rows begin with a panel of the left matrix.
fn task(mut to: MatMut<'_>, add: bool, (a, first): (&Packed, usize), b: MatRef<'_>, alpha: f32) {
    let (m, n, k) = (to.rows(), to.columns(), a.terms);
    let mut buffer = Scratch::<Pair>::of(WIDTH.min(n.next_multiple_of(COLUMNS)) * PAIRS);
    let buffer: &mut [[Pair; COLUMNS]] = buffer.as_chunks_mut().0;
    for left in (0..n).step_by(WIDTH) {
        let width = WIDTH.min(n - left);
        for block in 0..k.div_ceil(2 * PAIRS) {
            let terms = block * 2 * PAIRS..k.min((block + 1) * 2 * PAIRS);
            let pairs = terms.len().div_ceil(2);
            let source = b.take_rows(terms).transpose();
            for (i, panel) in buffer.chunks_mut(pairs).take(width.div_ceil(COLUMNS)).enumerate() {
                let columns = left + i * COLUMNS..left + width.min((i + 1) * COLUMNS);
                // SAFETY: `multiply` has seen that the machine has the instructions.
                unsafe { pack::<COLUMNS>(source.take_rows(columns), panel) };
            }
            let add = add || block > 0;
            for top in (0..m).step_by(ROWS) {
                let lines = a.panel(block, first + top / ROWS);
                for (i, panel) in buffer.chunks(pairs).take(width.div_ceil(COLUMNS)).enumerate() {
                    let columns = left + i * COLUMNS..left + width.min((i + 1) * COLUMNS);
                    let to = to.reborrow().take_rows(top..m.min(top + ROWS)).take_columns(columns);
                    // SAFETY: as above.
                    unsafe { tile(to, add, lines, panel, alpha) };
                }
            }
        }
    }
}

/// Sums of at most [`ROWS`] × [`COLUMNS`] over a block of terms.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn tile(mut to: MatMut<'_>, add: bool, a: &[[Pair; ROWS]], b: &[[Pair; COLUMNS]], alpha: f32) {
    let (rows, columns) = (to.rows(), to.columns());
    assert!(rows <= ROWS && columns <= COLUMNS, "a tile of {rows} × {columns}");
    let (to, stride) = to.as_mut_ptr();
    // Loops over rows are written out: they would keep the sums in memory.
    macro_rules! rows {
        ($each:ident) => {{
            $each!(0);
            $each!(1);
            $each!(2);
            $each!(3);
            $each!(4);
            $each!(5);
            $each!(6);
            $each!(7);
            $each!(8);
            $each!(9);
            $each!(10);
            $each!(11);
        }};
    }
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for (a, b) in a.iter().zip(b) {
        // SAFETY: the halves have as many pairs as a vector, of which all bits will do; so has the row's.
        let [left, right]: [__m512bh; 2] = unsafe { transmute(*b) };
        macro_rules! add {
            ($row:literal) => {
                let pair = _mm512_set1_epi32(a[$row] as i32);
                let pair = unsafe { transmute::<__m512i, __m512bh>(pair) };
                sums[$row][0] = _mm512_dpbf16_ps(sums[$row][0], pair, left);
                sums[$row][1] = _mm512_dpbf16_ps(sums[$row][1], pair, right);
            };
        }
        rows!(add);
    }
    let alpha = _mm512_set1_ps(alpha);
    let (left, right) = (mask(columns), mask(columns.saturating_sub(LANES)));
    macro_rules! put {
        ($row:literal) => {
            if $row < rows {
                let at = to.wrapping_add($row * stride);
                let next = at.wrapping_add(LANES);
                let [mut x, mut y] = sums[$row];
                // SAFETY: the masks leave out what is beyond the line.
                unsafe {
                    if add {
                        x = _mm512_fmadd_ps(x, alpha, _mm512_maskz_loadu_ps(left, at));
                        y = _mm512_fmadd_ps(y, alpha, _mm512_maskz_loadu_ps(right, next));
                    } else {
                        x = _mm512_mul_ps(x, alpha);
                        y = _mm512_mul_ps(y, alpha);
                    }
                    _mm512_mask_storeu_ps(at, left, x);
                    _mm512_mask_storeu_ps(next, right, y);
                }
            }
        };
    }
    rows!(put);
}

/// Rounds at most `N` lines of terms and puts the same pair of each side by side; zeros where there is no
/// line or term.
// Without closures: they would be compiled without the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack<const N: usize>(lines: MatRef<'_>, to: &mut [[Pair; N]]) {
    let (n, k) = (lines.rows(), lines.columns());
    assert!(n <= N && to.len() == k.div_ceil(2));
    let (data, [line, term]) = lines.as_ptr();
    if term != 1 && line != 1 {
        for (l, to) in to.iter_mut().enumerate() {
            for (i, to) in to.iter_mut().enumerate() {
                let inside = i < n && 2 * l + 1 < k;
                let first = if i < n { lines[(i, 2 * l)] } else { 0.0 };
                let second = if inside { lines[(i, 2 * l + 1)] } else { 0.0 };
                let [first, second] = [bf16::from_f32(first), bf16::from_f32(second)];
                *to = Pair::from(first.to_bits()) | Pair::from(second.to_bits()) << 16;
            }
        }
    } else if term == 1 {
        for (from, to) in (0..k).step_by(2 * LANES).zip(to.chunks_mut(LANES)) {
            let (left, right) = (mask(k - from), mask((k - from).saturating_sub(LANES)));
            for first in (0..N).step_by(LANES) {
                let mut square = [_mm512_setzero_si512(); LANES];
                for (i, square) in square.iter_mut().enumerate().take(n.saturating_sub(first)) {
                    let at = data.wrapping_add((first + i) * line + from);
                    // SAFETY: the masks leave out what is beyond the line.
                    let x = unsafe { _mm512_maskz_loadu_ps(left, at) };
                    let y = unsafe { _mm512_maskz_loadu_ps(right, at.wrapping_add(LANES)) };
                    // SAFETY: as large, and any bits will do.
                    *square = unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(y, x)) };
                }
                for (to, pairs) in to.iter_mut().zip(transposed(square)) {
                    let to = to[first..].as_mut_ptr().cast();
                    // SAFETY: the mask leaves out what is beyond the line.
                    unsafe { _mm512_mask_storeu_epi32(to, mask(N - first), pairs) };
                }
            }
        }
    } else {
        // SAFETY: as large, and any bits will do.
        let turn = unsafe { transmute::<[u16; 2 * LANES], __m512i>(IN_TURNS) };
        for (pair, to) in to.iter_mut().enumerate() {
            let at = data.wrapping_add(2 * pair * term);
            let lone = 2 * pair + 1 == k;
            for first in (0..N).step_by(LANES) {
                let own = mask(n.saturating_sub(first));
                let x = at.wrapping_add(first);
                // SAFETY: the masks leave out what is beyond the lines, or the terms.
                let (x, y) = unsafe {
                    let y = _mm512_maskz_loadu_ps(if lone { 0 } else { own }, x.wrapping_add(term));
                    (_mm512_maskz_loadu_ps(own, x), y)
                };
                // SAFETY: as large, and any bits will do.
                let pairs = unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(y, x)) };
                let pairs = _mm512_permutexvar_epi16(turn, pairs);
                let to = to[first..].as_mut_ptr().cast();
                // SAFETY: the mask leaves out what is beyond the line.
                unsafe { _mm512_mask_storeu_epi32(to, mask(N - first), pairs) };
            }
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

/// Numbers of the first half and of the second one in turns.
const IN_TURNS: [u16; 2 * LANES] = {
    let (mut order, mut i) = ([0; 2 * LANES], 0);
    while i < 2 * LANES {
        order[i] = (i / 2 + i % 2 * LANES) as u16;
        i += 1;
    }
    order
};

/// The first `n` lanes.
fn mask(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}
