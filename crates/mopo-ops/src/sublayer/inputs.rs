//! Linear layers that read the same input: one for each result, or one for all results.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Slice, TensorMetadata};

use super::{Gradients, Wanted, put_linear, wanted_linear};
use crate::linear::{linear, linear_backward};
use crate::{FusedBackend, LinearParams};

/// The results, and the low-rank hidden of each layer. `shares`: how wide each result is, in relation to the others.
///
/// # Panics
/// If the layers are neither one nor as many as results, or the width of one for all is not in these relations.
pub(super) fn project<B: FusedBackend, const N: usize>(
    x: &FloatTensor<B>,
    layers: &[LinearParams<B>],
    shares: [usize; N],
) -> ([FloatTensor<B>; N], Vec<Option<FloatTensor<B>>>) {
    let all: Vec<_> = layers.iter().map(|layer| linear::<B>(x.clone(), layer, None)).collect();
    let (results, low_rank): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let results = match <[FloatTensor<B>; N]>::try_from(results) {
        Ok(results) => results,
        Err(results) => {
            let [joined] = &results[..] else { panic!("{} layers for {N} results", results.len()) };
            let (width, parts) = (joined.shape()[1], shares.iter().sum::<usize>());
            assert!(width.is_multiple_of(parts), "{width} outputs in {parts} parts");
            let mut from = 0;
            shares.map(|share| {
                let columns = from..from + share * (width / parts);
                from = columns.end;
                B::float_slice(joined.clone(), &[Slice::full(), Slice::from(columns)])
            })
        }
    };
    (results, low_rank)
}

/// Whether a gradient of a layer is wanted.
pub(super) fn any_wanted(wanted: &Wanted, n_layers: usize) -> bool {
    (0..n_layers).any(|i| wanted_linear(wanted, i).contains(&true))
}

/// Puts the gradients of the layers in their places, given those of the results; returns that of the input, if there is
/// something `below`.
pub(super) fn backward<B: FusedBackend, const N: usize>(
    x: &FloatTensor<B>,
    layers: &[LinearParams<B>],
    low_rank: Vec<Option<FloatTensor<B>>>,
    grads: [FloatTensor<B>; N],
    below: bool,
    wanted: &Wanted,
    out: &mut Gradients<B>,
) -> Option<FloatTensor<B>> {
    let grads = match layers {
        [_] if N > 1 => vec![B::float_cat(grads.into(), 1)],
        _ => grads.into(),
    };
    let mut dx = None;
    for (i, ((layer, low_rank), grad)) in layers.iter().zip(low_rank).zip(grads).enumerate() {
        let own;
        (dx, own) =
            linear_backward::<B>(x, layer, low_rank, grad, wanted_linear(wanted, i), below, dx);
        put_linear::<B>(out, i, own);
    }
    dx
}
