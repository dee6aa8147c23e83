//! RMSNorm and its gradients, one pass over memory each.

use burn::tensor::TensorMetadata;
use rayon::prelude::*;

use super::math::sum;
use super::{Kernel, T, contiguous, into_values, new, values, vectorised};

/// Tokens per task.
const TOKENS: usize = 32;

/// 1 / root of the mean square.
#[inline(always)]
fn factor(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum(x.len(), |i| x[i] * x[i]) / x.len() as f32 + epsilon).sqrt()
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    out: &'a mut [f32],
    epsilon: f32,
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run(self) {
        let Forward { x, weight, out, epsilon } = self;
        let d = weight.len();
        for (x, y) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let factor = factor(x, epsilon);
            for ((x, y), w) in x.iter().zip(y).zip(weight) {
                *y = x * factor * w;
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    grad: &'a [f32],
    /// Its gradient is added to it.
    dx: &'a mut [f32],
    epsilon: f32,
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run(self) {
        let Backward { x, weight, grad, dx, epsilon } = self;
        let d = weight.len();
        let tokens = x.chunks_exact(d).zip(grad.chunks_exact(d)).zip(dx.chunks_exact_mut(d));
        for ((x, g), dx) in tokens {
            let factor = factor(x, epsilon);
            let along = sum(d, |i| g[i] * weight[i] * x[i]) * factor * factor / d as f32;
            for i in 0..d {
                dx[i] += (g[i] * weight[i] - x[i] * along) * factor;
            }
        }
    }
}

struct Sums<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    sums: &'a mut [f32],
    epsilon: f32,
}

impl Kernel for Sums<'_> {
    #[inline(always)]
    fn run(self) {
        let Sums { x, grad, sums, epsilon } = self;
        let d = sums.len();
        for (x, grad) in x.chunks_exact(d).zip(grad.chunks_exact(d)) {
            let factor = factor(x, epsilon);
            for ((x, grad), sum) in x.iter().zip(grad).zip(sums.iter_mut()) {
                *sum += grad * (x * factor);
            }
        }
    }
}

/// gamma, or 1 + gamma.
fn weight(gamma: T, plus_one: bool) -> Vec<f32> {
    let mut weight = into_values(gamma);
    if plus_one {
        weight.iter_mut().for_each(|w| *w += 1.0);
    }
    weight
}

pub(super) fn forward(x: T, gamma: T, epsilon: f64, plus_one: bool) -> T {
    let (x, weight) = (contiguous(x), weight(gamma, plus_one));
    let (d, epsilon) = (weight.len(), epsilon as f32);
    let mut y = vec![0f32; values(&x).len()];
    y.par_chunks_mut(d * TOKENS).zip(values(&x).par_chunks(d * TOKENS)).for_each(|(out, x)| {
        vectorised(Forward { x, weight: &weight, out, epsilon });
    });
    new(y, x.shape())
}

pub(super) fn backward(
    init: Option<T>,
    x: T,
    gamma: T,
    grad: T,
    epsilon: f64,
    plus_one: bool,
) -> T {
    let (x, weight, grad) = (contiguous(x), weight(gamma, plus_one), contiguous(grad));
    let epsilon = epsilon as f32;
    let mut dx = match init {
        Some(init) => into_values(init),
        None => vec![0f32; values(&x).len()],
    };
    let size = weight.len() * TOKENS;
    let tasks = values(&x).par_chunks(size).zip(values(&grad).par_chunks(size));
    tasks.zip(dx.par_chunks_mut(size)).for_each(|((x, grad), dx)| {
        vectorised(Backward { x, weight: &weight, grad, dx, epsilon });
    });
    new(dx, x.shape())
}

/// Tokens per partial sum; the sums are added in order, so threads do not change the result.
const RUN: usize = 256;

pub(super) fn parameter_gradient(x: T, grad: T, epsilon: f64) -> T {
    let (x, grad) = (contiguous(x), contiguous(grad));
    let [_, d] = x.shape().dims();
    let epsilon = epsilon as f32;
    let runs = values(&x).par_chunks(d * RUN).zip(values(&grad).par_chunks(d * RUN));
    let parts: Vec<Vec<f32>> = runs
        .map(|(x, grad)| {
            let mut sums = vec![0f32; d];
            vectorised(Sums { x, grad, sums: &mut sums, epsilon });
            sums
        })
        .collect();
    let mut total = vec![0f32; d];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    new(total, [d])
}
