//! Output layers: from hidden states to logits.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, FloatDType, Tensor};
use mopo_hub::TensorWriter;
use mopo_ops::{FusedBackend, Init, Matrix, OutputParams, UpdatedLayers, primitive, tensor};

use super::Weight;
use crate::weights::Source;
use crate::{LoadOptions, Result};

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
    /// Whether the weight is the base model's own output layer, so that all policies with such an update have the same.
    #[module(skip)]
    pub is_of_base: bool,
}

/// A conversion lines elements up: output by output, as they are stored and as kernels read and train them.
pub(crate) fn in_f32<B: Backend>(weight: Tensor<B, 2>) -> Tensor<B, 2> {
    weight.transpose().cast(FloatDType::F32).transpose()
}

impl<B: Backend> LowRankUpdate<B> {
    /// One that changes nothing yet, of a weight `[hidden_size, vocab_size]`: A is drawn as LoRA's, B is 0.
    pub(crate) fn new(
        [hidden_size, vocab_size]: [usize; 2],
        rank: usize,
        scale: f64,
        is_of_base: bool,
        device: &B::Device,
    ) -> Self {
        let bound = (hidden_size as f64).powf(-0.5);
        let a = Tensor::random([hidden_size, rank], Distribution::Uniform(-bound, bound), device);
        let b = Tensor::zeros([rank, vocab_size], device);
        Self { a: Param::from_tensor(a), b: Param::from_tensor(b), scale, is_of_base }
    }
}

impl<B: Backend> OutputLayer<B> {
    /// The weight, `[hidden_size, vocab_size]`; with an update that is part of it and it is in f32.
    pub fn dense(&self) -> Tensor<B, 2> {
        let weight = self.weight.dense();
        match &self.update {
            None => weight,
            Some(LowRankUpdate { a, b, scale, .. }) => {
                in_f32(weight) + a.val().matmul(b.val()).mul_scalar(*scale)
            }
        }
    }

    /// The same layer with a weight of its own in F32, a leaf, of which an update is part.
    pub fn merged(&self) -> Self {
        match (&self.update, &self.weight) {
            (None, Weight::Dense(_)) => self.clone(),
            _ => Self {
                weight: Weight::Dense(Param::from_tensor(in_f32(self.dense()).detach())),
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

    /// Whether these differ by low-rank updates of one weight only, so that one product with it serves them all.
    pub(crate) fn have_one_weight(heads: &[Self]) -> bool {
        let of_base = |head: &Self| head.update.as_ref().is_some_and(|update| update.is_of_base);
        heads.len() == 1 && heads[0].update.is_some()
            || !heads.is_empty() && heads.iter().all(of_base)
    }

    /// Reads `name.weight`, stored as `[vocab_size, hidden_size]`, and `name.bias` if there is to be
    /// one. `shape` is `[hidden_size, vocab_size]`.
    pub(crate) fn read(
        source: &mut Source,
        name: &str,
        shape: [usize; 2],
        (has_bias, soft_cap): (bool, Option<f32>),
        options: LoadOptions,
        device: &B::Device,
    ) -> Result<Self> {
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
            soft_cap: self.soft_cap_at(temperature),
        }
    }

    /// That of logits that are divided by `temperature`: cap tanh(z/cap)/T = (cap/T) tanh((z/T)/(cap/T)).
    fn soft_cap_at(&self, temperature: f64) -> Option<f32> {
        self.soft_cap.map(|cap| (f64::from(cap) / temperature) as f32)
    }
}

/// Layers with [one weight](OutputLayer::have_one_weight) as the operation takes them, at a temperature that `states`,
/// `[n, hidden_size]`, are divided by already; and what updates make of the states.
pub(crate) fn updated_layers<B: Backend>(
    heads: &[OutputLayer<B>],
    states: &Tensor<B, 2>,
    temperature: f64,
) -> (Tensor<B, 2>, UpdatedLayers<B>) {
    let updates = || heads.iter().map(|head| head.update.as_ref().expect("they have one"));
    let a = updates().map(|update| update.a.val().mul_scalar(update.scale)).collect();
    let b = updates().map(|update| update.b.val()).collect();
    let bias = |head: &OutputLayer<B>| {
        Some(head.bias.as_ref()?.val().div_scalar(temperature).unsqueeze::<2>())
    };
    let biases: Option<Vec<_>> = heads.iter().map(bias).collect();
    let layers = UpdatedLayers {
        n_layers: heads.len(),
        weight: heads[0].weight.matrix(),
        b: primitive(Tensor::cat(b, 0)),
        bias: biases.map(|biases| primitive(Tensor::cat(biases, 0))),
        soft_cap: heads[0].soft_cap_at(temperature),
    };
    (states.clone().matmul(Tensor::cat(a, 1)), layers)
}

impl<B: FusedBackend> OutputLayer<B> {
    /// Logits of hidden states `[n, hidden_size]`: `[n, vocab_size]`. No gradients.
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        let product = |init: Init<B>, x: &Tensor<B, 2>, weight: Matrix<B>| {
            tensor(B::weight_matmul(init, primitive(x.clone()), &weight, false))
        };
        // A weight with its update would have to be computed for every token.
        let update = self.update.as_ref().map(|LowRankUpdate { a, b, scale, .. }| {
            let dense = |x: Tensor<B, 2>| Matrix::Dense(primitive(x));
            let narrow = product(Init::zero(), &hidden, dense(a.val().mul_scalar(*scale)));
            primitive(product(Init::zero(), &narrow, dense(b.val())))
        });
        let bias = self.bias.as_ref().map(|bias| primitive(bias.val()));
        let logits = product(Init { add: update, bias }, &hidden, self.weight.matrix());
        match self.soft_cap {
            None => logits,
            Some(cap) => Tensor::<B, 2>::div_scalar(logits, cap).tanh().mul_scalar(cap),
        }
    }
}
