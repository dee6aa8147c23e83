//! Sums over the groups of an output's blocks.
//!
//! Unsafe because pulp does not convert from F16.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use pulp::x86::V3;
use pulp::{NullaryFnOnce, cast, f32x8};

use super::formats::Format;

/// Numbers that are multiplied at a time.
pub(super) const GROUP: usize = 32;
/// Numbers of a line for each group: the group's, and eight whose sum is theirs.
pub(super) const PACKED: usize = GROUP + 8;

pulp::simd_type!({
    /// AVX2 and what comes with it, and F16C.
    pub(super) struct Instructions {
        sse: f!("sse"),
        sse2: f!("sse2"),
        fxsr: f!("fxsr"),
        sse3: f!("sse3"),
        ssse3: f!("ssse3"),
        sse4_1: f!("sse4.1"),
        sse4_2: f!("sse4.2"),
        popcnt: f!("popcnt"),
        avx: f!("avx"),
        avx2: f!("avx2"),
        bmi1: f!("bmi1"),
        bmi2: f!("bmi2"),
        fma: f!("fma"),
        lzcnt: f!("lzcnt"),
        f16c: f!("f16c"),
    }
});

/// Vectors of AVX2, with F16C.
#[derive(Clone, Copy)]
pub(super) struct Vectors {
    v3: V3,
    /// Proves that there is F16C.
    _f16c: Instructions,
}

impl std::ops::Deref for Vectors {
    type Target = V3;

    #[inline(always)]
    fn deref(&self) -> &V3 {
        &self.v3
    }
}

impl Vectors {
    /// Two F16 one after the other, each in all lanes.
    #[inline(always)]
    pub(super) fn halves(self, two: [u8; 4]) -> [f32x8; 2] {
        let both = cast(self.splat_i32x4(i32::from_le_bytes(two)));
        // SAFETY: the processor has F16C.
        let both = unsafe { std::arch::x86_64::_mm256_cvtph_ps(both) };
        [cast(self.avx._mm256_moveldup_ps(both)), cast(self.avx._mm256_movehdup_ps(both))]
    }

    /// The sum of the lanes.
    #[inline(always)]
    fn sum(self, x: f32x8) -> f32 {
        let [a, b]: [pulp::f32x4; 2] = cast(x);
        self.reduce_sum_f32x4(self.add_f32x4(a, b))
    }
}

/// A group of an output's codes, as numbers.
pub(super) struct Group<const SCALES: usize> {
    pub(super) codes: [f32x8; 4],
    /// One for all codes, or for each half of them.
    pub(super) scales: [f32x8; SCALES],
    /// Added to each code times its scale.
    pub(super) minimum: Option<f32x8>,
}

/// Products of some lines with all outputs.
pub(super) struct Pass<'a> {
    pub(super) bytes: &'a [u8],
    /// Of each group each line's [`PACKED`] numbers.
    pub(super) lines: &'a [f32],
    /// `[outputs, m]`, and which of `m` lines to write.
    pub(super) sums: &'a mut [f32],
    pub(super) m: usize,
    pub(super) which: Range<usize>,
}

impl Pass<'_> {
    pub(super) fn run<F: Format<BYTES, SCALES>, const BYTES: usize, const SCALES: usize>(self) {
        match self.which.len() {
            1 => self.of::<F, BYTES, SCALES, 1>(),
            2 => self.of::<F, BYTES, SCALES, 2>(),
            4 => self.of::<F, BYTES, SCALES, 4>(),
            8 => self.of::<F, BYTES, SCALES, 8>(),
            n => unreachable!("a pass of {n} lines"),
        }
    }

    fn of<F: Format<BYTES, SCALES>, const BYTES: usize, const SCALES: usize, const R: usize>(self) {
        let instructions = Instructions::try_new().expect("AVX2 and F16C");
        let v3 = V3::try_new().expect("a part of these");
        let simd = Vectors { v3, _f16c: instructions };
        instructions.vectorize(Lines::<F, BYTES, SCALES, R> {
            simd,
            pass: self,
            format: PhantomData,
        });
    }
}

struct Lines<'a, F, const BYTES: usize, const SCALES: usize, const R: usize> {
    simd: Vectors,
    pass: Pass<'a>,
    format: PhantomData<F>,
}

impl<F, const BYTES: usize, const SCALES: usize, const R: usize> NullaryFnOnce
    for Lines<'_, F, BYTES, SCALES, R>
where
    F: Format<BYTES, SCALES>,
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, pass, .. } = self;
        let Pass { bytes, lines, sums, m, which } = pass;
        let (lines, _) = lines.as_chunks::<8>().0.as_chunks::<{ PACKED / 8 }>();
        let (lines, _) = lines.as_chunks::<R>();
        let (blocks, _) = bytes.as_chunks::<BYTES>();
        let per_output = lines.len() / F::GROUPS;
        let outputs = blocks.chunks_exact(per_output);
        for (blocks, sums) in outputs.zip(sums.chunks_exact_mut(m)) {
            let mut totals = [simd.splat_f32x8(0.0); R];
            for (block, lines) in blocks.iter().zip(lines.chunks_exact(F::GROUPS)) {
                let scales = F::scales(simd, block);
                for (j, lines) in lines.iter().enumerate() {
                    add(simd, F::group(simd, block, &scales, j), lines, &mut totals);
                }
            }
            for (sum, total) in sums[which.clone()].iter_mut().zip(totals) {
                *sum = simd.sum(total);
            }
        }
    }
}

/// Adds each line's product with a group.
#[inline(always)]
fn add<const SCALES: usize, const R: usize>(
    simd: Vectors,
    group: Group<SCALES>,
    lines: &[[[f32; 8]; PACKED / 8]; R],
    totals: &mut [f32x8; R],
) {
    let Group { codes, scales, minimum } = group;
    for (line, total) in lines.iter().zip(totals) {
        let [a, b, c, d, sums]: [f32x8; 5] = cast(*line);
        let first = simd.mul_add_f32x8(codes[1], b, simd.mul_f32x8(codes[0], a));
        let scaled = if SCALES == 1 {
            let all = simd.mul_add_f32x8(codes[3], d, simd.mul_add_f32x8(codes[2], c, first));
            match minimum {
                None => {
                    *total = simd.mul_add_f32x8(scales[0], all, *total);
                    continue;
                }
                Some(minimum) => simd.mul_add_f32x8(scales[0], all, simd.mul_f32x8(minimum, sums)),
            }
        } else {
            debug_assert!(minimum.is_none(), "no type has both");
            let second = simd.mul_add_f32x8(codes[3], d, simd.mul_f32x8(codes[2], c));
            simd.mul_add_f32x8(scales[0], first, simd.mul_f32x8(scales[1], second))
        };
        // One addition, not two that wait for each other.
        *total = simd.add_f32x8(*total, scaled);
    }
}
