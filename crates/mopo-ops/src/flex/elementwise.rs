//! GELU, SiLU and rotary embedding, one pass over memory each.

use std::f32::consts::FRAC_1_SQRT_2;

use burn::tensor::TensorMetadata;

use super::fresh::changed;
use super::math::{erf, exp, tanh};
use super::{GRAIN, Kernel, T, contiguous, new, values, vectorised};

/// √(2/π).
const ROOT: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

struct Gelu<'a>(&'a mut [f32]);

impl Kernel for Gelu<'_> {
    #[inline(always)]
    fn run(self) {
        let Gelu(x) = self;
        for x in x {
            let u = *x * (ROOT + ROOT * CUBIC * *x * *x);
            *x = 0.5 * *x * (1.0 + tanh(u));
        }
    }
}

struct GeluBackward<'a> {
    x: &'a [f32],
    /// Becomes its product with the slope.
    grad: &'a mut [f32],
}

impl Kernel for GeluBackward<'_> {
    #[inline(always)]
    fn run(self) {
        let GeluBackward { x, grad } = self;
        for (g, &x) in grad.iter_mut().zip(x) {
            let square = x * x;
            let t = tanh(x * (ROOT + ROOT * CUBIC * square));
            let slope = x * (1.0 - t * t) * (ROOT + 3.0 * ROOT * CUBIC * square);
            *g *= 0.5 * (1.0 + t + slope);
        }
    }
}

struct GeluErf<'a>(&'a mut [f32]);

impl Kernel for GeluErf<'_> {
    #[inline(always)]
    fn run(self) {
        let GeluErf(x) = self;
        for x in x {
            *x = 0.5 * *x * (1.0 + erf(*x * FRAC_1_SQRT_2));
        }
    }
}

struct GeluErfBackward<'a> {
    x: &'a [f32],
    /// Becomes its product with the slope.
    grad: &'a mut [f32],
}

impl Kernel for GeluErfBackward<'_> {
    #[inline(always)]
    fn run(self) {
        let GeluErfBackward { x, grad } = self;
        for (g, &x) in grad.iter_mut().zip(x) {
            // ROOT is 2 · φ(0).
            let slope = ROOT * x * exp(-0.5 * x * x);
            *g *= 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2) + slope);
        }
    }
}

pub(super) fn gelu_erf(x: T) -> T {
    let shape = x.shape();
    new(changed(x, GRAIN, |_, y| vectorised(GeluErf(y))), shape)
}

pub(super) fn gelu_erf_backward(x: T, grad: T) -> T {
    let x = contiguous(x);
    let from = values(&x);
    let change = |i, grad: &mut [f32]| {
        let x = &from[i * GRAIN..][..grad.len()];
        vectorised(GeluErfBackward { x, grad });
    };
    new(changed(grad, GRAIN, change), x.shape())
}

pub(super) fn gelu(x: T) -> T {
    let shape = x.shape();
    new(changed(x, GRAIN, |_, y| vectorised(Gelu(y))), shape)
}

pub(super) fn gelu_backward(x: T, grad: T) -> T {
    let x = contiguous(x);
    let from = values(&x);
    let change = |i, grad: &mut [f32]| {
        let x = &from[i * GRAIN..][..grad.len()];
        vectorised(GeluBackward { x, grad });
    };
    new(changed(grad, GRAIN, change), x.shape())
}

struct Silu<'a>(&'a mut [f32]);

impl Kernel for Silu<'_> {
    #[inline(always)]
    fn run(self) {
        let Silu(x) = self;
        for x in x {
            *x /= 1.0 + exp(-*x);
        }
    }
}

struct SiluBackward<'a> {
    x: &'a [f32],
    /// Becomes its product with the slope.
    grad: &'a mut [f32],
}

impl Kernel for SiluBackward<'_> {
    #[inline(always)]
    fn run(self) {
        let SiluBackward { x, grad } = self;
        for (g, &x) in grad.iter_mut().zip(x) {
            let s = 1.0 / (1.0 + exp(-x));
            *g *= s * (1.0 + x * (1.0 - s));
        }
    }
}

pub(super) fn silu(x: T) -> T {
    let shape = x.shape();
    new(changed(x, GRAIN, |_, y| vectorised(Silu(y))), shape)
}

pub(super) fn silu_backward(x: T, grad: T) -> T {
    let x = contiguous(x);
    let from = values(&x);
    let change = |i, grad: &mut [f32]| {
        let x = &from[i * GRAIN..][..grad.len()];
        vectorised(SiluBackward { x, grad });
    };
    new(changed(grad, GRAIN, change), x.shape())
}

struct Rope<'a> {
    token: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    dim: usize,
    sign: f32,
}

impl Kernel for Rope<'_> {
    #[inline(always)]
    fn run(self) {
        let Rope { token, cos, sin, dim, sign } = self;
        let half = cos.len();
        for head in token.chunks_exact_mut(dim) {
            let (a, rest) = head.split_at_mut(half);
            for (((a, b), c), s) in a.iter_mut().zip(rest).zip(cos).zip(sin) {
                let s = s * sign;
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    }
}

pub(super) fn rotary(x: T, cos: T, sin: T, n_heads: usize, inverse: bool) -> T {
    let shape = x.shape();
    let [_, width] = shape.dims();
    let (cos, sin) = (contiguous(cos), contiguous(sin));
    let [_, half] = cos.shape().dims();
    let (cos, sin) = (values(&cos), values(&sin));
    let sign = if inverse { -1.0 } else { 1.0 };
    const TOKENS: usize = 32;
    let y = changed(x, width * TOKENS, |block, tokens| {
        for (i, token) in tokens.chunks_exact_mut(width).enumerate() {
            let at = (block * TOKENS + i) * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            vectorised(Rope { token, cos, sin, dim: width / n_heads, sign });
        }
    });
    new(y, shape)
}
