//! From floats on the host to codes, on all threads. Only one block at a time is converted to f32.

use burn::tensor::{DType, TensorData, bf16, f16};
use rayon::prelude::*;

use super::tables::boundaries;
use super::{BLOCK, GROUP, INT8_ZERO, NF4, QuantFormat, QuantLayout, QuantisedData, dynamic_map};

/// Why a weight cannot be quantised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QuantError {
    /// Weight `[output, input]` is NaN or infinite.
    NotFinite {
        /// Its row as Hugging Face stores it.
        output: usize,
        /// Its column.
        input: usize,
        /// The value.
        value: f32,
    },
    /// Neither f32, bf16 nor f16.
    Dtype(DType),
}

impl std::fmt::Display for QuantError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFinite { output, input, value } => {
                write!(f, "element [{output}, {input}] is {value}, not a finite number")
            }
            Self::Dtype(dtype) => {
                write!(f, "its type is {dtype:?}; only f32, bf16 and f16 are supported")
            }
        }
    }
}

impl std::error::Error for QuantError {}

/// The numbers of a weight as they are stored.
#[derive(Clone, Copy)]
enum Source<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) => x.len(),
            Self::F16(x) => x.len(),
        }
    }

    fn get(&self, i: usize) -> f32 {
        match self {
            Self::F32(x) => x[i],
            Self::Bf16(x) => x[i].to_f32(),
            Self::F16(x) => x[i].to_f32(),
        }
    }

    /// Copies the numbers from `from` on.
    fn read(&self, from: usize, to: &mut [f32]) {
        let range = from..from + to.len();
        match self {
            Self::F32(x) => to.copy_from_slice(&x[range]),
            Self::Bf16(x) => to.iter_mut().zip(&x[range]).for_each(|(to, x)| *to = x.to_f32()),
            Self::F16(x) => to.iter_mut().zip(&x[range]).for_each(|(to, x)| *to = x.to_f32()),
        }
    }
}

/// Words per task.
const WORDS: usize = 4 * 1024;

impl QuantisedData {
    /// Quantises a weight `[outputs, inputs]` of f32, bf16 or f16. A block of zeros stays zero.
    ///
    /// Panics if it is not a matrix, or for blocks of a file, which [`from_blocks`](Self::from_blocks)
    /// takes.
    ///
    /// # Errors
    /// The first number that is not finite; another data type.
    pub fn quantise(weight: &TensorData, format: QuantFormat) -> Result<Self, QuantError> {
        let &[outputs, inputs] = &weight.shape[..] else { panic!("a weight is a matrix") };
        let read = "the data type was asked for";
        let source = match weight.dtype {
            DType::F32 => Source::F32(weight.as_slice().expect(read)),
            DType::BF16 => Source::Bf16(weight.as_slice().expect(read)),
            DType::F16 => Source::F16(weight.as_slice().expect(read)),
            dtype => return Err(QuantError::Dtype(dtype)),
        };
        let mut layout = QuantLayout { format, shape: [inputs, outputs], offset: 0.0 };
        let magnitudes = magnitudes(source, layout.block()).map_err(|i| QuantError::NotFinite {
            output: i / inputs,
            input: i % inputs,
            value: source.get(i),
        })?;
        Ok(match format {
            QuantFormat::Blocks(kind) => panic!("blocks of {kind} come from files"),
            QuantFormat::Int8 => {
                let scales: Vec<f32> = magnitudes.iter().map(|m| m / 127.0).collect();
                let codes = int8_codes(source, &scales, inputs);
                Self { layout, codes, scales, scale_codes: None }
            }
            QuantFormat::Nf4 { double_quant } => {
                let codes = nf4_codes(source, &magnitudes);
                if !double_quant {
                    return Ok(Self { layout, codes, scales: magnitudes, scale_codes: None });
                }
                let sum: f64 = magnitudes.iter().map(|m| f64::from(*m)).sum();
                layout.offset = (sum / magnitudes.len().max(1) as f64) as f32;
                let (scale_codes, scales) = again(&magnitudes, layout.offset);
                Self { layout, codes, scales, scale_codes: Some(scale_codes) }
            }
        })
    }
}

/// The largest magnitude of each block; the first number that is not finite is an error.
fn magnitudes(source: Source<'_>, block: usize) -> Result<Vec<f32>, usize> {
    let n = source.len();
    let mut magnitudes = vec![0f32; if n == 0 { 0 } else { n.div_ceil(block) }];
    // Enough blocks to be worth a task.
    let size = (8 * WORDS).div_ceil(block.max(1));
    let bad = magnitudes
        .par_chunks_mut(size)
        .enumerate()
        .filter_map(|(i, magnitudes)| {
            let mut numbers = vec![0f32; block];
            for (j, magnitude) in magnitudes.iter_mut().enumerate() {
                let from = (i * size + j) * block;
                let numbers = &mut numbers[..block.min(n - from)];
                source.read(from, numbers);
                if let Some(bad) = numbers.iter().position(|x| !x.is_finite()) {
                    return Some(from + bad);
                }
                *magnitude = numbers.iter().fold(0f32, |m, x| m.max(x.abs()));
            }
            None
        })
        .min();
    bad.map_or(Ok(magnitudes), Err)
}

/// Codes of 4 bits, 8 in a word.
fn nf4_codes(source: Source<'_>, magnitudes: &[f32]) -> Vec<i32> {
    const PER_WORD: usize = 8;
    let boundaries: [f32; 15] = boundaries(&NF4);
    let n = source.len();
    let mut words = vec![0; n.div_ceil(PER_WORD)];
    words.par_chunks_mut(WORDS).enumerate().for_each(|(task, words)| {
        let mut numbers = [0f32; BLOCK];
        let mut codes = [0u32; BLOCK];
        for (i, words) in words.chunks_mut(BLOCK / PER_WORD).enumerate() {
            let from = task * WORDS * PER_WORD + i * BLOCK;
            let numbers = &mut numbers[..BLOCK.min(n - from)];
            source.read(from, numbers);
            let inverse = inverse(magnitudes[from / BLOCK]);
            codes.fill(0);
            for (code, x) in codes.iter_mut().zip(numbers) {
                let x = *x * inverse;
                *code = boundaries.iter().map(|b| u32::from(x > *b)).sum();
            }
            for (word, codes) in words.iter_mut().zip(codes.as_chunks::<PER_WORD>().0) {
                *word = codes.iter().rev().fold(0, |word, code| (word << 4) | code) as i32;
            }
        }
    });
    words
}

/// The factor that scales numbers to ±1; 0 for a block of zeros, and for one so small that 1 /
/// magnitude overflows.
fn inverse(magnitude: f32) -> f32 {
    let inverse = 1.0 / magnitude;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Codes of 8 bits, 4 in a word.
fn int8_codes(source: Source<'_>, scales: &[f32], inputs: usize) -> Vec<i32> {
    const PER_WORD: usize = 4;
    let n = source.len();
    let mut words = vec![0; n.div_ceil(PER_WORD)];
    let code = |i: usize| {
        let x = source.get(i) * inverse(scales[i / inputs]);
        (x.round().clamp(-127.0, 127.0) as i32 + INT8_ZERO) as u8
    };
    words.par_chunks_mut(WORDS).enumerate().for_each(|(task, words)| {
        for (i, word) in words.iter_mut().enumerate() {
            let from = (task * WORDS + i) * PER_WORD;
            let byte = |j| if from + j < n { code(from + j) } else { 0 };
            *word = i32::from_le_bytes(std::array::from_fn(byte));
        }
    });
    words
}

/// Quantises the magnitudes themselves: codes, 4 in a word, and a scale for each group.
fn again(magnitudes: &[f32], offset: f32) -> (Vec<i32>, Vec<f32>) {
    let boundaries: [f32; 255] = boundaries(&dynamic_map());
    let mut bytes = Vec::with_capacity(magnitudes.len().next_multiple_of(4));
    let mut scales = vec![];
    for group in magnitudes.chunks(GROUP) {
        let scale = group.iter().fold(0f32, |s, m| s.max((m - offset).abs()));
        let inverse = inverse(scale);
        for m in group {
            let x = (m - offset) * inverse;
            bytes.push(boundaries.partition_point(|b| *b < x) as u8);
        }
        scales.push(scale);
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    (bytes.as_chunks().0.iter().map(|word| i32::from_le_bytes(*word)).collect(), scales)
}
