//! Models in GGUF files: what their metadata and tensors are called in Hugging Face's layout. Reading the
//! format itself, and its blocks, is in `mopo_hub::gguf`.

mod config;
mod metadata;
mod names;
mod tensors;
mod write;

use std::path::{Path, PathBuf};

use mopo_hub::gguf::is_gguf;

pub(crate) use config::config;
pub(crate) use tensors::GgufTensors;
pub use write::export_gguf;

/// The name of a GGUF file that holds the weights of a model directory.
pub const GGUF_WEIGHTS: &str = "model.gguf";

/// The GGUF file of a model: the path itself, by its extension, or [`GGUF_WEIGHTS`] in a directory.
pub fn gguf_file(model: &Path) -> Option<PathBuf> {
    if is_gguf(model) && !model.is_dir() {
        return Some(model.into());
    }
    let within = model.join(GGUF_WEIGHTS);
    within.is_file().then_some(within)
}
