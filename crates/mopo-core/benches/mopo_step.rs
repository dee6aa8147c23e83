//! The parts of a step that are not the model: the weights of a batch, and the hypervolume of a front.

use std::hint::black_box;

use burn::tensor::{Tensor, TensorData};
use criterion::{Criterion, criterion_group, criterion_main};
use mopo_core::dual::{DualProblem, ResponseGroups};
use mopo_core::mopo::{PolicyDual, importance_weights};
use mopo_core::pareto::{Direction, hypervolume};
use mopo_core::{ChiUpdate, DualState, MopoConfig, ResponseLabels};
use mopo_testkit::TestBackend as B;

/// The same numbers in [0, 1) every time (fractional parts of multiples of the golden ratio).
fn numbers(n: usize, offset: f64) -> Vec<f64> {
    (0..n).map(|i| (offset + i as f64 * 0.618_033_988_749_894_9).fract()).collect()
}

fn weights(c: &mut Criterion) {
    let device = Default::default();
    let config = MopoConfig::default();
    let mut dual = DualState::new(&config, 0, 3);
    dual.lambda[1] = 0.7;
    for n in [32, 4096] {
        let rows: Vec<Vec<Option<f32>>> = numbers(3 * n, 0.1)
            .chunks(3)
            .map(|r| r.iter().map(|&x| Some((x * 3.0).floor() as f32 / 2.0)).collect())
            .collect();
        let labels = ResponseLabels::<B>::from_rows(&rows, &device);
        let ratio: Vec<f32> = numbers(n, 0.4).iter().map(|&x| x as f32 - 0.5).collect();
        let ratio = Tensor::<B, 2>::from_data(TensorData::new(ratio, [1, n]), &device);
        c.bench_function(&format!("importance_weights/{n} responses, 3 objectives"), |b| {
            b.iter(|| {
                let policy = PolicyDual {
                    tau: config.tau,
                    dual: &dual,
                    radius: &[0.15; 3],
                    chi: ChiUpdate::Step,
                };
                importance_weights(&[policy], &labels, black_box(ratio.clone()), config.ratio_clip)
            });
        });
    }
}

/// The whole-data dual: a million responses with hard labels, and with means in tenths.
fn exact_dual(c: &mut Criterion) {
    let label = |x: &f64, levels: f64| Some(((x * (levels + 1.0)).floor() / levels) as f32);
    for (name, levels, n) in [("hard labels", 1.0, 1_000_000), ("mean labels", 9.0, 1_000_000)] {
        // Three sequences with unrelated steps, so that every combination of labels occurs.
        let walk = |i: usize, step: f64| label(&(i as f64 * step).fract(), levels);
        let rows: Vec<[Option<f32>; 3]> = (0..n)
            .map(|i| [0.618_033_988_75, 0.754_877_666_25, 0.569_840_290_99].map(|s| walk(i, s)))
            .collect();
        let responses = || rows.iter().map(|r| (r.as_slice(), 0.1f32));
        let groups = ResponseGroups::new(responses(), 5.0).expect("sound labels");
        for (ball, epsilon) in [("no ball", 0.0), ("ball 0.001", 0.001)] {
            let problem = DualProblem {
                primary: 0,
                tau: 0.08,
                thresholds: &[0.0, 0.6, 0.55],
                radius: &[epsilon; 3],
                lambda_max: 10.0,
            };
            let n_groups = groups.n_groups();
            c.bench_function(
                &format!("exact dual/{n} responses, {name} ({n_groups}), {ball}"),
                |b| {
                    b.iter(|| black_box(&groups).solve(&problem));
                },
            );
        }
        c.bench_function(&format!("group responses/{n} responses, {name}"), |b| {
            b.iter(|| ResponseGroups::new(responses(), 5.0));
        });
    }
}

fn volume(c: &mut Criterion) {
    // Near the corner of a sphere: most points are not dominated.
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

criterion_group!(benches, weights, exact_dual, volume);
criterion_main!(benches);
