//! Products with a weight that is read output by output. A weight that is not f32 is converted tile
//! by tile for the product, or, for a few lines, one output at a time, which stays in the L1
//! cache; the blocks of a file, for a few lines, in registers (`blocks`).
//!
//! Unsafe because products write new memory that was not cleared.
#![allow(unsafe_code)]

use burn::tensor::TensorMetadata;
use half::bf16;
use rayon::prelude::*;

use super::gemm::{View, onto, start, threads};
use super::precision::matmul_precision;
use super::product::{Start, in_precision};
use super::scratch::Scratch;
use super::skinny::{self, LINES};
use super::view::{MatMut, MatRef};
use super::{Kernel, T, new, vectorised};
use crate::Init;

/// How many numbers are converted at a time: few enough for a cache, enough for a product.
const TILE: usize = 1024 * 1024;

/// A weight `[inputs, outputs]`.
pub(super) trait ByOutput: Sync {
    /// Whether [`line`](Self::line) is the memory of the weight itself, one output after the other.
    const IN_PLACE: bool = false;

    /// Inputs and outputs.
    fn shape(&self) -> [usize; 2];

    /// Writes the weights of an output, one for each input.
    fn read(&self, output: usize, line: &mut [f32]);

    /// Lines, one after the other, in the order in which [`products`](Self::products) reads them.
    fn packed(&self, lines: Vec<f32>) -> Vec<f32> {
        lines
    }

    /// The products of outputs from `first` on with each of `m` [`packed`](Self::packed) lines:
    /// `[outputs, m]`.
    fn products(&self, first: usize, packed: &[f32], m: usize, sums: &mut [f32]) {
        skinny::dots(self, first, packed, m, sums);
    }

    /// The weights of an output, in `buffer` unless they are f32 already.
    fn line<'a>(&'a self, output: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        self.read(output, buffer);
        buffer
    }
}

/// `init + x · W` or `init + x · Wᵀ`.
pub(super) fn weight_matmul(
    init: Init<burn::backend::Flex>,
    x: T,
    weight: &impl ByOutput,
    transpose: bool,
) -> T {
    let [inputs, outputs] = weight.shape();
    let x = View::new(x, false);
    let x = x.get();
    let m = x.rows();
    let n = if transpose { inputs } else { outputs };
    if m * n * outputs == 0 || m <= LINES && !transpose {
        let (mut out, add) = start(init, m, n);
        if m * n * outputs > 0 {
            skinny::by_output(&mut out, add, skinny::gathered(x, 1.0), weight);
        }
        return new(out, [m, n]);
    }
    let precision = matmul_precision();
    let size = (TILE / inputs.max(1)).next_multiple_of(64).min(outputs);
    let product = |mut to: MatMut<'_>, mut start: Start<'_>| {
        let mut tile = Scratch::of(size * inputs);
        for from in (0..outputs).step_by(size) {
            let size = size.min(outputs - from);
            // [size, inputs]: one line per output.
            let tile = &mut tile[..size * inputs];
            read(weight, from, tile);
            let lines = MatRef::by_rows(tile, size, inputs, inputs);
            let threads = threads(m, size, inputs);
            let to = to.reborrow();
            if transpose {
                let x = x.take_columns(from..from + size);
                in_precision(precision, to, start, x, lines, 1.0, threads);
                start = Start::There;
            } else {
                let columns = from..from + size;
                let (to, start) = (to.take_columns(columns.clone()), start.take_columns(columns));
                in_precision(precision, to, start, x, lines.transpose(), 1.0, threads);
            }
        }
    };
    // The last tile may be narrower than the others.
    let (terms, narrowest) = match transpose {
        true => (outputs, n),
        false => (inputs, (outputs - 1) % size + 1),
    };
    // SAFETY: all is written, and read only if it is the start.
    let out = unsafe { onto(init, [m, terms, n], narrowest, precision, product) };
    new(out, [m, n])
}

/// The weights of as many outputs as `lines` has room for, one after the other.
pub(super) fn read(weight: &impl ByOutput, from: usize, lines: &mut [f32]) {
    let [inputs, _] = weight.shape();
    if inputs > 0 {
        lines.par_chunks_mut(inputs).enumerate().for_each(|(i, line)| weight.read(from + i, line));
    }
}

/// The transpose of a matrix whose columns are contiguous.
pub(super) struct Columns<'a>(pub(super) MatRef<'a>);

impl<'a> Columns<'a> {
    fn column(&self, output: usize) -> &'a [f32] {
        self.0.row(output)
    }
}

impl ByOutput for Columns<'_> {
    const IN_PLACE: bool = true;

    fn shape(&self) -> [usize; 2] {
        [self.0.columns(), self.0.rows()]
    }

    fn read(&self, output: usize, line: &mut [f32]) {
        line.copy_from_slice(self.column(output));
    }

    fn line<'a>(&'a self, output: usize, _: &'a mut [f32]) -> &'a [f32] {
        self.column(output)
    }
}

/// A bfloat16 matrix.
pub(super) struct Half<'a> {
    data: &'a [bf16],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Half<'a> {
    /// `tensor`: `[inputs, outputs]`, in any order of memory; fast if the weights of an output are
    /// contiguous.
    pub(super) fn new(tensor: &'a T) -> Self {
        let layout = tensor.layout();
        Self {
            data: &tensor.storage::<bf16>()[layout.start_offset()..],
            shape: tensor.shape().dims(),
            strides: [layout.strides()[0], layout.strides()[1]].map(|s| s as usize),
        }
    }
}

impl ByOutput for Half<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn read(&self, output: usize, line: &mut [f32]) {
        let start = output * self.strides[1];
        if self.strides[0] == 1 {
            let data = &self.data[start..start + line.len()];
            return vectorised(Widen { data, line });
        }
        for (j, x) in line.iter_mut().enumerate() {
            *x = self.data[start + j * self.strides[0]].to_f32();
        }
    }
}

struct Widen<'a> {
    data: &'a [bf16],
    line: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    #[inline(always)]
    fn run(self) {
        for (x, half) in self.line.iter_mut().zip(self.data) {
            // Equals `to_f32` except for signalling NaNs, without a branch.
            *x = f32::from_bits(u32::from(half.to_bits()) << 16);
        }
    }
}
