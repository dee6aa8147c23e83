//! bfloat16: products of pairs are added up in f32. An instruction of AVX512-BF16 takes twice as many terms as one for f32.

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_mask_storeu_epi32,
    _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_setzero_si512,
};
use std::mem::transmute;

use half::bf16;

use super::{Format, LANES, mask, put_sums, transposed};
use crate::flex::product::Start;
use crate::flex::view::{MatMut, MatRef};

const ROWS: usize = 12;
const COLUMNS: usize = 2 * LANES;
/// Pairs of terms in a block: a panel of columns stays in the second cache, one of rows in the first.
const PAIRS: usize = 256;

/// Two neighbouring terms of a sum, the first one in the lower half.
type Pair = u32;

pub(in crate::flex) struct Bf16;

impl Format for Bf16 {
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    const TERMS: usize = 2 * PAIRS;
    const WIDTH: usize = 8 * COLUMNS;

    fn available() -> bool {
        use std::arch::is_x86_feature_detected as has;
        has!("avx512f") && has!("avx512bw") && has!("avx512bf16")
    }

    fn words(terms: usize) -> usize {
        terms.div_ceil(2)
    }

    unsafe fn pack_rows(rows: MatRef<'_>, to: &mut [u32]) {
        // SAFETY: as the caller says.
        unsafe { pack::<ROWS>(rows, to.as_chunks_mut().0) }
    }

    unsafe fn pack_columns(columns: MatRef<'_>, to: &mut [u32]) {
        // SAFETY: as the caller says.
        unsafe { pack::<COLUMNS>(columns, to.as_chunks_mut().0) }
    }

    unsafe fn tile(to: MatMut<'_>, start: Start<'_>, a: &[u32], b: &[u32], alpha: f32) {
        // SAFETY: as the caller says.
        unsafe { tile(to, start, a.as_chunks().0, b.as_chunks().0, alpha) }
    }
}

/// Sums of at most [`ROWS`] × [`COLUMNS`] over a block of terms.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn tile(
    mut to: MatMut<'_>,
    from: Start<'_>,
    a: &[[Pair; ROWS]],
    b: &[[Pair; COLUMNS]],
    alpha: f32,
) {
    let (rows, columns) = (to.rows(), to.columns());
    assert!(rows <= ROWS && columns <= COLUMNS, "a tile of {rows} × {columns}");
    assert!(from.fits(columns), "a line of another length than {columns}");
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
    macro_rules! put {
        ($row:literal) => {
            if $row < rows {
                // SAFETY: there are as many columns in the row.
                unsafe {
                    put_sums(to.wrapping_add($row * stride), columns, sums[$row], from, alpha)
                };
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

/// Numbers of the first half and of the second one in turns.
const IN_TURNS: [u16; 2 * LANES] = {
    let (mut order, mut i) = ([0; 2 * LANES], 0);
    while i < 2 * LANES {
        order[i] = (i / 2 + i % 2 * LANES) as u16;
        i += 1;
    }
    order
};
