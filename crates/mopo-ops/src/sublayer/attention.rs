//! norm → attention → residual.

use burn::tensor::TensorMetadata;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use super::{
    AttentionParams, Gradients, HEAD_NORMS, POST_NORM, SublayerContext, Wanted, heads_as_tokens,
    inputs, onto, put_linear, through_norm, through_post_norm, wanted_linear,
};
use crate::linear::{linear, linear_backward};
use crate::{FusedBackend, Heads, KvStore, PagedRow};

/// The place of the output projection among the linear layers; those before it are the inputs.
pub(super) const OUTPUT: usize = 3;

/// Activations that the backward pass needs.
#[derive(Debug, Clone)]
pub(crate) struct Saved<B: Backend> {
    /// Queries and keys before their norms, if there are any.
    raw: Option<[FloatTensor<B>; 2]>,
    /// Queries and keys with rotary embedding, and values.
    qkv: [FloatTensor<B>; 3],
    /// Before the output projection.
    attention: FloatTensor<B>,
    /// After it, if a norm follows.
    projected: Option<FloatTensor<B>>,
    /// Low-rank hidden `scale · x · A` of each update of an input.
    low_rank: Vec<Option<FloatTensor<B>>>,
    /// The same of the output.
    low_output: Option<FloatTensor<B>>,
}

/// Queries and keys before their norms; queries, keys and values as the attention takes them; low-rank hiddens.
type Projected<B> = (Option<[FloatTensor<B>; 2]>, [FloatTensor<B>; 3], Vec<Option<FloatTensor<B>>>);

fn project<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &AttentionParams<B>,
    context: &SublayerContext<B>,
) -> Projected<B> {
    let normed = params.norm.forward(x);
    let Heads { queries, keys, .. } = context.heads;
    let ([q, k, v], low_rank) =
        inputs::project::<B, 3>(&normed, &params.inputs, [queries, keys, keys]);
    let raw = params.head_norms.is_some().then(|| [q.clone(), k.clone()]);
    let [q, k] = match &params.head_norms {
        None => [q, k],
        Some([of_q, of_k]) => [of_q.of_heads(q), of_k.of_heads(k)],
    };
    let [q, k] = rotated::<B>([q, k], context, false);
    (raw, [q, k, v], low_rank)
}

/// Queries and keys with rotary embedding, or turned back.
fn rotated<B: FusedBackend>(
    [q, k]: [FloatTensor<B>; 2],
    context: &SublayerContext<B>,
    inverse: bool,
) -> [FloatTensor<B>; 2] {
    let turn = |x, n| B::rotary(x, context.cos.clone(), context.sin.clone(), n, inverse);
    [turn(q, context.heads.queries), turn(k, context.heads.keys)]
}

/// The sub-layer at `x`; with `keep`, also what [`backward`] needs.
pub(crate) fn forward<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &AttentionParams<B>,
    context: &SublayerContext<B>,
    keep: bool,
) -> (FloatTensor<B>, Option<Saved<B>>) {
    let (raw, [q, k, v], low_rank) = project::<B>(x.clone(), params, context);
    let attention =
        B::packed_attention(q.clone(), k.clone(), v.clone(), &context.rows, &context.heads);
    let kept = keep.then(|| (raw, [q, k, v], attention.clone()));
    let (out, projected, low_output) = output::<B>(x, attention, params);
    let saved = kept.map(|(raw, qkv, attention)| Saved {
        raw,
        qkv,
        attention,
        projected,
        low_rank,
        low_output,
    });
    (out, saved)
}

/// The output projection, its norm and the residual: the result, the projection if a norm follows, and its low-rank
/// hidden.
#[allow(clippy::type_complexity)]
fn output<B: FusedBackend>(
    x: FloatTensor<B>,
    attention: FloatTensor<B>,
    params: &AttentionParams<B>,
) -> (FloatTensor<B>, Option<FloatTensor<B>>, Option<FloatTensor<B>>) {
    let o = &params.output;
    match &params.post_norm {
        None => {
            let (y, low_rank) = linear::<B>(attention, o, Some(x));
            (y, None, low_rank)
        }
        norm => {
            let (y, low_rank) = linear::<B>(attention, o, None);
            (onto::<B>(x, y.clone(), norm.as_ref()), Some(y), low_rank)
        }
    }
}

/// The sub-layer at new tokens `x` of sequences whose past is in the stores `keys` and `values`, to which the new
/// tokens are written. Tokens after the last row's are computed, but seen by none. No gradients.
pub fn attention_with_store<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &AttentionParams<B>,
    context: &SublayerContext<B>,
    stores: [KvStore<B>; 2],
    rows: &[PagedRow],
) -> (FloatTensor<B>, [KvStore<B>; 2]) {
    let (_, qkv, _) = project::<B>(x.clone(), params, context);
    let (attention, stores) = attend_with_store::<B>(qkv, stores, rows, &context.heads);
    (output::<B>(x, attention, params).0, stores)
}

/// Writes keys and values of new tokens to their stores, and attends to them.
pub(crate) fn attend_with_store<B: FusedBackend>(
    [q, k, v]: [FloatTensor<B>; 3],
    [keys, values]: [KvStore<B>; 2],
    rows: &[PagedRow],
    heads: &Heads,
) -> (FloatTensor<B>, [KvStore<B>; 2]) {
    let size = keys.shape()[1];
    let at: Vec<_> = rows.iter().flat_map(|row| row.new_places(size)).collect();
    let keys = B::kv_write(keys, k, &at);
    let values = B::kv_write(values, v, &at);
    let attention = B::attention_paged(q, &keys, &values, rows, heads);
    (attention, [keys, values])
}

/// The gradients of [`forward`] at `x`, given the gradient of its result.
pub(crate) fn backward<B: FusedBackend>(
    x: FloatTensor<B>,
    params: &AttentionParams<B>,
    context: &SublayerContext<B>,
    saved: Option<Saved<B>>,
    grad: FloatTensor<B>,
    wanted: &Wanted,
) -> Gradients<B> {
    let saved = match saved {
        Some(saved) => saved,
        None => forward::<B>(x.clone(), params, context, true).1.expect("asked to keep"),
    };
    let Saved { raw, qkv: [q, k, v], attention, projected, low_rank, low_output } = saved;
    let mut out: Gradients<B> = [const { None }; super::PARENTS];
    // What needs a gradient below the projections, and below the attention.
    let below = wanted[0] || wanted[1] || wanted[2];
    let of_inputs = inputs::any_wanted(wanted, params.inputs.len());
    let within = below || of_inputs || wanted[HEAD_NORMS] || wanted[HEAD_NORMS + 1];
    let of_output = wanted_linear(wanted, OUTPUT);

    if within || of_output.contains(&true) || wanted[POST_NORM] {
        let post_norm = params.post_norm.as_ref().zip(projected);
        let d = through_post_norm::<B>(post_norm, &grad, wanted, &mut out);
        let (d_attention, own) = linear_backward::<B>(
            &attention,
            &params.output,
            low_output,
            d,
            of_output,
            within,
            None,
        );
        put_linear::<B>(&mut out, OUTPUT, own);
        if let Some(d) = d_attention {
            let [dq, dk, dv] =
                B::packed_attention_backward(q, k, v, d, &context.rows, &context.heads);
            let mut d_qk = rotated::<B>([dq, dk], context, true);
            if let (Some(norms), Some(raw)) = (&params.head_norms, raw) {
                for (i, (norm, raw)) in norms.iter().zip(raw).enumerate() {
                    let shape = raw.shape();
                    let raw = heads_as_tokens::<B>(raw, &norm.gamma);
                    let d = heads_as_tokens::<B>(d_qk[i].clone(), &norm.gamma);
                    if wanted[HEAD_NORMS + i] {
                        [out[HEAD_NORMS + i], _] = norm.parameter_gradients(raw.clone(), d.clone());
                    }
                    d_qk[i] = B::float_reshape(norm.backward(None, raw, d), shape);
                }
            }
            let normed = params.norm.forward(x.clone());
            let [dq, dk] = d_qk;
            let d_normed = inputs::backward::<B, 3>(
                &normed,
                &params.inputs,
                low_rank,
                [dq, dk, dv],
                below,
                wanted,
                &mut out,
            );
            through_norm::<B>(&params.norm, x, d_normed, grad, wanted, &mut out);
        }
    }
    out
}
