//! Products of a few lines with a weight in int8, as in generation: lines are rounded as in [`int8`](super::int8), and the
//! weight's codes are multiplied as they stand in memory. Each line's sums have an order of their own, so that its bits
//! do not depend on the others.

use std::arch::x86_64::{
    __m512i, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_reduce_add_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
};
use std::mem::transmute;

use super::int8::{LineBlock, line_block};
use super::{Format, Int8};
use crate::quant::INT8_ZERO;

/// Numbers with a common scale, and words of their codes.
const BLOCK: usize = super::int8::BLOCK;
const WORDS: usize = BLOCK / 4;
/// Lines per pass over the weight.
const LINES: usize = 8;

/// A weight whose codes are counted from −[`INT8_ZERO`].
#[derive(Clone, Copy)]
pub(in crate::flex) struct ByteMatrix<'a> {
    /// Four to a word, output after output.
    codes: &'a [i32],
    /// Of each output.
    scales: &'a [f32],
    inputs: usize,
}

/// Of lines' packed numbers the words, the scales and what makes up for the codes' zero.
type Line<'a> = (&'a [[f32; WORDS]], &'a [f32], f32);

impl<'a> ByteMatrix<'a> {
    /// Nothing if the machine has no instructions for it, or an output no whole blocks.
    pub(in crate::flex) fn new(codes: &'a [i32], scales: &'a [f32], inputs: usize) -> Option<Self> {
        let fits = inputs > 0 && inputs.is_multiple_of(BLOCK) && Int8::available();
        fits.then_some(Self { codes, scales, inputs })
    }

    fn blocks(&self) -> usize {
        self.inputs / BLOCK
    }

    /// Of each line its codes, four to a word, the scales of its blocks, and a number to add to its sums.
    pub(in crate::flex) fn packed(&self, lines: &[f32]) -> Vec<f32> {
        let size = self.blocks() * (WORDS + 1) + 1;
        let mut packed = vec![0f32; lines.len() / self.inputs * size];
        for (line, to) in lines.chunks_exact(self.inputs).zip(packed.chunks_exact_mut(size)) {
            let (words, rest) = to.split_at_mut(self.blocks() * WORDS);
            let (scales, correction) = rest.split_at_mut(self.blocks());
            let (line, words) = (line.as_chunks().0, words.as_chunks_mut().0);
            // SAFETY: a matrix is only made where the machine has the instructions.
            correction[0] = unsafe { round(line, words, scales) };
        }
        packed
    }

    /// The products of outputs from `first` on with each of `m` [`packed`](Self::packed) lines: `[outputs, m]`.
    pub(in crate::flex) fn products(
        &self,
        first: usize,
        packed: &[f32],
        m: usize,
        sums: &mut [f32],
    ) {
        let blocks = self.blocks();
        let lines = packed.chunks_exact(blocks * (WORDS + 1) + 1).map(|line| {
            let (words, rest) = line.split_at(blocks * WORDS);
            (words.as_chunks().0, &rest[..blocks], rest[blocks])
        });
        let lines: Vec<Line<'_>> = lines.collect();
        assert_eq!(lines.len(), m, "lines packed");
        let mut from = 0;
        while from < m {
            let n = 1 << (m - from).min(LINES).ilog2();
            let pass = Pass { weight: self, first, lines: &lines[from..from + n], from, m };
            // SAFETY: a matrix is only made where the machine has the instructions.
            unsafe {
                match n {
                    1 => pass.run::<1>(sums),
                    2 => pass.run::<2>(sums),
                    4 => pass.run::<4>(sums),
                    _ => pass.run::<LINES>(sums),
                }
            }
            from += n;
        }
    }
}

/// Some of the lines, in one pass over the weight.
struct Pass<'a> {
    weight: &'a ByteMatrix<'a>,
    first: usize,
    lines: &'a [Line<'a>],
    /// Which these are, out of `m`.
    from: usize,
    m: usize,
}

impl Pass<'_> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn run<const N: usize>(&self, sums: &mut [f32]) {
        let Self { weight, first, lines, from, m } = *self;
        let blocks = weight.blocks();
        let (mut words, mut scales) = ([lines[0].0; N], [lines[0].1; N]);
        for (i, line) in lines.iter().enumerate().take(N) {
            (words[i], scales[i]) = (&line.0[..blocks], &line.1[..blocks]);
        }
        for (output, sums) in (first..).zip(sums.chunks_exact_mut(m)) {
            let codes = &weight.codes[output * blocks * WORDS..][..blocks * WORDS];
            let mut totals = [_mm512_setzero_ps(); N];
            for (i, codes) in codes.as_chunks::<WORDS>().0.iter().enumerate() {
                // SAFETY: as large, and any bits will do.
                let codes = unsafe { transmute::<[i32; WORDS], __m512i>(*codes) };
                for l in 0..N {
                    // SAFETY: as before.
                    let line = unsafe { transmute::<[f32; WORDS], __m512i>(words[l][i]) };
                    let sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, line);
                    let scale = _mm512_set1_ps(scales[l][i]);
                    totals[l] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, totals[l]);
                }
            }
            let scale = weight.scales[output];
            for l in 0..N {
                sums[from + l] = (_mm512_reduce_add_ps(totals[l]) + lines[l].2) * scale;
            }
        }
    }
}

/// Rounds the blocks of a line. Returns what makes up for the weight's codes being counted from −[`INT8_ZERO`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn round(line: &[[f32; BLOCK]], words: &mut [[f32; WORDS]], scales: &mut [f32]) -> f32 {
    let mut correction = 0.0;
    for ((block, words), scale) in line.iter().zip(words).zip(scales) {
        // SAFETY: there are as many numbers.
        let LineBlock { codes, scale: own, sum } = unsafe { line_block(block.as_ptr(), BLOCK) };
        // SAFETY: as large, and any bits will do.
        *words = unsafe { transmute::<__m512i, [f32; WORDS]>(codes) };
        *scale = own;
        correction -= INT8_ZERO as f32 * sum as f32 * own;
    }
    correction
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const OUTPUTS: usize = 37;

    struct Weight {
        codes: Vec<i32>,
        scales: Vec<f32>,
        inputs: usize,
    }

    impl Weight {
        fn new(inputs: usize, rng: &mut ChaCha8Rng) -> Self {
            let mut code = || rng.random_range(1..=255u8);
            let word = |_| i32::from_le_bytes([code(), code(), code(), code()]);
            let codes = (0..OUTPUTS * inputs / 4).map(word).collect();
            Self { codes, scales: (0..OUTPUTS).map(|i| 0.01 + i as f32).collect(), inputs }
        }

        /// Nothing, and a message, without the instructions.
        fn matrix(&self) -> Option<ByteMatrix<'_>> {
            let matrix = ByteMatrix::new(&self.codes, &self.scales, self.inputs);
            if matrix.is_none() {
                println!("skipped: no AVX512-VNNI here");
            }
            matrix
        }

        fn get(&self, output: usize, input: usize) -> f64 {
            let word = self.codes[(output * self.inputs + input) / 4];
            let code = i32::from(word.to_le_bytes()[input % 4]) - INT8_ZERO;
            f64::from(code) * f64::from(self.scales[output])
        }
    }

    fn products(weight: &ByteMatrix<'_>, lines: &[f32], first: usize) -> Vec<f32> {
        let m = lines.len() / weight.inputs;
        let mut sums = vec![f32::NAN; (OUTPUTS - first) * m];
        weight.products(first, &weight.packed(lines), m, &mut sums);
        sums
    }

    #[test]
    fn products_equal_sums_of_rounded_lines() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (inputs, m) in [(64, 1), (128, 2), (192, 3), (512, 7), (64, 16)] {
            let weight = Weight::new(inputs, &mut rng);
            let Some(matrix) = weight.matrix() else { return };
            // Of unlike sizes, and in one case all on one side of zero, which makes sums large.
            let from = if m == 2 { 0.5 } else { -1.0 };
            let number = |i: usize| rng.random_range(from..1f32) * [1e-3, 1.0, 30.0][i / 64 % 3];
            let lines: Vec<f32> = (0..inputs * m).map(number).collect();
            let mut rounded = lines.clone();
            for block in rounded.chunks_mut(BLOCK) {
                let largest = block.iter().fold(0f32, |top, x| top.max(x.abs()));
                let (factor, scale) = (127.0 / largest, largest / 127.0);
                block.iter_mut().for_each(|x| *x = (*x * factor).round_ties_even() * scale);
            }
            for first in [0, 5] {
                for (i, x) in products(&matrix, &lines, first).into_iter().enumerate() {
                    let (output, line) = (first + i / m, &rounded[i % m * inputs..][..inputs]);
                    let terms = line.iter().enumerate();
                    let terms = terms.map(|(j, x)| f64::from(*x) * weight.get(output, j));
                    let (sum, size) =
                        terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + f64::abs(x)));
                    let error = (f64::from(x) - sum).abs();
                    assert!(error <= 1e-6 * size, "{inputs} × {m}, output {output}: {x}, {sum}");
                }
            }
        }
    }

    #[test]
    fn a_lines_products_do_not_depend_on_the_others() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let (inputs, m) = (320, 15);
        let weight = Weight::new(inputs, &mut rng);
        let Some(matrix) = weight.matrix() else { return };
        let lines: Vec<f32> = (0..inputs * m).map(|_| rng.random_range(-1f32..1.0)).collect();
        let together = products(&matrix, &lines, 0);
        for (i, line) in lines.chunks(inputs).enumerate() {
            let alone = products(&matrix, line, 0);
            let own: Vec<f32> = together.iter().skip(i).step_by(m).copied().collect();
            assert_eq!(own, alone);
        }
    }

    #[test]
    fn zeros_and_what_is_not_finite() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let weight = Weight::new(64, &mut rng);
        let Some(matrix) = weight.matrix() else { return };
        assert_eq!(products(&matrix, &[0.0; 64], 0), [0.0; OUTPUTS]);
        assert_eq!(products(&matrix, &[1e-40; 64], 0), [0.0; OUTPUTS]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut line = [1f32; 64];
            line[9] = bad;
            assert!(products(&matrix, &line, 0).iter().all(|x| x.is_nan()));
        }
    }
}
