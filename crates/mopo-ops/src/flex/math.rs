//! Functions of one number that compile to vector instructions.

/// `exp(x)`, within 2 units in the last place for normal results; 0 below −87.3, never infinite.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // x = k ln 2 + r with |r| ≤ ln 2 / 2; ln 2 in two parts (Cody and Waite), exp(r) by Cephes'
    // polynomial.
    let clamped = x.clamp(-87.3, 88.0);
    // Adding and subtracting 1.5 · 2²³ rounds to the nearest integer, whose low bits are those of the sum: a conversion
    // would be made one by one.
    const ROUND: f32 = 12_582_912.0;
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = clamped - k * 0.693_359_4;
    let r = r + k * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = (p * r) * r + r + 1.0;
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { y * power }
}

/// `tanh(x)`, within 3e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    // Above 9 the result is ±1 in f32.
    let x = x.clamp(-9.5, 9.5);
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// `erf(x)`, within 5e-7.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    // A ratio of an odd and an even polynomial, as in Eigen and XLA; above 4 the result is ±1 in
    // f32.
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut p = -2.726_142_3e-10;
    p = p * square + 2.770_681_3e-8;
    p = p * square - 2.101_024e-6;
    p = p * square - 5.692_506_5e-5;
    p = p * square - 7.349_906_4e-4;
    p = p * square - 2.954_6e-3;
    p = p * square - 1.609_603_3e-2;
    let mut q = -1.456_607_2e-5;
    q = q * square - 2.133_740_5e-4;
    q = q * square - 1.682_827e-3;
    q = q * square - 7.373_329e-3;
    q = q * square - 1.426_473_9e-2;
    x * p / q
}

/// Partial sums of a loop, to avoid one long chain of additions.
pub(super) const LANES: usize = 32;

/// The sum of `term(i)` for `i` below `n`.
#[inline(always)]
pub(super) fn sum(n: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = n / LANES * LANES;
    let mut at = 0;
    while at < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(at + lane);
        }
        at += LANES;
    }
    let mut rest = 0.0;
    for i in whole..n {
        rest += term(i);
    }
    rest + total(lanes)
}

/// Combines partial results by halves, not in one long chain. The loops have fixed lengths, or they would not become
/// vector instructions.
#[inline(always)]
fn halved(mut lanes: [f32; LANES], of: impl Fn(f32, f32) -> f32) -> f32 {
    macro_rules! halve {
        ($half:literal) => {
            for i in 0..$half {
                lanes[i] = of(lanes[i], lanes[i + $half]);
            }
        };
    }
    const { assert!(LANES == 32) };
    halve!(16);
    halve!(8);
    halve!(4);
    halve!(2);
    of(lanes[0], lanes[1])
}

/// The sum of partial sums.
#[inline(always)]
fn total(lanes: [f32; LANES]) -> f32 {
    halved(lanes, |a, b| a + b)
}

/// The largest of `values`, −∞ if there is none.
#[inline(always)]
pub(super) fn largest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    rest.iter().copied().fold(halved(lanes, larger), larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_tanh_are_exact_to_rounding() {
        let mut worst = [0f64; 2];
        for i in -200_000..=200_000 {
            let x = i as f32 * 4.3e-4;
            let e = f64::from(x).exp();
            worst[0] = worst[0].max((f64::from(exp(x)) - e).abs() / e);
            worst[1] = worst[1].max((f64::from(tanh(x)) - f64::from(x).tanh()).abs());
        }
        assert!(worst[0] < 2.4e-7 && worst[1] < 3e-7, "{worst:?}");
        assert_eq!(exp(-1.0e9), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan() && exp(200.0).is_finite());
    }

    #[test]
    fn erf_is_exact_to_rounding() {
        let mut worst = 0f64;
        for i in -200_000..=200_000 {
            let x = i as f32 * 3e-5;
            worst = worst.max((f64::from(erf(x)) - libm::erf(f64::from(x))).abs());
        }
        assert!(worst < 5e-7, "{worst:?}");
        assert!([f32::INFINITY, 1e30, 5.0].iter().all(|x| (erf(*x) - 1.0).abs() < 5e-7));
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_take_every_value() {
        for n in [0, 1, 31, 32, 33, 100] {
            assert_eq!(sum(n, |i| i as f32), (n * n.saturating_sub(1) / 2) as f32);
            let mut x = vec![0.5f32; n];
            assert_eq!(largest(&x), if n == 0 { f32::NEG_INFINITY } else { 0.5 });
            for i in 0..n {
                x[i] = 2.0;
                assert_eq!(largest(&x), 2.0);
                x[i] = 0.5;
            }
        }
    }
}
