//! Products of a few lines with the blocks of a file. Codes become numbers in registers, where they
//! are multiplied and summed: nothing decoded is written to memory. A block's scale is applied to
//! the sum over its codes, its minimum to the sum of the line's numbers, which all outputs share.
//!
//! For x86 with AVX2 and F16C, not wider: memory is hardly faster.

mod formats;
mod kernel;

use std::ops::Range;

use mopo_hub::gguf::TensorType;

use formats::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use kernel::{GROUP, Instructions, PACKED, Pass};

/// Maximum number of lines per pass over the blocks.
const LINES: usize = 8;

/// Blocks to multiply with.
#[derive(Clone, Copy)]
pub(super) struct BlockMatrix<'a> {
    pub(super) kind: TensorType,
    /// Those of all outputs, one output after the other.
    pub(super) bytes: &'a [u8],
    /// Numbers per output.
    pub(super) inputs: usize,
}

impl BlockMatrix<'_> {
    /// Whether there are kernels for them on this machine.
    pub(super) fn has_kernels(&self) -> bool {
        use TensorType::*;
        let known = matches!(self.kind, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q4K | Q5K | Q6K);
        known && self.inputs > 0 && Instructions::try_new().is_some()
    }

    /// The lines, one after the other, in the order in which [`products`](Self::products) reads
    /// them: the passes one after the other, in each the groups, in each the lines.
    pub(super) fn packed(&self, lines: &[f32]) -> Vec<f32> {
        let lines: Vec<&[f32]> = lines.chunks_exact(self.inputs).collect();
        let mut packed = Vec::with_capacity(lines.len() * self.inputs / GROUP * PACKED);
        for pass in passes(lines.len()) {
            for group in 0..self.inputs / GROUP {
                for line in &lines[pass.clone()] {
                    let numbers = &line[group * GROUP..][..GROUP];
                    packed.extend_from_slice(numbers);
                    packed.extend((0..8).map(|i| {
                        (numbers[i] + numbers[8 + i]) + (numbers[16 + i] + numbers[24 + i])
                    }));
                }
            }
        }
        packed
    }

    /// The products of outputs from `first` on with each of `m` [`packed`](Self::packed) lines.
    ///
    /// # Panics
    /// Without kernels.
    pub(super) fn products(&self, first: usize, packed: &[f32], m: usize, sums: &mut [f32]) {
        let per_output = self.kind.row_bytes(self.inputs).expect("whole blocks");
        let bytes = &self.bytes[first * per_output..][..sums.len() / m * per_output];
        let mut packed = packed;
        for pass in passes(m) {
            let (lines, rest) = packed.split_at(pass.len() * self.inputs / GROUP * PACKED);
            packed = rest;
            let pass = Pass { bytes, lines, sums, m, which: pass };
            match self.kind {
                TensorType::Q4_0 => pass.run::<Q4_0, 18, 1>(),
                TensorType::Q4_1 => pass.run::<Q4_1, 20, 1>(),
                TensorType::Q5_0 => pass.run::<Q5_0, 22, 1>(),
                TensorType::Q5_1 => pass.run::<Q5_1, 24, 1>(),
                TensorType::Q8_0 => pass.run::<Q8_0, 34, 1>(),
                TensorType::Q4K => pass.run::<Q4K, 144, 1>(),
                TensorType::Q5K => pass.run::<Q5K, 176, 1>(),
                TensorType::Q6K => pass.run::<Q6K, 210, 2>(),
                other => panic!("no kernel for {other}"),
            }
        }
    }
}

/// Lines in runs of 8, 4, 2 and 1.
fn passes(m: usize) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let left = (m - from).min(LINES);
        let n = if left == 0 { return None } else { 1 << left.ilog2() };
        from += n;
        Some(from - n..from)
    })
}
