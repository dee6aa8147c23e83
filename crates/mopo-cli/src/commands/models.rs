//! Models that a command is given: a place on the disk, or a name on the hub.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mopo_hub::{ModelName, locate};

use crate::progress::DownloadBar;

/// Where a model is, fetched first if it is the hub's. What is neither here nor a name of the hub is
/// left to the command, which knows what it wants.
pub(crate) fn find(model: &Path, revision: Option<&str>) -> Result<PathBuf> {
    let is_name = model.to_str().is_some_and(|text| text.parse::<ModelName>().is_ok());
    if revision.is_none() && (model.exists() || !is_name) {
        return Ok(model.into());
    }
    Ok(locate(model, revision, &mut DownloadBar::default())?.0)
}

/// The name to record for a model: pinned to its commit if it is the hub's.
pub(crate) fn pinned(model: &Path, revision: Option<&str>) -> Result<PathBuf> {
    Ok(locate(model, revision, &mut DownloadBar::default())?.1)
}

/// The one of a command's argument and its `--model` that was given, found.
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
    Ok(locate(Path::new(model), None, &mut DownloadBar::default())?.0)
}
