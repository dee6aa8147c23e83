//! A linear layer of a block, and its conversion to an argument of the operations in `mopo-ops`.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_ops::{FusedBackend, LinearParams, LoraParams, Matrix, primitive};

use crate::lora::{LoraAdapter, LoraPair};
use crate::quantised::QuantisedWeight;

/// A linear layer.
#[derive(Module, Debug)]
pub struct Projection<B: Backend> {
    /// `[inputs, outputs]`.
    pub weight: Weight<B>,
    /// `[outputs]`.
    pub bias: Option<Param<Tensor<B, 1>>>,
}

/// The weight of a linear layer.
#[derive(Module, Debug)]
pub enum Weight<B: Backend> {
    /// Of any floating-point type, `[inputs, outputs]`. Inputs and products are f32.
    Dense(Param<Tensor<B, 2>>),
    /// A constant in 4 or 8 bits.
    Quantised(QuantisedWeight<B>),
}

impl<B: Backend> Projection<B> {
    /// From dense tensors `[inputs, outputs]` and `[outputs]`.
    pub fn dense(weight: Tensor<B, 2>, bias: Option<Tensor<B, 1>>) -> Self {
        let weight = Weight::Dense(Param::from_tensor(weight));
        Self { weight, bias: bias.map(Param::from_tensor) }
    }

    /// The weight as one tensor `[inputs, outputs]`; a quantised one becomes f32.
    pub fn dense_weight(&self) -> Tensor<B, 2> {
        match &self.weight {
            Weight::Dense(weight) => weight.val(),
            Weight::Quantised(weight) => weight.dequantised(),
        }
    }

    pub(crate) fn matrix(&self) -> Matrix<B> {
        match &self.weight {
            Weight::Dense(weight) => Matrix::Dense(primitive(weight.val())),
            Weight::Quantised(weight) => Matrix::Quantised(weight.matrix()),
        }
    }
}

/// A linear layer and its update for a batch of `n` tokens, as the operations take them.
pub(crate) fn linear_params<B: FusedBackend>(
    layer: &Projection<B>,
    lora: Option<(&LoraAdapter<B>, &LoraPair<B>)>,
    n: usize,
) -> LinearParams<B> {
    let lora = lora.map(|(adapter, pair)| {
        let (a, b) = (pair.a.val(), pair.b.val());
        let shape = [n, a.dims()[0]];
        let dropout = adapter.dropout_mask(shape, &a.device()).map(primitive);
        LoraParams { a: primitive(a), b: primitive(b), scale: pair.scale, dropout }
    });
    let bias = layer.bias.as_ref().map(|bias| primitive(bias.val()));
    LinearParams { weight: layer.matrix(), bias, lora }
}
