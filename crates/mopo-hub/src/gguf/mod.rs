//! GGUF, the format of llama.cpp: one file with metadata and tensors, most of them quantised.
//!
//! [`GgufFile`] checks the header of a file and reads its tensors, or single rows of them;
//! [`dequantise_row`] turns blocks into numbers. [`GgufWriter`] quantises and writes. What keys and
//! tensors mean is for the crates of the models.
//!
//! ```
//! use mopo_hub::gguf::{GgufFile, GgufWriter, TensorType};
//!
//! let dir = tempfile::tempdir().unwrap();
//! let path = dir.path().join("tiny.gguf");
//! let mut writer = GgufWriter::default();
//! writer.value("general.architecture", "llama");
//! writer.value("llama.block_count", 2_u32);
//! writer.tensor("scale", &[2, 32], TensorType::Q8_0, || vec![0.5; 64]);
//! writer.write(&path)?;
//!
//! let file = GgufFile::open(&path)?;
//! assert_eq!(file.metadata().get::<usize>("llama.block_count")?, 2);
//! let scale = file.tensor("scale", &[2, 32])?;
//! assert_eq!(scale.tensor_type, TensorType::Q8_0);
//! assert!((file.dequantise(scale)?[0] - 0.5).abs() < 1e-3);
//! # Ok::<(), mopo_hub::Error>(())
//! ```

mod blocks;
mod cursor;
mod metadata;
mod read;
mod tensor_type;
mod write;

use std::path::Path;

pub use blocks::{dequantise_row, quantise_row};
pub use metadata::{Array, FromValue, Metadata, Value};
pub use read::{GgufFile, TensorInfo};
pub use tensor_type::TensorType;
pub use write::GgufWriter;

/// Whether a path has the extension of a GGUF file, by which programs know them.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written. It differs from version 2 only in that it allows big endian.
const VERSION: u32 = 3;
/// The metadata key of the alignment of tensors, in bytes.
const ALIGNMENT_KEY: &str = "general.alignment";
/// The alignment of a file without that key.
const ALIGNMENT: u64 = 32;
/// The most dimensions of a tensor, as in ggml.
const MAX_DIMENSIONS: usize = 4;
