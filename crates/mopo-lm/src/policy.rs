//! The trainable part of the multi-policy model: adapters and one head per policy. The frozen base
//! model is not part of it; the lagged reference is just a clone of this.

use burn::module::Module;
use burn::tensor::backend::Backend;
use mopo_core::divergence::Divergence;
use mopo_ops::FusedBackend;
use serde::{Deserialize, Serialize};

use crate::{Decoder, Error, LoraAdapter, LoraConfig, PolicyHeads, Result};

/// Adapters and heads. `clone()` shares the parameter ids and, until a step changes them, the memory.
#[derive(Module, Debug)]
pub struct PolicyParams<B: Backend> {
    /// One that all policies share, or one for each.
    pub adapters: Vec<LoraAdapter<B>>,
    /// One per policy.
    pub heads: PolicyHeads<B>,
}

/// Whether policies share their adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterSharing {
    /// All policies have the same one, and differ in their heads only: one forward pass serves all.
    #[default]
    Shared,
    /// Each policy has its own, and a forward pass of its own.
    PerPolicy,
}

/// How policies make another one for preference weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    /// Token by token, exactly for policies that were regularised with this divergence from the base.
    Logits(Divergence),
    /// By their parameters: low-rank updates and heads are averaged
    /// ([`PolicyParams::interpolated`], Rewarded Soups).
    Parameters,
}

impl Default for Mixing {
    fn default() -> Self {
        Self::Logits(Divergence::ReverseKl)
    }
}

impl Mixing {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl<B: Backend> PolicyParams<B> {
    /// Policies that all equal the base model: fresh adapters (they change nothing yet), or copies of
    /// the base's own, and heads copied from the base's output layer. Every parameter is a leaf that
    /// requires a gradient. Deterministic after `B::seed`. Panics if [`LoraConfig::check_fits`]
    /// refuses, or if the base's own adapter has another size.
    pub fn init(
        base: &impl Decoder<B>,
        lora: &LoraConfig,
        n_policies: usize,
        sharing: AdapterSharing,
        device: &B::Device,
    ) -> PolicyParams<B>
    where
        B: FusedBackend,
    {
        let adapter = || match base.default_adapter() {
            None => lora.init(&base.shape(), device),
            Some(own) => lora.copied(own, &base.shape()),
        };
        let n_adapters = match sharing {
            AdapterSharing::Shared => 1,
            AdapterSharing::PerPolicy => n_policies,
        };
        Self {
            adapters: (0..n_adapters).map(|_| adapter()).collect(),
            heads: PolicyHeads::from_base(&base.lm_head(), n_policies),
        }
    }

    /// Policies with one adapter.
    pub fn shared(adapter: LoraAdapter<B>, heads: PolicyHeads<B>) -> Self {
        Self { adapters: vec![adapter], heads }
    }

    /// The same policies without low-rank updates of their heads: they are part of the weights.
    pub fn merged(self) -> Self {
        let Self { adapters, heads } = self;
        Self { adapters, heads: heads.merged() }
    }

    /// Number of policies.
    pub fn n_policies(&self) -> usize {
        self.heads.n_policies()
    }

    /// Whether all policies have the same adapter.
    pub fn sharing(&self) -> AdapterSharing {
        match self.adapters.len() == self.n_policies() && self.n_policies() > 1 {
            true => AdapterSharing::PerPolicy,
            false => AdapterSharing::Shared,
        }
    }

    /// The adapter of a policy.
    pub fn adapter(&self, policy: usize) -> &LoraAdapter<B> {
        &self.adapters[self.adapter_index(policy)]
    }

    /// Which of the adapters a policy has.
    pub fn adapter_index(&self, policy: usize) -> usize {
        policy.min(self.adapters.len() - 1)
    }

    /// Each adapter with the policies that have it.
    pub fn by_adapter(&self) -> impl Iterator<Item = (&LoraAdapter<B>, std::ops::Range<usize>)> {
        let n = self.n_policies();
        let is_shared = self.adapters.len() == 1;
        self.adapters
            .iter()
            .enumerate()
            .map(move |(i, adapter)| (adapter, if is_shared { 0..n } else { i..i + 1 }))
    }

    /// The one policy whose weights are the weighted means of the policies' weights, as in Rewarded Soups
    /// (arXiv 2306.04488): W + Σ_k w_k s_k A_k B_k for each target of an adapter (never means of A and of B, whose
    /// product would be another), and the means of the heads. Its parameters are constants.
    ///
    /// # Errors
    /// Those of [`HeadChoice::check`] for a mixture.
    pub fn interpolated(&self, weights: &[f32]) -> Result<Self> {
        HeadChoice::Mixture(weights.to_vec()).check(self.n_policies())?;
        let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let used: Vec<(usize, f64)> = (weights.iter().enumerate())
            .filter(|(_, w)| **w > 0.0)
            .map(|(k, w)| (k, f64::from(*w) / sum))
            .collect();
        let heads: Vec<_> =
            used.iter().map(|(k, weight)| (&self.heads.heads[*k], *weight)).collect();
        let adapters: Vec<_> = match self.adapters.len() {
            1 => vec![(&self.adapters[0], 1.0)],
            _ => used.iter().map(|(k, weight)| (&self.adapters[*k], *weight)).collect(),
        };
        Ok(Self::shared(LoraAdapter::interpolated(&adapters), PolicyHeads::mean(&heads)))
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
    /// That mixture with the weights, token by token, under which it is worth least: the robust choice where nobody
    /// knows the weights ([`mopo_core::divergence::worst_case`]).
    WorstCase,
}

impl HeadChoice {
    /// The policies that it needs, of `n_policies`.
    pub(crate) fn policies(&self, n_policies: usize) -> Vec<usize> {
        match self {
            Self::Base => vec![],
            Self::Policy(index) => vec![*index],
            Self::Mixture(weights) => {
                (0..n_policies).filter(|&k| weights.get(k).is_some_and(|w| *w > 0.0)).collect()
            }
            Self::WorstCase => (0..n_policies).collect(),
        }
    }

    /// Checks the choice against the number of policies.
    ///
    /// # Errors
    /// The policy does not exist; the weights are not one per policy, are negative or not finite,
    /// or have a sum that differs from 1 by more than 1e-3.
    pub fn check(&self, n_policies: usize) -> Result<()> {
        match self {
            Self::Base => Ok(()),
            Self::WorstCase if n_policies == 0 => {
                Err(Error::PolicyOutOfRange { index: 0, n_policies })
            }
            Self::WorstCase => Ok(()),
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
