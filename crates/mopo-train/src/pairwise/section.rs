//! The section of a method whose configuration is all of its loss.

use mopo_core::Objectives;
use mopo_core::divergence::Divergence;
use mopo_lm::PolicyParams;
use mopo_ops::FusedAutodiffBackend;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{PairLoss, PairTraining};
use crate::methods::{MethodSection, RunSteps, TrainContext};
use crate::{Progress, Result};

/// A section that is a loss on pairs: checked and trained like the others.
pub(crate) trait PairSection: PairLoss + Clone + Serialize + DeserializeOwned {
    /// [`MethodSection::TEXT`].
    const TEXT: &'static str;
    /// [`MethodSection::OPTIONAL`].
    const OPTIONAL: &'static [&'static str] = &[];
    /// [`MethodSection::ALTERNATIVES`].
    const ALTERNATIVES: &'static [&'static [&'static str]];
    /// [`MethodSection::REMEDY`].
    const REMEDY: &'static str;

    /// Checks the loss's own keys.
    ///
    /// # Errors
    /// Names the key and what would be accepted.
    fn check_loss(&self) -> Result<()>;

    /// Which pairs are used, and what is trained.
    fn training(&self) -> PairTraining<'_>;

    /// [`MethodSection::divergence`].
    fn divergence(&self) -> Option<Divergence> {
        self.has_reference().then_some(Divergence::ReverseKl)
    }
}

impl<T: PairSection> MethodSection for T {
    const TEXT: &'static str = T::TEXT;
    const OPTIONAL: &'static [&'static str] = T::OPTIONAL;
    const ALTERNATIVES: &'static [&'static [&'static str]] = T::ALTERNATIVES;
    const REMEDY: &'static str = T::REMEDY;

    fn check_section(&self, policies: &[String]) -> Result<()> {
        self.check_loss()?;
        self.training().target.check(policies)
    }

    fn needs_initial_log_probs(&self) -> bool {
        self.has_reference()
    }

    fn divergence(&self) -> Option<Divergence> {
        PairSection::divergence(self)
    }

    fn policies(&self) -> Option<Vec<String>> {
        self.training().target.policies()
    }

    fn check_labels(
        &self,
        _: &[String],
        objectives: &Objectives,
        rows: &[&[Option<f32>]],
    ) -> Result<()> {
        self.training().target.labels(objectives, rows).map(drop)
    }

    fn train<B: FusedAutodiffBackend>(
        &self,
        context: TrainContext<'_, B>,
        fit: &mut RunSteps<'_, B>,
        progress: &mut dyn Progress,
    ) -> Result<PolicyParams<B::InnerBackend>> {
        self.training().run(self.clone(), context, fit, progress)
    }
}
