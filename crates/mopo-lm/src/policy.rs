//! The trainable part of the multi-policy model: one shared adapter and one head per policy. The
//! frozen base model is not part of it; the lagged reference is just a clone of this.

use burn::module::Module;
use burn::tensor::backend::Backend;
use mopo_ops::FusedBackend;

use crate::{Decoder, Error, LoraAdapter, LoraConfig, PolicyHeads, Result};

/// Adapter and heads. `clone()` shares the parameter ids and, until a step changes them, the memory.
#[derive(Module, Debug)]
pub struct PolicyParams<B: Backend> {
    /// Shared by all policies.
    pub adapter: LoraAdapter<B>,
    /// One per policy.
    pub heads: PolicyHeads<B>,
}

impl<B: Backend> PolicyParams<B> {
    /// Policies that all equal the base model: a fresh adapter (it changes nothing yet), or a copy of
    /// the base's own, and heads copied from the base's output layer. Every parameter is a leaf that
    /// requires a gradient. Deterministic after `B::seed`. Panics if [`LoraConfig::check_fits`]
    /// refuses, or if the base's own adapter has another size.
    pub fn init(
        base: &impl Decoder<B>,
        lora: &LoraConfig,
        n_policies: usize,
        device: &B::Device,
    ) -> PolicyParams<B>
    where
        B: FusedBackend,
    {
        Self {
            adapter: match base.default_adapter() {
                None => lora.init(&base.shape(), device),
                Some(own) => lora.copied(own, &base.shape()),
            },
            heads: PolicyHeads::from_base(&base.lm_head(), n_policies),
        }
    }

    /// Number of policies.
    pub fn n_policies(&self) -> usize {
        self.heads.n_policies()
    }
}

/// Which distribution over the next token to use.
#[derive(Debug, Clone, PartialEq)]
pub enum HeadChoice {
    /// The base model: its own output layer, no adapter.
    Base,
    /// One policy: the adapter and that policy's head.
    Policy(usize),
    /// The mixture of all policies at a point of the simplex, which minimises the weighted sum of
    /// reverse KL divergences: per token `softmax(Σ_k w_k log_softmax_k)`.
    Mixture(Vec<f32>),
}

impl HeadChoice {
    /// Checks the choice against the number of policies.
    ///
    /// # Errors
    /// The policy does not exist; the weights are not one per policy, are negative or not finite,
    /// or have a sum that differs from 1 by more than 1e-3.
    pub fn check(&self, n_policies: usize) -> Result<()> {
        match self {
            Self::Base => Ok(()),
            Self::Policy(index) if *index < n_policies => Ok(()),
            Self::Policy(index) => Err(Error::PolicyOutOfRange { index: *index, n_policies }),
            Self::Mixture(weights) => {
                let refuse =
                    |reason| Err(Error::PreferenceWeights { weights: weights.clone(), reason });
                let sum: f32 = weights.iter().sum();
                if weights.len() != n_policies {
                    refuse(format!("there are {n_policies} policies"))
                } else if weights.iter().any(|w| !w.is_finite() || *w < 0.0) {
                    refuse("a weight is negative or not finite".into())
                } else if (sum - 1.0).abs() > 1e-3 {
                    refuse(format!("their sum is {sum}"))
                } else {
                    Ok(())
                }
            }
        }
    }
}
