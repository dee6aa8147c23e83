//! Quantised weights: how the numbers of a matrix are packed. [`QuantisedData`] is made from a
//! weight on the host, [`QuantisedMatrix`] is the same on a device. Products with it are in
//! `generic` and `flex`.
//!
//! A weight is quantised in the order in which Hugging Face stores it, `[outputs, inputs]`, one
//! number after the other:
//!
//! - NF4, the data type of QLoRA (Dettmers et al. 2023, appendix E): blocks of 64 numbers, which
//!   may span rows; each number is one of 16 values times the block's largest magnitude. With
//!   double quantisation those magnitudes, minus their mean, are 8-bit numbers in blocks of 256.
//!   Codes and magnitudes are those of bitsandbytes.
//! - blocks of GGUF files stay as they are.
//! - int8: one scale per output, its largest magnitude / 127; codes are round(weight / scale). One
//!   scale per output is usual, since it can be moved out of the sum over the inputs.

mod encode;
mod tables;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, TensorData, TensorMetadata};
use mopo_hub::gguf::TensorType;

pub use encode::QuantError;
pub use tables::NF4;
pub(crate) use tables::{INT8_ZERO, dynamic_map};

/// Numbers that share a magnitude in NF4.
pub(crate) const BLOCK: usize = 64;
/// Magnitudes that share a scale in double quantisation.
pub(crate) const GROUP: usize = 256;

/// A data type of quantised weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuantFormat {
    /// 4 bits, and a magnitude per 64 numbers.
    Nf4 {
        /// Magnitudes in 8 bits instead of 32.
        double_quant: bool,
    },
    /// 8 bits, and a scale per output.
    Int8,
    /// The blocks of a GGUF file, as they are; each within one output.
    Blocks(TensorType),
}

impl QuantFormat {
    /// Bits per code; blocks have bytes.
    pub(crate) fn bits(self) -> usize {
        match self {
            Self::Nf4 { .. } => 4,
            Self::Int8 | Self::Blocks(_) => 8,
        }
    }
}

/// Format and shape of a quantised matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantLayout {
    /// Their data type.
    pub format: QuantFormat,
    /// Inputs and outputs of the linear layer.
    pub shape: [usize; 2],
    /// Mean of the blocks' magnitudes, if these are quantised too.
    pub offset: f32,
}

impl QuantLayout {
    /// Numbers in the matrix.
    pub fn n_weights(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Number of consecutive numbers that share a scale.
    pub(crate) fn block(&self) -> usize {
        match self.format {
            QuantFormat::Nf4 { .. } => BLOCK,
            QuantFormat::Int8 => self.shape[0],
            QuantFormat::Blocks(kind) => kind.block_len(),
        }
    }
}

/// A quantised weight on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantisedData {
    /// Format and shape.
    pub layout: QuantLayout,
    /// Codes, the first in the lowest bits: 8 of NF4 or 4 of int8 per word. Codes of int8 are
    /// offset by 128. Blocks of a file: their bytes, 4 per word.
    pub codes: Vec<i32>,
    /// A scale for each block, or, with double quantisation, for each group of 256 blocks. Unused,
    /// and one number, for blocks of a file.
    pub scales: Vec<f32>,
    /// With double quantisation the blocks' magnitudes, 4 per word.
    pub scale_codes: Option<Vec<i32>>,
}

impl QuantisedData {
    /// The blocks of a GGUF file: of `shape` `[inputs, outputs]`, output by output.
    ///
    /// # Panics
    /// If the blocks are not as many as the shape needs, or outputs are not whole blocks.
    pub fn from_blocks(kind: TensorType, shape: [usize; 2], blocks: &[u8]) -> Self {
        let n_bytes = kind.row_bytes(shape[0]).and_then(|row| row.checked_mul(shape[1]));
        assert_eq!(n_bytes, Some(blocks.len()), "blocks of {kind} for {shape:?}");
        let word = |bytes: &[u8]| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            i32::from_le_bytes(word)
        };
        Self {
            layout: QuantLayout { format: QuantFormat::Blocks(kind), shape, offset: 0.0 },
            codes: blocks.chunks(4).map(word).collect(),
            scales: vec![0.0],
            scale_codes: None,
        }
    }

    /// Moves it to a device.
    pub fn to_device<B: Backend>(self, device: &B::Device) -> QuantisedMatrix<B> {
        let ints = |words: Vec<i32>| {
            let n = words.len();
            B::int_from_data(TensorData::new(words, [n]), device)
        };
        let n = self.scales.len();
        QuantisedMatrix {
            layout: self.layout,
            codes: ints(self.codes),
            scales: B::float_from_data(TensorData::new(self.scales, [n]), device),
            scale_codes: self.scale_codes.map(ints),
        }
    }
}

/// A quantised weight on a device. It has no gradient.
#[derive(Debug, Clone)]
pub struct QuantisedMatrix<B: Backend> {
    /// Format and shape.
    pub layout: QuantLayout,
    /// `[words]`, see [`QuantisedData::codes`].
    pub codes: IntTensor<B>,
    /// `[blocks]` or `[groups]`, see [`QuantisedData::scales`].
    pub scales: FloatTensor<B>,
    /// `[words]`, see [`QuantisedData::scale_codes`].
    pub scale_codes: Option<IntTensor<B>>,
}

impl<B: Backend> QuantisedMatrix<B> {
    /// The whole weight in f32, `[outputs, inputs]`: 7 times the memory of NF4.
    pub fn dequantised(&self) -> FloatTensor<B> {
        crate::generic::quant::dequantise::<B>(self, 0..self.layout.shape[1])
    }

    /// Size of its tensors in bytes: codes and scales.
    pub fn n_bytes(&self) -> usize {
        let bytes = |n: usize, dtype: DType| n * dtype.size();
        let ints = |x: &IntTensor<B>| bytes(x.shape().num_elements(), x.dtype());
        ints(&self.codes)
            + bytes(self.scales.shape().num_elements(), self.scales.dtype())
            + self.scale_codes.as_ref().map_or(0, ints)
    }
}
