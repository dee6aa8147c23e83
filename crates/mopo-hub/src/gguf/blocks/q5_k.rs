//! Q5_K: 5 bits per value; scales and minima of 6 bits for 32 values each.
//!
//! | bytes | |
//! |---|---|
//! | 0–15 | as in Q4_K |
//! | 16–47 | the fifth bits: bit s of byte l belongs to value 32s + l |
//! | 48–175 | the other bits, as in Q4_K |
//!
//! The value is d · scale · q − dmin · minimum.

use super::q4_k::sub_blocks;

#[inline(always)]
pub(super) fn dequantise(block: &[u8; 176], out: &mut [f32; 256]) {
    let sub_blocks = sub_blocks(block);
    let fifth = &block[16..48];
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (unit, minimum) = sub_blocks[j];
        let codes = &block[48 + j / 2 * 32..][..32];
        for ((value, byte), bits) in out.iter_mut().zip(codes).zip(fifth) {
            let code = byte >> (j % 2 * 4) & 15 | (bits >> j & 1) << 4;
            *value = unit * f32::from(code) - minimum;
        }
    }
}
