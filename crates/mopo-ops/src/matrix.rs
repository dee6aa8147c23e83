//! The weight of a linear layer as the operations see it.

use burn::tensor::TensorMetadata;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use crate::QuantisedMatrix;

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
