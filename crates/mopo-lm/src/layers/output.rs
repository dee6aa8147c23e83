//! Output layers: from hidden states to logits.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_hub::TensorWriter;
use mopo_ops::{FusedBackend, Init, Matrix, OutputParams, primitive, tensor};

use super::Weight;
use crate::weights::Source;
use crate::{LoadDtype, LoadOptions, Result};

/// An output layer.
#[derive(Module, Debug)]
pub struct OutputLayer<B: Backend> {
    /// `[hidden_size, vocab_size]`.
    pub weight: Weight<B>,
    /// A low-rank update of the weight, which is a constant then; only in training.
    pub update: Option<LowRankUpdate<B>>,
    /// `[vocab_size]`; few families have one.
    pub bias: Option<Param<Tensor<B, 1>>>,
    /// Logits z become `cap · tanh(z / cap)`, as in Gemma 2.
    #[module(skip)]
    pub soft_cap: Option<f32>,
}

/// What is added to a weight: s A B.
#[derive(Module, Debug)]
pub struct LowRankUpdate<B: Backend> {
    /// A, `[hidden_size, rank]`.
    pub a: Param<Tensor<B, 2>>,
    /// B, `[rank, vocab_size]`.
    pub b: Param<Tensor<B, 2>>,
    /// s.
    #[module(skip)]
    pub scale: f64,
}

impl<B: Backend> OutputLayer<B> {
    /// The weight with its update, `[hidden_size, vocab_size]`.
    pub fn dense(&self) -> Tensor<B, 2> {
        let weight = self.weight.dense();
        match &self.update {
            None => weight,
            Some(LowRankUpdate { a, b, scale }) => {
                weight + a.val().matmul(b.val()).mul_scalar(*scale)
            }
        }
    }

    /// The same layer without an update: it is part of the weight, a leaf of its own.
    pub fn merged(&self) -> Self {
        match &self.update {
            None => self.clone(),
            Some(_) => Self {
                weight: Weight::Dense(Param::from_tensor(self.dense().detach())),
                update: None,
                bias: self.bias.clone(),
                soft_cap: self.soft_cap,
            },
        }
    }

    /// As products take it.
    fn matrix(&self) -> Matrix<B> {
        match &self.update {
            None => self.weight.matrix(),
            Some(_) => Matrix::Dense(primitive(self.dense())),
        }
    }

    /// Reads `name.weight`, stored as `[vocab_size, hidden_size]`, and `name.bias` if there is to be
    /// one. `shape` is `[hidden_size, vocab_size]`.
    pub(crate) fn read(
        source: &mut Source,
        name: &str,
        shape: [usize; 2],
        (has_bias, soft_cap): (bool, Option<f32>),
        dtype: LoadDtype,
        device: &B::Device,
    ) -> Result<Self> {
        let options = LoadOptions { dtype, quantise: None };
        let weight = source.weight(&format!("{name}.weight"), shape, options, device)?;
        let bias = match has_bias {
            true => Some(source.vector(&format!("{name}.bias"), shape[1], device)?),
            false => None,
        };
        Ok(Self { weight, update: None, bias: bias.map(Param::from_tensor), soft_cap })
    }

    /// The counterpart of [`read`](Self::read).
    pub(crate) fn write(&self, out: &mut TensorWriter, name: &str) {
        out.transposed(&format!("{name}.weight"), self.dense());
        if let Some(bias) = &self.bias {
            out.tensor(&format!("{name}.bias"), bias.val());
        }
    }

    /// As the operations take it.
    pub(crate) fn params(&self) -> OutputParams<B> {
        OutputParams {
            weight: self.matrix(),
            bias: self.bias.as_ref().map(|bias| primitive(bias.val())),
            soft_cap: self.soft_cap,
        }
    }

    /// The layer whose logits are those of this one divided by `temperature`, for hidden states that are divided
    /// by it too.
    pub(crate) fn params_at(&self, temperature: f64) -> OutputParams<B> {
        OutputParams {
            weight: self.matrix(),
            bias: self.bias.as_ref().map(|bias| primitive(bias.val().div_scalar(temperature))),
            // cap tanh(z/cap)/T = (cap/T) tanh((z/T)/(cap/T)).
            soft_cap: self.soft_cap.map(|cap| (f64::from(cap) / temperature) as f32),
        }
    }
}

impl<B: FusedBackend> OutputLayer<B> {
    /// Logits of hidden states `[n, hidden_size]`: `[n, vocab_size]`. No gradients.
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        let OutputParams { weight, bias, soft_cap } = self.params();
        let init = Init { add: None, bias };
        let logits = tensor(B::weight_matmul(init, primitive(hidden), &weight, false));
        match soft_cap {
            None => logits,
            Some(cap) => Tensor::<B, 2>::div_scalar(logits, cap).tanh().mul_scalar(cap),
        }
    }
}
