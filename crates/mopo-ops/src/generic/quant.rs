//! Quantised weights in burn's own operations, a tile of outputs at a time.

use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{Int, Shape, Slice, Tensor, TensorData, TensorMetadata};
use mopo_hub::gguf::{TensorType, dequantise_row};

use super::linear::{cast_like, plus};
use crate::quant::{GROUP, INT8_ZERO, NF4, dynamic_map};
use crate::{FusedBackend, Init, QuantFormat, QuantisedMatrix};

/// Outputs per tile.
const TILE: usize = 512;

/// `n` outputs in tiles.
fn tiles(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(TILE).map(move |from| from..(from + TILE).min(n))
}

/// The codes of `range`, of `bits` bits each, from words.
fn unpack<B: Backend>(words: &IntTensor<B>, bits: usize, range: Range<usize>) -> IntTensor<B> {
    let device = B::int_device(words);
    let per_word = 32 / bits;
    let (from, to) = (range.start / per_word, range.end.div_ceil(per_word));
    let shape = Shape::new([to - from, per_word]);
    let words = B::int_slice(words.clone(), &[Slice::from(from..to)]);
    let words = B::int_expand(B::int_reshape(words, Shape::new([to - from, 1])), shape.clone());
    let shifts: Vec<i32> = (0..per_word as i32).map(|i| i * bits as i32).collect();
    let shifts = B::int_from_data(TensorData::new(shifts, [1, per_word]), &device);
    // The shift extends the sign, the mask removes it.
    let codes = B::bitwise_right_shift(words, B::int_expand(shifts, shape));
    let codes = B::bitwise_and_scalar(codes, ((1i32 << bits) - 1).into());
    let codes = B::int_reshape(codes, Shape::new([(to - from) * per_word]));
    let skip = range.start - from * per_word;
    B::int_slice(codes, &[Slice::from(skip..skip + range.len())])
}

/// Values of the codes.
fn look_up<B: Backend>(table: &[f32], codes: IntTensor<B>) -> FloatTensor<B> {
    let table = TensorData::new(table.to_vec(), [table.len()]);
    let table = B::float_from_data(table, &B::int_device(&codes));
    B::float_select(table, 0, codes)
}

/// For each number of `range` the value of its block; `blocks` starts with the first number's
/// block.
fn spread<B: Backend>(blocks: FloatTensor<B>, block: usize, range: Range<usize>) -> FloatTensor<B> {
    let n = blocks.shape()[0];
    let all = B::float_expand(B::float_reshape(blocks, Shape::new([n, 1])), Shape::new([n, block]));
    let all = B::float_reshape(all, Shape::new([n * block]));
    let skip = range.start % block;
    B::float_slice(all, &[Slice::from(skip..skip + range.len())])
}

/// The blocks that contain the numbers of `range`.
fn blocks(range: &Range<usize>, block: usize) -> Range<usize> {
    range.start / block..range.end.div_ceil(block)
}

/// The weights of the given outputs in f32, `[outputs, inputs]`.
pub(crate) fn dequantise<B: Backend>(
    matrix: &QuantisedMatrix<B>,
    outputs: Range<usize>,
) -> FloatTensor<B> {
    let layout = &matrix.layout;
    let [inputs, _] = layout.shape;
    let shape = Shape::new([outputs.len(), inputs]);
    let range = outputs.start * inputs..outputs.end * inputs;
    if let QuantFormat::Blocks(kind) = layout.format {
        return from_file::<B>(matrix, kind, outputs);
    }
    let codes = unpack::<B>(&matrix.codes, layout.format.bits(), range.clone());
    let slice =
        |x: &FloatTensor<B>, range: Range<usize>| B::float_slice(x.clone(), &[Slice::from(range)]);
    if layout.format == QuantFormat::Int8 {
        let codes = B::int_sub_scalar(codes, INT8_ZERO.into());
        let codes = B::int_into_float(codes, matrix.scales.dtype().into());
        let n = outputs.len();
        let scales = B::float_reshape(slice(&matrix.scales, outputs), Shape::new([n, 1]));
        return B::float_mul(B::float_reshape(codes, shape), scales);
    }
    let which = blocks(&range, layout.block());
    let scales = match &matrix.scale_codes {
        None => slice(&matrix.scales, which),
        Some(codes) => {
            let values = look_up::<B>(&dynamic_map(), unpack::<B>(codes, 8, which.clone()));
            let groups = slice(&matrix.scales, blocks(&which, GROUP));
            let scales = B::float_mul(values, spread::<B>(groups, GROUP, which));
            B::float_add_scalar(scales, layout.offset.into())
        }
    };
    let values = look_up::<B>(&NF4, codes);
    let values = B::float_mul(values, spread::<B>(scales, layout.block(), range));
    B::float_reshape(values, shape)
}

/// Blocks of a file are decoded on the host, since no backend has operations for all their kinds.
fn from_file<B: Backend>(
    matrix: &QuantisedMatrix<B>,
    kind: TensorType,
    outputs: Range<usize>,
) -> FloatTensor<B> {
    let inputs = matrix.layout.shape[0];
    let size = kind.row_bytes(inputs).expect("whole blocks");
    let bytes = outputs.start * size..outputs.end * size;
    let words = bytes.start / 4..bytes.end.div_ceil(4);
    let part = B::int_slice(matrix.codes.clone(), &[Slice::from(words.clone())]);
    let part = Tensor::<B, 1, Int>::from_primitive(part).into_data();
    let all: Vec<u8> = part.iter::<i32>().flat_map(i32::to_le_bytes).collect();
    let skip = bytes.start - words.start * 4;
    let mut values = vec![0f32; outputs.len() * inputs];
    dequantise_row(kind, &all[skip..skip + bytes.len()], &mut values);
    let shape = [outputs.len(), inputs];
    B::float_from_data(TensorData::new(values, shape), &B::float_device(&matrix.scales))
}

/// Single outputs, `[outputs, inputs]`.
pub(crate) fn rows<B: FusedBackend>(
    matrix: &QuantisedMatrix<B>,
    outputs: &[usize],
) -> FloatTensor<B> {
    let rows = outputs.iter().map(|output| B::dequantise(matrix, *output..output + 1));
    B::float_cat(rows.collect(), 0)
}

/// `init + x · W` or `init + x · Wᵀ`.
pub(crate) fn weight_matmul<B: FusedBackend>(
    init: Init<B>,
    x: FloatTensor<B>,
    weight: &QuantisedMatrix<B>,
    transpose: bool,
) -> FloatTensor<B> {
    let [_, outputs] = weight.layout.shape;
    let tile = |range| cast_like::<B>(B::dequantise(weight, range), &x);
    if !transpose {
        let parts = tiles(outputs)
            .map(|range| B::gemm(Init::zero(), 1.0, x.clone(), false, tile(range), true))
            .collect();
        return plus(init, B::float_cat(parts, 1));
    }
    let mut sum = init;
    for range in tiles(outputs) {
        let part = B::float_slice(x.clone(), &[Slice::full(), Slice::from(range.clone())]);
        let product = B::gemm(sum, 1.0, part, false, tile(range), false);
        sum = Init::add(Some(product));
    }
    sum.add.expect("a layer has outputs")
}
