//! Hashes of what rewards read: a changed file makes another labelling.

use super::config::LabelConfig;
use crate::Result;
use crate::reward::Resolver;

impl LabelConfig {
    /// A hash per objective over what its reward reads ([`RewardSpec::fingerprint`]); empty for none.
    ///
    /// # Errors
    /// Those of [`RewardSpec::fingerprint`].
    ///
    /// [`RewardSpec::fingerprint`]: crate::RewardSpec::fingerprint
    pub fn contents(&self, resolve: Resolver<'_>) -> Result<Vec<String>> {
        self.objectives.iter().map(|objective| objective.reward.fingerprint(resolve)).collect()
    }
}
