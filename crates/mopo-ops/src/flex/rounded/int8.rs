//! int8: every [`BLOCK`] terms of a line are [rotated](super::rotation), and then rounded to whole multiples of a 127th of
//! the largest of them. Products of these are added up exactly within a block, and blocks in f32. An instruction of
//! AVX512-VNNI takes four times as many terms as one for f32.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_abs_ps, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cmpge_epi32_mask, _mm512_cvtepi32_ps, _mm512_cvtps_epi32, _mm512_cvtss_f32,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_mov_ps,
    _mm512_mask_storeu_epi32, _mm512_maskz_div_ps, _mm512_maskz_loadu_ps, _mm512_max_epi32,
    _mm512_mul_ps, _mm512_packs_epi16, _mm512_packs_epi32, _mm512_permutexvar_epi32,
    _mm512_reduce_add_epi32, _mm512_reduce_max_epi32, _mm512_set1_epi8, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_epi8,
    _mm512_slli_epi32, _mm512_sub_epi32, _mm512_xor_si512,
};
use std::mem::transmute;

use super::rotation::{GROWTH, rotate_line, rotated_lines};
use super::{Format, LANES, mask, put_sums, transposed};
use crate::flex::product::Start;
use crate::flex::view::{MatMut, MatRef};

/// Terms with a common scale.
pub(super) const BLOCK: usize = 64;
const ROWS: usize = 6;
const COLUMNS: usize = 2 * LANES;
/// Words of a line's block: its codes, four to a word; the scale; and the sum at which the block begins, which makes up
/// for the codes of columns being 128 too large, as the instruction wants them not negative.
const CODES: usize = BLOCK / 4;
const SCALE: usize = CODES;
const START: usize = CODES + 1;
const WORDS: usize = CODES + 2;
/// A block whose largest number is smaller becomes zeros, since 127 divided by it might not be a number.
const SMALLEST: f32 = 1e-36;

pub(in crate::flex) struct Int8;

impl Format for Int8 {
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    // A panel of columns stays in the first cache, even if two threads share it.
    const TERMS: usize = 8 * BLOCK;
    const WIDTH: usize = COLUMNS;

    fn available() -> bool {
        use std::arch::is_x86_feature_detected as has;
        has!("avx512f") && has!("avx512bw") && has!("avx512vnni")
    }

    fn words(terms: usize) -> usize {
        terms.div_ceil(BLOCK) * WORDS
    }

    unsafe fn pack_rows(rows: MatRef<'_>, to: &mut [u32]) {
        // SAFETY: as the caller says.
        unsafe { pack::<ROWS, false>(rows, to.as_chunks_mut().0) }
    }

    unsafe fn pack_columns(columns: MatRef<'_>, to: &mut [u32]) {
        // SAFETY: as the caller says.
        unsafe { pack::<COLUMNS, true>(columns, to.as_chunks_mut().0) }
    }

    unsafe fn tile(to: MatMut<'_>, start: Start<'_>, a: &[u32], b: &[u32], alpha: f32) {
        // SAFETY: as the caller says.
        unsafe { tile(to, start, a.as_chunks().0, b.as_chunks().0, alpha) }
    }
}

/// Sums of at most [`ROWS`] × [`COLUMNS`] over blocks of terms.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn tile(mut to: MatMut<'_>, from: Start<'_>, a: &[[u32; ROWS]], b: &[[u32; COLUMNS]], alpha: f32) {
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
        }};
    }
    let mut totals = [[_mm512_setzero_ps(); 2]; ROWS];
    for (a, b) in a.as_chunks::<WORDS>().0.iter().zip(b.as_chunks::<WORDS>().0) {
        let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
        macro_rules! start {
            ($row:literal) => {
                sums[$row] = [_mm512_set1_epi32(a[START][$row] as i32); 2];
            };
        }
        rows!(start);
        for (a, b) in a[..CODES].iter().zip(&b[..CODES]) {
            let [left, right] = halves(b);
            macro_rules! add {
                ($row:literal) => {
                    let four = _mm512_set1_epi32(a[$row] as i32);
                    sums[$row][0] = _mm512_dpbusd_epi32(sums[$row][0], left, four);
                    sums[$row][1] = _mm512_dpbusd_epi32(sums[$row][1], right, four);
                };
            }
            rows!(add);
        }
        let [left, right] = halves(&b[SCALE]);
        let (left, right) = (_mm512_castsi512_ps(left), _mm512_castsi512_ps(right));
        macro_rules! scale {
            ($row:literal) => {
                let scale = _mm512_set1_ps(f32::from_bits(a[SCALE][$row]));
                let [x, y] = sums[$row];
                let [total, other] = &mut totals[$row];
                let (left, right) = (_mm512_mul_ps(scale, left), _mm512_mul_ps(scale, right));
                *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(x), left, *total);
                *other = _mm512_fmadd_ps(_mm512_cvtepi32_ps(y), right, *other);
            };
        }
        rows!(scale);
    }
    macro_rules! put {
        ($row:literal) => {
            if $row < rows {
                // SAFETY: there are as many columns in the row.
                unsafe {
                    put_sums(to.wrapping_add($row * stride), columns, totals[$row], from, alpha)
                };
            }
        };
    }
    rows!(put);
}

#[target_feature(enable = "avx512f")]
fn halves(words: &[u32; COLUMNS]) -> [__m512i; 2] {
    // SAFETY: as large, and any bits will do.
    unsafe { transmute::<[u32; COLUMNS], [__m512i; 2]>(*words) }
}

/// Rounds at most `N` lines of terms, as the words of all lines; zeros where there is no line or term. `SHIFTED`: with 128
/// added to each code.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn pack<const N: usize, const SHIFTED: bool>(lines: MatRef<'_>, to: &mut [[u32; N]]) {
    let (n, k) = (lines.rows(), lines.columns());
    assert!(n <= N && to.len() == k.div_ceil(BLOCK) * WORDS);
    let (data, [line, term]) = lines.as_ptr();
    for (from, to) in (0..k).step_by(BLOCK).zip(to.as_chunks_mut::<WORDS>().0) {
        let terms = BLOCK.min(k - from);
        for first in (0..N).step_by(LANES) {
            let n = LANES.min(n.saturating_sub(first));
            let at = data.wrapping_add(first * line + from * term);
            let (codes, scales, sums) = match (term, line) {
                // SAFETY: there are `n` lines of `terms` terms.
                (1, _) => unsafe { along(at, line, n, terms) },
                // SAFETY: as before.
                (_, 1) => unsafe { across(at, term, n, terms) },
                _ => {
                    let mut copy = [0f32; LANES * BLOCK];
                    for i in 0..n {
                        for j in 0..terms {
                            copy[i * BLOCK + j] = lines[(first + i, from + j)];
                        }
                    }
                    // SAFETY: there are as many lines and terms in the copy.
                    unsafe { along(copy.as_ptr(), BLOCK, LANES, BLOCK) }
                }
            };
            let shift = _mm512_set1_epi8(i8::MIN);
            for i in 0..CODES {
                let codes = if SHIFTED { _mm512_xor_si512(codes[i], shift) } else { codes[i] };
                put(&mut to[i], first, codes);
            }
            put(&mut to[SCALE], first, _mm512_castps_si512(scales));
            put(&mut to[START], first, sums);
        }
    }
}

/// Words of [`LANES`] lines from `first` on, as far as there are lines.
#[target_feature(enable = "avx512f")]
fn put<const N: usize>(to: &mut [u32; N], first: usize, words: __m512i) {
    let to = to[first..].as_mut_ptr().cast();
    // SAFETY: the mask leaves out what is beyond the line.
    unsafe { _mm512_mask_storeu_epi32(to, mask(N - first), words) };
}

/// What a block becomes: codes, four of each line to a word; scales; and −128 times the sum of the codes.
type Block = ([__m512i; CODES], __m512, __m512i);

/// The block of one line whose terms stand side by side.
pub(super) struct LineBlock {
    /// [`BLOCK`] codes, in order.
    pub(super) codes: __m512i,
    pub(super) scale: f32,
    /// Of the codes.
    pub(super) sum: i32,
}

/// # Safety
/// At `at` there are `terms` numbers, at most [`BLOCK`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn line_block<const ROTATED: bool>(at: *const f32, terms: usize) -> LineBlock {
    // SAFETY: as large, and any bits will do.
    let turn = unsafe { transmute::<[u32; LANES], __m512i>(BY_VECTORS) };
    let mut numbers = [_mm512_setzero_ps(); 4];
    for (j, x) in numbers.iter_mut().enumerate() {
        let own = mask(terms.saturating_sub(j * LANES));
        // SAFETY: the mask leaves out what is beyond the line.
        *x = unsafe { _mm512_maskz_loadu_ps(own, at.wrapping_add(j * LANES)) };
    }
    if ROTATED {
        numbers = rotate_line(numbers);
    }
    let mut largest = _mm512_setzero_si512();
    for x in numbers {
        largest = _mm512_max_epi32(largest, _mm512_castps_si512(_mm512_abs_ps(x)));
    }
    let largest = _mm512_set1_epi32(_mm512_reduce_max_epi32(largest));
    let (factor, scale) = factor_and_scale(largest, if ROTATED { GROWTH } else { 1.0 });
    let codes = _mm512_permutexvar_epi32(turn, rounded(numbers, factor));
    let ones = _mm512_set1_epi8(1);
    let sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, codes);
    let (scale, sum) = (_mm512_cvtss_f32(scale), _mm512_reduce_add_epi32(sums));
    LineBlock { codes, scale, sum }
}

/// Lines whose terms stand side by side.
///
/// # Safety
/// At `at` there are `n` lines, `stride` numbers apart, of `terms` terms; at most [`LANES`] and [`BLOCK`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn along(at: *const f32, stride: usize, n: usize, terms: usize) -> Block {
    let mut codes = [_mm512_setzero_si512(); LANES];
    let (mut scales, mut sums) = ([0f32; LANES], [0i32; LANES]);
    for i in 0..n {
        // SAFETY: as the caller says.
        let block = unsafe { line_block::<true>(at.wrapping_add(i * stride), terms) };
        (codes[i], scales[i], sums[i]) = (block.codes, block.scale, block.sum);
    }
    // SAFETY: whole vectors.
    let (scales, sums) =
        unsafe { (_mm512_loadu_ps(scales.as_ptr()), _mm512_loadu_si512(sums.as_ptr().cast())) };
    (transposed(codes), scales, start(sums))
}

/// Lines that stand side by side, term after term.
///
/// # Safety
/// At `at` there are `terms` terms, `stride` numbers apart, of `n` lines; at most [`BLOCK`] and [`LANES`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn across(at: *const f32, stride: usize, n: usize, terms: usize) -> Block {
    let mut numbers = [_mm512_setzero_ps(); BLOCK];
    // SAFETY: as the caller says.
    unsafe { rotated_lines(at, stride, terms, mask(n), &mut numbers) };
    let mut largest = _mm512_setzero_si512();
    for x in numbers {
        largest = _mm512_max_epi32(largest, _mm512_castps_si512(_mm512_abs_ps(x)));
    }
    let (factor, scale) = factor_and_scale(largest, GROWTH);
    let mut codes = [_mm512_setzero_si512(); CODES];
    let mut sums = _mm512_setzero_si512();
    // SAFETY: as large, and any bits will do.
    let turn = unsafe { transmute::<[u8; 64], __m512i>(BY_LINES) };
    for (codes, numbers) in codes.iter_mut().zip(numbers.as_chunks().0) {
        *codes = _mm512_shuffle_epi8(rounded(*numbers, factor), turn);
        sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), *codes);
    }
    (codes, scale, start(sums))
}

/// For blocks with largest numbers of these bits, what numbers are multiplied with to become codes, and the codes' scale.
/// Numbers too small for it become zeros; with one that is not finite the scale is not a number. `growth`: how many times
/// too large the numbers are.
#[target_feature(enable = "avx512f")]
fn factor_and_scale(largest: __m512i, growth: f32) -> (__m512, __m512) {
    let most = _mm512_set1_ps(127.0);
    let normal = _mm512_cmpge_epi32_mask(largest, _mm512_set1_epi32(SMALLEST.to_bits() as i32));
    let infinite = _mm512_set1_epi32(f32::INFINITY.to_bits() as i32);
    let bad = _mm512_cmpge_epi32_mask(largest, infinite);
    let largest = _mm512_castsi512_ps(largest);
    let factor = _mm512_maskz_div_ps(normal & !bad, most, largest);
    let scale = _mm512_maskz_div_ps(normal, largest, _mm512_set1_ps(127.0 * growth));
    (factor, _mm512_mask_mov_ps(scale, bad, _mm512_set1_ps(f32::NAN)))
}

/// The codes of four vectors: in each quarter four of the first one, four of the second one, and so on.
#[target_feature(enable = "avx512f,avx512bw")]
fn rounded([a, b, c, d]: [__m512; 4], factor: __m512) -> __m512i {
    let a = _mm512_cvtps_epi32(_mm512_mul_ps(a, factor));
    let b = _mm512_cvtps_epi32(_mm512_mul_ps(b, factor));
    let c = _mm512_cvtps_epi32(_mm512_mul_ps(c, factor));
    let d = _mm512_cvtps_epi32(_mm512_mul_ps(d, factor));
    _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d))
}

/// −128 times the sum of codes.
#[target_feature(enable = "avx512f")]
fn start(sums: __m512i) -> __m512i {
    _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<7>(sums))
}

/// Turns [`rounded`] numbers into all of the first vector, all of the second one, and so on.
const BY_VECTORS: [u32; LANES] = {
    let (mut order, mut i) = ([0; LANES], 0);
    while i < LANES {
        order[i] = (i % 4 * 4 + i / 4) as u32;
        i += 1;
    }
    order
};

/// Turns [`rounded`] numbers into the first ones of the four vectors, the second ones, and so on.
const BY_LINES: [u8; 4 * LANES] = {
    let (mut order, mut i) = ([0; 4 * LANES], 0);
    while i < 4 * LANES {
        order[i] = (i % 4 * 4 + i % 16 / 4) as u8;
        i += 1;
    }
    order
};
