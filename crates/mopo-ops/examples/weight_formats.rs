//! Prints the time of a product with a weight in each format, in milliseconds (median of 9), on
//! flex:
//! `cargo run --release -p mopo-ops --features flex --example weight_formats [INPUTS OUTPUTS]`

use std::time::Instant;

use burn::backend::Flex;
use burn::tensor::{DType, Distribution, Tensor};
use mopo_hub::gguf::TensorType;
use mopo_ops::{FusedBackend, Init, Matrix, QuantFormat, QuantisedData};

/// Rows of the other factor: generation with one and with eight rows, a short and a long batch.
const LINES: [usize; 4] = [1, 8, 64, 512];

fn median_ms(mut run: impl FnMut()) -> f64 {
    run();
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let clock = Instant::now();
            run();
            clock.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[4]
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let [inputs, outputs] = sizes[..].try_into().unwrap_or([2048, 8192]);
    let device = Default::default();
    let random = |shape| Tensor::<Flex, 2>::random(shape, Distribution::Default, &device);
    let stored = random([outputs, inputs]);
    let dense = |x: Tensor<Flex, 2>| Matrix::Dense(x.transpose().into_primitive().tensor());
    let quantised = |format| {
        let clock = Instant::now();
        let data = QuantisedData::quantise(&stored.to_data(), format).expect("finite");
        let seconds = clock.elapsed().as_secs_f64();
        let matrix = data.to_device::<Flex>(&device);
        let bytes = matrix.n_bytes() as f64 / matrix.layout.n_weights() as f64;
        println!("{format:?}: {bytes:.4} bytes per weight, quantised in {:.0} ms", 1e3 * seconds);
        Matrix::Quantised(matrix)
    };
    // Numbers do not matter to the time, as long as none is infinite. Types whose blocks are longer than a row are
    // left out.
    let blocks = |kind: TensorType| {
        let bytes = vec![0x2c; kind.row_bytes(inputs)? * outputs];
        let matrix = QuantisedData::from_blocks(kind, [inputs, outputs], &bytes);
        Some((kind.name(), Matrix::Quantised(matrix.to_device::<Flex>(&device))))
    };
    let mut weights = vec![
        ("f32", dense(stored.clone())),
        ("bf16", dense(stored.clone().cast(DType::BF16))),
        ("nf4", quantised(QuantFormat::Nf4 { double_quant: false })),
        ("nf4-double", quantised(QuantFormat::Nf4 { double_quant: true })),
        ("int8", quantised(QuantFormat::Int8)),
    ];
    weights.extend(TensorType::all().skip(3).filter_map(blocks));
    println!("[lines, {inputs}] · [{inputs}, {outputs}], {} threads", rayon::current_num_threads());
    println!("{:>10} {:>6} {:>10} {:>10}", "weight", "lines", "x · W", "g · Wᵀ");
    for m in LINES {
        for (name, weight) in &weights {
            let [forward, backward] = [false, true].map(|transpose| {
                let x = random([m, if transpose { outputs } else { inputs }]);
                let x = x.into_primitive().tensor();
                median_ms(|| {
                    Flex::weight_matmul(Init::zero(), x.clone(), weight, transpose);
                })
            });
            println!("{name:>10} {m:>6} {forward:>10.2} {backward:>10.2}");
        }
    }
}
