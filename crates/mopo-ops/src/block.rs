//! One block of phi on packed tokens and its gradients: a LayerNorm that feeds attention and
//! feed-forward, both added to the residual stream, with low-rank updates on any of its six linear
//! layers.
//!
//! What the gradients need is either kept from the forward pass or recomputed from the block's
//! input (gradient checkpointing); cheap parts are always recomputed.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use crate::linear::{linear, linear_backward};
use crate::sublayer::attend_with_store;
use crate::{FusedBackend, Heads, KvStore, LinearParams, PackedRows, PagedRow};

/// Number of linear layers of a block, in this order: queries, keys, values, attention output, and
/// the two of the feed-forward.
pub const LINEARS: usize = 6;
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const DENSE: usize = 3;
const FC1: usize = 4;
const FC2: usize = 5;

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

/// The block at `x`; with `keep`, also what [`backward`] needs.
pub(crate) fn forward<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &BlockParams<B>,
    context: &BlockContext<B>,
    keep: bool,
) -> (FloatTensor<B>, Option<Saved<B>>) {
    let BlockContext { rows, cos, sin, n_heads, epsilon, .. } = context;
    let n_heads = *n_heads;
    let normed =
        B::layer_norm_forward(x.clone(), params.gamma.clone(), params.beta.clone(), *epsilon);
    let at = |i: usize| linear::<B>(normed.clone(), &params.linears[i], None);
    let rope = |y| B::rotary(y, cos.clone(), sin.clone(), n_heads, false);
    let (q, low_rank_q) = at(Q);
    let (k, low_rank_k) = at(K);
    let (v, low_rank_v) = at(V);
    let (q, k) = (rope(q), rope(k));
    let attention =
        B::packed_attention(q.clone(), k.clone(), v.clone(), rows, &Heads::new(n_heads));
    // Freed as early as possible.
    let kept = keep.then_some((q, k, v));
    let (y, low_rank_dense) = linear::<B>(attention.clone(), &params.linears[DENSE], Some(x));
    let kept = kept.map(|qkv| (qkv, attention));
    let (pre_activation, low_rank_fc1) = linear::<B>(normed, &params.linears[FC1], None);
    let active = match keep {
        true => B::gelu_tanh(pre_activation.clone()),
        false => return (feed::<B>(pre_activation, params, y), None),
    };
    let (y, low_rank_fc2) = linear::<B>(active, &params.linears[FC2], Some(y));
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

/// The block at new tokens `x` of sequences whose past is in the stores `keys` and `values`, to which the new tokens
/// are written. Tokens after the last row's are computed, but seen by none. No gradients.
pub fn block_with_store<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &BlockParams<B>,
    context: &BlockContext<B>,
    stores: [KvStore<B>; 2],
    rows: &[PagedRow],
) -> (FloatTensor<B>, [KvStore<B>; 2]) {
    let BlockContext { cos, sin, n_heads, epsilon, .. } = context;
    let n_heads = *n_heads;
    let normed =
        B::layer_norm_forward(x.clone(), params.gamma.clone(), params.beta.clone(), *epsilon);
    let project = |i: usize| linear::<B>(normed.clone(), &params.linears[i], None).0;
    let rope = |y| B::rotary(y, cos.clone(), sin.clone(), n_heads, false);
    let (q, k, v) = (rope(project(Q)), rope(project(K)), project(V));
    let heads = Heads::new(n_heads);
    let (attention, stores) = attend_with_store::<B>([q, k, v], stores, rows, &heads);
    let pre_activation = project(FC1);
    let y = linear::<B>(attention, &params.linears[DENSE], Some(x)).0;
    (feed::<B>(pre_activation, params, y), stores)
}

/// The second half of the feed-forward, added to `y`.
fn feed<B: FusedBackend>(
    pre_activation: FloatTensor<B>,
    params: &BlockParams<B>,
    y: FloatTensor<B>,
) -> FloatTensor<B> {
    linear::<B>(B::gelu_tanh(pre_activation), &params.linears[FC2], Some(y)).0
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
    let BlockContext { rows, cos, sin, n_heads, epsilon, .. } = context;
    let n_heads = *n_heads;
    let Saved { q, k, v, attention, pre_activation, low_rank } = saved;
    let [low_rank_q, low_rank_k, low_rank_v, low_rank_dense, low_rank_fc1, low_rank_fc2] = low_rank;
    let mut linears: [[Option<FloatTensor<B>>; 4]; LINEARS] = Default::default();
    // Whether anything before the LayerNorm, or the LayerNorm itself, needs a gradient.
    let below = wanted.x || wanted.norm.contains(&true);
    let any = |i: usize| wanted.linears[i].contains(&true);
    let back = |i: usize, x: &_, low_rank, grad, want_x, dx| {
        linear_backward::<B>(x, &params.linears[i], low_rank, grad, wanted.linears[i], want_x, dx)
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
            let [dq, dk, dv] = B::packed_attention_backward(q, k, v, d, rows, &Heads::new(n_heads));
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
