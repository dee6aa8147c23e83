//! A rotation of blocks of [`BLOCK`](super::int8::BLOCK) terms: numbers get fixed signs and are multiplied with a Hadamard
//! matrix. Sums of products of rotated blocks are those of the blocks, but one large number is spread over all terms
//! instead of taking the steps of a code away from the others (QuaRot, arXiv 2404.00456).
//!
//! Blocks come out 8 times too large, [`GROWTH`].

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _mm512_add_ps, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_fmadd_ps, _mm512_maskz_loadu_ps, _mm512_permute_ps, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_sub_ps, _mm512_xor_si512,
};
use std::mem::transmute;

use super::LANES;
use super::int8::BLOCK;

/// What the rotation multiplies the length of a block with.
pub(super) const GROWTH: f32 = 8.0;

/// Which terms change their sign, so that blocks of numbers that are all alike are spread, too: bits of π.
const SIGNS: u64 = 0x243f_6a88_85a3_08d3;

/// Sign bits of [`LANES`] terms each.
const MASKS: [[u32; LANES]; BLOCK / LANES] = {
    let (mut masks, mut i) = ([[0; LANES]; BLOCK / LANES], 0);
    while i < BLOCK {
        masks[i / LANES][i % LANES] = ((SIGNS >> i & 1) as u32) << 31;
        i += 1;
    }
    masks
};

/// 1 where a lane's number has no such bit, and −1.
const fn plus_minus(bit: usize) -> [f32; LANES] {
    let (mut signs, mut i) = ([1.0; LANES], 0);
    while i < LANES {
        if i & bit != 0 {
            signs[i] = -1.0;
        }
        i += 1;
    }
    signs
}

/// The block of one line, whose terms stand side by side.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn rotate_line(mut x: [__m512; 4]) -> [__m512; 4] {
    for (x, signs) in x.iter_mut().zip(MASKS) {
        // SAFETY: as large, and any bits will do.
        let signs = unsafe { transmute::<[u32; LANES], __m512i>(signs) };
        *x = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(*x), signs));
    }
    x = quadruple(x);
    for x in &mut x {
        macro_rules! stage {
            ($bit:literal, $exchanged:expr) => {
                // SAFETY: as large, and all bits are numbers.
                let signs =
                    unsafe { transmute::<[f32; LANES], __m512>(const { plus_minus($bit) }) };
                *x = _mm512_fmadd_ps(*x, signs, $exchanged);
            };
        }
        stage!(1, _mm512_permute_ps::<0b10_11_00_01>(*x));
        stage!(2, _mm512_permute_ps::<0b01_00_11_10>(*x));
        stage!(4, _mm512_shuffle_f32x4::<0b10_11_00_01>(*x, *x));
        stage!(8, _mm512_shuffle_f32x4::<0b01_00_11_10>(*x, *x));
    }
    x
}

/// The blocks of [`LANES`] lines, which stand side by side, term after term: as [`rotate_line`], to the bit. Terms beyond
/// `terms` and lines that the mask leaves out are zeros.
///
/// # Safety
/// At `at` there are `terms` terms, `stride` numbers apart, of the mask's lines.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn rotated_lines(
    at: *const f32,
    stride: usize,
    terms: usize,
    lines: __mmask16,
    to: &mut [__m512; BLOCK],
) {
    for lane in 0..LANES {
        let mut four = [_mm512_setzero_ps(); 4];
        for (i, x) in four.iter_mut().enumerate() {
            let term = i * LANES + lane;
            let lines = if term < terms { lines } else { 0 };
            // SAFETY: the mask leaves out what is beyond the lines, or the terms.
            let number = unsafe { _mm512_maskz_loadu_ps(lines, at.wrapping_add(term * stride)) };
            let sign = _mm512_set1_epi32(MASKS[i][lane] as i32);
            *x = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(number), sign));
        }
        let [a, b, c, d] = quadruple(four);
        (to[lane], to[LANES + lane]) = (a, b);
        (to[2 * LANES + lane], to[3 * LANES + lane]) = (c, d);
    }
    for x in to.as_chunks_mut::<LANES>().0 {
        *x = stage::<8>(stage::<4>(stage::<2>(stage::<1>(*x))));
    }
}

/// The stage of the Hadamard matrix between numbers `BIT` terms apart.
#[inline]
#[target_feature(enable = "avx512f")]
fn stage<const BIT: usize>(x: [__m512; LANES]) -> [__m512; LANES] {
    let mut y = x;
    for i in 0..LANES {
        let (a, b) = (x[i & !BIT], x[i | BIT]);
        y[i] = if i & BIT == 0 { _mm512_add_ps(a, b) } else { _mm512_sub_ps(a, b) };
    }
    y
}

/// The stages of the Hadamard matrix between numbers 16 and 32 terms apart.
#[inline]
#[target_feature(enable = "avx512f")]
fn quadruple([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
    let (a, b) = (_mm512_add_ps(a, b), _mm512_sub_ps(a, b));
    let (c, d) = (_mm512_add_ps(c, d), _mm512_sub_ps(c, d));
    [_mm512_add_ps(a, c), _mm512_add_ps(b, d), _mm512_sub_ps(a, c), _mm512_sub_ps(b, d)]
}

/// The rotation of one block, number by number in the same order.
#[cfg(test)]
pub(in crate::flex) fn rotate(block: &mut [f32; BLOCK]) {
    for (i, x) in block.iter_mut().enumerate() {
        if SIGNS >> i & 1 == 1 {
            *x = -*x;
        }
    }
    for bit in [16, 32, 1, 2, 4, 8] {
        for i in (0..BLOCK).filter(|i| i & bit == 0) {
            let (a, b) = (block[i], block[i | bit]);
            (block[i], block[i | bit]) = (a + b, a - b);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn product(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    #[test]
    fn products_of_blocks_are_kept() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..100 {
            let mut block = || std::array::from_fn(|_| rng.random_range(-1f32..1.0));
            let (mut a, mut b): ([f32; BLOCK], [f32; BLOCK]) = (block(), block());
            let before = product(&a, &b);
            rotate(&mut a);
            rotate(&mut b);
            let after = product(&a, &b) / f64::from(GROWTH * GROWTH);
            assert!((before - after).abs() < 1e-5, "{before}, {after}");
        }
    }

    /// No number of a rotated block is much larger than they are on average.
    #[test]
    fn one_large_number_and_numbers_all_alike_are_spread() {
        let mut one = [0.0; BLOCK];
        one[17] = 5.0;
        let mut waves = [1.0; BLOCK];
        waves.iter_mut().skip(1).step_by(2).for_each(|x| *x = -1.0);
        for mut block in [one, [1.0; BLOCK], waves] {
            let mean = (product(&block, &block) / BLOCK as f64).sqrt();
            rotate(&mut block);
            let largest = block.iter().fold(0f32, |top, x| top.max(x.abs())) / GROWTH;
            assert!(f64::from(largest) < 3.0 * mean, "{largest}, {mean}");
        }
    }

    #[test]
    fn vectors_have_the_same_bits_as_numbers_alone() {
        if !std::arch::is_x86_feature_detected!("avx512f") {
            return println!("skipped: no AVX512 here");
        }
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let lines: [[f32; BLOCK]; LANES] =
            std::array::from_fn(|_| std::array::from_fn(|_| rng.random_range(-1f32..1.0)));
        let side_by_side: [[f32; LANES]; BLOCK] =
            std::array::from_fn(|term| std::array::from_fn(|line| lines[line][term]));
        // SAFETY: the machine has the instructions; vectors are as large, and all bits are numbers.
        let together = unsafe {
            let mut vectors = [_mm512_setzero_ps(); BLOCK];
            rotated_lines(side_by_side.as_ptr().cast(), LANES, BLOCK, !0, &mut vectors);
            transmute::<[__m512; BLOCK], [[f32; LANES]; BLOCK]>(vectors)
        };
        for (i, mut line) in lines.into_iter().enumerate() {
            // SAFETY: as before.
            let alone = unsafe {
                let vectors = transmute::<[f32; BLOCK], [__m512; 4]>(line);
                transmute::<[__m512; 4], [f32; BLOCK]>(rotate_line(vectors))
            };
            rotate(&mut line);
            assert_eq!(alone, line);
            assert_eq!(together.map(|term| term[i]), line);
        }
    }
}
