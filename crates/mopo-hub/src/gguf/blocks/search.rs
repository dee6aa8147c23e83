//! The search for scale and minimum of 32 values in Q4_K: ggml's, with the same numbers of steps and
//! the same order of sums, so that results agree.

use super::nearest_code;

/// The largest code.
const MAX_CODE: f32 = 15.0;
/// Ranges that are tried: 14 to 16 codes wide, in steps of a tenth.
const N_STEPS: usize = 20;
const FIRST: f32 = -1.0;
const STEP: f32 = 0.1;

/// Scale s and minimum m ≥ 0, for which s · q − m with codes q approximates the values best. The
/// squared error of a value weighs its magnitude plus the root of the mean square.
pub(super) fn scale_and_minimum(values: &[f32; 32]) -> (f32, f32) {
    let sum_of_squares = values.iter().fold(0.0, |sum, x| sum + x * x);
    let mean = (sum_of_squares / values.len() as f32).sqrt();
    let weights = values.map(|x| mean + x.abs());
    let (mut sum_w, mut sum_wx) = (weights[0], weights[0] * values[0]);
    for (w, x) in weights.iter().zip(values).skip(1) {
        sum_w += w;
        sum_wx += w * x;
    }
    let max = values.iter().fold(values[0], |a, b| if *b > a { *b } else { a });
    let min = values.iter().fold(values[0], |a, b| if *b < a { *b } else { a }).min(0.0);
    if max == min {
        return (0.0, -min);
    }
    let codes =
        |per_unit: f32, base: f32| values.map(|x| nearest_code(per_unit * (x - base), MAX_CODE));
    let error = |codes: &[f32; 32], scale: f32, base: f32| {
        let terms = codes.iter().zip(values).zip(&weights);
        terms.fold(0.0, |sum, ((q, x), w)| {
            let difference = scale * q + base - x;
            sum + w * (difference * difference)
        })
    };

    let per_unit = MAX_CODE / (max - min);
    let (mut scale, mut base) = (1.0 / per_unit, min);
    let mut smallest = error(&codes(per_unit, base), scale, base);
    for step in 0..=N_STEPS {
        // From the best base so far, as in ggml, not from the smallest value.
        let per_unit = (FIRST + STEP * step as f32 + MAX_CODE) / (max - base);
        let codes = codes(per_unit, base);
        // Weighted least squares for these codes.
        let (mut sum_q, mut sum_qq, mut sum_qx) = (0.0, 0.0, 0.0);
        for ((q, x), w) in codes.iter().zip(values).zip(&weights) {
            sum_q += w * q;
            sum_qq += w * q * q;
            sum_qx += w * q * x;
        }
        let determinant = sum_w * sum_qq - sum_q * sum_q;
        if determinant > 0.0 {
            let mut new_scale = (sum_w * sum_qx - sum_wx * sum_q) / determinant;
            let mut new_base = (sum_qq * sum_wx - sum_q * sum_qx) / determinant;
            if new_base > 0.0 {
                (new_scale, new_base) = (sum_qx / sum_qq, 0.0);
            }
            let error = error(&codes, new_scale, new_base);
            if error < smallest {
                (smallest, scale, base) = (error, new_scale, new_base);
            }
        }
    }
    (scale, -base)
}
