//! The types of blocks: how a group's codes become numbers. `mopo_hub::gguf` describes their bytes.
//!
//! Without `map` of arrays, in which calls would not be inlined.

use std::arch::x86_64::{__m128i, __m256i};

use pulp::{cast, f32x8};

use super::kernel::{Group, Vectors};

/// A type of blocks of `BYTES`, with a scale for each group, or for each half of one.
pub(super) trait Format<const BYTES: usize, const SCALES: usize> {
    /// Groups per block.
    const GROUPS: usize;
    /// What is computed once per block.
    type Scales;

    fn scales(simd: Vectors, block: &[u8; BYTES]) -> Self::Scales;

    /// Group `j`.
    fn group(simd: Vectors, block: &[u8; BYTES], scales: &Self::Scales, j: usize) -> Group<SCALES>;
}

/// `N` bytes from `at` on.
#[inline(always)]
fn part<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    block[at..at + N].try_into().expect("N bytes")
}

/// Eight bytes in a register's lower half.
#[inline(always)]
fn eight(block: &[u8], at: usize) -> __m128i {
    cast([u64::from_le_bytes(part(block, at)), 0])
}

#[inline(always)]
fn floats(simd: Vectors, x: __m256i) -> f32x8 {
    simd.convert_i32x8_to_f32x8(cast(x))
}

/// The first eight signed bytes as numbers.
#[inline(always)]
fn signed_eight(simd: Vectors, bytes: __m128i) -> f32x8 {
    floats(simd, simd.avx2._mm256_cvtepi8_epi32(bytes))
}

/// 32 signed bytes as numbers.
#[inline(always)]
fn signed(simd: Vectors, bytes: __m256i) -> [f32x8; 4] {
    let [a, b]: [__m128i; 2] = cast(bytes);
    let (c, d) = (simd.sse2._mm_srli_si128::<8>(a), simd.sse2._mm_srli_si128::<8>(b));
    [signed_eight(simd, a), signed_eight(simd, c), signed_eight(simd, b), signed_eight(simd, d)]
}

/// 16 bytes' low halves as numbers, then their high halves.
#[inline(always)]
fn nibbles(simd: Vectors, block: &[u8], at: usize) -> [f32x8; 4] {
    let a = simd.avx2._mm256_cvtepu8_epi32(eight(block, at));
    let b = simd.avx2._mm256_cvtepu8_epi32(eight(block, at + 8));
    let low = simd.avx._mm256_set1_epi32(15);
    [
        floats(simd, simd.avx2._mm256_and_si256(a, low)),
        floats(simd, simd.avx2._mm256_and_si256(b, low)),
        floats(simd, simd.avx2._mm256_srli_epi32::<4>(a)),
        floats(simd, simd.avx2._mm256_srli_epi32::<4>(b)),
    ]
}

/// 16 bytes' low halves as bytes, then their high halves.
#[inline(always)]
fn nibble_bytes(simd: Vectors, block: &[u8], at: usize) -> __m256i {
    let bytes: __m128i = cast(part::<16>(block, at));
    let both = cast([bytes, simd.sse2._mm_srli_epi16::<4>(bytes)]);
    simd.avx2._mm256_and_si256(both, simd.avx._mm256_set1_epi8(15))
}

/// 0 where a bit of 32 is not set, else −1.
#[inline(always)]
fn bits(simd: Vectors, block: &[u8], at: usize) -> __m256i {
    let word = i32::from_le_bytes(part(block, at));
    // Each bit's byte, and the bit.
    let which = cast(std::array::from_fn::<u8, 32, _>(|i| (i / 8) as u8));
    let bit = cast(std::array::from_fn::<u8, 32, _>(|i| 1 << (i % 8)));
    let bytes = simd.avx2._mm256_shuffle_epi8(simd.avx._mm256_set1_epi32(word), which);
    simd.avx2._mm256_cmpeq_epi8(simd.avx2._mm256_and_si256(bytes, bit), bit)
}

/// Codes, a scale, and an optional minimum.
#[inline(always)]
fn one(codes: [f32x8; 4], scale: f32x8, minimum: Option<f32x8>) -> Group<1> {
    Group { codes, scales: [scale], minimum }
}

pub(super) struct Q4_0;

impl Format<18, 1> for Q4_0 {
    const GROUPS: usize = 1;
    type Scales = ();

    #[inline(always)]
    fn scales(_: Vectors, _: &[u8; 18]) {}

    #[inline(always)]
    fn group(simd: Vectors, block: &[u8; 18], (): &(), _: usize) -> Group<1> {
        let [d, _] = simd.halves(part(block, 0));
        let minimum = simd.mul_f32x8(d, simd.splat_f32x8(-8.0));
        one(nibbles(simd, block, 2), d, Some(minimum))
    }
}

pub(super) struct Q4_1;

impl Format<20, 1> for Q4_1 {
    const GROUPS: usize = 1;
    type Scales = ();

    #[inline(always)]
    fn scales(_: Vectors, _: &[u8; 20]) {}

    #[inline(always)]
    fn group(simd: Vectors, block: &[u8; 20], (): &(), _: usize) -> Group<1> {
        let [d, m] = simd.halves(part(block, 0));
        one(nibbles(simd, block, 4), d, Some(m))
    }
}

pub(super) struct Q5_0;

impl Format<22, 1> for Q5_0 {
    const GROUPS: usize = 1;
    type Scales = ();

    #[inline(always)]
    fn scales(_: Vectors, _: &[u8; 22]) {}

    #[inline(always)]
    fn group(simd: Vectors, block: &[u8; 22], (): &(), _: usize) -> Group<1> {
        let [d, _] = simd.halves(part(block, 0));
        // 16 less without the fifth bit.
        let less = simd.avx2._mm256_andnot_si256(bits(simd, block, 2), set(simd, 0xF0));
        let codes = simd.avx2._mm256_or_si256(nibble_bytes(simd, block, 6), less);
        one(signed(simd, codes), d, None)
    }
}

pub(super) struct Q5_1;

impl Format<24, 1> for Q5_1 {
    const GROUPS: usize = 1;
    type Scales = ();

    #[inline(always)]
    fn scales(_: Vectors, _: &[u8; 24]) {}

    #[inline(always)]
    fn group(simd: Vectors, block: &[u8; 24], (): &(), _: usize) -> Group<1> {
        let [d, m] = simd.halves(part(block, 0));
        let fifth = simd.avx2._mm256_and_si256(bits(simd, block, 4), set(simd, 16));
        let codes = simd.avx2._mm256_or_si256(nibble_bytes(simd, block, 8), fifth);
        one(signed(simd, codes), d, Some(m))
    }
}

pub(super) struct Q8_0;

impl Format<34, 1> for Q8_0 {
    const GROUPS: usize = 1;
    type Scales = ();

    #[inline(always)]
    fn scales(_: Vectors, _: &[u8; 34]) {}

    #[inline(always)]
    fn group(simd: Vectors, block: &[u8; 34], (): &(), _: usize) -> Group<1> {
        let [d, _] = simd.halves(part(block, 0));
        let codes = [
            signed_eight(simd, eight(block, 2)),
            signed_eight(simd, eight(block, 10)),
            signed_eight(simd, eight(block, 18)),
            signed_eight(simd, eight(block, 26)),
        ];
        one(codes, d, None)
    }
}

#[inline(always)]
fn set(simd: Vectors, byte: u8) -> __m256i {
    simd.avx._mm256_set1_epi8(byte as i8)
}

/// The scales and minima of eight groups.
type Eight = [[f32; 8]; 2];

/// Those of Q4_K and Q5_K: `d · scale`, and `−dmin · minimum`.
#[inline(always)]
fn eight_scales(simd: Vectors, block: &[u8]) -> Eight {
    let [d, d_min] = simd.halves(part(block, 0));
    let word = |i: usize| u32::from_le_bytes(part(block, 4 + 4 * i));
    let (low, high) = (0x3f3f_3f3f, 0x0303_0303);
    let [first, second, third] = [word(0), word(1), word(2)];
    // Six bits each: four scales, four minima; the others' low four bits are in the third word, their
    // high two above the first ones'.
    let join = |a: u32, b: u32| cast([u64::from(a) | u64::from(b) << 32, 0]);
    let scales = join(first & low, third & 0x0f0f_0f0f | (first >> 6 & high) << 4);
    let minima = join(second & low, third >> 4 & 0x0f0f_0f0f | (second >> 6 & high) << 4);
    let scales = floats(simd, simd.avx2._mm256_cvtepu8_epi32(scales));
    let minima = floats(simd, simd.avx2._mm256_cvtepu8_epi32(minima));
    let negative = simd.sub_f32x8(simd.splat_f32x8(0.0), d_min);
    cast([simd.mul_f32x8(d, scales), simd.mul_f32x8(negative, minima)])
}

/// Scale and minimum of group `j`.
#[inline(always)]
fn eight_pair(simd: Vectors, [scales, minima]: &Eight, j: usize) -> [f32x8; 2] {
    [simd.splat_f32x8(scales[j]), simd.splat_f32x8(minima[j])]
}

/// Half of each of 32 bytes: the low ones for even `j`, the high ones for odd.
#[inline(always)]
fn half_bytes(simd: Vectors, bytes: [u8; 32], j: usize) -> __m256i {
    let shift = cast([j as u64 % 2 * 4, 0]);
    let bytes = simd.avx2._mm256_srl_epi16(cast(bytes), shift);
    simd.avx2._mm256_and_si256(bytes, set(simd, 15))
}

pub(super) struct Q4K;

impl Format<144, 1> for Q4K {
    const GROUPS: usize = 8;
    type Scales = Eight;

    #[inline(always)]
    fn scales(simd: Vectors, block: &[u8; 144]) -> Eight {
        eight_scales(simd, block)
    }

    #[inline(always)]
    fn group(simd: Vectors, block: &[u8; 144], scales: &Eight, j: usize) -> Group<1> {
        let codes = half_bytes(simd, part(block, 16 + j / 2 * 32), j);
        let [scale, minimum] = eight_pair(simd, scales, j);
        one(signed(simd, codes), scale, Some(minimum))
    }
}

pub(super) struct Q5K;

impl Format<176, 1> for Q5K {
    const GROUPS: usize = 8;
    type Scales = Eight;

    #[inline(always)]
    fn scales(simd: Vectors, block: &[u8; 176]) -> Eight {
        eight_scales(simd, block)
    }

    #[inline(always)]
    fn group(simd: Vectors, block: &[u8; 176], scales: &Eight, j: usize) -> Group<1> {
        let four = half_bytes(simd, part(block, 48 + j / 2 * 32), j);
        let bit = set(simd, 1 << j);
        let fifth = simd.avx2._mm256_and_si256(cast(part::<32>(block, 16)), bit);
        let fifth =
            simd.avx2._mm256_and_si256(simd.avx2._mm256_cmpeq_epi8(fifth, bit), set(simd, 16));
        let [scale, minimum] = eight_pair(simd, scales, j);
        one(signed(simd, simd.avx2._mm256_or_si256(four, fifth)), scale, Some(minimum))
    }
}

pub(super) struct Q6K;

impl Format<210, 2> for Q6K {
    const GROUPS: usize = 8;
    type Scales = [f32; 16];

    #[inline(always)]
    fn scales(simd: Vectors, block: &[u8; 210]) -> [f32; 16] {
        let [_, d] = simd.halves(part(block, 206));
        let first = signed_eight(simd, eight(block, 192));
        let second = signed_eight(simd, eight(block, 200));
        cast([simd.mul_f32x8(d, first), simd.mul_f32x8(d, second)])
    }

    #[inline(always)]
    fn group(simd: Vectors, block: &[u8; 210], scales: &[f32; 16], j: usize) -> Group<2> {
        let (h, s) = (j / 4, j % 4);
        let low = half_bytes(simd, part(block, 64 * h + s % 2 * 32), s / 2);
        let shift = cast([2 * s as u64, 0]);
        let high = simd.avx2._mm256_srl_epi16(cast(part::<32>(block, 128 + 32 * h)), shift);
        let high = simd.avx2._mm256_and_si256(high, set(simd, 3));
        let codes = simd.avx2._mm256_or_si256(low, simd.avx2._mm256_slli_epi16::<4>(high));
        let codes = simd.avx2._mm256_sub_epi8(codes, set(simd, 32));
        let scales = [simd.splat_f32x8(scales[2 * j]), simd.splat_f32x8(scales[2 * j + 1])];
        Group { codes: signed(simd, codes), scales, minimum: None }
    }
}
