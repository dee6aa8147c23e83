//! Q2_K: 2 bits per value; scales and minima of 4 bits for 16 values each.
//!
//! | bytes | |
//! |---|---|
//! | 0–15 | byte j: scale (low 4 bits) and minimum (high ones) of values 16j to 16j + 15 |
//! | 16–79 | q: bits 2s and 2s + 1 of byte 32h + l belong to value 128h + 32s + l |
//! | 80–81 | d, an F16 |
//! | 82–83 | dmin, an F16 |
//!
//! The value is d · scale · q − dmin · minimum.

use super::half_at;

#[inline(always)]
pub(super) fn dequantise(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, d_min) = (half_at(block, 80), half_at(block, 82));
    for (j, (out, scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let (unit, minimum) = (d * f32::from(scale & 15), d_min * f32::from(scale >> 4));
        // 16 values are half of a run of 32.
        let (shift, from) = (j / 2 % 4 * 2, j / 8 * 32 + j % 2 * 16);
        for (value, byte) in out.iter_mut().zip(&codes[from..from + 16]) {
            *value = unit * f32::from(byte >> shift & 3) - minimum;
        }
    }
}
