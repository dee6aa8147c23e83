//! F32, F16 and BF16: numbers one after the other, in blocks of one.

use half::{bf16, f16};

pub(super) fn from_f32(blocks: &[u8], out: &mut [f32]) {
    super::each(blocks, out, |block, [value]| *value = f32::from_le_bytes(*block));
}

pub(super) fn from_f16(blocks: &[u8], out: &mut [f32]) {
    super::each(blocks, out, |block, [value]| *value = f16::from_le_bytes(*block).to_f32());
}

/// BF16: the upper half of an F32.
pub(super) fn from_bf16(blocks: &[u8], out: &mut [f32]) {
    super::each(blocks, out, |block, [value]| {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*block)) << 16);
    });
}

pub(super) fn to_f32(values: &[f32], blocks: &mut [u8]) {
    super::each_into(values, blocks, |[value], block| *block = value.to_le_bytes());
}

/// Rounds to the nearest F16, ties to even.
pub(super) fn to_f16(values: &[f32], blocks: &mut [u8]) {
    super::each_into(values, blocks, |[value], block| *block = f16::from_f32(*value).to_le_bytes());
}

/// Rounds to the nearest BF16, ties to even.
pub(super) fn to_bf16(values: &[f32], blocks: &mut [u8]) {
    super::each_into(values, blocks, |[value], block| {
        *block = bf16::from_f32(*value).to_le_bytes();
    });
}
