//! `[mopo]` and `[dpo]` of a run's configuration.

use mopo_core::{IndicatorEstimator, MopoConfig};
use serde::{Deserialize, Serialize};

use super::ranges;
use crate::{Error, Result};

/// The method that a run trains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MethodConfig<'a> {
    /// `[mopo]`.
    Mopo(&'a MopoConfig),
    /// `[dpo]`.
    Dpo(&'a DpoConfig),
}

impl MethodConfig<'_> {
    /// Meaning of a response's indicator. DPO uses each pair as labelled.
    pub fn estimator(self) -> IndicatorEstimator {
        match self {
            Self::Mopo(mopo) => mopo.indicator_estimator,
            Self::Dpo(_) => IndicatorEstimator::Pair,
        }
    }
}

/// DPO with one objective against the frozen base ([`mopo_core::dpo`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpoConfig {
    /// The objective whose labels are learned; `policies` must name only it.
    pub objective: String,
    /// β > 0, strength of the KL term (the field's usual value: 0.1).
    pub beta: f64,
    /// Probability that a label is wrong, in [0, 0.5): I becomes (1 − ε) I + ε (1 − I), as in
    /// conservative DPO. 0 takes labels as they are.
    pub label_smoothing: f64,
    /// Whether the output layer is trained with the adapter; if false, it stays the base's.
    pub train_head: bool,
}

impl DpoConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Config`] names the key, its value and the accepted values.
    pub fn check(&self) -> Result<()> {
        let fail = |message| Err(Error::Config { origin: "`[dpo]`".into(), message });
        ranges::positive("dpo.beta", self.beta).or_else(fail)?;
        if !(0.0..0.5).contains(&self.label_smoothing) {
            return fail(format!(
                "`dpo.label_smoothing` is {}; it must lie in [0, 0.5): at 0.5 and above nothing is \
                 preferred",
                self.label_smoothing
            ));
        }
        Ok(())
    }
}
