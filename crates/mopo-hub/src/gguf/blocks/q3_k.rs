//! Q3_K: 3 bits per value; scales of 6 bits for 16 values each.
//!
//! | bytes | |
//! |---|---|
//! | 0–31 | the third bits: bit s of byte l belongs to value 32s + l |
//! | 32–95 | the other bits: bits 2s and 2s + 1 of byte 32h + l belong to value 128h + 32s + l |
//! | 96–107 | scales of values 16j to 16j + 15; see below |
//! | 108–109 | d, an F16 |
//!
//! Of the 12 bytes of scales, byte j mod 8 of the first 8 has the low 4 bits of scale j: its low half
//! if j < 8, else its high half. Bits 2(j div 4) and 2(j div 4) + 1 of byte 8 + j mod 4 are the scale's
//! high bits. The value is d · (scale − 32) · (q − 4) for q of 3 bits.

use super::half_at;

#[inline(always)]
pub(super) fn dequantise(block: &[u8; 110], out: &mut [f32; 256]) {
    let (third, codes, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = packed[j % 8] >> (j / 8 * 4) & 15;
        let high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        let unit = d * (f32::from(low | high << 4) - 32.0);
        // 16 values are half of a run of 32.
        let (run, half) = (j / 2, j % 2 * 16);
        let codes = &codes[run / 4 * 32 + half..][..16];
        for ((value, byte), bits) in out.iter_mut().zip(codes).zip(&third[half..half + 16]) {
            let code = byte >> (run % 4 * 2) & 3 | (bits >> run & 1) << 2;
            *value = unit * (f32::from(code) - 4.0);
        }
    }
}
