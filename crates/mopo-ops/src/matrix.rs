//! Tensors and weights of linear layers as the operations take them.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata, TensorPrimitive};

use crate::QuantisedMatrix;

/// The backend's tensor inside a tensor.
pub fn primitive<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

/// The inverse of [`primitive`]; `D` must be the rank.
pub fn tensor<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// A weight `[inputs, outputs]`.
#[derive(Debug, Clone)]
pub enum Matrix<B: Backend> {
    /// Numbers of any floating-point type; products are computed in the type of the other factor.
    Dense(FloatTensor<B>),
    /// A constant in 4 or 8 bits.
    Quantised(QuantisedMatrix<B>),
}

impl<B: Backend> Matrix<B> {
    /// Inputs and outputs.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.shape().dims(),
            Self::Quantised(weight) => weight.layout.shape,
        }
    }
}
