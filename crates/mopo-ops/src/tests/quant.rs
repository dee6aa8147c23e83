//! Quantised weights: kernels against the generic bodies, and gradients through them against
//! gradients through the same numbers in f32.

use burn::tensor::Int;
use mopo_hub::gguf::TensorType;

use super::*;
use crate::{
    FusedBackend, Init, Matrix, OutputParams, QuantFormat, QuantLayout, QuantisedData,
    QuantisedMatrix, generic,
};

const FORMATS: [QuantFormat; 3] = [
    QuantFormat::Nf4 { double_quant: false },
    QuantFormat::Nf4 { double_quant: true },
    QuantFormat::Int8,
];

fn quantised(outputs: usize, inputs: usize, format: QuantFormat) -> QuantisedMatrix<B> {
    let weight = random::<B, 2>([outputs, inputs], 1).into_data();
    QuantisedData::quantise(&weight, format).unwrap().to_device(&Default::default())
}

/// Moved to the backend with gradients.
fn lifted(matrix: &QuantisedMatrix<B>) -> QuantisedMatrix<A> {
    let lift = |x: &FloatTensor<B>| float::<A, 1>(Tensor::from_inner(tensor::<B, 1>(x.clone())));
    let QuantisedMatrix { layout, codes, scales, scale_codes } = matrix;
    QuantisedMatrix {
        layout: *layout,
        codes: codes.clone(),
        scales: lift(scales),
        scale_codes: scale_codes.clone(),
    }
}

fn dense(matrix: &QuantisedMatrix<B>) -> Tensor<B, 2> {
    let QuantLayout { shape: [_, outputs], .. } = matrix.layout;
    tensor::<B, 2>(generic::quant::dequantise::<B>(matrix, 0..outputs)).transpose()
}

#[test]
fn kernels_read_what_the_generic_body_reads() {
    // Whole blocks, whole words, neither; more outputs than one tile.
    for [outputs, inputs] in [[70, 128], [33, 40], [600, 37], [2, 1]] {
        for format in FORMATS {
            let matrix = quantised(outputs, inputs, format);
            for range in [0..outputs, 1..2, outputs / 2..outputs] {
                let found = host::<B>(B::dequantise(&matrix, range.clone()));
                let expected = host::<B>(generic::quant::dequantise::<B>(&matrix, range));
                assert_close(&found, &expected, 1e-6);
            }
            for m in [2, 30] {
                for (transpose, k) in [(false, inputs), (true, outputs)] {
                    let x = random::<B, 2>([m, k], 2);
                    let n = inputs + outputs - k;
                    let init = || Init {
                        add: Some(float(random::<B, 2>([m, n], 3))),
                        bias: Some(float(random::<B, 1>([n], 4))),
                    };
                    for init in [Init::zero(), init()] {
                        let expected = host::<B>(generic::quant::weight_matmul::<B>(
                            init.clone(),
                            float(x.clone()),
                            &matrix,
                            transpose,
                        ));
                        let matrix = Matrix::Quantised(matrix.clone());
                        let found = B::weight_matmul(init, float(x.clone()), &matrix, transpose);
                        assert_close(&host::<B>(found), &expected, 3e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn gradients_of_inputs_are_those_of_the_same_numbers_in_f32() {
    let (n, inputs, outputs) = (13, 45, 530);
    for format in FORMATS {
        let matrix = quantised(outputs, inputs, format);
        let whole = float(Tensor::<A, 2>::from_inner(dense(&matrix)));
        let weights = [Matrix::<A>::Quantised(lifted(&matrix)), Matrix::Dense(whole)];
        let [found, expected] = weights.map(|weight| {
            let x = Tensor::<A, 2>::from_inner(random([n, inputs], 5)).require_grad();
            let y = A::weight_matmul(Init::zero(), float(x.clone()), &weight, false);
            let grad = Tensor::<A, 2>::from_inner(random([n, outputs], 6));
            let grads = (tensor::<A, 2>(y) * grad).sum().backward();
            values(x.grad(&grads).unwrap())
        });
        assert_close(&found, &expected, 3e-6);
    }
}

#[test]
fn log_probabilities_under_a_quantised_output_layer() {
    let (n, d, vocab) = (300, 20, 700);
    for format in FORMATS {
        let matrix = quantised(vocab, d, format);
        let whole = float(Tensor::<A, 2>::from_inner(dense(&matrix)));
        let weights = [Matrix::<A>::Quantised(lifted(&matrix)), Matrix::Dense(whole)];
        let [found, expected] = weights.map(|weight| {
            let hidden = Tensor::<A, 2>::from_inner(random([n, d], 5)).require_grad();
            let bias = float(Tensor::<A, 1>::from_inner(random([vocab], 6)));
            let targets: Tensor<A, 1, Int> = tokens(n, vocab, 7);
            let layer = OutputParams { weight, bias: Some(bias), soft_cap: None };
            let out = A::linear_log_prob(float(hidden.clone()), layer, targets.into_primitive());
            let out: Tensor<A, 1> = tensor(out);
            let grads = (out.clone() * Tensor::from_inner(random([n], 8))).sum().backward();
            [values(out), values(hidden.grad(&grads).unwrap())]
        });
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(found, expected, 1e-5);
        }
    }
}

/// A matrix of random blocks, in each of which the F16 at `halves` are scales.
fn blocks(kind: TensorType, halves: &[usize], [outputs, inputs]: [usize; 2]) -> QuantisedMatrix<B> {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let n_bytes = kind.row_bytes(inputs).unwrap() * outputs;
    let mut bytes: Vec<u8> = (0..n_bytes).map(|_| rng.random()).collect();
    for block in bytes.chunks_mut(kind.block_bytes()) {
        for at in halves {
            // Of any sign; some are below the normal numbers.
            let exponent = rng.random_range(0..15u16);
            let half = rng.random::<u16>() & 0x83ff | exponent << 10;
            block[*at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
    QuantisedData::from_blocks(kind, [inputs, outputs], &bytes).to_device(&Default::default())
}

/// Types, and where their blocks have scales and minima.
const BLOCKS: [(TensorType, &[usize]); 10] = [
    (TensorType::Q4_0, &[0]),
    (TensorType::Q4_1, &[0, 2]),
    (TensorType::Q5_0, &[0]),
    (TensorType::Q5_1, &[0, 2]),
    (TensorType::Q8_0, &[0]),
    (TensorType::Q2K, &[80, 82]),
    (TensorType::Q3K, &[108]),
    (TensorType::Q4K, &[0, 2]),
    (TensorType::Q5K, &[0, 2]),
    (TensorType::Q6K, &[208]),
];

#[test]
fn products_with_blocks_equal_sums_of_decoded_numbers() {
    for (kind, halves) in BLOCKS {
        for [outputs, n_blocks] in [[1, 1], [67, 3], [300, 2]] {
            let inputs = n_blocks * kind.block_len();
            let matrix = blocks(kind, halves, [outputs, inputs]);
            let weights = host::<B>(B::dequantise(&matrix, 0..outputs));
            for m in [1, 2, 3, 7, 8, 9, 31, 100] {
                let x = random::<B, 2>([m, inputs], 3);
                let add = random::<B, 2>([m, outputs], 4);
                let init = Init::add(Some(float(add.clone())));
                let matrix = Matrix::Quantised(matrix.clone());
                let found = host::<B>(B::weight_matmul(init, float(x.clone()), &matrix, false));
                let (x, add) = (values(x), values(add));
                for (i, found) in found.into_iter().enumerate() {
                    let line = &x[i / outputs * inputs..][..inputs];
                    let weights = &weights[i % outputs * inputs..][..inputs];
                    let terms =
                        line.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let (sum, size) = terms
                        .fold((f64::from(add[i]), f64::from(add[i]).abs()), |(sum, size), term| {
                            (sum + term, size + term.abs())
                        });
                    let error = (f64::from(found) - sum).abs();
                    assert!(error < 2e-6 * size, "{kind}, {m} lines: {found} instead of {sum}");
                }
            }
        }
    }
}

#[test]
fn a_line_times_blocks_has_the_same_bits_among_others() {
    for (kind, halves) in BLOCKS {
        let (outputs, inputs) = (75, 512);
        let matrix = Matrix::Quantised(blocks(kind, halves, [outputs, inputs]));
        let x = random::<B, 2>([8, inputs], 3);
        let product = |lines: std::ops::Range<usize>| {
            let x = x.clone().slice([lines, 0..inputs]);
            host::<B>(B::weight_matmul(Init::zero(), float(x), &matrix, false))
        };
        let all = product(0..8);
        for m in 1..8 {
            assert_eq!(product(8 - m..8), all[(8 - m) * outputs..], "{kind}, {m} lines");
        }
    }
}
