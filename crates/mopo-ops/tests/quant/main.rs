//! Codes and scales against bitsandbytes (`make_fixtures.py` writes its results for a matrix), and
//! the distance of quantised weights from the original.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData, TensorPrimitive};
use mopo_ops::{
    FusedBackend, Init, Matrix, NF4_VALUES, QuantError, QuantFormat, QuantisedData, QuantisedMatrix,
};
use mopo_testkit::TestBackend as B;
use serde_json::Value;

const NF4: QuantFormat = QuantFormat::Nf4 { double_quant: false };
const NF4_DOUBLE: QuantFormat = QuantFormat::Nf4 { double_quant: true };
const ALL: [QuantFormat; 3] = [NF4, NF4_DOUBLE, QuantFormat::Int8];

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixture.json")).expect("written by the script")
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// The fixture's matrix, as in `make_fixtures.py`.
fn weights(outputs: usize, inputs: usize) -> TensorData {
    let number = |i: usize| {
        let bits = ((i as u64 * 2_654_435_761) % (1 << 32)) >> 8;
        let uniform = (bits as f64 / f64::from(1 << 24) - 0.5) as f32;
        let block = i / 64;
        if block == 5 { 0.0 } else { uniform * ((1.0 + (block % 37) as f32) / 64.0) }
    };
    TensorData::new((0..outputs * inputs).map(number).collect(), [outputs, inputs])
}

/// Numbers of `bits` bits, the first in the lowest.
fn unpack(words: &[i32], bits: usize, n: usize) -> Vec<u32> {
    let all = words.iter().flat_map(|word| {
        (0..32 / bits).map(move |i| (*word as u32 >> (i * bits)) & ((1 << bits) - 1))
    });
    all.take(n).collect()
}

fn values(x: <B as burn::tensor::backend::BackendTypes>::FloatTensorPrimitive) -> Vec<f32> {
    let x = Tensor::<B, 2>::from_primitive(TensorPrimitive::Float(x));
    x.into_data().iter().collect()
}

fn dequantised(matrix: &QuantisedMatrix<B>) -> Vec<f32> {
    values(B::dequantise(matrix, 0..matrix.layout.shape[1]))
}

fn on_device(data: &TensorData, format: QuantFormat) -> QuantisedMatrix<B> {
    QuantisedData::quantise(data, format).unwrap().to_device(&Default::default())
}

#[test]
fn nf4_has_the_values_of_its_definition() {
    for (ours, defined) in NF4_VALUES.iter().zip(floats(&fixture()["values"])) {
        assert!((ours - defined).abs() < 2e-7, "{ours} instead of {defined}");
    }
}

#[test]
fn codes_and_scales_are_those_of_bitsandbytes() {
    let fixture = fixture();
    let (outputs, inputs) = (190, 99);
    assert_eq!(fixture["shape"], serde_json::json!([outputs, inputs]));
    let data = weights(outputs, inputs);
    let plain = QuantisedData::quantise(&data, NF4).unwrap();
    let codes: Vec<u32> =
        fixture["codes"].as_str().unwrap().chars().map(|c| c.to_digit(16).unwrap()).collect();
    assert_eq!(unpack(&plain.codes, 4, outputs * inputs), codes);
    assert_eq!(plain.scales, floats(&fixture["magnitudes"]));

    let double = QuantisedData::quantise(&data, NF4_DOUBLE).unwrap();
    assert_eq!(double.codes, plain.codes);
    let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * b.abs();
    assert!(close(double.layout.offset, fixture["offset"].as_f64().unwrap() as f32));
    let codes: Vec<u32> = fixture["magnitude_codes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_u64().unwrap() as u32)
        .collect();
    assert_eq!(unpack(&double.scale_codes.clone().unwrap(), 8, codes.len()), codes);
    let scales = floats(&fixture["group_scales"]);
    assert_eq!(double.scales.len(), scales.len());
    assert!(double.scales.iter().zip(scales).all(|(a, b)| close(*a, b)));

    let found = dequantised(&double.to_device(&Default::default()));
    for (found, expected) in found.iter().step_by(100).zip(floats(&fixture["dequantised"])) {
        assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
    }
}

#[test]
fn a_number_moves_by_half_a_step_at_most() {
    let (outputs, inputs) = (70, 130);
    let data = weights(outputs, inputs);
    let original = data.to_vec::<f32>().unwrap();
    let found = dequantised(&on_device(&data, NF4));
    // The widest gap of NF4 is between -1 and its neighbour.
    let widest = (1.0 - 0.696_192_8) / 2.0 + 1e-6;
    for (found, original) in found.chunks(64).zip(original.chunks(64)) {
        let top = original.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (found, original) in found.iter().zip(original) {
            assert!((found - original).abs() <= widest * top);
        }
    }
    let found = dequantised(&on_device(&data, QuantFormat::Int8));
    for (found, original) in found.chunks(inputs).zip(original.chunks(inputs)) {
        let top = original.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (found, original) in found.iter().zip(original) {
            assert!((found - original).abs() <= top / 127.0 * 0.5001);
        }
    }
    // A block of zeros is exact, and so is 0 itself.
    for format in [NF4, QuantFormat::Int8] {
        assert!(dequantised(&on_device(&data, format))[5 * 64..6 * 64].iter().all(|x| *x == 0.0));
    }
    let zeros = TensorData::zeros::<f32, _>([3, 50]);
    for format in ALL {
        assert!(dequantised(&on_device(&zeros, format)).iter().all(|x| *x == 0.0), "{format:?}");
    }
}

#[test]
fn quantising_what_was_quantised_changes_nothing() {
    let data = weights(33, 70);
    for format in [NF4, QuantFormat::Int8] {
        let once = QuantisedData::quantise(&data, format).unwrap();
        let back = dequantised(&once.clone().to_device(&Default::default()));
        let twice = QuantisedData::quantise(&TensorData::new(back, [33, 70]), format).unwrap();
        assert_eq!(twice.codes, once.codes);
    }
}

#[test]
fn half_precision_is_read_as_it_is() {
    for dtype in [DType::BF16, DType::F16] {
        let half = weights(20, 90).convert_dtype(dtype);
        let whole = half.clone().convert_dtype(DType::F32);
        for format in ALL {
            let found = QuantisedData::quantise(&half, format).unwrap();
            assert_eq!(found, QuantisedData::quantise(&whole, format).unwrap());
        }
    }
}

#[test]
fn a_weight_takes_the_bytes_that_were_promised() {
    let data = weights(512, 1024);
    for (format, most) in [(NF4, 0.5625), (NF4_DOUBLE, 0.5162), (QuantFormat::Int8, 1.004)] {
        let matrix = on_device(&data, format);
        let bytes = matrix.n_bytes() as f64 / matrix.layout.n_weights() as f64;
        assert!(bytes <= most, "{format:?}: {bytes} bytes per weight");
        println!("{format:?}: {bytes:.4} bytes per weight");
    }
}

#[test]
fn what_is_not_finite_is_an_error_that_says_where() {
    let inputs = 70;
    for (bad, place) in [(f32::NAN, 75), (f32::INFINITY, 20 * inputs + 69), (f32::NEG_INFINITY, 0)]
    {
        let mut numbers = weights(21, inputs).to_vec::<f32>().unwrap();
        numbers[place] = bad;
        let data = TensorData::new(numbers, [21, inputs]);
        for format in ALL {
            let error = QuantisedData::quantise(&data, format).unwrap_err();
            let QuantError::NotFinite { output, input, .. } = error else { panic!("{error}") };
            assert_eq!([output, input], [place / inputs, place % inputs]);
        }
    }
    let error = QuantisedData::quantise(&TensorData::new(vec![1i32; 4], [2, 2]), NF4).unwrap_err();
    assert_eq!(error, QuantError::Dtype(DType::I32));
}

#[test]
fn magnitudes_at_the_ends_of_f32_stay_finite() {
    for size in [3e38, f32::MIN_POSITIVE / 1e5] {
        let data = TensorData::new(vec![size; 128], [1, 128]);
        for format in ALL {
            let found = dequantised(&on_device(&data, format));
            assert!(found.iter().all(|x| x.is_finite()), "{format:?} of {size}");
        }
    }
}

#[test]
fn products_are_those_of_the_dequantised_matrix() {
    let device = Default::default();
    B::seed(&device, 3);
    // Tails of blocks and words; more outputs than a tile.
    for [outputs, inputs] in [[37, 45], [600, 64], [1030, 20], [5, 3]] {
        let data = weights(outputs, inputs);
        for format in ALL {
            let matrix = on_device(&data, format);
            let dense = Tensor::<B, 2>::from_data(
                TensorData::new(dequantised(&matrix), [outputs, inputs]),
                &device,
            );
            let matrix = Matrix::Quantised(matrix);
            assert_eq!(matrix.shape(), [inputs, outputs]);
            for m in [1, 3, 8, 40] {
                let random = |n| {
                    let normal = burn::tensor::Distribution::Default;
                    Tensor::<B, 2>::random([m, n], normal, &device)
                };
                for transpose in [false, true] {
                    let (n, k) = if transpose { (inputs, outputs) } else { (outputs, inputs) };
                    let (x, add) = (random(k), random(n));
                    let right = if transpose { dense.clone() } else { dense.clone().transpose() };
                    let expected: Vec<f32> =
                        (x.clone().matmul(right) + add.clone()).into_data().iter().collect();
                    let init = Init::add(Some(add.into_primitive().tensor()));
                    let x = x.into_primitive().tensor();
                    let found = values(B::weight_matmul(init, x, &matrix, transpose));
                    let size = expected.iter().fold(1e-6f32, |s, x| s.max(x.abs()));
                    for (found, expected) in found.iter().zip(&expected) {
                        assert!(
                            (found - expected).abs() < 3e-6 * size,
                            "{format:?} {outputs} × {inputs}, {m} lines: {found}, {expected}"
                        );
                    }
                }
            }
        }
    }
}
