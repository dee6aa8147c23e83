//! Products of a few lines with a weight in int8, as in generation: the weight's codes are multiplied as they stand in
//! memory. Lines are rounded to 16 bits, as codes of 8 and of what these leave: the weight is awaited anyway, and
//! with 8 bits one large number beside small ones changes answers. Each line's sums have an order of their own, so
//! that its bits do not depend on the others.

use std::arch::x86_64::{
    __m512i, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_reduce_add_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32,
};
use std::mem::transmute;

use super::int8::{LineBlock, line_block};
use super::{Format, Int8};
use crate::quant::INT8_ZERO;

/// Numbers with a common scale, words of their codes, and steps of the second code in one of the first.
const BLOCK: usize = super::int8::BLOCK;
const WORDS: usize = BLOCK / 4;
const FINER: i32 = 256;
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

/// The codes of a block, and of what they leave.
type Codes = [[f32; WORDS]; 2];

/// Of lines' packed numbers the words, the scales and what makes up for the codes' zero.
type Line<'a> = (&'a [Codes], &'a [f32], f32);

impl<'a> ByteMatrix<'a> {
    /// Nothing if the machine has no instructions for it, or an output no whole blocks.
    pub(in crate::flex) fn new(codes: &'a [i32], scales: &'a [f32], inputs: usize) -> Option<Self> {
        let fits = inputs > 0 && inputs.is_multiple_of(BLOCK) && Int8::available();
        fits.then_some(Self { codes, scales, inputs })
    }

    fn blocks(&self) -> usize {
        self.inputs / BLOCK
    }

    /// Numbers of a packed line.
    fn size(&self) -> usize {
        self.blocks() * (2 * WORDS + 1) + 1
    }

    /// Of each line its codes, four to a word, the scales of its blocks, and a number to add to its sums.
    pub(in crate::flex) fn packed(&self, lines: &[f32]) -> Vec<f32> {
        let size = self.size();
        let mut packed = vec![0f32; lines.len() / self.inputs * size];
        for (line, to) in lines.chunks_exact(self.inputs).zip(packed.chunks_exact_mut(size)) {
            let (words, rest) = to.split_at_mut(self.blocks() * 2 * WORDS);
            let (scales, correction) = rest.split_at_mut(self.blocks());
            let words = words.as_chunks_mut().0.as_chunks_mut().0;
            let line = line.as_chunks().0;
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
        let lines = packed.chunks_exact(self.size()).map(|line| {
            let (words, rest) = line.split_at(blocks * 2 * WORDS);
            (words.as_chunks().0.as_chunks().0, &rest[..blocks], rest[blocks])
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
                    let [line, rest] = unsafe { transmute::<Codes, [__m512i; 2]>(words[l][i]) };
                    let sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, line);
                    let sum = _mm512_dpbusd_epi32(
                        _mm512_slli_epi32::<{ FINER.ilog2() }>(sum),
                        codes,
                        rest,
                    );
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
fn round(line: &[[f32; BLOCK]], words: &mut [Codes], scales: &mut [f32]) -> f32 {
    let mut correction = 0.0;
    for ((block, words), scale) in line.iter().zip(words).zip(scales) {
        // SAFETY: there are as many numbers.
        let LineBlock { codes, scale: own, sum } =
            unsafe { line_block::<false>(block.as_ptr(), BLOCK) };
        *scale = own / FINER as f32;
        // SAFETY: as large, and any bits will do.
        let first = unsafe { transmute::<__m512i, [i8; BLOCK]>(codes) };
        let mut second = [0i8; BLOCK];
        if own > 0.0 {
            for ((second, first), x) in second.iter_mut().zip(first).zip(block) {
                let left = x / *scale - f32::from(first) * FINER as f32;
                *second = left.round_ties_even() as i8;
            }
        }
        // SAFETY: as before.
        *words = unsafe { transmute::<[[i8; BLOCK]; 2], Codes>([first, second]) };
        let sum = FINER * sum + second.iter().map(|code| i32::from(*code)).sum::<i32>();
        correction -= INT8_ZERO as f32 * sum as f32 * *scale;
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
    fn products_equal_sums_within_the_steps_of_rounding() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (inputs, m) in [(64, 1), (128, 2), (192, 3), (512, 7), (64, 16)] {
            let weight = Weight::new(inputs, &mut rng);
            let Some(matrix) = weight.matrix() else { return };
            // Of unlike sizes, and in one case all on one side of zero, which makes sums large.
            let from = if m == 2 { 0.5 } else { -1.0 };
            let number = |i: usize| rng.random_range(from..1f32) * [1e-3, 1.0, 30.0][i / 64 % 3];
            let lines: Vec<f32> = (0..inputs * m).map(number).collect();
            // What a code and the next one differ by, in each block.
            let steps = lines.chunks(BLOCK).map(|block| {
                let largest = block.iter().fold(0f32, |top, x| top.max(x.abs()));
                f64::from(largest) / (127.0 * f64::from(FINER))
            });
            let steps: Vec<f64> = steps.collect();
            for first in [0, 5] {
                for (i, x) in products(&matrix, &lines, first).into_iter().enumerate() {
                    let (output, line) = (first + i / m, i % m);
                    let of_line = |j: usize| f64::from(lines[line * inputs + j]);
                    let sum: f64 = (0..inputs).map(|j| of_line(j) * weight.get(output, j)).sum();
                    let most = |j: usize| {
                        let rounded = steps[(line * inputs + j) / BLOCK] + 1e-6 * of_line(j).abs();
                        rounded * weight.get(output, j).abs()
                    };
                    let (error, most) = ((f64::from(x) - sum).abs(), (0..inputs).map(most).sum());
                    assert!(error <= most, "{inputs} × {m}, output {output}: {x}, {sum}");
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
