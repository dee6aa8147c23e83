//! A linear layer of a block, and its conversion to an argument of the operations in `mopo-ops`.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Int, Tensor};
use mopo_hub::WeightDtype;
use mopo_ops::{FusedBackend, LinearParams, LoraParams, Matrix, primitive, tensor};

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
    /// The same as a constant, which is no part of a saved training state.
    Frozen(Tensor<B, 2>),
    /// A constant in a few bits per number.
    Quantised(QuantisedWeight<B>),
}

impl<B: Backend> Weight<B> {
    /// As one tensor `[inputs, outputs]`; a quantised one becomes f32.
    pub fn dense(&self) -> Tensor<B, 2> {
        match self {
            Self::Dense(weight) => weight.val(),
            Self::Frozen(weight) => weight.clone(),
            Self::Quantised(weight) => weight.dequantised(),
        }
    }

    /// Inputs and outputs.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Frozen(weight) => weight.dims(),
            Self::Quantised(weight) => weight.layout().shape,
        }
    }

    /// Where it is.
    pub(crate) fn device(&self) -> B::Device {
        match self {
            Self::Quantised(weight) => weight.device(),
            dense => dense.dense().device(),
        }
    }

    /// The data type in memory; F32 of a quantised one, which stands for its values.
    pub(crate) fn dtype(&self) -> WeightDtype {
        match self {
            Self::Quantised(_) => WeightDtype::F32,
            dense => WeightDtype::of(dense.dense().dtype()),
        }
    }

    pub(crate) fn matrix(&self) -> Matrix<B> {
        match self {
            Self::Quantised(weight) => Matrix::Quantised(weight.matrix()),
            dense => Matrix::Dense(primitive(dense.dense())),
        }
    }
}

impl<B: FusedBackend> Weight<B> {
    /// The weights of single outputs, `[n, inputs]`, f32, as an embedding needs them; differentiable.
    pub(crate) fn rows(&self, outputs: Tensor<B, 1, Int>) -> Tensor<B, 2> {
        let rows = match self {
            Self::Dense(_) | Self::Frozen(_) => {
                let all = primitive(self.dense().transpose());
                B::select_rows_op(all, outputs.into_primitive())
            }
            Self::Quantised(weight) => {
                let outputs: Vec<usize> =
                    outputs.into_data().iter::<i64>().map(|id| id as usize).collect();
                B::dequantise_rows(&weight.matrix(), &outputs)
            }
        };
        let rows = tensor::<B, 2>(rows);
        if rows.dtype() == DType::F32 { rows } else { rows.cast(FloatDType::F32) }
    }
}

impl<B: Backend> Projection<B> {
    /// From dense tensors `[inputs, outputs]` and `[outputs]`.
    pub fn dense(weight: Tensor<B, 2>, bias: Option<Tensor<B, 1>>) -> Self {
        let weight = Weight::Dense(Param::from_tensor(weight));
        Self { weight, bias: bias.map(Param::from_tensor) }
    }

    /// The weight as one tensor `[inputs, outputs]`; a quantised one becomes f32.
    pub fn dense_weight(&self) -> Tensor<B, 2> {
        self.weight.dense()
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
    LinearParams { weight: layer.weight.matrix(), bias, lora }
}
