//! The output layer of a language model, as the log-probabilities of tokens take it.

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use crate::Matrix;

/// An output layer: logits are `cap(hidden · W + b)`.
#[derive(Debug, Clone)]
pub struct OutputParams<B: Backend> {
    /// `[features, vocabulary]`.
    pub weight: Matrix<B>,
    /// `[vocabulary]`.
    pub bias: Option<FloatTensor<B>>,
    /// Logits z become `cap · tanh(z / cap)`, as in Gemma 2.
    pub soft_cap: Option<f32>,
}
