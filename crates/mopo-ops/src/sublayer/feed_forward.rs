//! norm → feed-forward → residual.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use super::{
    FeedForwardParams, Gradients, POST_NORM, Wanted, onto, put_linear, through_norm,
    through_post_norm, wanted_linear,
};
use crate::FusedBackend;
use crate::linear::{linear, linear_backward};

const GATE: usize = 0;
const UP: usize = 1;
const DOWN: usize = 2;

/// Activations that the backward pass needs.
#[derive(Debug, Clone)]
pub(crate) struct Saved<B: Backend> {
    gate: Option<FloatTensor<B>>,
    up: FloatTensor<B>,
    /// After the last projection, if a norm follows.
    projected: Option<FloatTensor<B>>,
    /// Low-rank hidden `scale · x · A` of each update.
    low_rank: [Option<FloatTensor<B>>; 3],
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
    let (gate, low_gate) = match &params.gate {
        None => (None, None),
        Some(gate) => {
            let (y, low_rank) = linear::<B>(normed.clone(), gate, None);
            (Some(y), low_rank)
        }
    };
    let (up, low_up) = linear::<B>(normed, &params.up, None);
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
    let low_rank = [low_gate, low_up, low_down];
    (y, kept.map(|(gate, up)| Saved { gate, up, projected, low_rank }))
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
    let Saved { gate, up, projected, low_rank: [low_gate, low_up, low_down] } = saved;
    let mut out: Gradients<B> = [const { None }; super::PARENTS];
    let any = |i: usize| wanted_linear(wanted, i).contains(&true);
    let below = wanted[0] || wanted[1] || wanted[2];
    let within = below || any(GATE) || any(UP);
    if !(within || any(DOWN) || wanted[POST_NORM]) {
        return out;
    }
    let post_norm = params.post_norm.as_ref().zip(projected);
    let d = through_post_norm::<B>(post_norm, &grad, wanted, &mut out);
    let product = active::<B>(params, gate.clone(), up.clone());
    let (d_active, own) = linear_backward::<B>(
        &product,
        &params.down,
        low_down,
        d,
        wanted_linear(wanted, DOWN),
        within,
        None,
    );
    put_linear::<B>(&mut out, DOWN, own);
    let Some(d) = d_active else { return out };
    let (d_gate, d_up) = match gate {
        None => (None, params.activation.backward::<B>(up, d)),
        Some(gate) => {
            let d_up = B::float_mul(params.activation.forward::<B>(gate.clone()), d.clone());
            let d_gate = params.activation.backward::<B>(gate, B::float_mul(d, up));
            (Some(d_gate), d_up)
        }
    };
    let normed = params.norm.forward(x.clone());
    let mut d_normed = None;
    let gate = params.gate.as_ref().zip(d_gate).map(|(gate, d)| (GATE, gate, low_gate, d));
    for (i, layer, low_rank, d) in gate.into_iter().chain([(UP, &params.up, low_up, d_up)]) {
        let own;
        (d_normed, own) = linear_backward::<B>(
            &normed,
            layer,
            low_rank,
            d,
            wanted_linear(wanted, i),
            below,
            d_normed,
        );
        put_linear::<B>(&mut out, i, own);
    }
    through_norm::<B>(&params.norm, x, d_normed, grad, wanted, &mut out);
    out
}
