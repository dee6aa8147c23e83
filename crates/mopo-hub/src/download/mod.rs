//! Models by name: `org/name` or `org/name@revision`, downloaded from Hugging Face into the cache
//! that its other clients use too, or found there. What the files mean is not known here.

mod choose;
mod client;
mod fetch;
mod name;
mod settings;

use std::path::{Path, PathBuf};

pub use fetch::Snapshot;
pub use name::ModelName;
pub use settings::Hub;

use crate::{Error, Progress, Result};

/// Turns a user's name for a model into a directory: an existing path is used as it is; a name on
/// Hugging Face ([`ModelName`]) is downloaded with the settings of the environment
/// ([`Hub::from_env`]). The second value is the name to record: the same, but a name on Hugging
/// Face
/// is pinned to its commit.
///
/// # Errors
/// [`Error::NotAModel`] if it is neither; those of [`Hub::fetch`].
pub fn locate(
    model: &Path,
    revision: Option<&str>,
    progress: &mut dyn Progress,
) -> Result<(PathBuf, PathBuf)> {
    if model.exists() {
        if let Some(revision) = revision {
            return Err(Error::NotAModel {
                given: model.display().to_string(),
                reason: format!("it is a local path, which has no revision `{revision}`"),
            });
        }
        return Ok((model.into(), model.into()));
    }
    let not_a_model =
        |reason: String| Error::NotAModel { given: model.display().to_string(), reason };
    let text = model.to_str().ok_or_else(|| not_a_model("it does not exist".into()))?;
    let mut name: ModelName = text.parse().map_err(not_a_model)?;
    if let Some(revision) = revision {
        if name.revision().is_some() {
            return Err(not_a_model(format!(
                "it already has a revision, which is not `{revision}`"
            )));
        }
        name = name.with_revision(revision).map_err(not_a_model)?;
    }
    let snapshot = Hub::from_env()?.fetch(&name, progress)?;
    Ok((snapshot.dir, snapshot.name.to_string().into()))
}
