//! Q5_0 and Q5_1: 5 bits per value and one scale for 32 values.
//!
//! | Q5_0 | Q5_1 | |
//! |---|---|---|
//! | bytes 0–1 | 0–1 | d, an F16 |
//! | | 2–3 | m, an F16 |
//! | 2–5 | 4–7 | the fifth bits, a `u32`: bit i belongs to value i |
//! | 6–21 | 8–23 | the other bits: byte i has value i in its low 4 bits and value i + 16 in its high ones |
//!
//! The value is d · (q − 16) in Q5_0, d · q + m in Q5_1.

use half::f16;

use super::{half_at, inverse, largest};

#[inline(always)]
pub(super) fn dequantise_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    codes(&block[2..], out, |q| d * (q - 16.0));
}

#[inline(always)]
pub(super) fn dequantise_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    codes(&block[4..], out, |q| d * q + m);
}

/// The codes of a block, as `value` turns them into numbers.
#[inline(always)]
fn codes(bits: &[u8], out: &mut [f32; 32], value: impl Fn(f32) -> f32) {
    let fifth = u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]);
    let code = |four: u8, i: usize| value(f32::from(four | ((fifth >> i) as u8 & 1) << 4));
    let (low, high) = out.split_at_mut(16);
    for (i, ((low, high), byte)) in low.iter_mut().zip(high).zip(&bits[4..]).enumerate() {
        *low = code(byte & 15, i);
        *high = code(byte >> 4, i + 16);
    }
}

/// The value of largest magnitude becomes q = 0, so the scale has the opposite sign.
pub(super) fn quantise_0(values: &[f32; 32], block: &mut [u8; 22]) {
    let d = largest(values) / -16.0;
    let per_unit = inverse(d);
    let code = |x: f32| ((x * per_unit + 16.5) as u8).min(31);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    let fifth =
        values.iter().enumerate().fold(0, |bits, (i, x)| bits | u32::from(code(*x) >> 4) << i);
    block[2..6].copy_from_slice(&fifth.to_le_bytes());
    for (i, byte) in block[6..].iter_mut().enumerate() {
        *byte = code(values[i]) & 15 | code(values[i + 16]) << 4;
    }
}
