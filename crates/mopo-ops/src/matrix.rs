//! The weight of a linear layer as the operations see it.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

/// A weight `[inputs, outputs]`.
#[derive(Debug, Clone)]
pub enum Matrix<B: Backend> {
    /// Numbers of any floating-point type; products are computed in the type of the other factor.
    Dense(FloatTensor<B>),
}
