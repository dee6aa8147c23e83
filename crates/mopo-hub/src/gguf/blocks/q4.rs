//! Q4_0 and Q4_1: 4 bits per value and one scale for 32 values.
//!
//! | Q4_0 | Q4_1 | |
//! |---|---|---|
//! | bytes 0–1 | 0–1 | d, an F16 |
//! | | 2–3 | m, an F16 |
//! | 2–17 | 4–19 | q: byte i has value i in its low 4 bits and value i + 16 in its high ones |
//!
//! The value is d · (q − 8) in Q4_0, d · q + m in Q4_1.

use half::f16;

use super::{half_at, inverse, largest};

#[inline(always)]
pub(super) fn dequantise_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..]) {
        *low = d * (f32::from(byte & 15) - 8.0);
        *high = d * (f32::from(byte >> 4) - 8.0);
    }
}

#[inline(always)]
pub(super) fn dequantise_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[4..]) {
        *low = d * f32::from(byte & 15) + m;
        *high = d * f32::from(byte >> 4) + m;
    }
}

/// The value of largest magnitude becomes q = 0, so the scale has the opposite sign.
pub(super) fn quantise_0(values: &[f32; 32], block: &mut [u8; 18]) {
    let d = largest(values) / -8.0;
    let per_unit = inverse(d);
    let code = |x: f32| ((x * per_unit + 8.5) as u8).min(15);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (i, byte) in block[2..].iter_mut().enumerate() {
        *byte = code(values[i]) | code(values[i + 16]) << 4;
    }
}
