//! GELU, SiLU and rotary embedding in burn's own operations.

use std::f32::consts::FRAC_1_SQRT_2;

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Slice, TensorMetadata};

use crate::FusedBackend;

/// √(2/π).
const ROOT: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

pub(crate) fn gelu<B: FusedBackend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let square = B::float_mul(x.clone(), x.clone());
    let u = B::float_add_scalar(B::float_mul_scalar(square, (ROOT * CUBIC).into()), ROOT.into());
    let t = B::float_tanh(B::float_mul(u, x.clone()));
    B::float_mul_scalar(B::float_mul(x, B::float_add_scalar(t, 1f32.into())), 0.5f32.into())
}

/// With t = tanh(u): `½ (1 + t) + ½ x (1 − t²) du/dx`.
pub(crate) fn gelu_backward<B: FusedBackend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let line = |square, slope: f32| {
        B::float_add_scalar(B::float_mul_scalar(square, slope.into()), ROOT.into())
    };
    let square = B::float_mul(x.clone(), x.clone());
    let u = B::float_mul(line(square.clone(), ROOT * CUBIC), x.clone());
    let t = B::float_tanh(u);
    let fall =
        B::float_neg(B::float_add_scalar(B::float_mul(t.clone(), t.clone()), (-1f32).into()));
    let tanh_slope = B::float_mul(B::float_mul(x, fall), line(square, 3.0 * ROOT * CUBIC));
    let slope = B::float_add(B::float_add_scalar(t, 1f32.into()), tanh_slope);
    B::float_mul_scalar(B::float_mul(grad, slope), 0.5f32.into())
}

/// `1 + erf(x/√2)`.
fn twice_phi<B: FusedBackend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let erf = B::float_erf(B::float_mul_scalar(x, FRAC_1_SQRT_2.into()));
    B::float_add_scalar(erf, 1f32.into())
}

pub(crate) fn gelu_erf<B: FusedBackend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let twice = B::float_mul(x.clone(), twice_phi::<B>(x));
    B::float_mul_scalar(twice, 0.5f32.into())
}

/// With the normal distribution Φ and its density φ: `Φ(x) + x φ(x)`.
pub(crate) fn gelu_erf_backward<B: FusedBackend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let square = B::float_mul(x.clone(), x.clone());
    let bell = B::float_exp(B::float_mul_scalar(square, (-0.5f32).into()));
    // ROOT is 2 · φ(0).
    let phi_slope = B::float_mul_scalar(B::float_mul(x.clone(), bell), ROOT.into());
    let slope = B::float_add(twice_phi::<B>(x), phi_slope);
    B::float_mul_scalar(B::float_mul(grad, slope), 0.5f32.into())
}

fn sigmoid<B: FusedBackend>(x: FloatTensor<B>) -> FloatTensor<B> {
    // By tanh: neither overflows nor needs a reciprocal.
    let t = B::float_tanh(B::float_mul_scalar(x, 0.5f32.into()));
    B::float_mul_scalar(B::float_add_scalar(t, 1f32.into()), 0.5f32.into())
}

pub(crate) fn silu<B: FusedBackend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(x.clone(), sigmoid::<B>(x))
}

/// With s = σ(x): `s + x s (1 − s)`.
pub(crate) fn silu_backward<B: FusedBackend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let s = sigmoid::<B>(x.clone());
    let rest = B::float_add_scalar(B::float_neg(s.clone()), 1f32.into());
    let slope = B::float_add_scalar(B::float_mul(x, rest), 1f32.into());
    B::float_mul(grad, B::float_mul(s, slope))
}

pub(crate) fn rotary<B: FusedBackend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
    n_heads: usize,
    inverse: bool,
) -> FloatTensor<B> {
    let (n, width, half) = (x.shape()[0], x.shape()[1], cos.shape()[1]);
    let dim = width / n_heads;
    let heads = B::float_reshape(x, Shape::new([n, n_heads, dim]));
    let part = |from: usize, to: usize| {
        B::float_slice(heads.clone(), &[Slice::full(), Slice::full(), Slice::from(from..to)])
    };
    let table = |t: FloatTensor<B>| B::float_reshape(t, Shape::new([n, 1, half]));
    let (cos, sin) = (table(cos), table(sin));
    let sin = if inverse { B::float_neg(sin) } else { sin };
    let (a, b) = (part(0, half), part(half, 2 * half));
    let times = |x: &FloatTensor<B>, y: &FloatTensor<B>| B::float_mul(x.clone(), y.clone());
    let mut parts = vec![
        B::float_sub(times(&a, &cos), times(&b, &sin)),
        B::float_add(times(&b, &cos), times(&a, &sin)),
    ];
    if 2 * half < dim {
        parts.push(part(2 * half, dim));
    }
    B::float_reshape(B::float_cat(parts, 2), Shape::new([n, width]))
}
