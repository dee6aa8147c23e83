//! Blocks to numbers and back, one file per kind of block. All numbers are little endian.

mod float;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8;
mod search;

use half::f16;

use super::TensorType;

/// Turns the blocks of a row, or of several rows, into numbers. Results equal those of the Python
/// package `gguf` in every bit, and any number of whole blocks may be given.
///
/// ```
/// use mopo_hub::gguf::{TensorType, dequantise_row, quantise_row};
///
/// let values: Vec<f32> = (0..32).map(|i| i as f32 - 16.0).collect();
/// let mut blocks = vec![0; TensorType::Q4_0.row_bytes(32).unwrap()];
/// quantise_row(TensorType::Q4_0, &values, &mut blocks);
/// let mut stored = vec![0.0; 32];
/// dequantise_row(TensorType::Q4_0, &blocks, &mut stored);
/// assert_eq!((stored[0], stored[15], stored[16]), (-16.0, 0.0, 0.0));
/// ```
///
/// # Panics
/// If `blocks` does not have [`row_bytes`](TensorType::row_bytes) of the length of `out`.
// Inlined, so that callers with vector instructions get them here.
#[inline(always)]
pub fn dequantise_row(tensor_type: TensorType, blocks: &[u8], out: &mut [f32]) {
    assert_eq!(Some(blocks.len()), tensor_type.row_bytes(out.len()), "blocks of {tensor_type}");
    match tensor_type {
        TensorType::F32 => float::from_f32(blocks, out),
        TensorType::F16 => float::from_f16(blocks, out),
        TensorType::Bf16 => float::from_bf16(blocks, out),
        TensorType::Q4_0 => each(blocks, out, q4::dequantise_0),
        TensorType::Q4_1 => each(blocks, out, q4::dequantise_1),
        TensorType::Q5_0 => each(blocks, out, q5::dequantise_0),
        TensorType::Q5_1 => each(blocks, out, q5::dequantise_1),
        TensorType::Q8_0 => each(blocks, out, q8::dequantise),
        TensorType::Q2K => each(blocks, out, q2_k::dequantise),
        TensorType::Q3K => each(blocks, out, q3_k::dequantise),
        TensorType::Q4K => each(blocks, out, q4_k::dequantise),
        TensorType::Q5K => each(blocks, out, q5_k::dequantise),
        TensorType::Q6K => each(blocks, out, q6_k::dequantise),
    }
}

/// Stores the numbers of a row, or of several rows, in blocks, by the reference algorithms of ggml.
/// Numbers that are not finite, or too large for F16 as scales are, give blocks of such numbers.
///
/// # Panics
/// If [`can_quantise`](TensorType::can_quantise) is false, or `blocks` does not have
/// [`row_bytes`](TensorType::row_bytes) of the length of `values`.
pub fn quantise_row(tensor_type: TensorType, values: &[f32], blocks: &mut [u8]) {
    assert_eq!(Some(blocks.len()), tensor_type.row_bytes(values.len()), "blocks of {tensor_type}");
    match tensor_type {
        TensorType::F32 => float::to_f32(values, blocks),
        TensorType::F16 => float::to_f16(values, blocks),
        TensorType::Bf16 => float::to_bf16(values, blocks),
        TensorType::Q4_0 => each_into(values, blocks, q4::quantise_0),
        TensorType::Q5_0 => each_into(values, blocks, q5::quantise_0),
        TensorType::Q8_0 => each_into(values, blocks, q8::quantise),
        TensorType::Q4K => each_into(values, blocks, q4_k::quantise),
        _ => panic!("there is no quantiser for {tensor_type}"),
    }
}

#[inline(always)]
fn each<const BYTES: usize, const VALUES: usize>(
    blocks: &[u8],
    out: &mut [f32],
    dequantise: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    // Not `for_each`, which is a function of its own.
    for (block, out) in blocks.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        dequantise(block, out);
    }
}

fn each_into<const BYTES: usize, const VALUES: usize>(
    values: &[f32],
    blocks: &mut [u8],
    quantise: impl Fn(&[f32; VALUES], &mut [u8; BYTES]),
) {
    let (values, blocks) = (values.as_chunks().0, blocks.as_chunks_mut().0);
    values.iter().zip(blocks).for_each(|(values, block)| quantise(values, block));
}

/// The F16 at byte `at` of a block.
#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32_const()
}

/// The value of largest magnitude; of several the first.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0_f32, |max, x| if x.abs() > max.abs() { *x } else { max })
}

/// `1 / scale`, or 0 for a block that is stored as zeros.
fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Clamps to 0 … `max` (below 2²²) and rounds to the nearest integer, ties to even: adding 1.5 · 2²³
/// leaves no bits for the fraction. Without SSE 4.1, `round_ties_even` is a function call.
fn nearest_code(x: f32, max: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    x.clamp(0.0, max) + NO_FRACTION - NO_FRACTION
}
