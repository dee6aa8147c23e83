//! Q6_K: 6 bits per value; scales of 8 bits for 16 values each.
//!
//! | bytes | |
//! |---|---|
//! | 0–127 | the low 4 bits: byte 64h + l has value 128h + l in its low half and value 128h + 64 + l in its high one |
//! | 128–191 | the high 2 bits: bits 2s and 2s + 1 of byte 32h + l belong to value 128h + 32s + l |
//! | 192–207 | scales, `i8`: scale j is for values 16j to 16j + 15 |
//! | 208–209 | d, an F16 |
//!
//! The value is d · scale · (q − 32).

use super::half_at;

#[inline(always)]
pub(super) fn dequantise(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (j, (out, scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let unit = d * f32::from(*scale as i8);
        // Values 128h + 32s + 16t + 0 to 15.
        let (h, s, t) = (j / 8, j / 2 % 4, j % 2);
        let low = &low[64 * h + s % 2 * 32 + 16 * t..][..16];
        let high = &high[32 * h + 16 * t..][..16];
        for ((value, low), high) in out.iter_mut().zip(low).zip(high) {
            let code = low >> (s / 2 * 4) & 15 | (high >> (2 * s) & 3) << 4;
            *value = unit * (f32::from(code) - 32.0);
        }
    }
}
