//! Writes a GGUF file of version 3, tensor by tensor, without a second copy of the model in memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::Path;

use super::metadata::write_string;
use super::{
    ALIGNMENT, ALIGNMENT_KEY, MAGIC, MAX_DIMENSIONS, TensorType, VERSION, Value, dequantise_row,
    quantise_row,
};
use crate::{Error, Result, write_atomically_with};

/// The longest name of a tensor that llama.cpp reads, in bytes.
const MAX_NAME: usize = 63;
/// Values that are quantised at a time, unless one row is longer.
const TILE: usize = 1 << 16;

/// Metadata and tensors to be written to a file.
#[derive(Default)]
pub struct GgufWriter<'a> {
    values: BTreeMap<String, Value>,
    tensors: Vec<Pending<'a>>,
}

struct Pending<'a> {
    name: String,
    shape: Vec<usize>,
    tensor_type: TensorType,
    data: Data<'a>,
}

enum Data<'a> {
    Blocks(Cow<'a, [u8]>),
    /// Made when they are written.
    Values(Box<dyn Fn() -> Vec<f32> + 'a>),
}

impl<'a> GgufWriter<'a> {
    /// Sets a value of the metadata. `general.alignment` is ignored: tensors are aligned to 32 bytes.
    pub fn value(&mut self, key: &str, value: impl Into<Value>) {
        self.values.insert(key.into(), value.into());
    }

    /// Adds a tensor that is quantised when it is written. `values` returns it row by row.
    pub fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        tensor_type: TensorType,
        values: impl Fn() -> Vec<f32> + 'a,
    ) {
        self.push(name, shape, tensor_type, Data::Values(Box::new(values)));
    }

    /// Adds a tensor whose blocks are ready, of any type.
    pub fn blocks(
        &mut self,
        name: &str,
        shape: &[usize],
        tensor_type: TensorType,
        blocks: impl Into<Cow<'a, [u8]>>,
    ) {
        self.push(name, shape, tensor_type, Data::Blocks(blocks.into()));
    }

    fn push(&mut self, name: &str, shape: &[usize], tensor_type: TensorType, data: Data<'a>) {
        self.tensors.push(Pending { name: name.into(), shape: shape.into(), tensor_type, data });
    }

    /// Writes the file, atomically.
    ///
    /// # Errors
    /// [`Error::UnwritableTensor`] for a shape or type that cannot be written, before anything is;
    /// [`Error::NotFinite`]; [`Error::OutOfRange`] for a value too large for its type;
    /// [`Error::Io`] with the path.
    ///
    /// # Panics
    /// If a tensor has more or fewer values than its shape says.
    pub fn write(mut self, path: &Path) -> Result<()> {
        self.values.remove(ALIGNMENT_KEY);
        let sizes = self.sizes(path)?;
        let header = self.header(&sizes);
        let mut refused = None;
        let written = write_atomically_with(path, |file| {
            file.write_all(&header)?;
            for (tensor, n_bytes) in self.tensors.iter().zip(sizes) {
                match &tensor.data {
                    Data::Blocks(blocks) => {
                        assert_eq!(blocks.len(), n_bytes, "blocks of `{}`", tensor.name);
                        file.write_all(blocks)?;
                    }
                    Data::Values(values) => {
                        if let Some(error) = tensor.quantise(&values(), path, file)? {
                            refused = Some(error);
                            return Err(io::Error::other("a value cannot be written"));
                        }
                    }
                }
                file.write_all(padding(n_bytes))?;
            }
            Ok(())
        });
        refused.map_or(written, Err)
    }

    /// The bytes of each tensor.
    fn sizes(&self, path: &Path) -> Result<Vec<usize>> {
        let mut names = HashSet::new();
        let sizes = self.tensors.iter().map(|tensor| {
            let is_new = names.insert(tensor.name.as_str());
            let size = tensor.size().and_then(|size| match is_new {
                true => Ok(size),
                false => Err("another tensor has this name; give each its own".into()),
            });
            size.map_err(|reason| {
                let (path, name) = (path.into(), tensor.name.clone());
                Error::UnwritableTensor { path, name, reason }
            })
        });
        sizes.collect()
    }

    fn header(&self, sizes: &[usize]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            write_string(key, &mut out);
            value.write(&mut out);
        }
        let mut begin = 0;
        for (tensor, n_bytes) in self.tensors.iter().zip(sizes) {
            write_string(&tensor.name, &mut out);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            let reversed = tensor.shape.iter().rev();
            out.extend(reversed.flat_map(|size| (*size as u64).to_le_bytes()));
            out.extend(tensor.tensor_type.id().to_le_bytes());
            out.extend((begin as u64).to_le_bytes());
            begin += n_bytes + padding(*n_bytes).len();
        }
        out.extend(padding(out.len()));
        out
    }
}

impl Pending<'_> {
    /// Its bytes; the error says why it cannot be written, and what to do.
    fn size(&self) -> std::result::Result<usize, String> {
        let tensor_type = self.tensor_type;
        if matches!(self.data, Data::Values(_)) && !tensor_type.can_quantise() {
            return Err(format!("{tensor_type} can only be read; choose {}", choices(1)));
        }
        if self.name.len() > MAX_NAME {
            return Err(format!("llama.cpp reads names of at most {MAX_NAME} bytes; shorten it"));
        }
        if self.shape.len() > MAX_DIMENSIONS {
            return Err(format!("it has over {MAX_DIMENSIONS} dimensions; merge some"));
        }
        let row_len = self.shape.last().copied().unwrap_or(1);
        let Some(row_bytes) = tensor_type.row_bytes(row_len) else {
            let block = tensor_type.block_len();
            return Err(format!(
                "its rows have {row_len} values, not a multiple of {block} as {tensor_type} needs; \
                 choose {}",
                choices(row_len)
            ));
        };
        let rows = &self.shape[..self.shape.len().saturating_sub(1)];
        Ok(rows.iter().product::<usize>() * row_bytes)
    }

    /// Writes the blocks of `values`; returns an error of a value that they cannot store.
    fn quantise(
        &self,
        values: &[f32],
        path: &Path,
        file: &mut dyn Write,
    ) -> io::Result<Option<Error>> {
        assert_eq!(values.len(), self.shape.iter().product::<usize>(), "values of `{}`", self.name);
        let row_len = self.shape.last().copied().unwrap_or(1).max(1);
        let tile = (TILE / row_len).max(1) * row_len;
        let (mut blocks, mut stored) = (vec![], vec![]);
        for (i, values) in values.chunks(tile).enumerate() {
            let n_bytes = self.tensor_type.row_bytes(values.len()).expect("whole rows");
            blocks.resize(n_bytes, 0);
            stored.resize(values.len(), 0.0);
            quantise_row(self.tensor_type, values, &mut blocks);
            // A scale that became infinite or a NaN shows in the values.
            dequantise_row(self.tensor_type, &blocks, &mut stored);
            let mut both = values.iter().zip(&stored);
            let is_bad = |(value, stored): (&f32, &f32)| !value.is_finite() || !stored.is_finite();
            if both.any(is_bad) {
                return Ok(Some(self.refuse(path, i * tile, values, &stored)));
            }
            file.write_all(&blocks)?;
        }
        Ok(None)
    }

    /// The error of the first of `values` that is not finite or cannot be stored; the first of them
    /// has the index `begin` in the tensor.
    fn refuse(&self, path: &Path, begin: usize, values: &[f32], stored: &[f32]) -> Error {
        let (path, name) = (path.into(), self.name.clone());
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let value = if values[index].is_nan() { "a NaN" } else { "an infinity" };
            return Error::NotFinite { path, name, value, index: begin + index };
        }
        // Of the block whose scale is too large, the largest value.
        let first = stored.iter().position(|value| !value.is_finite()).unwrap_or(0);
        let block_len = self.tensor_type.block_len();
        let from = first / block_len * block_len;
        let block = values[from..from + block_len].iter().enumerate();
        let (index, value) = block.max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).expect("a block");
        let dtype =
            if self.tensor_type == TensorType::F16 { "f16" } else { self.tensor_type.name() };
        Error::OutOfRange { path, name, value: (*value).into(), index: begin + from + index, dtype }
    }
}

/// Types in which rows of `row_len` values can be written.
fn choices(row_len: usize) -> String {
    let fits = |t: &TensorType| t.can_quantise() && row_len.is_multiple_of(t.block_len());
    let names: Vec<_> = TensorType::all().filter(fits).map(TensorType::name).collect();
    names.join(", ")
}

/// Zeros up to the next multiple of the alignment.
fn padding(n_bytes: usize) -> &'static [u8] {
    const ZEROS: [u8; ALIGNMENT as usize] = [0; ALIGNMENT as usize];
    &ZEROS[..n_bytes.next_multiple_of(ZEROS.len()) - n_bytes]
}
