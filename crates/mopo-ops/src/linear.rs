//! A linear layer with a low-rank update, and its gradients.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, TensorMetadata};

use crate::{FusedBackend, Init, Matrix};

/// A low-rank update: `scale · x · A · B`.
#[derive(Debug, Clone)]
pub struct LoraParams<B: Backend> {
    /// `[inputs, rank]`.
    pub a: FloatTensor<B>,
    /// `[rank, outputs]`.
    pub b: FloatTensor<B>,
    /// alpha / rank, or alpha / √rank (rsLoRA).
    pub scale: f64,
    /// The mask on x before A, `[n_tokens, inputs]`: 0 or 1 / (1 − dropout).
    pub dropout: Option<FloatTensor<B>>,
}

/// A linear layer.
#[derive(Debug, Clone)]
pub struct LinearParams<B: Backend> {
    /// `[inputs, outputs]`.
    pub weight: Matrix<B>,
    /// `[outputs]`.
    pub bias: Option<FloatTensor<B>>,
    /// The low-rank update.
    pub lora: Option<LoraParams<B>>,
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
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let init = Init { add, bias: params.bias.clone() };
    let y = B::weight_matmul(init, x.clone(), &params.weight, false);
    match &params.lora {
        None => (y, None),
        Some(lora) => {
            let x = dropped::<B>(x, lora);
            let low_rank = B::gemm(Init::zero(), lora.scale, x, false, lora.a.clone(), false);
            let y =
                B::gemm(Init::add(Some(y)), 1.0, low_rank.clone(), false, lora.b.clone(), false);
            (y, Some(low_rank))
        }
    }
}

/// The gradients of [`linear`]. The gradient of x is added to `dx`, if that is given or `want_x`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn linear_backward<B: FusedBackend>(
    x: &FloatTensor<B>,
    params: &LinearParams<B>,
    low_rank: Option<FloatTensor<B>>,
    grad: FloatTensor<B>,
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
            let d = B::gemm(Init::zero(), lora.scale, grad.clone(), false, lora.b.clone(), true);
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
