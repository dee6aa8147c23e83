//! Adam against the formula in f64, over several steps and orders of memory.

use super::*;
use crate::{AdamFactors, FusedBackend, SQUARES_PART};

#[test]
fn steps_follow_the_formula_in_any_order_of_memory() {
    let (rows, columns) = (70, 300);
    let start = random::<B, 2>([rows, columns], 1);
    let transposed = random::<B, 2>([columns, rows], 2).transpose();
    for param in [start.clone(), transposed] {
        let mut expected: Vec<f64> = values(param.clone()).into_iter().map(f64::from).collect();
        let (mut m, mut v) = (vec![0f64; expected.len()], vec![0f64; expected.len()]);
        let (mut found, mut moments) = (float(param), None);
        for t in 1..=3 {
            let grad = random::<B, 2>([rows, columns], 10 + t);
            // Once in each order of memory.
            let grad = if t == 2 {
                let data = TensorData::new(values(grad.transpose()), [columns, rows]);
                Tensor::<B, 2>::from_data(data, &Default::default()).transpose()
            } else {
                grad
            };
            for (i, g) in values(grad.clone()).into_iter().map(f64::from).enumerate() {
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (a, b) = (1.0 - 0.9f64.powi(t as i32), 1.0 - 0.999f64.powi(t as i32));
                expected[i] -= 0.01 * (m[i] / a) / ((v[i] / b).sqrt() + 1e-8);
            }
            let factors = AdamFactors::new(0.01, [0.9, 0.999], 1e-8, t as usize);
            let (param, new) = B::adam_step(found, float(grad), moments, factors);
            (found, moments) = (param, Some(new));
        }
        let expected: Vec<f32> = expected.into_iter().map(|x| x as f32).collect();
        assert_close(&host::<B>(found), &expected, 1e-6);
    }
}

#[test]
fn multiples_are_those_of_burn_in_any_order_of_memory() {
    let x = random::<B, 2>([200, 301], 1);
    for x in [x.clone(), x.transpose()] {
        let found = tensor::<B, 2>(B::scaled(float(x.clone()), 0.3));
        assert_eq!(values(found), values(x.clone().mul_scalar(0.3)));
        assert_ne!(values(x.clone()), values(x.mul_scalar(0.3)), "x itself is unchanged");
    }
}

#[test]
fn squares_are_summed_part_by_part_in_any_order_of_memory() {
    let x = random::<B, 2>([200, 301], 1);
    for x in [x.clone(), x.transpose()] {
        let all = values(x.clone());
        let expected: Vec<f64> = all
            .chunks(SQUARES_PART)
            .map(|part| part.iter().map(|x| f64::from(*x).powi(2)).sum())
            .collect();
        let found = B::sums_of_squares(float(x.clone()));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found / expected - 1.0).abs() < 1e-5, "{found} and {expected}");
        }
        // Of a piece by itself, too.
        let piece = Tensor::<B, 1>::from_floats(&all[SQUARES_PART..], &Default::default());
        let piece: Vec<u64> =
            B::sums_of_squares(float(piece)).into_iter().map(f64::to_bits).collect();
        assert_eq!(piece, found[1..].iter().map(|x| x.to_bits()).collect::<Vec<_>>());
    }
}
