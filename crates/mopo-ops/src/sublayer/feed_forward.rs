//! norm → feed-forward → residual.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use super::{
    FeedForwardParams, Gradients, POST_NORM, Wanted, inputs, onto, put_linear, through_norm,
    through_post_norm, wanted_linear,
};
use crate::FusedBackend;
use crate::linear::{linear, linear_backward};

/// The place of the last layer among the linear layers; those before it are the inputs.
pub(super) const DOWN: usize = 2;

/// Activations that the backward pass needs.
#[derive(Debug, Clone)]
pub(crate) struct Saved<B: Backend> {
    gate: Option<FloatTensor<B>>,
    up: FloatTensor<B>,
    /// After the last projection, if a norm follows.
    projected: Option<FloatTensor<B>>,
    /// Low-rank hidden `scale · x · A` of each update of an input.
    low_rank: Vec<Option<FloatTensor<B>>>,
    /// The same of the last layer.
    low_down: Option<FloatTensor<B>>,
}

/// `activation(gate) · up`, or `activation(up)`.
fn active<B: FusedBackend>(
    params: &FeedForwardParams<B>,
    gate: Option<FloatTensor<B>>,
    up: FloatTensor<B>,
) -> FloatTensor<B> {
    match gate {
        None => params.activation.forward::<B>(up),
        Some(gate) => B::float_mul(params.activation.forward::<B>(gate), up),
    }
}

/// The sub-layer at `x`; with `keep`, also what [`backward`] needs.
pub(crate) fn forward<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &FeedForwardParams<B>,
    keep: bool,
) -> (FloatTensor<B>, Option<Saved<B>>) {
    let normed = params.norm.forward(x.clone());
    let (gate, up, low_rank) = match params.is_gated {
        false => {
            let ([up], low_rank) = inputs::project::<B, 1>(&normed, &params.inputs, [1]);
            (None, up, low_rank)
        }
        true => {
            let ([gate, up], low_rank) = inputs::project::<B, 2>(&normed, &params.inputs, [1, 1]);
            (Some(gate), up, low_rank)
        }
    };
    let kept = keep.then(|| (gate.clone(), up.clone()));
    let active = active::<B>(params, gate, up);
    let (y, projected, low_down) = match &params.post_norm {
        None => {
            let (y, low_rank) = linear::<B>(active, &params.down, Some(x));
            (y, None, low_rank)
        }
        norm => {
            let (y, low_rank) = linear::<B>(active, &params.down, None);
            (onto::<B>(x, y.clone(), norm.as_ref()), Some(y), low_rank)
        }
    };
    (y, kept.map(|(gate, up)| Saved { gate, up, projected, low_rank, low_down }))
}

/// The gradients of [`forward`] at `x`, given the gradient of its result.
pub(crate) fn backward<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &FeedForwardParams<B>,
    saved: Option<Saved<B>>,
    grad: FloatTensor<B>,
    wanted: &Wanted,
) -> Gradients<B> {
    let saved = match saved {
        Some(saved) => saved,
        None => forward::<B>(x.clone(), params, true).1.expect("asked to keep"),
    };
    let Saved { gate, up, projected, low_rank, low_down } = saved;
    let mut out: Gradients<B> = [const { None }; super::PARENTS];
    let below = wanted[0] || wanted[1] || wanted[2];
    let within = below || inputs::any_wanted(wanted, params.inputs.len());
    let of_down = wanted_linear(wanted, DOWN);
    if !(within || of_down.contains(&true) || wanted[POST_NORM]) {
        return out;
    }
    let post_norm = params.post_norm.as_ref().zip(projected);
    let d = through_post_norm::<B>(post_norm, &grad, wanted, &mut out);
    let product = active::<B>(params, gate.clone(), up.clone());
    let (d_active, own) =
        linear_backward::<B>(&product, &params.down, low_down, d, of_down, within, None);
    put_linear::<B>(&mut out, DOWN, own);
    let Some(d) = d_active else { return out };
    let normed = params.norm.forward(x.clone());
    let layers = &params.inputs;
    let d_normed = match gate {
        None => {
            let grads = [params.activation.backward::<B>(up, d)];
            inputs::backward::<B, 1>(&normed, layers, low_rank, grads, below, wanted, &mut out)
        }
        Some(gate) => {
            let d_up = B::float_mul(params.activation.forward::<B>(gate.clone()), d.clone());
            let d_gate = params.activation.backward::<B>(gate, B::float_mul(d, up));
            let grads = [d_gate, d_up];
            inputs::backward::<B, 2>(&normed, layers, low_rank, grads, below, wanted, &mut out)
        }
    };
    through_norm::<B>(&params.norm, x, d_normed, grad, wanted, &mut out);
    out
}
