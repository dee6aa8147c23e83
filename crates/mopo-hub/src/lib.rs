//! Model directories as the hub has them: JSON and tensor files, read with named errors and written
//! whole or not at all.
//!
//! [`TensorFiles`] takes the tensors of `model.safetensors` or `pytorch_model.bin`, whole or in
//! shards, one by one by name; [`TensorWriter`] writes a `model.safetensors`. What the tensors mean
//! is known to the crates of the models. Without the feature `tensors` (on by default) there is
//! [`write_atomically`] and JSON only, and no burn.

mod error;
mod files;
#[cfg(feature = "tensors")]
mod tensors;

pub use error::{Error, Result};
pub use files::{create_dir, read, read_json, write_atomically, write_atomically_with, write_json};
#[cfg(feature = "tensors")]
pub use tensors::{TensorFiles, TensorWriter, WEIGHTS, WeightDtype, find_files};
