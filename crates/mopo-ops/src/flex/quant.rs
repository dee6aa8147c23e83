//! Quantised weights on burn-flex, read output by output.

use std::ops::Range;

use mopo_hub::gguf::{TensorType, dequantise_row};

use super::by_output::{self, ByOutput};
use super::{Kernel, T, new, skinny, values, vectorised};
#[cfg(target_arch = "x86_64")]
use super::{blocks::BlockMatrix, precision::matmul_precision, rounded::ByteMatrix};
#[cfg(target_arch = "x86_64")]
use crate::MatmulPrecision;
use crate::QuantisedMatrix;
use crate::quant::{BLOCK, GROUP, INT8_ZERO, NF4, dynamic_map};

type Flex = burn::backend::Flex;

/// Codes of 4 bits per word, and of 8 bits.
const NIBBLES: usize = 8;
const BYTES: usize = 4;

/// A quantised weight to read.
pub(super) struct Reader<'a> {
    codes: &'a [i32],
    shape: [usize; 2],
    kind: Kind<'a>,
    /// In what products of a few lines are computed, where there is a choice.
    #[cfg(target_arch = "x86_64")]
    precision: MatmulPrecision,
}

enum Kind<'a> {
    /// A magnitude for each block, and the values of each pair of codes.
    Nf4 { magnitudes: Vec<f32>, pairs: Vec<[f32; 2]> },
    /// A scale for each output.
    Int8 { scales: &'a [f32] },
    /// The blocks of a file.
    Blocks { kind: TensorType, bytes: &'a [u8] },
}

fn words(x: &T) -> &[i32] {
    x.as_slice().expect("words of codes, contiguous")
}

impl<'a> Reader<'a> {
    pub(super) fn new(matrix: &'a QuantisedMatrix<Flex>) -> Self {
        let codes = words(&matrix.codes);
        let scales = values(&matrix.scales);
        let kind = match (matrix.layout.format, &matrix.scale_codes) {
            (crate::QuantFormat::Int8, _) => Kind::Int8 { scales },
            (crate::QuantFormat::Blocks(kind), _) => {
                Kind::Blocks { kind, bytes: bytemuck::cast_slice(codes) }
            }
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
        Self {
            codes,
            shape: matrix.layout.shape,
            kind,
            #[cfg(target_arch = "x86_64")]
            precision: matmul_precision(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Reader<'_> {
    /// The blocks, if there are kernels for products with them.
    fn blocks(&self) -> Option<BlockMatrix<'_>> {
        let Kind::Blocks { kind, bytes } = self.kind else { return None };
        let blocks = BlockMatrix { kind, bytes, inputs: self.shape[0] };
        blocks.has_kernels().then_some(blocks)
    }

    /// Codes to multiply with as they are, if that is wanted and possible.
    fn bytes(&self) -> Option<ByteMatrix<'_>> {
        match (&self.kind, self.precision) {
            (Kind::Int8 { scales }, MatmulPrecision::Int8) => {
                ByteMatrix::new(self.codes, scales, self.shape[0])
            }
            _ => None,
        }
    }
}

impl ByOutput for Reader<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn packed(&self, lines: Vec<f32>) -> Vec<f32> {
        #[cfg(target_arch = "x86_64")]
        if let Some(blocks) = self.blocks() {
            return blocks.packed(&lines);
        } else if let Some(bytes) = self.bytes() {
            return bytes.packed(&lines);
        }
        lines
    }

    fn products(&self, first: usize, packed: &[f32], m: usize, sums: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(blocks) = self.blocks() {
            return blocks.products(first, packed, m, sums);
        } else if let Some(bytes) = self.bytes() {
            return bytes.products(first, packed, m, sums);
        }
        skinny::dots(self, first, packed, m, sums);
    }

    fn read(&self, output: usize, line: &mut [f32]) {
        let from = output * self.shape[0];
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
            Kind::Blocks { kind, bytes } => {
                let size = kind.row_bytes(self.shape[0]).expect("whole blocks");
                vectorised(FileBlocks {
                    kind: *kind,
                    bytes: &bytes[output * size..][..size],
                    line,
                });
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

/// Decodes magnitudes of blocks that are quantised themselves.
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

/// [`whole_blocks`] with a table in one register: 16 numbers in a few instructions, which compilers
/// do not generate.
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
                // The lookup uses only the lowest four bits.
                let codes = simd._mm512_srlv_epi32(words, shifts);
                let values = simd._mm512_permutexvar_ps(codes, table);
                let values: f32x16 = cast(simd._mm512_mul_ps(values, magnitude));
                *part = cast::<f32x16, [f32; 16]>(values);
            }
        }
    }
}

struct FileBlocks<'a> {
    kind: TensorType,
    bytes: &'a [u8],
    line: &'a mut [f32],
}

impl Kernel for FileBlocks<'_> {
    #[inline(always)]
    fn run(self) {
        dequantise_row(self.kind, self.bytes, self.line);
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

/// The weights of single outputs, `[outputs, inputs]`.
pub(super) fn rows(matrix: &QuantisedMatrix<Flex>, outputs: &[usize]) -> T {
    let inputs = matrix.layout.shape[0];
    let mut out = vec![0f32; outputs.len() * inputs];
    let reader = Reader::new(matrix);
    if inputs > 0 {
        out.chunks_mut(inputs).zip(outputs).for_each(|(line, output)| reader.read(*output, line));
    }
    new(out, [outputs.len(), inputs])
}

/// The weights of the given outputs.
pub(super) fn dequantise(matrix: &QuantisedMatrix<Flex>, outputs: Range<usize>) -> T {
    let shape = [outputs.len(), matrix.layout.shape[0]];
    let mut out = vec![0f32; shape[0] * shape[1]];
    by_output::read(&Reader::new(matrix), outputs.start, &mut out);
    new(out, shape)
}
