//! The two halves of a sequential block, as Llama, Qwen, Mistral and Gemma have them: norm → attention → residual, and
//! norm → feed-forward → residual, each with hand-written gradients.
//!
//! What the gradients need is either kept from the forward pass or recomputed from the input (gradient checkpointing);
//! cheap parts are always recomputed.

mod attention;
mod feed_forward;
mod inputs;
mod node;

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, TensorMetadata};

use crate::{FusedBackend, Gelu, Heads, LinearParams, PackedRows};

pub(crate) use attention::attend_with_store;
pub use attention::attention_with_store;
pub(crate) use node::{attention_node, feed_forward_node, plain_norm};

/// The bodies in other operations, which are differentiable too.
pub(crate) fn attention_forward<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &AttentionParams<B>,
    context: &SublayerContext<B>,
) -> FloatTensor<B> {
    attention::forward::<B>(x, params, context, false).0
}

pub(crate) fn feed_forward_forward<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &FeedForwardParams<B>,
) -> FloatTensor<B> {
    feed_forward::forward::<B>(x, params, false).0
}

/// What a norm computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Mean 0 and variance 1, times gamma, plus beta.
    Layer,
    /// Mean square 1, times gamma.
    Rms,
    /// Mean square 1, times 1 + gamma, as in Gemma.
    RmsPlusOne,
}

/// A norm.
#[derive(Debug, Clone)]
pub struct NormParams<B: Backend> {
    /// What it computes.
    pub kind: NormKind,
    /// `[features]`.
    pub gamma: FloatTensor<B>,
    /// `[features]`, of [`NormKind::Layer`] only.
    pub beta: Option<FloatTensor<B>>,
    /// Added to the variance or the mean square.
    pub epsilon: f64,
}

/// The function between the layers of a feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU in either form.
    Gelu(Gelu),
    /// `x · σ(x)`.
    Silu,
}

/// norm → attention → residual.
#[derive(Debug, Clone)]
pub struct AttentionParams<B: Backend> {
    /// Before the projections.
    pub norm: NormParams<B>,
    /// Queries, keys and values: a layer for each, or one for all, whose outputs follow each other in this order.
    pub inputs: Vec<LinearParams<B>>,
    /// After the attention.
    pub output: LinearParams<B>,
    /// Of each head of queries and of keys, before the rotary embedding; of a kind without beta.
    pub head_norms: Option<[NormParams<B>; 2]>,
    /// After the output projection, before the residual; of a kind without beta.
    pub post_norm: Option<NormParams<B>>,
}

/// norm → feed-forward → residual: `down(activation(gate) · up)`, or `down(activation(up))` without a gate.
#[derive(Debug, Clone)]
pub struct FeedForwardParams<B: Backend> {
    /// Before the projections.
    pub norm: NormParams<B>,
    /// Gate, if there is one, and up: a layer for each, `[hidden, intermediate]`, or one for both, whose outputs follow
    /// each other.
    pub inputs: Vec<LinearParams<B>>,
    /// Whether there is a gate.
    pub is_gated: bool,
    /// `[intermediate, hidden]`.
    pub down: LinearParams<B>,
    /// Of the gate, or of `up` without one.
    pub activation: Activation,
    /// After the last projection, before the residual; of a kind without beta.
    pub post_norm: Option<NormParams<B>>,
}

/// Inputs of a sub-layer besides its parameters, shared by all of a pass.
#[derive(Debug, Clone)]
pub struct SublayerContext<B: Backend> {
    /// Which tokens attend to each other.
    pub rows: Arc<PackedRows>,
    /// Cosines of the rotary embedding at each token's position, `[n_tokens, half]`.
    pub cos: FloatTensor<B>,
    /// Sines, likewise.
    pub sin: FloatTensor<B>,
    /// Attention heads.
    pub heads: Heads,
    /// Keep only the input and recompute the sub-layer for its gradients.
    pub checkpoint: bool,
}

/// Tensors of a sub-layer that may need a gradient, in this order: x; gamma and beta of the norm; weight, bias, A and
/// B of each of up to four linear layers; gammas of the norms of queries' and keys' heads; gamma of the last norm.
pub(crate) const PARENTS: usize = 3 + 4 * 4 + 3;
const LINEARS: usize = 3;
const HEAD_NORMS: usize = 19;
const POST_NORM: usize = 21;

/// Which gradients are wanted, and the gradients.
pub(crate) type Wanted = [bool; PARENTS];
pub(crate) type Gradients<B> = [Option<FloatTensor<B>>; PARENTS];

/// Weight, bias, A and B of the linear layer `i`.
fn wanted_linear(wanted: &Wanted, i: usize) -> [bool; 4] {
    std::array::from_fn(|j| wanted[LINEARS + 4 * i + j])
}

fn put_linear<B: Backend>(
    gradients: &mut Gradients<B>,
    i: usize,
    own: [Option<FloatTensor<B>>; 4],
) {
    for (to, own) in gradients[LINEARS + 4 * i..].iter_mut().zip(own) {
        *to = own;
    }
}

/// The gradient of a sub-layer's last projection, given that of its result: through the norm after it and that norm's
/// input, if there are any.
fn through_post_norm<B: FusedBackend>(
    post_norm: Option<(&NormParams<B>, FloatTensor<B>)>,
    grad: &FloatTensor<B>,
    wanted: &Wanted,
    out: &mut Gradients<B>,
) -> FloatTensor<B> {
    let Some((norm, y)) = post_norm else { return grad.clone() };
    if wanted[POST_NORM] {
        [out[POST_NORM], _] = norm.parameter_gradients(y.clone(), grad.clone());
    }
    norm.backward(None, y, grad.clone())
}

/// The gradients of the first norm and, with that of the residual, `grad`, of x; `d_normed` is that of the norm's result,
/// if anything below needs it.
fn through_norm<B: FusedBackend>(
    norm: &NormParams<B>,
    x: FloatTensor<B>,
    d_normed: Option<FloatTensor<B>>,
    grad: FloatTensor<B>,
    wanted: &Wanted,
    out: &mut Gradients<B>,
) {
    let Some(d) = d_normed else { return };
    if wanted[1] || wanted[2] {
        [out[1], out[2]] = norm.parameter_gradients(x.clone(), d.clone());
    }
    if wanted[0] {
        out[0] = Some(norm.backward(Some(grad), x, d));
    }
}

impl<B: FusedBackend> NormParams<B> {
    fn plus_one(&self) -> bool {
        self.kind == NormKind::RmsPlusOne
    }

    pub(crate) fn forward(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        match (self.kind, &self.beta) {
            (NormKind::Layer, Some(beta)) => {
                B::layer_norm_forward(x, self.gamma.clone(), beta.clone(), self.epsilon)
            }
            (NormKind::Layer, None) => panic!("a LayerNorm has a beta"),
            _ => B::rms_norm_forward(x, self.gamma.clone(), self.epsilon, self.plus_one()),
        }
    }

    /// `init` + the gradient of x.
    pub(crate) fn backward(
        &self,
        init: Option<FloatTensor<B>>,
        x: FloatTensor<B>,
        grad: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let gamma = self.gamma.clone();
        match self.kind {
            NormKind::Layer => B::layer_norm_backward(init, x, gamma, grad, self.epsilon),
            _ => B::rms_norm_backward(init, x, gamma, grad, self.epsilon, self.plus_one()),
        }
    }

    /// The gradients of gamma and beta.
    pub(crate) fn parameter_gradients(
        &self,
        x: FloatTensor<B>,
        grad: FloatTensor<B>,
    ) -> [Option<FloatTensor<B>>; 2] {
        match self.kind {
            NormKind::Layer => B::layer_norm_parameter_gradients(x, grad, self.epsilon).map(Some),
            _ => [Some(B::rms_norm_parameter_gradient(x, grad, self.epsilon)), None],
        }
    }

    /// The norm of every head: `x` is `[n, heads · dim]` and gamma `[dim]`.
    fn of_heads(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let shape = x.shape();
        B::float_reshape(self.forward(heads_as_tokens::<B>(x, &self.gamma)), shape)
    }
}

/// `[n, heads · dim]` as `[n · heads, dim]`.
fn heads_as_tokens<B: FusedBackend>(x: FloatTensor<B>, gamma: &FloatTensor<B>) -> FloatTensor<B> {
    let (n, width, dim) = (x.shape()[0], x.shape()[1], gamma.shape()[0]);
    B::float_reshape(x, Shape::new([n * (width / dim), dim]))
}

/// `x + post_norm(y)`.
fn onto<B: FusedBackend>(
    x: FloatTensor<B>,
    y: FloatTensor<B>,
    post_norm: Option<&NormParams<B>>,
) -> FloatTensor<B> {
    match post_norm {
        None => B::float_add(x, y),
        Some(norm) => B::float_add(x, norm.forward(y)),
    }
}

impl Activation {
    fn forward<B: FusedBackend>(self, x: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Gelu(Gelu::Tanh) => B::gelu_tanh(x),
            Self::Gelu(Gelu::Erf) => B::gelu_erf(x),
            Self::Silu => B::silu(x),
        }
    }

    fn backward<B: FusedBackend>(self, x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Gelu(Gelu::Tanh) => B::gelu_tanh_backward(x, grad),
            Self::Gelu(Gelu::Erf) => B::gelu_erf_backward(x, grad),
            Self::Silu => B::silu_backward(x, grad),
        }
    }
}
