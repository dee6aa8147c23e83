//! Mixtures of policies under any divergence with a barrier, and the robust one.
//!
//! Under reverse KL the reference cancels, and the logits of a mixture with fixed weights are an average. Under
//! the others it does not: the base model then runs as well, without an adapter and with its own
//! cache. These, and the mixture under the worst weights, are made on the host, token by token.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_core::divergence::{Divergence, mix, worst_case};
use mopo_ops::FusedBackend;

use super::finite;
use super::stream::{PolicyStates, StepTokens, Stream};
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
            HeadChoice::WorstCase if self.divergence != Divergence::ReverseKl => {
                Err(Error::InvalidParameter {
                    field: "divergence",
                    value: self.divergence.to_string(),
                    expected: "the worst case over weights is defined for reverse_kl only".into(),
                })
            }
            HeadChoice::Base | HeadChoice::Policy(_) | HeadChoice::WorstCase => Ok(()),
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

/// A mixture that is made on the host.
pub(super) struct HostMixture<'a, B: FusedBackend, M> {
    decoding: &'a Decoding,
    heads: &'a [OutputLayer<B>],
    /// Where weights are given: those above 0, with sum 1, and the base.
    fixed: Option<(Vec<f64>, &'a M, Stream<'a, B, M>)>,
}

impl<'a, B: FusedBackend, M: Decoder<B>> HostMixture<'a, B, M> {
    /// `None` where the usual logits are the same: no mixture, reverse KL with given weights, or a single policy. The
    /// decoding must have been checked.
    pub(super) fn new(
        base: &'a M,
        params: Option<&'a PolicyParams<B>>,
        decoding: &'a Decoding,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        device: &B::Device,
    ) -> Option<Self> {
        let heads = &params?.heads.heads[..];
        if decoding.head == HeadChoice::WorstCase {
            return Some(Self { decoding, heads, fixed: None });
        }
        let HeadChoice::Mixture(weights) = &decoding.head else { return None };
        let weights: Vec<f64> = weights
            .iter()
            .filter(|weight| **weight > 0.0)
            .map(|weight| f64::from(*weight))
            .collect();
        if decoding.divergence == Divergence::ReverseKl || weights.len() == 1 {
            return None;
        }
        let sum: f64 = weights.iter().sum();
        let weights = weights.iter().map(|weight| weight / sum).collect();
        let reference = Stream::new(base, None, prompts, max_new_tokens, device);
        Some(Self { decoding, heads, fixed: Some((weights, base, reference)) })
    }

    /// Log-probabilities of the next token, up to a constant, `[rows * vocab]`, from the hidden states of the policies
    /// with a weight; zeros for rows that are `done`.
    ///
    /// # Errors
    /// Logits that are not finite, `n_new` tokens after the prompts.
    pub(super) fn step(
        &mut self,
        tokens: StepTokens<'_>,
        states: &[PolicyStates<B>],
        done: &[bool],
        n_new: usize,
    ) -> Result<Vec<f32>> {
        let reference = self
            .fixed
            .as_mut()
            .map(|(_, base, stream)| host(base.lm_head().logits(stream.step(tokens))));
        let heads: Vec<Vec<f32>> =
            states.iter().map(|(k, hidden)| host(self.heads[*k].logits(hidden.clone()))).collect();
        let vocab = heads[0].len() / done.len();
        let mut mixed = Vec::with_capacity(heads[0].len());
        for (row, done) in done.iter().enumerate() {
            let of = |logits: &[f32]| log_softmax(&logits[row * vocab..][..vocab]);
            if *done {
                mixed.resize(mixed.len() + vocab, 0.0);
                continue;
            }
            // NaN in one head makes the mixture NaN, so it is reported as such.
            for logits in heads.iter().chain(&reference) {
                finite(&logits[row * vocab..][..vocab], n_new)?;
            }
            let policies: Vec<Vec<f64>> = heads.iter().map(|logits| of(logits)).collect();
            let policies: Vec<&[f64]> = policies.iter().map(Vec::as_slice).collect();
            let log_policy = match self.fixed.as_ref().zip(reference.as_ref()) {
                Some(((weights, ..), reference)) => {
                    mix(self.decoding.divergence, &policies, &of(reference), weights)
                        .map_err(|error| self.decoding.failed(&error))?
                }
                None => {
                    let weights = worst_case(&policies);
                    let used = || policies.iter().zip(&weights).filter(|(_, w)| **w > 0.0);
                    let mean = |y: usize| used().map(|(log, w)| w * log[y]).sum::<f64>();
                    (0..vocab).map(mean).collect()
                }
            };
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
