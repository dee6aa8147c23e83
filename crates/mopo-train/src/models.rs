//! Models and tokenizers named by a configuration: directories, or models on Hugging Face.

use std::path::{Path, PathBuf};

use mopo_hub::locate;

use crate::config::{ModelSource, TokenizerConfig};
use crate::reward_model::{RewardModel, RewardTrainConfig};
use crate::{Error, Progress, Result, RunConfig, Silent};

const DECODER: &str = "model.decoder.hub";

impl RunConfig {
    /// Downloads the models on Hugging Face that the configuration names, and pins their names to
    /// the
    /// commits, so that the run can be repeated and resumed with the same files.
    ///
    /// # Errors
    /// A model that neither exists locally nor can be downloaded ([`mopo_hub::Hub::fetch`]).
    pub fn fetch_models(&mut self, progress: &mut dyn Progress) -> Result<()> {
        if let ModelSource::Hub(model) = &mut self.model.source {
            *model = find("model.hub", model, progress)?.1;
        }
        if let TokenizerConfig::File(file) = &mut self.tokenizer {
            *file = find("tokenizer.file", file, progress)?.1;
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
        match &mut self.model {
            RewardModel::Hub(model) => *model = find("model.hub", model, progress)?.1,
            RewardModel::Decoder(model) => {
                model.hub = find(DECODER, &model.hub, progress)?.1;
            }
            RewardModel::Gpt2(_) | RewardModel::Distilbert(_) => {}
        }
        if let Some(TokenizerConfig::File(file)) = &mut self.tokenizer {
            *file = find("tokenizer.file", file, progress)?.1;
        }
        Ok(())
    }
}

/// The directory of `model.hub`.
pub(crate) fn model_dir(model: &Path) -> Result<PathBuf> {
    Ok(find("model.hub", model, &mut Silent)?.0)
}

/// The directory or file of `model.decoder.hub`.
pub(crate) fn decoder_dir(model: &Path) -> Result<PathBuf> {
    Ok(find(DECODER, model, &mut Silent)?.0)
}

/// The file of `tokenizer.file`, which may also name a model.
pub(crate) fn tokenizer_file(file: &Path) -> Result<PathBuf> {
    Ok(tokenizer_of(find("tokenizer.file", file, &mut Silent)?.0))
}

/// The file with the tokenizer of a model: of a directory, or the GGUF file itself.
pub(crate) fn tokenizer_of(model: PathBuf) -> PathBuf {
    if model.is_dir() { model.join("tokenizer.json") } else { model }
}

/// The place of what a key names, and the name to record for it.
fn find(key: &str, name: &Path, progress: &mut dyn Progress) -> Result<(PathBuf, PathBuf)> {
    locate(name, None, progress)
        .map_err(|e| Error::Config { origin: format!("`{key}`"), message: e.to_string() })
}
