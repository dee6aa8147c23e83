//! Q8_0: 8 bits per value and one scale for 32 values.
//!
//! | bytes | |
//! |---|---|
//! | 0–1 | d, an F16 |
//! | 2–33 | q, an `i8` per value |
//!
//! The value is d · q.

use half::f16;

use super::{half_at, inverse};

#[inline(always)]
pub(super) fn dequantise(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (value, byte) in out.iter_mut().zip(&block[2..]) {
        *value = f32::from(*byte as i8) * d;
    }
}

/// The largest magnitude becomes 127; halves are rounded away from zero.
pub(super) fn quantise(values: &[f32; 32], block: &mut [u8; 34]) {
    let d = values.iter().fold(0.0_f32, |max, x| max.max(x.abs())) / 127.0;
    let per_unit = inverse(d);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = (value * per_unit).round() as i8 as u8;
    }
}
