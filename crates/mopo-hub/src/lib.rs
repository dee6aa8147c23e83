//! Model directories in the layout of Hugging Face: JSON and tensor files, read with clear errors
//! and written whole or not at all.
//!
//! [`TensorFiles`] reads the tensors of `model.safetensors` or `pytorch_model.bin`, whole or in
//! shards, one by one by name; [`TensorWriter`] writes a `model.safetensors`; `gguf` reads and
//! writes GGUF files. The crates of the models know what the tensors mean. [`locate`] turns a
//! model's name into a directory and downloads what the cache lacks. [`Endpoint`] posts JSON to an
//! address. Without the features `tensors`, `gguf`, `download` and `endpoint` (on by default) the
//! crate only reads and writes files ([`write_atomically`], [`DirWriter`], JSON, hashes), divides work on rows
//! among processes ([`RowJob`]) and reports progress ([`Progress`]), with neither burn nor network.
#![cfg_attr(feature = "tensors", doc = include_str!("../README.md"))]

#[cfg(feature = "download")]
mod download;
#[cfg(feature = "endpoint")]
mod endpoint;
mod error;
mod files;
#[cfg(feature = "gguf")]
pub mod gguf;
mod memory;
mod presets;
mod progress;
mod shards;
#[cfg(feature = "tensors")]
mod tensors;
mod wording;

#[cfg(feature = "download")]
pub use download::{Hub, ModelName, Snapshot, locate};
#[cfg(feature = "endpoint")]
pub use endpoint::{Endpoint, FailedRequest, beginning_of};
pub use error::{Error, Result};
pub use files::{
    DirWriter, check_output_dir, check_output_file, create_dir, file_sha256, fnv1a, hex,
    is_intact_json, read, read_json, remove_dir_whole, sealed_json, sha256_hex, sweep_leftovers,
    sweep_own_directory, write_atomically, write_atomically_with, write_json, write_own_file,
};
pub use memory::{available_memory, check_memory, readable_bytes};
pub use presets::Presets;
pub use progress::{Progress, Silent, Unit};
pub use shards::{
    RowJob, SavedRows, ShardChoice, ShardIndex, ShardPlace, ShardSet, check_finished, in_order,
    remove_saved_rows, saved_rows_dir,
};
#[cfg(feature = "tensors")]
pub use tensors::{NamedTensor, TensorFiles, TensorWriter, WEIGHTS, WeightDtype, find_files};
pub use wording::{counted, quoted};
