//! Mixtures of heads under any divergence with a barrier.
//!
//! Under reverse KL the reference cancels, and the logits of the mixture are an average. Under the
//! others it does not: the base model then runs as well, without the adapter and with its own
//! cache, and the heads are mixed on the host, token by token.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_core::divergence::{Divergence, mix};
use mopo_ops::FusedBackend;

use super::finite;
use super::stream::{StepTokens, Stream};
use crate::{Decoder, Error, HeadChoice, OutputLayer, PolicyParams, Result};

/// Which distribution the next token is drawn from: a head, and for a mixture also the divergence
/// with which the policies were regularised, under which they are mixed exactly
/// ([`mopo_core::divergence::mix`]).
///
/// A [`HeadChoice`] converts into one with reverse KL.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoding {
    /// The base, a policy, or the weights of a mixture.
    pub head: HeadChoice,
    /// For mixtures: any divergence with a barrier. The reference is the base model,
    /// [`HeadChoice::Base`].
    pub divergence: Divergence,
}

impl From<HeadChoice> for Decoding {
    fn from(head: HeadChoice) -> Self {
        Self { head, divergence: Divergence::ReverseKl }
    }
}

impl From<&HeadChoice> for Decoding {
    fn from(head: &HeadChoice) -> Self {
        head.clone().into()
    }
}

impl From<&Decoding> for Decoding {
    fn from(decoding: &Decoding) -> Self {
        decoding.clone()
    }
}

impl Decoding {
    /// Checks the head against the number of policies, and a mixture's divergence.
    ///
    /// # Errors
    /// Those of [`HeadChoice::check`]; a divergence that is out of range or has no barrier.
    pub fn check(&self, n_policies: usize) -> Result<()> {
        self.head.check(n_policies)?;
        match self.head {
            HeadChoice::Mixture(_) => {
                self.divergence.check_mixable().map_err(|error| match error {
                    mopo_core::Error::InvalidParameter { field, value, expected } => {
                        Error::InvalidParameter { field, value, expected }
                    }
                    other => self.failed(&other),
                })
            }
            HeadChoice::Base | HeadChoice::Policy(_) => Ok(()),
        }
    }

    fn failed(&self, error: &mopo_core::Error) -> Error {
        Error::InvalidParameter {
            field: "divergence",
            value: self.divergence.to_string(),
            expected: format!("the heads cannot be mixed under it: {error}"),
        }
    }
}

/// The heads with a nonzero weight, and the base.
pub(super) struct ExactMixture<'a, B: FusedBackend, M> {
    decoding: &'a Decoding,
    heads: Vec<&'a OutputLayer<B>>,
    /// Weights of `heads`, with sum 1.
    weights: Vec<f64>,
    base: &'a M,
    reference: Stream<'a, B, M>,
}

impl<'a, B: FusedBackend, M: Decoder<B>> ExactMixture<'a, B, M> {
    /// `None` where the usual logits give the same without a second forward pass: no mixture,
    /// reverse KL, or a single head. The decoding must have been checked.
    pub(super) fn new(
        base: &'a M,
        params: Option<&'a PolicyParams<B>>,
        decoding: &'a Decoding,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        device: &B::Device,
    ) -> Option<Self> {
        let HeadChoice::Mixture(weights) = &decoding.head else { return None };
        let used = params?.heads.heads.iter().zip(weights).filter(|(_, weight)| **weight > 0.0);
        let (heads, weights): (Vec<_>, Vec<f64>) =
            used.map(|(head, weight)| (head, f64::from(*weight))).unzip();
        if decoding.divergence == Divergence::ReverseKl || heads.len() == 1 {
            return None;
        }
        let sum: f64 = weights.iter().sum();
        let weights = weights.iter().map(|weight| weight / sum).collect();
        let reference = Stream::new(base, None, prompts, max_new_tokens, device);
        Some(Self { decoding, heads, weights, base, reference })
    }

    /// Log-probabilities of the next token, `[rows * vocab]`, from the policies' hidden states
    /// `[rows, hidden_size]`; zeros for rows that are `done`.
    ///
    /// # Errors
    /// Logits that are not finite, `n_new` tokens after the prompts.
    pub(super) fn step(
        &mut self,
        tokens: StepTokens<'_>,
        hidden: &Tensor<B, 2>,
        done: &[bool],
        n_new: usize,
    ) -> Result<Vec<f32>> {
        let reference = host(self.base.lm_head().logits(self.reference.step(tokens)));
        let heads: Vec<Vec<f32>> =
            self.heads.iter().map(|head| host(head.logits(hidden.clone()))).collect();
        let vocab = reference.len() / done.len();
        let mut mixed = Vec::with_capacity(reference.len());
        for (row, done) in done.iter().enumerate() {
            let of = |logits: &[f32]| log_softmax(&logits[row * vocab..][..vocab]);
            if *done {
                mixed.resize(mixed.len() + vocab, 0.0);
                continue;
            }
            // NaN in one head makes the mixture NaN, so it is reported as such.
            for logits in heads.iter().chain([&reference]) {
                finite(&logits[row * vocab..][..vocab], n_new)?;
            }
            let policies: Vec<Vec<f64>> = heads.iter().map(|logits| of(logits)).collect();
            let policies: Vec<&[f64]> = policies.iter().map(Vec::as_slice).collect();
            let log_policy =
                mix(self.decoding.divergence, &policies, &of(&reference), &self.weights)
                    .map_err(|error| self.decoding.failed(&error))?;
            mixed.extend(log_policy.into_iter().map(|log| log as f32));
        }
        Ok(mixed)
    }
}

/// All values, row by row.
pub(super) fn host<B: Backend>(table: Tensor<B, 2>) -> Vec<f32> {
    table.into_data().convert::<f32>().to_vec::<f32>().expect("just converted")
}

/// In `f64`, so that the reference's tail keeps its ratios.
pub(super) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total = logits.iter().map(|logit| (f64::from(*logit) - max).exp()).sum::<f64>();
    let log_total = max + total.ln();
    logits.iter().map(|logit| f64::from(*logit) - log_total).collect()
}
