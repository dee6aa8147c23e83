//! Norms over the features of a token or of a head.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_hub::TensorWriter;
use mopo_ops::{FusedBackend, NormKind, NormParams, primitive, tensor};

use crate::Result;
use crate::weights::Source;

/// A norm: LayerNorm, RMSNorm, or RMSNorm with 1 + gamma.
#[derive(Module, Debug)]
pub struct Norm<B: Backend> {
    /// `[features]`.
    pub gamma: Param<Tensor<B, 1>>,
    /// `[features]`, of LayerNorm only.
    pub beta: Option<Param<Tensor<B, 1>>>,
    #[module(skip)]
    kind: NormKind,
    #[module(skip)]
    epsilon: f64,
}

impl<B: Backend> Norm<B> {
    /// A fresh LayerNorm: gamma 1, beta 0.
    pub(crate) fn init(features: usize, epsilon: f64, device: &B::Device) -> Self {
        Self {
            gamma: Param::from_tensor(Tensor::ones([features], device)),
            beta: Some(Param::from_tensor(Tensor::zeros([features], device))),
            kind: NormKind::Layer,
            epsilon,
        }
    }

    /// Reads `name.weight`, and for LayerNorm `name.bias`, both `[d]`.
    pub(crate) fn read(
        source: &mut Source,
        name: &str,
        d: usize,
        (kind, epsilon): (NormKind, f64),
        device: &B::Device,
    ) -> Result<Self> {
        let gamma = Param::from_tensor(source.vector(&format!("{name}.weight"), d, device)?);
        let beta = match kind {
            NormKind::Layer => {
                Some(Param::from_tensor(source.vector(&format!("{name}.bias"), d, device)?))
            }
            NormKind::Rms | NormKind::RmsPlusOne => None,
        };
        Ok(Self { gamma, beta, kind, epsilon })
    }

    /// The counterpart of [`read`](Self::read).
    pub(crate) fn write(&self, out: &mut TensorWriter, name: &str) {
        out.tensor(&format!("{name}.weight"), self.gamma.val());
        if let Some(beta) = &self.beta {
            out.tensor(&format!("{name}.bias"), beta.val());
        }
    }

    /// As the operations take it.
    pub(crate) fn params(&self) -> NormParams<B> {
        NormParams {
            kind: self.kind,
            gamma: primitive(self.gamma.val()),
            beta: self.beta.as_ref().map(|beta| primitive(beta.val())),
            epsilon: self.epsilon,
        }
    }
}

impl<B: FusedBackend> Norm<B> {
    /// Of every token, `[n_tokens, features]`; differentiable.
    pub(crate) fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        tensor(B::norm_op(primitive(x), &self.params()))
    }
}
