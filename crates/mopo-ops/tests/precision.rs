//! Products with large weights in every precision that this machine has: a process of its own, since the precision is
//! the process's.
#![cfg(feature = "flex")]

use burn::backend::Flex;
use burn::tensor::{DType, Tensor, TensorData};
use mopo_ops::{
    FusedBackend, Init, MatmulPrecision, Matrix, QuantFormat, QuantisedData, primitive,
    set_matmul_precision, tensor,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Uniform within ±1.
fn random<const D: usize>(shape: [usize; D], rng: &mut ChaCha8Rng) -> Tensor<Flex, D> {
    let numbers = (0..shape.iter().product()).map(|_| rng.random_range(-1f32..1.0)).collect();
    Tensor::from_data(TensorData::new::<f32, _>(numbers, shape), &Default::default())
}

/// Weights `[outputs, inputs]` in f32, and with the same numbers as other weights are kept.
fn weights(shape: [usize; 2], rng: &mut ChaCha8Rng) -> Vec<(Tensor<Flex, 2>, Matrix<Flex>)> {
    let whole = random(shape, rng);
    let half = whole.clone().cast(DType::BF16);
    let codes = QuantisedData::quantise(&whole.to_data(), QuantFormat::Int8).unwrap();
    let codes = codes.to_device(&Default::default());
    let decoded = tensor::<Flex, 2>(Flex::dequantise(&codes, 0..shape[0]));
    let dense = |weight: Tensor<Flex, 2>| Matrix::Dense(primitive(weight.transpose()));
    vec![
        (whole.clone(), dense(whole)),
        (half.clone().cast(DType::F32), dense(half)),
        (decoded, Matrix::Quantised(codes)),
    ]
}

#[test]
fn products_with_weights_of_many_tiles_are_those_in_f32() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // A tile has 2^20 numbers: last tiles of 1, 20 and 100 outputs, and tiles of other inputs; then one whole tile.
    let shapes = [[16_385, 64], [16_404, 64], [16_484, 64], [2000, 1056], [300, 100]];
    for shape in shapes {
        let [outputs, inputs] = shape;
        for (decoded, weight) in weights(shape, &mut rng) {
            for (transpose, m) in [(false, 20), (true, 20), (true, 1)] {
                let (k, n) = if transpose { (outputs, inputs) } else { (inputs, outputs) };
                let (x, add) = (random([m, k], &mut rng), random([m, n], &mut rng));
                let bias = random([n], &mut rng);
                let right = if transpose { decoded.clone() } else { decoded.clone().transpose() };
                let product = x.clone().matmul(right);
                for precision in MatmulPrecision::ALL {
                    if let Err(e) = set_matmul_precision(precision) {
                        println!("skipped: {e}");
                        continue;
                    }
                    for [with_add, with_bias] in
                        [[false, false], [false, true], [true, false], [true, true]]
                    {
                        let init = Init {
                            add: with_add.then(|| primitive(add.clone())),
                            bias: with_bias.then(|| primitive(bias.clone())),
                        };
                        let found =
                            Flex::weight_matmul(init, primitive(x.clone()), &weight, transpose);
                        let mut expected = product.clone();
                        if with_add {
                            expected = expected + add.clone();
                        }
                        if with_bias {
                            expected = expected + bias.clone().unsqueeze();
                        }
                        let error = (tensor::<Flex, 2>(found) - expected).abs().max();
                        let most = product.clone().abs().max().into_scalar();
                        let allowed = match precision {
                            MatmulPrecision::F32 => 1e-5,
                            MatmulPrecision::Bf16 | MatmulPrecision::Int8 => 0.02,
                        };
                        let error = error.into_scalar() / most;
                        assert!(error < allowed, "{precision:?}, {shape:?}, {transpose}: {error}");
                    }
                }
            }
        }
    }
}
