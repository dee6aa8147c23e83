//! Quantised weights on flex: turned into f32 a tile of outputs at a time for faer's products, or,
//! for a few lines, an output at a time, which never leaves the first cache.

use std::ops::Range;

use faer::MatMut;
use rayon::prelude::*;

use super::gemm::{View, by_rows, multiply, parallelism, start};
use super::skinny::{Dots, LINES};
use super::{Kernel, T, new, values, vectorised};
use crate::quant::{BLOCK, GROUP, INT8_ZERO, NF4, dynamic_map};
use crate::{Init, QuantisedMatrix};

type Flex = burn::backend::Flex;

/// Numbers that are f32 at a time: few enough to stay in a cache, enough for a product.
const TILE: usize = 1024 * 1024;
/// Codes of 4 bits in a word, and of 8.
const NIBBLES: usize = 8;
const BYTES: usize = 4;

/// A quantised weight to read.
struct Reader<'a> {
    codes: &'a [i32],
    inputs: usize,
    kind: Kind<'a>,
}

enum Kind<'a> {
    /// A magnitude for each block, and what each pair of codes stands for.
    Nf4 { magnitudes: Vec<f32>, pairs: Vec<[f32; 2]> },
    /// A scale for each output.
    Int8 { scales: &'a [f32] },
}

fn words(x: &T) -> &[i32] {
    x.as_slice().expect("words of codes, contiguous")
}

impl<'a> Reader<'a> {
    fn new(matrix: &'a QuantisedMatrix<Flex>) -> Self {
        let codes = words(&matrix.codes);
        let scales = values(&matrix.scales);
        let kind = match (matrix.layout.format, &matrix.scale_codes) {
            (crate::QuantFormat::Int8, _) => Kind::Int8 { scales },
            (crate::QuantFormat::Nf4 { .. }, scale_codes) => {
                let magnitudes = match scale_codes {
                    None => scales.to_vec(),
                    Some(codes) => {
                        let n = matrix.layout.n_weights().div_ceil(BLOCK);
                        decoded(words(codes), scales, matrix.layout.offset, n)
                    }
                };
                let pairs = (0..256).map(|byte| [NF4[byte & 15], NF4[byte >> 4]]).collect();
                Kind::Nf4 { magnitudes, pairs }
            }
        };
        Self { codes, inputs: matrix.layout.shape[0], kind }
    }

    /// The weights of an output.
    fn read(&self, output: usize, line: &mut [f32]) {
        let from = output * self.inputs;
        match &self.kind {
            Kind::Nf4 { magnitudes, pairs } => {
                if from.is_multiple_of(BLOCK) && line.len().is_multiple_of(BLOCK) {
                    let codes = &self.codes[from / NIBBLES..][..line.len() / NIBBLES];
                    let magnitudes = &magnitudes[from / BLOCK..][..line.len() / BLOCK];
                    let pairs = pairs.as_slice().try_into().expect("one for each byte");
                    let blocks = Blocks { codes, magnitudes, pairs, line };
                    #[cfg(target_arch = "x86_64")]
                    if let Some(simd) = pulp::x86::V4::try_new() {
                        return simd.vectorize(WithAvx512 { simd, blocks });
                    }
                    return vectorised(blocks);
                }
                for (i, x) in (from..).zip(line) {
                    let code = (self.codes[i / NIBBLES] >> (i % NIBBLES * 4)) & 15;
                    *x = NF4[code as usize] * magnitudes[i / BLOCK];
                }
            }
            Kind::Int8 { scales } => {
                let scale = scales[output];
                if from.is_multiple_of(BYTES) && line.len().is_multiple_of(BYTES) {
                    let codes = &self.codes[from / BYTES..][..line.len() / BYTES];
                    return vectorised(Bytes { codes, scale, line });
                }
                for (i, x) in (from..).zip(line) {
                    let code = self.codes[i / BYTES].to_le_bytes()[i % BYTES];
                    *x = (i32::from(code) - INT8_ZERO) as f32 * scale;
                }
            }
        }
    }
}

/// Magnitudes of blocks that are quantised themselves.
fn decoded(codes: &[i32], scales: &[f32], offset: f32, n: usize) -> Vec<f32> {
    let table = dynamic_map();
    let bytes = codes.iter().flat_map(|word| word.to_le_bytes());
    let values = bytes.enumerate().map(|(i, code)| table[code as usize] * scales[i / GROUP]);
    values.map(|x| x + offset).take(n).collect()
}

struct Blocks<'a> {
    codes: &'a [i32],
    magnitudes: &'a [f32],
    pairs: &'a [[f32; 2]; 256],
    line: &'a mut [f32],
}

impl Kernel for Blocks<'_> {
    #[inline(always)]
    fn run(self) {
        let Blocks { codes, magnitudes, pairs, line } = self;
        let (codes, _) = codes.as_chunks::<{ BLOCK / NIBBLES }>();
        let (blocks, _) = line.as_chunks_mut::<BLOCK>();
        for ((codes, magnitude), block) in codes.iter().zip(magnitudes).zip(blocks) {
            for (word, part) in codes.iter().zip(block.as_chunks_mut::<NIBBLES>().0) {
                for (byte, two) in word.to_le_bytes().into_iter().zip(part.as_chunks_mut::<2>().0) {
                    *two = pairs[byte as usize];
                }
            }
            for x in block {
                *x *= magnitude;
            }
        }
    }
}

/// [`whole_blocks`] with a table that fits into one register: 16 numbers in a few instructions, which
/// compilers do not find.
#[cfg(target_arch = "x86_64")]
struct WithAvx512<'a> {
    simd: pulp::x86::V4,
    blocks: Blocks<'a>,
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for WithAvx512<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        use pulp::{cast, f32x16, i32x16};
        let Blocks { codes, magnitudes, line, .. } = self.blocks;
        let simd = self.simd.avx512f;
        let table = cast(NF4);
        let shifts = cast(std::array::from_fn::<i32, 16, _>(|i| 4 * (i as i32 % 8)));
        let (codes, _) = codes.as_chunks::<{ BLOCK / NIBBLES }>();
        let (blocks, _) = line.as_chunks_mut::<BLOCK>();
        for ((codes, magnitude), block) in codes.iter().zip(magnitudes).zip(blocks) {
            let magnitude = simd._mm512_set1_ps(*magnitude);
            for (two, part) in codes.as_chunks::<2>().0.iter().zip(block.as_chunks_mut().0) {
                let [a, b] = *two;
                let words = cast(i32x16(a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b));
                // The lookup heeds the lowest four bits alone.
                let codes = simd._mm512_srlv_epi32(words, shifts);
                let values = simd._mm512_permutexvar_ps(codes, table);
                let values: f32x16 = cast(simd._mm512_mul_ps(values, magnitude));
                *part = cast::<f32x16, [f32; 16]>(values);
            }
        }
    }
}

struct Bytes<'a> {
    codes: &'a [i32],
    scale: f32,
    line: &'a mut [f32],
}

impl Kernel for Bytes<'_> {
    #[inline(always)]
    fn run(self) {
        let Bytes { codes, scale, line } = self;
        for (word, part) in codes.iter().zip(line.as_chunks_mut::<BYTES>().0) {
            for (byte, x) in word.to_le_bytes().into_iter().zip(part) {
                *x = (i32::from(byte) - INT8_ZERO) as f32 * scale;
            }
        }
    }
}

/// The weights of those outputs.
pub(super) fn dequantise(matrix: &QuantisedMatrix<Flex>, outputs: Range<usize>) -> T {
    let [inputs, _] = matrix.layout.shape;
    let reader = Reader::new(matrix);
    let mut out = vec![0f32; outputs.len() * inputs];
    out.par_chunks_mut(inputs)
        .enumerate()
        .for_each(|(i, line)| reader.read(outputs.start + i, line));
    new(out, [outputs.len(), inputs])
}

/// `init + x · W` or `init + x · Wᵀ`.
pub(super) fn weight_matmul(
    init: Init<Flex>,
    x: T,
    weight: &QuantisedMatrix<Flex>,
    transpose: bool,
) -> T {
    let [inputs, outputs] = weight.layout.shape;
    let x = View::new(x, false);
    let x = x.get();
    let m = x.nrows();
    let n = if transpose { inputs } else { outputs };
    let (mut out, mut add) = start(init, m, n);
    if m == 0 {
        return new(out, [m, n]);
    }
    let reader = Reader::new(weight);
    if m <= LINES && !transpose {
        few_lines(&mut out, add, x, &reader, outputs);
        return new(out, [m, n]);
    }
    let size = (TILE / inputs).next_multiple_of(64).min(outputs);
    let mut tile = vec![0f32; size * inputs];
    for from in (0..outputs).step_by(size) {
        let size = size.min(outputs - from);
        // [size, inputs]: one line per output.
        let tile = &mut tile[..size * inputs];
        tile.par_chunks_mut(inputs).enumerate().for_each(|(i, line)| reader.read(from + i, line));
        let lines = by_rows(tile, size, inputs, inputs);
        let par = parallelism(m, size, inputs);
        let to = MatMut::from_row_major_slice_mut(&mut out, m, n);
        if transpose {
            multiply(to, add, x.subcols(from, size), lines, 1.0, par);
            add = true;
        } else {
            multiply(to.subcols_mut(from, size), add, x, lines.transpose(), 1.0, par);
        }
    }
    new(out, [m, n])
}

/// `out = (out if add else 0) + x · W` for at most [`LINES`] lines.
fn few_lines(
    out: &mut [f32],
    add: bool,
    x: faer::MatRef<'_, f32>,
    reader: &Reader<'_>,
    outputs: usize,
) {
    let (m, inputs) = (x.nrows(), x.ncols());
    let lines: Vec<f32> =
        (0..m).flat_map(|i| (0..inputs).map(move |j| (i, j))).map(|(i, j)| x[(i, j)]).collect();
    // `[outputs, m]`, then turned.
    let mut sums = vec![0f32; outputs * m];
    let piece = outputs.div_ceil(4 * rayon::current_num_threads());
    sums.par_chunks_mut(piece * m).enumerate().for_each(|(i, sums)| {
        let mut column = vec![0f32; inputs];
        for (j, sums) in sums.chunks_exact_mut(m).enumerate() {
            reader.read(i * piece + j, &mut column);
            vectorised(Dots { column: &column, lines: &lines, sums });
        }
    });
    for (i, out) in out.chunks_exact_mut(outputs).enumerate() {
        for (j, x) in out.iter_mut().enumerate() {
            *x = if add { *x } else { 0.0 } + sums[j * m + i];
        }
    }
}
