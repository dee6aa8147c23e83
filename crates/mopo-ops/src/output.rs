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

/// Output layers that differ from one another by a low-rank update of the weight only, and by their bias: the logits of
/// layer k are `cap(hidden · W + inner_k · B_k + b_k)`, where `inner_k = s · hidden · A_k`. The product with W, which takes
/// nearly all the time, is the same for all of them.
#[derive(Debug, Clone)]
pub struct UpdatedLayers<B: Backend> {
    /// How many there are, K; at least 1.
    pub n_layers: usize,
    /// W, `[features, vocabulary]`, a constant.
    pub weight: Matrix<B>,
    /// All B_k, one below the other, `[K · rank, vocabulary]`.
    pub b: FloatTensor<B>,
    /// `[K, vocabulary]`.
    pub bias: Option<FloatTensor<B>>,
    /// Logits z become `cap · tanh(z / cap)`, as in Gemma 2.
    pub soft_cap: Option<f32>,
}

/// Gradients of the log-probabilities of [`UpdatedLayers`].
#[derive(Debug, Clone)]
pub struct UpdatedLayersGradients<B: Backend> {
    /// `[n, features]`: without what `inner` passes on.
    pub hidden: FloatTensor<B>,
    /// `[n, K · rank]`.
    pub inner: FloatTensor<B>,
    /// `[K · rank, vocabulary]`.
    pub b: FloatTensor<B>,
    /// `[K, vocabulary]`, if there is a bias.
    pub bias: Option<FloatTensor<B>>,
}
