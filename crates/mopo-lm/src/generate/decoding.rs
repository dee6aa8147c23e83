//! Which distribution the next token is drawn from.

use mopo_core::divergence::Divergence;

use crate::engine::failed;
use crate::{Error, HeadChoice, Result};

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
                    other => failed(self.divergence, &other),
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
}
