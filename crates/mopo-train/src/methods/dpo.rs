//! DPO: one policy, trained on pairs' labels against the frozen base (Rafailov et al., 2023, equation 7;
//! docs/methods/dpo.md). The baseline of every comparison.

use burn::tensor::{Tensor, backend::Backend};
use mopo_core::pairwise::{denoised, dpo_loss, smoothed};
use serde::{Deserialize, Serialize};

use crate::config::ranges;
use crate::pairwise::{Combination, PairLoss, PairSection, PairTarget, PairTraining, PairValues};
use crate::{Error, Result};

/// DPO against the frozen base ([`mopo_core::pairwise::dpo_loss`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpoConfig {
    /// The objective whose labels are learned; `policies` must name only it. Exactly one of this and
    /// `combination` is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// A preference made of several objectives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combination: Option<Combination>,
    /// β > 0, strength of the KL term (the field's usual value: 0.1).
    pub beta: f64,
    /// Probability ε that a label is wrong, in [0, 0.5). 0 takes labels as they are.
    pub label_smoothing: f64,
    /// Whether the loss is corrected for wrong labels, so that its mean is that of the right ones (robust DPO). If
    /// false or absent, I becomes (1 − ε) I + ε (1 − I) (conservative DPO).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub robust: bool,
    /// Whether Δ is divided by the response's number of tokens. By default it is a sum.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub length_normalized: bool,
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

impl PairSection for DpoConfig {
    const TEXT: &'static str = r#"[method]
kind = "dpo"

[dpo]
# Instead of one objective:
# combination = { agreement = ["helpful", "harmless"] }
# combination = { weighted_labels = { helpful = 0.5, harmless = 0.5 } }
# combination = { weighted_loss = { helpful = 0.5, harmless = 0.5 } }
objective = "helpful"
beta = 0.1
# Probability that a label is wrong; 0 takes labels as they are. With robust = true the loss is corrected for it.
label_smoothing = 0.0
# The output layer stays the base's: only the adapter is trained.
train_head = false
"#;
    const OPTIONAL: &'static [&'static str] = &["dpo.robust", "dpo.length_normalized"];
    const ALTERNATIVES: &'static [&'static [&'static str]] =
        &[&["dpo.objective", "dpo.combination"]];
    const REMEDY: &'static str = ", a smaller `dpo.beta`";

    fn check_loss(&self) -> Result<()> {
        self.check()
    }

    fn training(&self) -> PairTraining<'_> {
        let target = PairTarget {
            section: "dpo",
            objective: self.objective.as_deref(),
            combination: self.combination.as_ref(),
        };
        PairTraining { phase: "dpo", name: "DPO", target, train_head: self.train_head }
    }
}

impl PairLoss for DpoConfig {
    fn is_per_token(&self) -> bool {
        self.length_normalized
    }

    fn indicator(&self, label: f32) -> f32 {
        let corrected = if self.robust { denoised } else { smoothed };
        corrected(label.into(), self.label_smoothing) as f32
    }

    fn loss<B: Backend>(&self, pairs: PairValues<B>) -> Tensor<B, 1> {
        let PairValues { first, second, indicators, mass, .. } = pairs;
        dpo_loss(first, second, indicators, mass, self.beta)
    }

    fn reward(&self, value: f64) -> f64 {
        self.beta * value
    }
}
