//! Models on the command line: a path, or a name on Hugging Face.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mopo_hub::{ModelName, locate};

use crate::progress::Bars;

/// The directory of a model, fetched first if it is a name on Hugging Face. Anything else is returned
/// as it is: the command has the better error message.
pub(crate) fn find(model: &Path, revision: Option<&str>) -> Result<PathBuf> {
    let is_name = model.to_str().is_some_and(|text| text.parse::<ModelName>().is_ok());
    if revision.is_none() && (model.exists() || !is_name) {
        return Ok(model.into());
    }
    Ok(locate(model, revision, &mut Bars::new())?.0)
}

/// The name to record for a model: pinned to its commit if it is on Hugging Face.
pub(crate) fn pinned(model: &Path, revision: Option<&str>) -> Result<PathBuf> {
    Ok(locate(model, revision, &mut Bars::new())?.1)
}

/// The directory given by a command's argument or by its `--model`.
pub(crate) fn given(
    argument: &Option<PathBuf>,
    model: &Option<PathBuf>,
    revision: &Option<String>,
) -> Result<PathBuf> {
    let given = argument.as_ref().or(model.as_ref()).expect("the command line requires one");
    find(given, revision.as_deref())
}

/// The directory of a model that a reward names: mopo-eval's `Resolver`.
pub(crate) fn resolve(model: &str) -> mopo_eval::Result<PathBuf> {
    Ok(locate(Path::new(model), None, &mut Bars::new())?.0)
}
