//! Q4_K: 4 bits per value; scales and minima of 6 bits for 32 values each.
//!
//! | bytes | |
//! |---|---|
//! | 0–1 | d, an F16 |
//! | 2–3 | dmin, an F16 |
//! | 4–15 | eight scales and eight minima of 6 bits: [`unpack`] |
//! | 16–143 | q: byte 32g + l has value 64g + l in its low 4 bits and value 64g + 32 + l in its high ones |
//!
//! The value is d · scale · q − dmin · minimum.

use half::f16;

use super::search::scale_and_minimum;
use super::{half_at, nearest_code};

/// The largest scale or minimum.
const MAX_SCALE: f32 = 63.0;
/// The largest code of a value.
const MAX_CODE: f32 = 15.0;

#[inline(always)]
pub(super) fn dequantise(block: &[u8; 144], out: &mut [f32; 256]) {
    let sub_blocks = sub_blocks(block);
    for (g, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let [(unit, minimum), (high_unit, high_minimum)] =
            [sub_blocks[2 * g], sub_blocks[2 * g + 1]];
        let (low, high) = out.split_at_mut(32);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[16 + 32 * g..][..32]) {
            *low = unit * f32::from(byte & 15) - minimum;
            *high = high_unit * f32::from(byte >> 4) - high_minimum;
        }
    }
}

/// d · scale and dmin · minimum of each 32 values of a Q4_K or Q5_K block, which begin alike.
#[inline(always)]
pub(super) fn sub_blocks(block: &[u8]) -> [(f32, f32); 8] {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    let (scales, minima) = unpack(block[4..16].try_into().expect("12 bytes"));
    std::array::from_fn(|j| (d * f32::from(scales[j]), d_min * f32::from(minima[j])))
}

/// Eight scales and eight minima. Bytes 0–3 have scales 0–3 in their low 6 bits, bytes 4–7 minima
/// 0–3. Byte 8 + j has the low 4 bits of scale 4 + j in its low half and those of minimum 4 + j in
/// its high half; their high 2 bits are those of bytes j and 4 + j.
#[inline(always)]
fn unpack(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for j in 0..4 {
        scales[j] = packed[j] & 63;
        minima[j] = packed[4 + j] & 63;
        scales[4 + j] = packed[8 + j] & 15 | packed[j] >> 6 << 4;
        minima[4 + j] = packed[8 + j] >> 4 | packed[4 + j] >> 6 << 4;
    }
    (scales, minima)
}

/// The inverse of [`unpack`].
fn pack(scales: &[u8; 8], minima: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..4 {
        packed[j] = scales[j] | scales[4 + j] >> 4 << 6;
        packed[4 + j] = minima[j] | minima[4 + j] >> 4 << 6;
        packed[8 + j] = scales[4 + j] & 15 | minima[4 + j] << 4;
    }
    packed
}

/// Each 32 values get the scale and minimum that a search finds; these are rounded to 6 bits, and
/// the values to what the rounded ones can represent.
pub(super) fn quantise(values: &[f32; 256], block: &mut [u8; 144]) {
    let runs = values.as_chunks::<32>().0;
    let found: [(f32, f32); 8] = std::array::from_fn(|j| scale_and_minimum(&runs[j]));
    let max_scale = found.iter().fold(0.0_f32, |max, (scale, _)| max.max(*scale));
    let max_minimum = found.iter().fold(0.0_f32, |max, (_, minimum)| max.max(*minimum));
    let six_bits = |x: f32, max: f32| {
        let per_unit = if max > 0.0 { MAX_SCALE / max } else { 0.0 };
        nearest_code(per_unit * x, MAX_SCALE) as u8
    };
    let scales = std::array::from_fn(|j| six_bits(found[j].0, max_scale));
    let minima = std::array::from_fn(|j| six_bits(found[j].1, max_minimum));
    block[..2].copy_from_slice(&f16::from_f32(max_scale / MAX_SCALE).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(max_minimum / MAX_SCALE).to_le_bytes());
    block[4..16].copy_from_slice(&pack(&scales, &minima));

    let sub_blocks = sub_blocks(block);
    for (g, bytes) in block[16..].as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let code = |j: usize, l: usize| {
            let (unit, minimum) = sub_blocks[j];
            let code = nearest_code((runs[j][l] + minimum) / unit, MAX_CODE);
            if unit == 0.0 { 0 } else { code as u8 }
        };
        for (l, byte) in bytes.iter_mut().enumerate() {
            *byte = code(2 * g, l) | code(2 * g + 1, l) << 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_minima_survive_their_twelve_bytes() {
        let scales = [0, 63, 1, 62, 31, 32, 63, 0];
        let minima = [63, 0, 16, 15, 48, 47, 5, 63];
        assert_eq!(unpack(&pack(&scales, &minima)), (scales, minima));
        assert_eq!(unpack(&pack(&minima, &scales)), (minima, scales));
    }
}
