//! Models in GGUF files: what their metadata and tensors are called in Hugging Face's layout. Reading the
//! format itself, and its blocks, is in `mopo_hub::gguf`.

mod config;
mod tensors;

use std::path::Path;

pub(crate) use config::config;
pub(crate) use tensors::GgufTensors;

/// Whether a model's path is that of a GGUF file.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}
