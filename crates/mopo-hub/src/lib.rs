//! Model directories in the layout of Hugging Face: JSON and tensor files, read with named errors
//! and written whole or not at all.
//!
//! [`TensorFiles`] takes the tensors of `model.safetensors` or `pytorch_model.bin`, whole or in
//! shards, one by one by name; [`TensorWriter`] writes a `model.safetensors`. What the tensors mean
//! is known to the crates of the models. [`locate`] turns a model's name into a directory: it fetches
//! what the cache lacks. Without the features `tensors` and `download` (on by default) there is
//! what reads and writes files ([`write_atomically`], [`DirWriter`], JSON, hashes) and what reports progress
//! ([`Progress`]), and neither burn nor network.
#![cfg_attr(feature = "tensors", doc = include_str!("../README.md"))]

#[cfg(feature = "download")]
mod download;
mod error;
mod files;
mod memory;
mod presets;
mod progress;
#[cfg(feature = "tensors")]
mod tensors;

#[cfg(feature = "download")]
pub use download::{Hub, ModelName, Snapshot, locate};
pub use error::{Error, Result};
pub use files::{
    DirWriter, create_dir, file_sha256, read, read_json, sha256_hex, sweep_leftovers,
    sweep_own_directory, write_atomically, write_atomically_with, write_json, write_own_file,
};
pub use memory::{available_memory, check_memory, readable_bytes};
pub use presets::Presets;
pub use progress::{Progress, Silent, Unit};
#[cfg(feature = "tensors")]
pub use tensors::{TensorFiles, TensorWriter, WEIGHTS, WeightDtype, find_files};
