//! Hashes of the files that rewards read: a changed file makes another labelling.

use super::config::LabelConfig;
use crate::reward::Resolver;
use crate::{Result, RewardSpec};

impl LabelConfig {
    /// A hash per objective over the files of its reward: word lists, a model's files; empty for
    /// none.
    ///
    /// # Errors
    /// The file that cannot be read; those of [`ModelSpec::fingerprint`].
    ///
    /// [`ModelSpec::fingerprint`]: crate::reward::ModelSpec::fingerprint
    pub fn contents(&self, resolve: Resolver<'_>) -> Result<Vec<String>> {
        self.objectives
            .iter()
            .map(|objective| match &objective.reward {
                RewardSpec::WordList { file: Some(file), .. } => Ok(mopo_hub::file_sha256(file)?),
                RewardSpec::Model(spec) => spec.fingerprint(resolve),
                RewardSpec::WordList { file: None, .. }
                | RewardSpec::Demo { .. }
                | RewardSpec::Length { .. }
                | RewardSpec::Regex { .. } => Ok(String::new()),
            })
            .collect()
    }
}
