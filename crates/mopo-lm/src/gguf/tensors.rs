//! The tensors of a GGUF file under their names in Hugging Face's layout.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::TensorData;
use mopo_hub::gguf::{GgufFile, TensorInfo, TensorType};

use super::names::{Naming, in_halves};
use crate::Result;

/// A file and what of it has been read.
pub(crate) struct GgufTensors {
    file: GgufFile,
    naming: Naming,
    unread: BTreeSet<String>,
}

impl GgufTensors {
    /// All tensors of a file; `heads` of queries and of keys.
    pub(crate) fn new(file: GgufFile, heads: [usize; 2]) -> Result<Self> {
        let architecture = file.metadata().get::<&str>("general.architecture")?.to_owned();
        let mut unread: BTreeSet<String> = file.tensors().iter().map(|t| t.name.clone()).collect();
        // Factors of the rotary embedding, which the configuration has.
        unread.remove("rope_freqs.weight");
        Ok(Self { file, naming: Naming { architecture, heads }, unread })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    fn find(&mut self, name: &str, shape: &[usize]) -> Result<TensorInfo> {
        let name = self.naming.name(name);
        let tensor = self.file.tensor(&name, shape)?.clone();
        self.unread.remove(&name);
        Ok(tensor)
    }

    /// A tensor's values in f32.
    pub(crate) fn values(&mut self, name: &str, shape: &[usize]) -> Result<TensorData> {
        let tensor = self.find(name, shape)?;
        let mut values = self.file.dequantise(&tensor)?;
        if let Some(heads) = self.naming.permuted(name) {
            values = in_halves(&values, heads, shape[0]);
        }
        if let Some(offset) = self.naming.offset(name) {
            values.iter_mut().for_each(|x| *x -= offset);
        }
        Ok(TensorData::new(values, shape.to_vec()))
    }

    /// A matrix `[rows, values]` as it is stored, if its type is made of blocks.
    pub(crate) fn blocks(
        &mut self,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Option<(TensorType, Vec<u8>)>> {
        let tensor = self.find(name, &shape)?;
        let kind = tensor.tensor_type;
        if kind.block_len() == 1 {
            return Ok(None);
        }
        let mut blocks = self.file.blocks(&tensor)?;
        if let Some(heads) = self.naming.permuted(name) {
            blocks = in_halves(&blocks, heads, shape[0]);
        }
        Ok(Some((kind, blocks)))
    }

    /// Number of unread tensors.
    pub(crate) fn n_unread(&self) -> usize {
        self.unread.len()
    }

    /// Whether there is an unread tensor of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.unread.contains(&self.naming.name(name))
    }

    /// Reports unread tensors.
    pub(crate) fn finish(self) -> Result<()> {
        if self.unread.is_empty() {
            return Ok(());
        }
        let names = self.unread.into_iter().collect();
        Err(mopo_hub::Error::UnusedTensors { path: self.file.path().into(), names }.into())
    }
}
