//! Models and tokenizers named by a configuration: directories, or models on Hugging Face.

use std::path::{Path, PathBuf};

use mopo_hub::locate;

use crate::config::{ModelSource, TokenizerConfig};
use crate::reward_model::{RewardModel, RewardTrainConfig};
use crate::{Progress, Result, RunConfig, Silent};

impl RunConfig {
    /// Downloads the models on Hugging Face that the configuration names, and pins their names to
    /// the
    /// commits, so that the run can be repeated and resumed with the same files.
    ///
    /// # Errors
    /// A model that neither exists locally nor can be downloaded ([`mopo_hub::Hub::fetch`]).
    pub fn fetch_models(&mut self, progress: &mut dyn Progress) -> Result<()> {
        if let ModelSource::Hub(model) = &mut self.model.source {
            *model = locate(model, None, progress)?.1;
        }
        if let TokenizerConfig::File(file) = &mut self.tokenizer {
            *file = locate(file, None, progress)?.1;
        }
        Ok(())
    }
}

impl RewardTrainConfig {
    /// Like [`RunConfig::fetch_models`].
    ///
    /// # Errors
    /// Those of [`RunConfig::fetch_models`].
    pub fn fetch_models(&mut self, progress: &mut dyn Progress) -> Result<()> {
        if let RewardModel::Hub(model) = &mut self.model {
            *model = locate(model, None, progress)?.1;
        }
        if let Some(TokenizerConfig::File(file)) = &mut self.tokenizer {
            *file = locate(file, None, progress)?.1;
        }
        Ok(())
    }
}

/// The directory of `model.hub`.
pub(crate) fn model_dir(model: &Path) -> Result<PathBuf> {
    Ok(locate(model, None, &mut Silent)?.0)
}

/// The file of `tokenizer.file`, which may also name a model.
pub(crate) fn tokenizer_file(file: &Path) -> Result<PathBuf> {
    let place = locate(file, None, &mut Silent)?.0;
    Ok(if place.is_dir() { place.join("tokenizer.json") } else { place })
}
