//! One block of phi on packed tokens and its gradients: a LayerNorm that feeds attention and
//! feed-forward, both added to the residual stream, with low-rank updates on any of its six linear
//! layers.
//!
//! What the gradients need is either kept from the forward pass or recomputed from the block's
//! input (gradient checkpointing); cheap parts are always recomputed.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, TensorMetadata};

use crate::{FusedBackend, Init, KvStore, Matrix, PackedRows};

/// Number of linear layers of a block, in this order: queries, keys, values, attention output, and
/// the two of the feed-forward.
pub const LINEARS: usize = 6;
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const DENSE: usize = 3;
const FC1: usize = 4;
const FC2: usize = 5;

/// A low-rank update: `x · A · B`, scaled.
#[derive(Debug, Clone)]
pub struct LoraParams<B: Backend> {
    /// `[inputs, rank]`.
    pub a: FloatTensor<B>,
    /// `[rank, outputs]`.
    pub b: FloatTensor<B>,
    /// The mask on x before A, `[n_tokens, inputs]`: 0 or 1 / (1 − dropout).
    pub dropout: Option<FloatTensor<B>>,
}

/// A linear layer.
#[derive(Debug, Clone)]
pub struct LinearParams<B: Backend> {
    /// `[inputs, outputs]`.
    pub weight: Matrix<B>,
    /// `[outputs]`.
    pub bias: FloatTensor<B>,
    /// The low-rank update.
    pub lora: Option<LoraParams<B>>,
}

/// The parameters of a block.
#[derive(Debug, Clone)]
pub struct BlockParams<B: Backend> {
    /// Scale of the LayerNorm, `[features]`.
    pub gamma: FloatTensor<B>,
    /// Offset of the LayerNorm, `[features]`.
    pub beta: FloatTensor<B>,
    /// In the order of [`LINEARS`].
    pub linears: [LinearParams<B>; LINEARS],
}

/// Inputs of a block besides its parameters, shared by all blocks of a pass.
#[derive(Debug, Clone)]
pub struct BlockContext<B: Backend> {
    /// Which tokens attend to each other.
    pub rows: Arc<PackedRows>,
    /// Cosines of the rotary embedding at each token's position, `[n_tokens, half]`.
    pub cos: FloatTensor<B>,
    /// Sines, likewise.
    pub sin: FloatTensor<B>,
    /// Attention heads.
    pub n_heads: usize,
    /// Added to the variance in LayerNorm.
    pub epsilon: f64,
    /// Scale of all low-rank updates.
    pub lora_scale: f64,
    /// Keep only the block's input and recompute the block for its gradients.
    pub checkpoint: bool,
}

/// Activations that the backward pass needs.
#[derive(Debug, Clone)]
pub(crate) struct Saved<B: Backend> {
    /// Queries and keys with rotary embedding, and values.
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    /// Attention output, before the output projection.
    attention: FloatTensor<B>,
    /// Pre-activation of the GELU.
    pre_activation: FloatTensor<B>,
    /// Low-rank hidden `scale · x · A` of each update.
    low_rank: [Option<FloatTensor<B>>; LINEARS],
}

/// Which gradients are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) x: bool,
    pub(crate) norm: [bool; 2],
    /// Weight, bias, A, B.
    pub(crate) linears: [[bool; 4]; LINEARS],
}

/// The gradients: of x, of gamma and beta, and of weight, bias, A and B of each linear layer.
#[derive(Debug)]
pub(crate) struct Gradients<B: Backend> {
    pub(crate) x: Option<FloatTensor<B>>,
    pub(crate) norm: Option<[FloatTensor<B>; 2]>,
    pub(crate) linears: [[Option<FloatTensor<B>>; 4]; LINEARS],
}

/// The input of A: x, with dropout if there is any.
fn dropped<B: FusedBackend>(x: FloatTensor<B>, lora: &LoraParams<B>) -> FloatTensor<B> {
    match &lora.dropout {
        None => x,
        Some(mask) => B::float_mul(x, mask.clone()),
    }
}

/// `add + x · W + b + scale · x · A · B`, and `scale · x · A`.
pub(crate) fn linear<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &LinearParams<B>,
    add: Option<FloatTensor<B>>,
    scale: f64,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let init = Init { add, bias: Some(params.bias.clone()) };
    let y = B::weight_matmul(init, x.clone(), &params.weight, false);
    match &params.lora {
        None => (y, None),
        Some(lora) => {
            let x = dropped::<B>(x, lora);
            let low_rank = B::gemm(Init::zero(), scale, x, false, lora.a.clone(), false);
            let y =
                B::gemm(Init::add(Some(y)), 1.0, low_rank.clone(), false, lora.b.clone(), false);
            (y, Some(low_rank))
        }
    }
}

/// The gradients of [`linear`]. The gradient of x is added to `dx`, if that is given or `want_x`.
#[allow(clippy::too_many_arguments)]
fn linear_backward<B: FusedBackend>(
    x: &FloatTensor<B>,
    params: &LinearParams<B>,
    low_rank: Option<FloatTensor<B>>,
    grad: FloatTensor<B>,
    scale: f64,
    wanted: [bool; 4],
    want_x: bool,
    mut dx: Option<FloatTensor<B>>,
) -> (Option<FloatTensor<B>>, [Option<FloatTensor<B>>; 4]) {
    let mut out = [None, None, None, None];
    if let (Some(lora), Some(low_rank)) = (&params.lora, low_rank) {
        if wanted[3] {
            out[3] = Some(B::gemm(Init::zero(), 1.0, low_rank, true, grad.clone(), false));
        }
        if wanted[2] || want_x {
            let d = B::gemm(Init::zero(), scale, grad.clone(), false, lora.b.clone(), true);
            if wanted[2] {
                let x = dropped::<B>(x.clone(), lora);
                out[2] = Some(B::gemm(Init::zero(), 1.0, x, true, d.clone(), false));
            }
            if want_x {
                dx = Some(match &lora.dropout {
                    None => B::gemm(Init::add(dx), 1.0, d, false, lora.a.clone(), true),
                    Some(mask) => {
                        let d = B::gemm(Init::zero(), 1.0, d, false, lora.a.clone(), true);
                        let d = B::float_mul(d, mask.clone());
                        match dx {
                            None => d,
                            Some(dx) => B::float_add(dx, d),
                        }
                    }
                });
            }
        }
    }
    if wanted[0] {
        out[0] = Some(B::gemm(Init::zero(), 1.0, x.clone(), true, grad.clone(), false));
    }
    if wanted[1] {
        let n = grad.shape()[1];
        out[1] = Some(B::float_reshape(B::float_sum_dim(grad.clone(), 0), Shape::new([n])));
    }
    if want_x {
        dx = Some(B::weight_matmul(Init::add(dx), grad, &params.weight, true));
    }
    (dx, out)
}

/// The block at `x`; with `keep`, also what [`backward`] needs.
pub(crate) fn forward<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &BlockParams<B>,
    context: &BlockContext<B>,
    keep: bool,
) -> (FloatTensor<B>, Option<Saved<B>>) {
    let BlockContext { rows, cos, sin, n_heads, epsilon, lora_scale, .. } = context;
    let (n_heads, scale) = (*n_heads, *lora_scale);
    let normed =
        B::layer_norm_forward(x.clone(), params.gamma.clone(), params.beta.clone(), *epsilon);
    let at = |i: usize| linear::<B>(normed.clone(), &params.linears[i], None, scale);
    let rope = |y| B::rotary(y, cos.clone(), sin.clone(), n_heads, false);
    let (q, low_rank_q) = at(Q);
    let (k, low_rank_k) = at(K);
    let (v, low_rank_v) = at(V);
    let (q, k) = (rope(q), rope(k));
    let attention = B::packed_attention(q.clone(), k.clone(), v.clone(), rows, n_heads);
    // Freed as early as possible.
    let kept = keep.then_some((q, k, v));
    let (y, low_rank_dense) =
        linear::<B>(attention.clone(), &params.linears[DENSE], Some(x), scale);
    let kept = kept.map(|qkv| (qkv, attention));
    let (pre_activation, low_rank_fc1) = linear::<B>(normed, &params.linears[FC1], None, scale);
    let active = match keep {
        true => B::gelu_tanh(pre_activation.clone()),
        false => return (feed::<B>(pre_activation, params, y, scale), None),
    };
    let (y, low_rank_fc2) = linear::<B>(active, &params.linears[FC2], Some(y), scale);
    let saved = kept.map(|((q, k, v), attention)| Saved {
        q,
        k,
        v,
        attention,
        pre_activation,
        low_rank: [low_rank_q, low_rank_k, low_rank_v, low_rank_dense, low_rank_fc1, low_rank_fc2],
    });
    (y, saved)
}

/// The block at new tokens `x` of sequences whose past is in the stores `keys` and `values`, to
/// which the new tokens are written at `at[i] = (row, position)`. Without `lens` the tokens are the
/// beginnings of all rows of `context.rows`; with it there is one token per row, and `lens` are the
/// lengths of the past, the new token included. No gradients.
pub fn block_with_store<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &BlockParams<B>,
    context: &BlockContext<B>,
    [keys, values]: [KvStore<B>; 2],
    at: &[(usize, usize)],
    lens: Option<&[usize]>,
) -> (FloatTensor<B>, [KvStore<B>; 2]) {
    let BlockContext { rows, cos, sin, n_heads, epsilon, lora_scale, .. } = context;
    let (n_heads, scale) = (*n_heads, *lora_scale);
    let normed =
        B::layer_norm_forward(x.clone(), params.gamma.clone(), params.beta.clone(), *epsilon);
    let project = |i: usize| linear::<B>(normed.clone(), &params.linears[i], None, scale).0;
    let rope = |y| B::rotary(y, cos.clone(), sin.clone(), n_heads, false);
    let (q, k, v) = (rope(project(Q)), rope(project(K)), project(V));
    let keys = B::kv_write(keys, k.clone(), at);
    let values = B::kv_write(values, v.clone(), at);
    let attention = match lens {
        None => B::packed_attention(q, k, v, rows, n_heads),
        Some(lens) => B::attention_cached(q, &keys, &values, lens, n_heads),
    };
    let pre_activation = project(FC1);
    let y = linear::<B>(attention, &params.linears[DENSE], Some(x), scale).0;
    (feed::<B>(pre_activation, params, y, scale), [keys, values])
}

/// The second half of the feed-forward, added to `y`.
fn feed<B: FusedBackend>(
    pre_activation: FloatTensor<B>,
    params: &BlockParams<B>,
    y: FloatTensor<B>,
    scale: f64,
) -> FloatTensor<B> {
    linear::<B>(B::gelu_tanh(pre_activation), &params.linears[FC2], Some(y), scale).0
}

/// The gradients of [`forward`] at `x`, given the gradient of its result.
pub(crate) fn backward<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &BlockParams<B>,
    context: &BlockContext<B>,
    saved: Option<Saved<B>>,
    grad: FloatTensor<B>,
    wanted: &Wanted,
) -> Gradients<B> {
    let saved = match saved {
        Some(saved) => saved,
        None => forward::<B>(x.clone(), params, context, true).1.expect("asked to keep"),
    };
    let BlockContext { rows, cos, sin, n_heads, epsilon, lora_scale, .. } = context;
    let (n_heads, scale) = (*n_heads, *lora_scale);
    let Saved { q, k, v, attention, pre_activation, low_rank } = saved;
    let [low_rank_q, low_rank_k, low_rank_v, low_rank_dense, low_rank_fc1, low_rank_fc2] = low_rank;
    let mut linears: [[Option<FloatTensor<B>>; 4]; LINEARS] = Default::default();
    // Whether anything before the LayerNorm, or the LayerNorm itself, needs a gradient.
    let below = wanted.x || wanted.norm.contains(&true);
    let any = |i: usize| wanted.linears[i].contains(&true);
    let back = |i: usize, x: &_, low_rank, grad, want_x, dx| {
        linear_backward::<B>(
            x,
            &params.linears[i],
            low_rank,
            grad,
            scale,
            wanted.linears[i],
            want_x,
            dx,
        )
    };

    let want_fc1 = below || any(FC1);
    let d_pre_activation = if want_fc1 || any(FC2) {
        let active = B::gelu_tanh(pre_activation.clone());
        let (d_active, own) = back(FC2, &active, low_rank_fc2, grad.clone(), want_fc1, None);
        linears[FC2] = own;
        d_active.map(|d| B::gelu_tanh_backward(pre_activation, d))
    } else {
        None
    };
    let want_qkv = below || any(Q) || any(K) || any(V);
    let d_qkv = if want_qkv || any(DENSE) {
        let (d_attention, own) =
            back(DENSE, &attention, low_rank_dense, grad.clone(), want_qkv, None);
        linears[DENSE] = own;
        d_attention.map(|d| {
            let [dq, dk, dv] = B::packed_attention_backward(q, k, v, d, rows, n_heads);
            let rope = |d| B::rotary(d, cos.clone(), sin.clone(), n_heads, true);
            [rope(dq), rope(dk), dv]
        })
    } else {
        None
    };

    let normed =
        B::layer_norm_forward(x.clone(), params.gamma.clone(), params.beta.clone(), *epsilon);
    let mut d_normed = None;
    if let Some(d) = d_pre_activation {
        (d_normed, linears[FC1]) = back(FC1, &normed, low_rank_fc1, d, below, d_normed);
    }
    if let Some([dq, dk, dv]) = d_qkv {
        for (i, low_rank, d) in [(Q, low_rank_q, dq), (K, low_rank_k, dk), (V, low_rank_v, dv)] {
            (d_normed, linears[i]) = back(i, &normed, low_rank, d, below, d_normed);
        }
    }
    let norm = match &d_normed {
        Some(d) if wanted.norm.contains(&true) => {
            Some(B::layer_norm_parameter_gradients(x.clone(), d.clone(), *epsilon))
        }
        _ => None,
    };
    let dx = wanted.x.then(|| {
        let d = d_normed.expect("it is wanted below");
        B::layer_norm_backward(Some(grad), x, params.gamma.clone(), d, *epsilon)
    });
    Gradients { x: dx, norm, linears }
}
