//! The values of codes.

/// Offset between a code of int8 and its number.
pub(crate) const INT8_ZERO: i32 = 128;

/// NF4: quantiles of a normal distribution, scaled to [−1, 1], with an exact 0 (QLoRA, appendix E).
#[allow(clippy::excessive_precision)] // As published.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// The 8-bit numbers of double quantisation, ascending: a sign, a decimal exponent from −6 to 0,
/// and a fraction in the remaining bits (the dynamic data type of Dettmers, 2016).
pub(crate) fn dynamic_map() -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for exponent in 0..7 {
        let n = 1 << exponent;
        let boundary = |i: usize| 0.1 + 0.9 * i as f64 / n as f64;
        for i in 0..n {
            let mean = (boundary(i) + boundary(i + 1)) / 2.0;
            let value = mean * 10f64.powi(exponent - 6);
            values.extend([value, -value]);
        }
    }
    values.sort_by(f64::total_cmp);
    std::array::from_fn(|i| values[i] as f32)
}

/// Midpoints between neighbours of a table: the number of midpoints below a number is the index of
/// the nearest entry.
pub(super) fn boundaries<const N: usize, const M: usize>(table: &[f32; N]) -> [f32; M] {
    const { assert!(M + 1 == N) };
    std::array::from_fn(|i| (table[i] + table[i + 1]) / 2.0)
}
