//! LayerNorm and its gradient, one pass over memory each.

use burn::tensor::TensorMetadata;
use rayon::prelude::*;

use super::math::sum;
use super::{Kernel, T, contiguous, into_values, new, values, vectorised};

/// Tokens per task.
const TOKENS: usize = 32;

/// Mean and 1 / standard deviation.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let n = x.len();
    let mean = sum(n, |i| x[i]) / n as f32;
    let variance = sum(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

struct Tokens<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    /// beta, or the gradient.
    other: &'a [f32],
    out: &'a mut [f32],
    epsilon: f32,
}

struct Forward<'a>(Tokens<'a>);
struct Backward<'a>(Tokens<'a>);

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run(self) {
        let Forward(Tokens { x, gamma, other, out, epsilon }) = self;
        let d = gamma.len();
        let beta = &other[..d];
        for (x, y) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let (mean, factor) = moments(x, epsilon);
            for i in 0..d {
                y[i] = (x[i] - mean) * factor * gamma[i] + beta[i];
            }
        }
    }
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run(self) {
        let Backward(Tokens { x, gamma, other, out, epsilon }) = self;
        let d = gamma.len();
        let tokens = x.chunks_exact(d).zip(other.chunks_exact(d)).zip(out.chunks_exact_mut(d));
        for ((x, g), dx) in tokens {
            let (mean, factor) = moments(x, epsilon);
            let level = sum(d, |i| g[i] * gamma[i]) / d as f32;
            let along = sum(d, |i| g[i] * gamma[i] * (x[i] - mean)) * factor / d as f32;
            for i in 0..d {
                dx[i] += (g[i] * gamma[i] - level - (x[i] - mean) * factor * along) * factor;
            }
        }
    }
}

pub(super) fn forward(x: T, gamma: T, beta: T, epsilon: f64) -> T {
    let (x, gamma, beta) = (contiguous(x), contiguous(gamma), contiguous(beta));
    let (d, epsilon) = (values(&gamma).len(), epsilon as f32);
    let mut y = vec![0f32; values(&x).len()];
    y.par_chunks_mut(d * TOKENS).zip(values(&x).par_chunks(d * TOKENS)).for_each(|(out, x)| {
        let (gamma, other) = (values(&gamma), values(&beta));
        vectorised(Forward(Tokens { x, gamma, other, out, epsilon }));
    });
    new(y, x.shape())
}

pub(super) fn backward(init: Option<T>, x: T, gamma: T, grad: T, epsilon: f64) -> T {
    let (x, gamma, grad) = (contiguous(x), contiguous(gamma), contiguous(grad));
    let (d, epsilon) = (values(&gamma).len(), epsilon as f32);
    let mut dx = match init {
        Some(init) => into_values(init),
        None => vec![0f32; values(&x).len()],
    };
    let size = d * TOKENS;
    let tasks = values(&x).par_chunks(size).zip(values(&grad).par_chunks(size));
    tasks.zip(dx.par_chunks_mut(size)).for_each(|((x, other), out)| {
        vectorised(Backward(Tokens { x, gamma: values(&gamma), other, out, epsilon }));
    });
    new(dx, x.shape())
}
