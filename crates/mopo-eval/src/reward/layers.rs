//! The parts of classifiers: dense layers, LayerNorms, embeddings, an attention's linear layers,
//! and batches of texts one after the other without padding.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, Int, Tensor, activation};
use mopo_hub::{TensorFiles, TensorWriter};
use mopo_ops::{FusedBackend, Gelu, Heads, NormKind, NormParams, PackedRows, primitive, tensor};

use crate::Result;

/// A text as token ids, and the position at which the model's state is classified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// At least one, each below the vocabulary's size.
    pub ids: Vec<u32>,
    /// An index into `ids`.
    pub pool: usize,
}

/// `x · W + b`.
#[derive(Module, Debug)]
pub struct Dense<B: Backend> {
    /// `[inputs, outputs]`.
    pub weight: Param<Tensor<B, 2>>,
    /// `[outputs]`.
    pub bias: Param<Tensor<B, 1>>,
}

/// LayerNorm over the features of each token.
#[derive(Module, Debug)]
pub struct Norm<B: Backend> {
    /// Scales, `[features]`.
    pub gamma: Param<Tensor<B, 1>>,
    /// Offsets, `[features]`.
    pub beta: Param<Tensor<B, 1>>,
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
    /// The activation with this name in transformers.
    pub(crate) fn from_hub(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu(Gelu::Erf)),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Self::Gelu(Gelu::Tanh)),
            "relu" => Some(Self::Relu),
            _ => None,
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
        files: &mut TensorFiles,
        name: &str,
        [inputs, outputs]: [usize; 2],
        device: &B::Device,
    ) -> Result<Self> {
        let weight =
            files.transposed(&format!("{name}.weight"), [inputs, outputs], false, device)?;
        let bias = files.tensor(&format!("{name}.bias"), [outputs], device)?;
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

impl<B: Backend> Norm<B> {
    /// Scales 1, offsets 0.
    pub(crate) fn init(features: usize, device: &B::Device) -> Self {
        Self {
            gamma: Param::from_tensor(Tensor::ones([features], device)),
            beta: Param::from_tensor(Tensor::zeros([features], device)),
        }
    }

    /// Reads `name.weight` and `name.bias`.
    pub(crate) fn read(
        files: &mut TensorFiles,
        name: &str,
        features: usize,
        device: &B::Device,
    ) -> Result<Self> {
        let gamma = files.tensor(&format!("{name}.weight"), [features], device)?;
        let beta = files.tensor(&format!("{name}.bias"), [features], device)?;
        Ok(Self { gamma: Param::from_tensor(gamma), beta: Param::from_tensor(beta) })
    }

    /// The counterpart of [`read`](Self::read).
    pub(crate) fn write(&self, out: &mut TensorWriter, name: &str) {
        out.tensor(&format!("{name}.weight"), self.gamma.val());
        out.tensor(&format!("{name}.bias"), self.beta.val());
    }
}

impl<B: FusedBackend> Norm<B> {
    /// Normalises x, `[n, features]`; `epsilon` is added to the variance.
    pub fn forward(&self, x: Tensor<B, 2>, epsilon: f64) -> Tensor<B, 2> {
        let (gamma, beta) = (primitive(self.gamma.val()), primitive(self.beta.val()));
        let norm = NormParams { kind: NormKind::Layer, gamma, beta: Some(beta), epsilon };
        tensor(B::norm_op(primitive(x), &norm))
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
        files: &mut TensorFiles,
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

/// Texts one after the other.
pub(crate) struct Batch<B: Backend> {
    /// `[n_tokens]`.
    pub(crate) ids: Tensor<B, 1, Int>,
    /// Position of each token in its text, from 0, `[n_tokens]`.
    pub(crate) positions: Tensor<B, 1, Int>,
    /// Tokens of each text.
    pub(crate) lens: Vec<usize>,
    /// Which tokens are classified, `[n_rows]`.
    pub(crate) pooled: Tensor<B, 1, Int>,
}

impl<B: Backend> Batch<B> {
    /// Panics if a text has no tokens, or is pooled at a position that it does not have: shape
    /// contracts.
    pub(crate) fn new(rows: &[TokenRow], device: &B::Device) -> Self {
        let mut pooled = Vec::with_capacity(rows.len());
        let mut start = 0;
        for row in rows {
            assert!(row.pool < row.ids.len(), "pooled at {} of {}", row.pool, row.ids.len());
            pooled.push((start + row.pool) as i32);
            start += row.ids.len();
        }
        let ids: Vec<i32> = rows.iter().flat_map(|row| &row.ids).map(|id| *id as i32).collect();
        let positions: Vec<i32> = rows.iter().flat_map(|row| 0..row.ids.len() as i32).collect();
        let ints = |values: &[i32]| Tensor::from_data(values, device);
        Self {
            ids: ints(&ids),
            positions: ints(&positions),
            lens: rows.iter().map(|row| row.ids.len()).collect(),
            pooled: ints(&pooled),
        }
    }

    /// Tokens see themselves and earlier ones.
    pub(crate) fn causal(&self) -> Arc<PackedRows> {
        Arc::new(PackedRows::new(self.lens.iter().map(|n| [*n, 0, 0])))
    }

    /// Queries only at the pooled tokens, one per text, which see all of it.
    pub(crate) fn of_pooled(&self) -> Arc<PackedRows> {
        Arc::new(PackedRows::across(self.lens.iter().map(|n| [1, *n])))
    }

    /// Tokens see all of their text.
    pub(crate) fn bidirectional(&self) -> Arc<PackedRows> {
        Arc::new(PackedRows::bidirectional(self.lens.iter().copied()))
    }
}

/// The first of some prefixes with which there is a tensor of this name; the first of all if there
/// is none, so that errors show the usual one.
pub(crate) fn prefix(files: &TensorFiles, prefixes: &[&'static str], name: &str) -> &'static str {
    let found = prefixes.iter().find(|prefix| files.contains(&format!("{prefix}{name}")));
    found.or(prefixes.first()).expect("at least one prefix")
}
