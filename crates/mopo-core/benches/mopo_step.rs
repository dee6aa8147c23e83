//! The parts of a step that are not the model: weighing a batch, and the hypervolume of a front.

use std::hint::black_box;

use burn::tensor::{Tensor, TensorData};
use criterion::{Criterion, criterion_group, criterion_main};
use mopo_core::mopo::weigh;
use mopo_core::pareto::{Direction, hypervolume};
use mopo_core::{DualState, MopoConfig, TermLabels};
use mopo_testkit::TestBackend as B;

/// The same numbers in [0, 1) every time (the fractional parts of a golden-ratio walk).
fn numbers(n: usize, offset: f64) -> Vec<f64> {
    (0..n).map(|i| (offset + i as f64 * 0.618_033_988_749_894_9).fract()).collect()
}

fn weighing(c: &mut Criterion) {
    let device = Default::default();
    let config = MopoConfig::default();
    let mut dual = DualState::new(&config, 0, 3);
    dual.lambda[1] = 0.7;
    for n in [32, 4096] {
        let rows: Vec<Vec<Option<f32>>> = numbers(3 * n, 0.1)
            .chunks(3)
            .map(|r| r.iter().map(|&x| Some((x * 3.0).floor() as f32 / 2.0)).collect())
            .collect();
        let labels = TermLabels::<B>::from_rows(&rows, &device);
        let ratio: Vec<f32> = numbers(n, 0.4).iter().map(|&x| x as f32 - 0.5).collect();
        let ratio = Tensor::<B, 1>::from_data(TensorData::new(ratio, [n]), &device);
        c.bench_function(&format!("weigh/{n} terms, 3 objectives"), |b| {
            b.iter(|| weigh(&config, 0, &dual, &labels, black_box(ratio.clone()), &[0.15; 3]));
        });
    }
}

fn volume(c: &mut Criterion) {
    // Near a sphere's corner: most points are not dominated.
    let points: Vec<Vec<f64>> = (0..1000)
        .map(|i| {
            let raw: Vec<f64> = [0.11, 0.37, 0.83]
                .iter()
                .map(|o| numbers(i + 1, *o)[i].powf(o + 0.5) + 0.01)
                .collect();
            let norm = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
            raw.iter().map(|x| x / norm).collect()
        })
        .collect();
    let directions = [Direction::Maximize; 3];
    c.bench_function("hypervolume/1000 points, 3 axes", |b| {
        b.iter(|| hypervolume(black_box(&points), &[0.0; 3], &directions));
    });
}

criterion_group!(benches, weighing, volume);
criterion_main!(benches);
