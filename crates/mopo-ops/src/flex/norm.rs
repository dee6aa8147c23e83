//! LayerNorm and its gradients.

use burn::backend::Flex;
use burn::tensor::TensorMetadata;
use burn::tensor::ops::FloatTensorOps;
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

struct Squares<'a> {
    x: &'a [f32],
    means: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Squares<'_> {
    #[inline(always)]
    fn run(self) {
        let Squares { x, means, out } = self;
        let d = x.len() / means.len();
        for ((x, mean), out) in x.chunks_exact(d).zip(means).zip(out.chunks_exact_mut(d)) {
            for (x, out) in x.iter().zip(out) {
                *out = (x - mean) * (x - mean);
            }
        }
    }
}

struct Sums<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    means: &'a [f32],
    factors: &'a [f32],
    from: usize,
    gamma: &'a mut [f32],
    beta: &'a mut [f32],
}

impl Kernel for Sums<'_> {
    #[inline(always)]
    fn run(self) {
        let Sums { x, grad, means, factors, from, gamma, beta } = self;
        let (d, n) = (x.len() / means.len(), gamma.len());
        let tokens = x.chunks_exact(d).zip(grad.chunks_exact(d)).zip(means.iter().zip(factors));
        for ((x, grad), (mean, factor)) in tokens {
            let (x, grad) = (&x[from..from + n], &grad[from..from + n]);
            let sums = gamma.iter_mut().zip(beta.iter_mut());
            for ((x, grad), (gamma, beta)) in x.iter().zip(grad).zip(sums) {
                *gamma += grad * ((x - mean) * factor);
                *beta += grad;
            }
        }
    }
}

/// Features per task.
const FEATURES: usize = 256;

/// Means are burn's, so that all numbers are those of the generic body.
pub(super) fn parameter_gradients(x: T, grad: T, epsilon: f64) -> [T; 2] {
    let (x, grad) = (contiguous(x), contiguous(grad));
    let [n, d] = x.shape().dims();
    let mean = |x: T| contiguous(Flex::float_mean_dim(x, 1));
    let means = mean(x.clone());
    let means = values(&means);
    let mut squares = vec![0f32; n * d];
    let tasks = values(&x).par_chunks(d * TOKENS).zip(means.par_chunks(TOKENS));
    tasks.zip(squares.par_chunks_mut(d * TOKENS)).for_each(|((x, means), out)| {
        vectorised(Squares { x, means, out });
    });
    let variances = mean(new(squares, [n, d]));
    let factor = |variance: &f32| 1.0 / (variance + epsilon as f32).sqrt();
    let factors: Vec<f32> = values(&variances).iter().map(factor).collect();
    let (mut gamma, mut beta) = (vec![0f32; d], vec![0f32; d]);
    let tasks = gamma.par_chunks_mut(FEATURES).zip(beta.par_chunks_mut(FEATURES)).enumerate();
    tasks.for_each(|(i, (gamma, beta))| {
        let (x, grad, factors) = (values(&x), values(&grad), &factors[..]);
        vectorised(Sums { x, grad, means, factors, from: i * FEATURES, gamma, beta });
    });
    [new(gamma, [d]), new(beta, [d])]
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
