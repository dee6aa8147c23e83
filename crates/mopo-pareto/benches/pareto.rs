//! The Pareto tools on fronts of 1,000 points. Against moocore: `cargo xtask bench pareto`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use mopo_pareto::{
    Direction, hypervolume, hypervolume_contributions, non_dominated, non_dominated_sort,
};

/// Points on a sphere, the same ones every time: steps of irrational size through the angles.
fn sphere(n: usize, n_objectives: usize) -> Vec<Vec<f64>> {
    let walk = |i: usize, k: usize| (i as f64 * (2.0 + 3.0 * k as f64).sqrt()).fract() + 1e-3;
    (0..n)
        .map(|i| {
            let raw: Vec<f64> = (0..n_objectives).map(|k| walk(i + 1, k)).collect();
            let norm = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
            raw.iter().map(|x| x / norm).collect()
        })
        .collect()
}

fn tools(c: &mut Criterion) {
    for k in [2, 3, 4] {
        let points = sphere(1000, k);
        let (directions, ref_point) = (vec![Direction::Maximize; k], vec![0.0; k]);
        let (p, d) = (&points, &directions[..]);
        c.bench_function(&format!("pareto/hypervolume, {k} axes"), |b| {
            b.iter(|| hypervolume(black_box(p), &ref_point, d));
        });
        c.bench_function(&format!("pareto/non_dominated, {k} axes"), |b| {
            b.iter(|| non_dominated(black_box(p), d));
        });
        c.bench_function(&format!("pareto/non_dominated_sort, {k} axes"), |b| {
            b.iter(|| non_dominated_sort(black_box(p), d));
        });
        if k < 4 {
            c.bench_function(&format!("pareto/hypervolume_contributions, {k} axes"), |b| {
                b.iter(|| hypervolume_contributions(black_box(p), &ref_point, d));
            });
        }
    }
}

criterion_group!(benches, tools);
criterion_main!(benches);
