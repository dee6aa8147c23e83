//! Linear layers, attention and embeddings of models whose every parameter is trained: the classifiers with
//! blocks of their own.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, Int, Tensor, activation};
use mopo_hub::TensorWriter;
use mopo_ops::{FusedBackend, Gelu, Heads, NormKind, PackedRows, primitive, tensor};

use super::Norm;
use crate::Result;
use crate::hub_config::HubConfig;
use crate::weights::Source;

/// `x · W + b`.
#[derive(Module, Debug)]
pub struct Dense<B: Backend> {
    /// `[inputs, outputs]`.
    pub weight: Param<Tensor<B, 2>>,
    /// `[outputs]`.
    pub bias: Param<Tensor<B, 1>>,
}

/// The linear layers of an attention, `[features, features]` each.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// Queries.
    pub q: Dense<B>,
    /// Keys.
    pub k: Dense<B>,
    /// Values.
    pub v: Dense<B>,
    /// Output.
    pub out: Dense<B>,
}

/// Activation of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Either form of GELU.
    Gelu(Gelu),
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// Reads a key of `config.json`.
    pub(crate) fn read(hub: &HubConfig, key: &'static str, default: &str) -> Result<Self> {
        match hub.text(key)?.unwrap_or(default) {
            "gelu" => Ok(Self::Gelu(Gelu::Erf)),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Self::Gelu(Gelu::Tanh)),
            "relu" => Ok(Self::Relu),
            other => {
                let known = "gelu, gelu_new, gelu_pytorch_tanh, gelu_fast and relu are supported";
                Err(hub.invalid(key, other.into(), known))
            }
        }
    }

    /// The name in a `config.json`.
    pub(crate) fn hub_name(self) -> &'static str {
        match self {
            Self::Gelu(Gelu::Erf) => "gelu",
            Self::Gelu(Gelu::Tanh) => "gelu_new",
            Self::Relu => "relu",
        }
    }

    pub(crate) fn apply<B: FusedBackend>(self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match self {
            Self::Gelu(form) => tensor(B::gelu_op(primitive(x), form)),
            Self::Relu => activation::relu(x),
        }
    }
}

/// `add + x · weight + bias`.
pub(crate) fn linear<B: FusedBackend>(
    add: Option<Tensor<B, 2>>,
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    bias: Tensor<B, 1>,
) -> Tensor<B, 2> {
    let (weight, bias) = (primitive(weight), primitive(bias));
    tensor(B::linear_op(add.map(primitive), primitive(x), weight, bias))
}

/// A matrix of N(0, `deviation`²), drawn at once.
pub(crate) fn normal<B: Backend>(
    shape: [usize; 2],
    deviation: f64,
    device: &B::Device,
) -> Param<Tensor<B, 2>> {
    Param::from_tensor(Tensor::random(shape, Distribution::Normal(0.0, deviation), device))
}

/// Rows of an embedding, `[n, features]`.
pub(crate) fn embed<B: Backend>(
    table: &Param<Tensor<B, 2>>,
    ids: Tensor<B, 1, Int>,
) -> Tensor<B, 2> {
    table.val().select(0, ids)
}

/// The rows of x at `at`, or all of them.
pub(crate) fn pick<B: Backend>(x: Tensor<B, 2>, at: Option<&Tensor<B, 1, Int>>) -> Tensor<B, 2> {
    match at {
        Some(at) => x.select(0, at.clone()),
        None => x,
    }
}

impl<B: Backend> Dense<B> {
    /// Weights from N(0, `deviation`²), biases 0.
    pub(crate) fn init([inputs, outputs]: [usize; 2], deviation: f64, device: &B::Device) -> Self {
        Self {
            weight: normal([inputs, outputs], deviation, device),
            bias: Param::from_tensor(Tensor::zeros([outputs], device)),
        }
    }

    /// Reads `name.weight`, stored as `[outputs, inputs]`, and `name.bias`.
    pub(crate) fn read(
        files: &mut Source,
        name: &str,
        [inputs, outputs]: [usize; 2],
        device: &B::Device,
    ) -> Result<Self> {
        let weight = files.transposed(&format!("{name}.weight"), [inputs, outputs], device)?;
        let bias = files.vector(&format!("{name}.bias"), outputs, device)?;
        Ok(Self { weight: Param::from_tensor(weight), bias: Param::from_tensor(bias) })
    }

    /// The counterpart of [`read`](Self::read).
    pub(crate) fn write(&self, out: &mut TensorWriter, name: &str) {
        out.transposed(&format!("{name}.weight"), self.weight.val());
        out.tensor(&format!("{name}.bias"), self.bias.val());
    }
}

impl<B: FusedBackend> Dense<B> {
    /// `x · W + b`, `[n, outputs]`, for x `[n, inputs]`.
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.onto(None, x)
    }

    /// `add + x · W + b`.
    pub(crate) fn onto(&self, add: Option<Tensor<B, 2>>, x: Tensor<B, 2>) -> Tensor<B, 2> {
        linear(add, x, self.weight.val(), self.bias.val())
    }
}

impl<B: Backend> Attention<B> {
    /// Like [`Dense::init`].
    pub(crate) fn init(features: usize, deviation: f64, device: &B::Device) -> Self {
        let dense = || Dense::init([features, features], deviation, device);
        Self { q: dense(), k: dense(), v: dense(), out: dense() }
    }

    /// Reads the four layers with these names.
    pub(crate) fn read(
        files: &mut Source,
        [q, k, v, out]: [String; 4],
        features: usize,
        device: &B::Device,
    ) -> Result<Self> {
        let mut dense = |name: String| Dense::read(files, &name, [features, features], device);
        Ok(Self { q: dense(q)?, k: dense(k)?, v: dense(v)?, out: dense(out)? })
    }

    /// The counterpart of [`read`](Self::read).
    pub(crate) fn write(&self, out: &mut TensorWriter, [q, k, v, o]: [String; 4]) {
        for (layer, name) in [(&self.q, q), (&self.k, k), (&self.v, v), (&self.out, o)] {
            layer.write(out, &name);
        }
    }
}

impl<B: FusedBackend> Attention<B> {
    /// `add` + attention of `x` to `keys` (itself, or the encoder's states). `q_scale`: a factor of
    /// the scores besides one over the square root of a head's size.
    pub(crate) fn onto(
        &self,
        add: Tensor<B, 2>,
        x: Tensor<B, 2>,
        keys: Tensor<B, 2>,
        rows: &Arc<PackedRows>,
        n_heads: usize,
        q_scale: f64,
    ) -> Tensor<B, 2> {
        let q = self.q.forward(x);
        let q = if q_scale == 1.0 { q } else { q.mul_scalar(q_scale) };
        let (k, v) = (self.k.forward(keys.clone()), self.v.forward(keys));
        let mixed =
            B::attention_op(primitive(q), primitive(k), primitive(v), rows, &Heads::new(n_heads));
        self.out.onto(Some(add), tensor(mixed))
    }
}

/// Reads a LayerNorm: `name.weight` and `name.bias`.
pub(crate) fn layer_norm<B: Backend>(
    files: &mut Source,
    name: &str,
    features: usize,
    epsilon: f64,
    device: &B::Device,
) -> Result<Norm<B>> {
    Norm::read(files, name, features, (NormKind::Layer, epsilon), device)
}
