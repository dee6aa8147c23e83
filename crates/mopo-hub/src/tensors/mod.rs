//! Tensors in the files of a Hugging Face model directory (`model.safetensors`,
//! `pytorch_model.bin`, shards of either), read and written one by one.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use burn::tensor::DType;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

pub use read::TensorFiles;
pub use write::{NamedTensor, TensorWriter};

use crate::{Error, Result, read_json};

/// The weights file that is written.
pub const WEIGHTS: &str = "model.safetensors";
/// Weights files of a directory in order of preference: a whole file, or the index of its shards.
pub(crate) const WEIGHT_FILES: [&str; 4] =
    [WEIGHTS, "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// `….index.json`: the shard of each tensor.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// A data type of weights, in files and in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightDtype {
    /// 4 bytes.
    F32,
    /// 2 bytes, the range of F32.
    Bf16,
    /// 2 bytes, more precision than BF16 and a smaller range.
    F16,
}

impl WeightDtype {
    /// The data type of a float tensor; types without a counterpart in files (F64 and quantised)
    /// become F32.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::BF16 => Self::Bf16,
            DType::F16 => Self::F16,
            _ => Self::F32,
        }
    }

    /// burn's name.
    pub fn burn(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// safetensors' name.
    pub fn stored(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    /// The name in `config.json`: `float32`, `bfloat16`, `float16`.
    pub fn hub_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

impl std::str::FromStr for WeightDtype {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            _ => Err("the data types are: f32, bf16, f16".into()),
        }
    }
}

/// The weights files of a directory, and the one to name in errors (the index,
/// if there are shards). A path that is not a directory is taken as the file itself.
///
/// # Errors
/// [`Error::NoWeights`]; [`Error::MissingShard`]; an index that cannot be parsed.
pub fn find_files(dir_or_file: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    if !dir_or_file.is_dir() {
        return Ok((dir_or_file.into(), vec![dir_or_file.into()]));
    }
    let dir = dir_or_file;
    let found = WEIGHT_FILES.into_iter().map(|name| dir.join(name)).find(|file| file.exists());
    let Some(found) = found else {
        return Err(Error::NoWeights { dir: dir.into(), names: &WEIGHT_FILES });
    };
    if found.extension().is_none_or(|e| e != "json") {
        return Ok((found.clone(), vec![found]));
    }
    let names = shard_names(&found)?;
    if let Some(shard) = names.iter().find(|name| !dir.join(name).exists()) {
        let shard = shard.clone();
        return Err(Error::MissingShard { index: found, shard, reason: "not there" });
    }
    let files = names.into_iter().map(|name| dir.join(name)).collect();
    Ok((found, files))
}

/// The shard of each tensor, according to an index.
fn weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    let shards: ShardIndex = read_json(index, "the index of a sharded checkpoint")?;
    Ok(shards.weight_map)
}

/// The shards named by an index, sorted.
///
/// # Errors
/// [`Error::MissingShard`] for a name outside the directory; an index that cannot be parsed.
pub(crate) fn shard_names(index: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = weight_map(index)?.into_values().collect();
    names.sort();
    names.dedup();
    for name in &names {
        let is_inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
        if !is_inside || name.is_empty() {
            let reason = "not a name within this directory";
            return Err(Error::MissingShard { index: index.into(), shard: name.clone(), reason });
        }
    }
    Ok(names)
}
