//! Hashes of the files that rewards read: a changed file makes another labelling.

use std::path::Path;

use super::config::LabelConfig;
use crate::reward::Resolver;
use crate::{Result, RewardSpec};

impl LabelConfig {
    /// A hash per objective over the files of its reward: word lists, a model's files, a program's;
    /// empty for
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
                // The files among its words, such as a script.
                RewardSpec::Program { command, .. } => {
                    let files = command.iter().map(Path::new).filter(|path| path.is_file());
                    let hashes = files.map(|path| Ok(mopo_hub::file_sha256(path)?));
                    Ok(hashes.collect::<Result<Vec<_>>>()?.join(" "))
                }
                RewardSpec::WordList { file: None, .. }
                | RewardSpec::Demo { .. }
                | RewardSpec::Length { .. }
                | RewardSpec::Regex { .. } => Ok(String::new()),
            })
            .collect()
    }
}
