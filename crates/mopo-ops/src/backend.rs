//! The operations that a backend provides for a transformer. Every method has a body in burn's own
//! operations, so a new backend needs only an empty `impl`; one with its own kernels overrides the
//! methods where that pays.
//!
//! Methods whose name ends in `_backward` are the gradients of the method without it. `Autodiff`
//! overrides only [`FusedBackend::parallel_block`], [`FusedBackend::linear_log_prob`],
//! [`FusedBackend::updated_log_prob`] and methods whose name ends in `_op`; all others are differentiable on `Autodiff` through their bodies,
//! which is what tests compare the gradients with.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::{FloatTensor, IntTensor};

use crate::block::{self, BlockContext, BlockParams};
use crate::{
    AttentionParams, FeedForwardParams, Heads, Matrix, NormParams, OutputParams, PackedRows,
    PagedRow, QuantisedMatrix, SublayerContext, UpdatedLayers, UpdatedLayersGradients, generic,
    sublayer,
};

/// What a product is added to: nothing, a tensor of its shape, a bias, or both.
#[derive(Debug, Clone)]
pub struct Init<B: Backend> {
    /// `[rows, outputs]`.
    pub add: Option<FloatTensor<B>>,
    /// `[outputs]`.
    pub bias: Option<FloatTensor<B>>,
}

impl<B: Backend> Init<B> {
    /// Nothing.
    pub fn zero() -> Self {
        Self { add: None, bias: None }
    }

    /// A tensor `[rows, outputs]`, or nothing.
    pub fn add(tensor: Option<FloatTensor<B>>) -> Self {
        Self { add: tensor, bias: None }
    }
}

/// The two forms of GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, called `gelu_new` or `gelu_pytorch_tanh`.
    Tanh,
    /// `x/2 · (1 + erf(x/√2))`, called `gelu`.
    Erf,
}

/// Elements that are squared and summed together.
pub const SQUARES_PART: usize = 16 * 1024;

/// The numbers of one step of Adam.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamFactors {
    /// Decay of the mean of the gradients.
    pub beta_1: f32,
    /// Decay of the mean of their squares.
    pub beta_2: f32,
    /// Learning rate divided by the correction of the first mean, 1 − β₁ᵗ.
    pub rate: f32,
    /// 1 / (1 − β₂ᵗ).
    pub correction_2: f32,
    /// Added to the square root of the mean of squares.
    pub epsilon: f32,
}

impl AdamFactors {
    /// The numbers of step `t`, counted from 1.
    pub fn new(learning_rate: f64, [beta_1, beta_2]: [f64; 2], epsilon: f64, t: usize) -> Self {
        let correction = |beta: f64| 1.0 - beta.powi(i32::try_from(t).unwrap_or(i32::MAX));
        Self {
            beta_1: beta_1 as f32,
            beta_2: beta_2 as f32,
            rate: (learning_rate / correction(beta_1)) as f32,
            correction_2: (1.0 / correction(beta_2)) as f32,
            epsilon: epsilon as f32,
        }
    }
}

/// Keys or values of past tokens, in blocks: `[n_blocks, tokens of a block, features]`.
pub type KvStore<B> = FloatTensor<B>;

/// A backend that runs transformers. Unless noted otherwise, tensors are `[n_tokens, features]` and
/// f32.
pub trait FusedBackend: Backend {
    /// Products of up to this many lines are computed by one kernel, those of more by another; what a line gives does
    /// not depend on the number of lines within either, bit for bit. `None` where nothing is known of that.
    const FEW_LINES: Option<usize> = None;

    /// `init + alpha · a · b` of matrices, with `a` or `b` transposed on request.
    fn gemm(
        init: Init<Self>,
        alpha: f64,
        a: FloatTensor<Self>,
        transpose_a: bool,
        b: FloatTensor<Self>,
        transpose_b: bool,
    ) -> FloatTensor<Self> {
        generic::linear::gemm::<Self>(init, alpha, a, transpose_a, b, transpose_b)
    }

    /// `init + x · W`, or with `transpose` `init + x · Wᵀ`; W of any type. Quantised weights are
    /// dequantised tile by tile.
    fn weight_matmul(
        init: Init<Self>,
        x: FloatTensor<Self>,
        weight: &Matrix<Self>,
        transpose: bool,
    ) -> FloatTensor<Self> {
        generic::linear::weight_matmul::<Self>(init, x, weight, transpose)
    }

    /// The given outputs of a quantised matrix in f32, `[outputs, inputs]`.
    fn dequantise(matrix: &QuantisedMatrix<Self>, outputs: Range<usize>) -> FloatTensor<Self> {
        generic::quant::dequantise::<Self>(matrix, outputs)
    }

    /// Single outputs of a quantised matrix in f32, `[outputs, inputs]`, as an embedding needs them.
    fn dequantise_rows(matrix: &QuantisedMatrix<Self>, outputs: &[usize]) -> FloatTensor<Self> {
        generic::quant::rows::<Self>(matrix, outputs)
    }

    /// GELU in its tanh form (`gelu_new`): `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::elementwise::gelu::<Self>(x)
    }

    /// `grad · dGELU/dx`.
    fn gelu_tanh_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::elementwise::gelu_backward::<Self>(x, grad)
    }

    /// The exact GELU: `x/2 · (1 + erf(x/√2))`.
    fn gelu_erf(x: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::elementwise::gelu_erf::<Self>(x)
    }

    /// `grad · dGELU/dx` of [`gelu_erf`](Self::gelu_erf).
    fn gelu_erf_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::elementwise::gelu_erf_backward::<Self>(x, grad)
    }

    /// Normalises each token to mean 0 and variance 1 (`epsilon` is added to the variance), times
    /// `gamma`, plus `beta`, both `[features]`.
    fn layer_norm_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        generic::norm::forward::<Self>(x, gamma, beta, epsilon)
    }

    /// `init` + the gradient of [`layer_norm_forward`](Self::layer_norm_forward) with respect to x.
    fn layer_norm_backward(
        init: Option<FloatTensor<Self>>,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        generic::norm::backward::<Self>(init, x, gamma, grad, epsilon)
    }

    /// The gradients of [`layer_norm_forward`](Self::layer_norm_forward) with respect to gamma and
    /// beta, `[features]` each.
    fn layer_norm_parameter_gradients(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> [FloatTensor<Self>; 2] {
        generic::norm::parameter_gradients::<Self>(x, grad, epsilon)
    }

    /// SiLU: `x · σ(x)`.
    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::elementwise::silu::<Self>(x)
    }

    /// `grad · dSiLU/dx`.
    fn silu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::elementwise::silu_backward::<Self>(x, grad)
    }

    /// Divides each token by the root of its mean square (`epsilon` is added to that), times
    /// `gamma`, `[features]`, or times 1 + `gamma`, as in Gemma.
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        plus_one: bool,
    ) -> FloatTensor<Self> {
        generic::norm::rms_forward::<Self>(x, gamma, epsilon, plus_one)
    }

    /// `init` + the gradient of [`rms_norm_forward`](Self::rms_norm_forward) with respect to x.
    fn rms_norm_backward(
        init: Option<FloatTensor<Self>>,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        plus_one: bool,
    ) -> FloatTensor<Self> {
        generic::norm::rms_backward::<Self>(init, x, gamma, grad, epsilon, plus_one)
    }

    /// The gradient of [`rms_norm_forward`](Self::rms_norm_forward) with respect to gamma,
    /// `[features]`.
    fn rms_norm_parameter_gradient(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        generic::norm::rms_parameter_gradient::<Self>(x, grad, epsilon)
    }

    /// The gradient of a selection of rows: `rows` rows, of which row `at[i]` is the sum of all
    /// `grad[i]`, in the order of i.
    fn scatter_rows(
        grad: FloatTensor<Self>,
        at: IntTensor<Self>,
        rows: usize,
    ) -> FloatTensor<Self> {
        generic::select::scatter_rows::<Self>(grad, at, rows)
    }

    /// Rotates the first `2 · half` features of each head, feature j with feature j + half, by
    /// angles whose cosines and sines, `[n_tokens, half]`, are given. `inverse` rotates back, which
    /// is the gradient.
    fn rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        n_heads: usize,
        inverse: bool,
    ) -> FloatTensor<Self> {
        generic::elementwise::rotary::<Self>(x, cos, sin, n_heads, inverse)
    }

    /// Softmax attention within the rows of `rows`: `q` is `[n_tokens, heads · dim]`, `k` and `v` are
    /// `[n_keys, keys' heads · dim]`. A row with tokens must have keys.
    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        rows: &PackedRows,
        heads: &Heads,
    ) -> FloatTensor<Self> {
        generic::attention::forward::<Self>(q, k, v, rows, heads)
    }

    /// The gradients of [`packed_attention`](Self::packed_attention): of q, k and v.
    fn packed_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rows: &PackedRows,
        heads: &Heads,
    ) -> [FloatTensor<Self>; 3] {
        generic::attention::backward::<Self>(q, k, v, grad, rows, heads)
    }

    /// Writes the first tokens of `new` `[n, features]` to a store: token `i` to `at[i] = (block, place in it)`.
    fn kv_write(
        store: KvStore<Self>,
        new: FloatTensor<Self>,
        at: &[(usize, usize)],
    ) -> KvStore<Self> {
        generic::paged::write::<Self>(store, new, at)
    }

    /// Attention of new tokens `q`, `[n, heads · dim]`, to the blocks of their sequences in `keys` and `values`, the new
    /// tokens' own keys and values included. The rows' queries are one after the other; tokens after the last
    /// row's get zeros. On burn-flex a query's result depends on nothing but its own sequence, bit for bit.
    fn attention_paged(
        q: FloatTensor<Self>,
        keys: &KvStore<Self>,
        values: &KvStore<Self>,
        rows: &[PagedRow],
        heads: &Heads,
    ) -> FloatTensor<Self> {
        generic::paged::attention::<Self>(q, keys, values, rows, heads)
    }

    /// Log-probability, in nats, of token `targets[i]` under the softmax of the logits of
    /// `hidden[i]`: `[n]`, and `with_gradient` its gradient with respect to `hidden`,
    /// `[n, features]`. The logits are never all in memory.
    fn log_prob_forward(
        hidden: FloatTensor<Self>,
        layer: &OutputParams<Self>,
        targets: IntTensor<Self>,
        with_gradient: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        generic::log_prob::forward::<Self>(hidden, layer, targets, with_gradient)
    }

    /// All gradients of [`log_prob_forward`](Self::log_prob_forward) for a dense weight, given its
    /// result `log_probs` and the gradient `grad`, both `[n]`: of hidden and weight, and of the bias
    /// if there is one.
    fn log_prob_backward(
        hidden: FloatTensor<Self>,
        layer: &OutputParams<Self>,
        targets: IntTensor<Self>,
        log_probs: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> ([FloatTensor<Self>; 2], Option<FloatTensor<Self>>) {
        generic::log_prob::backward::<Self>(hidden, layer, targets, log_probs, grad)
    }

    /// Log-probabilities as [`log_prob_forward`](Self::log_prob_forward) has them, under each of several layers: `[K, n]`.
    /// `hidden` is `[n, features]`, `inner` is `[n, K · rank]`.
    fn updated_log_prob_forward(
        hidden: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        layers: &UpdatedLayers<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        generic::updated::forward::<Self>(hidden, inner, layers, targets)
    }

    /// All gradients of [`updated_log_prob_forward`](Self::updated_log_prob_forward), given its result `log_probs` and the
    /// gradient `grad`, both `[K, n]`.
    fn updated_log_prob_backward(
        hidden: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        layers: &UpdatedLayers<Self>,
        targets: IntTensor<Self>,
        log_probs: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> UpdatedLayersGradients<Self> {
        generic::updated::backward::<Self>(hidden, inner, layers, targets, log_probs, grad)
    }

    /// A step of Adam on a tensor of any shape. Returns the new parameter and moments; absent
    /// moments are 0.
    fn adam_step(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        moments: Option<[FloatTensor<Self>; 2]>,
        factors: AdamFactors,
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
        generic::adam::step::<Self>(param, grad, moments, factors)
    }

    /// The sums of the squares of each [`SQUARES_PART`] consecutive elements, in row-major order. Those of a part of a
    /// tensor that begins at a multiple of it have the same bits.
    fn sums_of_squares(x: FloatTensor<Self>) -> Vec<f64> {
        generic::adam::sums_of_squares::<Self>(x)
    }

    /// `x · factor`, in x's order of memory.
    fn scaled(x: FloatTensor<Self>, factor: f64) -> FloatTensor<Self> {
        Self::float_mul_scalar(x, factor.into())
    }

    /// One block of phi on packed tokens, differentiable: `x + dense(attention(n)) + fc2(gelu(fc1(n)))`
    /// with `n = layer_norm(x)`.
    fn parallel_block(
        x: FloatTensor<Self>,
        params: BlockParams<Self>,
        context: &BlockContext<Self>,
    ) -> FloatTensor<Self> {
        block::forward::<Self>(x, &params, context, false).0
    }

    /// norm → attention → residual on packed tokens, differentiable.
    fn attention_layer(
        x: FloatTensor<Self>,
        params: &AttentionParams<Self>,
        context: &SublayerContext<Self>,
    ) -> FloatTensor<Self> {
        sublayer::attention_forward::<Self>(x, params, context)
    }

    /// norm → feed-forward → residual, differentiable. With `checkpoint` only the input is kept,
    /// and the rest is recomputed for the gradients.
    fn feed_forward_layer(
        x: FloatTensor<Self>,
        params: &FeedForwardParams<Self>,
        checkpoint: bool,
    ) -> FloatTensor<Self> {
        let _ = checkpoint;
        sublayer::feed_forward_forward::<Self>(x, params)
    }

    /// A norm, differentiable in all its tensors.
    fn norm_op(x: FloatTensor<Self>, norm: &NormParams<Self>) -> FloatTensor<Self> {
        norm.forward(x)
    }

    /// `add + x · W + bias`, differentiable in all its tensors; W is `[inputs, outputs]`.
    fn linear_op(
        add: Option<FloatTensor<Self>>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::weight_matmul(Init { add, bias: Some(bias) }, x, &Matrix::Dense(weight), false)
    }

    /// GELU in either form, differentiable.
    fn gelu_op(x: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self> {
        match form {
            Gelu::Tanh => Self::gelu_tanh(x),
            Gelu::Erf => Self::gelu_erf(x),
        }
    }

    /// The rows of a matrix at `at`, differentiable in it.
    fn select_rows_op(x: FloatTensor<Self>, at: IntTensor<Self>) -> FloatTensor<Self> {
        Self::float_select(x, 0, at)
    }

    /// [`packed_attention`](Self::packed_attention), differentiable in q, k and v.
    fn attention_op(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        rows: &Arc<PackedRows>,
        heads: &Heads,
    ) -> FloatTensor<Self> {
        Self::packed_attention(q, k, v, rows, heads)
    }

    /// [`log_prob_forward`](Self::log_prob_forward), differentiable in hidden and, where they are
    /// dense, in weight and bias.
    fn linear_log_prob(
        hidden: FloatTensor<Self>,
        layer: OutputParams<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::log_prob_forward(hidden, &layer, targets, false).0
    }

    /// [`updated_log_prob_forward`](Self::updated_log_prob_forward), differentiable in hidden, inner, B and bias.
    fn updated_log_prob(
        hidden: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        layers: UpdatedLayers<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::updated_log_prob_forward(hidden, inner, &layers, targets)
    }
}

/// A backend with gradients whose inner backend runs transformers too.
pub trait FusedAutodiffBackend: AutodiffBackend<InnerBackend: FusedBackend> + FusedBackend {}

impl<B: AutodiffBackend<InnerBackend: FusedBackend> + FusedBackend> FusedAutodiffBackend for B {}

#[cfg(feature = "ndarray")]
impl FusedBackend for burn::backend::NdArray {}

#[cfg(feature = "cuda")]
impl FusedBackend for burn::backend::Cuda {}

#[cfg(feature = "wgpu")]
impl FusedBackend for burn::backend::Wgpu {}
