//! Quantised weights: kernels against the generic bodies, and gradients through them against
//! gradients through the same numbers in f32.

use burn::tensor::Int;

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
