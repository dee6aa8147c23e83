//! What rewards read beside their specification, as hashes: a changed file is another labelling.

use std::path::Path;

use mopo_data::sha256_hex;

use super::config::LabelConfig;
use crate::reward::Resolver;
use crate::{Error, Result, RewardSpec};

impl LabelConfig {
    /// A hash for each objective over what its reward reads: word lists, a model's files; empty for
    /// none.
    ///
    /// # Errors
    /// [`Error::Io`] with the file that cannot be read; as [`ModelSpec::fingerprint`].
    ///
    /// [`ModelSpec::fingerprint`]: crate::reward::ModelSpec::fingerprint
    pub fn contents(&self, resolve: Resolver<'_>) -> Result<Vec<String>> {
        self.objectives
            .iter()
            .map(|objective| match &objective.reward {
                RewardSpec::WordList { file: Some(file), .. } => file_hash(file),
                RewardSpec::Model(spec) => spec.fingerprint(resolve),
                RewardSpec::WordList { file: None, .. }
                | RewardSpec::Demo { .. }
                | RewardSpec::Length { .. }
                | RewardSpec::Regex { .. } => Ok(String::new()),
            })
            .collect()
    }
}

fn file_hash(path: &Path) -> Result<String> {
    std::fs::read(path).map(|bytes| sha256_hex(&bytes)).map_err(|source| Error::Io {
        action: "read",
        path: path.into(),
        source,
    })
}
