//! Opens a GGUF file: the header is read and checked at once, tensors when they are requested.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::cursor::{Cursor, corrupt};
use super::{
    ALIGNMENT, ALIGNMENT_KEY, MAGIC, MAX_DIMENSIONS, Metadata, TensorType, Value, dequantise_row,
};
use crate::files::{is_lfs_pointer, open_file};
use crate::{Error, Result, check_memory};

/// The smallest entries of a header: an empty key with a byte; an empty name of a scalar.
const MIN_PAIR: u64 = 8 + 4 + 1;
const MIN_TENSOR: u64 = 8 + 4 + 4 + 8;
/// Bytes of blocks that are dequantised at a time, unless one row is larger.
const TILE: usize = 1 << 18;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its shape, row-major: `[rows, values of a row]` for a matrix. The file has it reversed.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub tensor_type: TensorType,
    /// Its bytes in the file.
    pub bytes: Range<u64>,
}

impl TensorInfo {
    /// The number of values.
    pub fn n_values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Values of a row: the last dimension.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The number of rows: the product of all dimensions but the last.
    pub fn n_rows(&self) -> usize {
        self.n_values().checked_div(self.row_len()).unwrap_or(0)
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.tensor_type.row_bytes(self.row_len()).expect("checked when the file was opened")
    }
}

/// An open GGUF file of version 2 or 3, whose header is known to agree with its length. Threads may
/// read from it at the same time.
///
/// A part of a file that `gguf-split` divided is a file of its own here.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Index of each tensor.
    by_name: BTreeMap<String, usize>,
}

impl GgufFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::CorruptTensors`] for a file that is truncated, damaged or something
    /// else; [`Error::GgufVersion`]; [`Error::GgufTensorType`]; [`Error::GgufKey`] for an alignment
    /// that is not an integer.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = open_file(path)?;
        let io = |source| Error::io("read", path)(source);
        let n_bytes = file.metadata().map_err(io)?.len();
        if is_lfs_pointer(&mut file).map_err(io)? {
            let reason = "it only points to the file (Git LFS: run `git lfs pull` there)";
            return Err(corrupt(path, n_bytes, reason.into()));
        }
        let mut cursor = Cursor::new(path, &file, n_bytes);
        let (n_tensors, n_pairs) = read_head(&mut cursor, path)?;
        let values = read_pairs(&mut cursor, n_pairs)?;
        let metadata = Metadata::new(path.into(), values);
        let tensors = read_tensors(&mut cursor, path, n_tensors)?;

        let alignment = metadata.find::<u32>(ALIGNMENT_KEY)?.map_or(ALIGNMENT, u64::from);
        if !alignment.is_power_of_two() {
            let reason = format!("`{ALIGNMENT_KEY}` is {alignment}, not a power of two");
            return Err(corrupt(path, n_bytes, reason));
        }
        let begin = cursor.position().next_multiple_of(alignment);
        let tensors = place(tensors, begin, alignment, n_bytes)
            .map_err(|reason| corrupt(path, n_bytes, reason))?;
        let names = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i));
        let by_name = names.collect();
        Ok(Self { path: path.into(), file, metadata, tensors, by_name })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|i| &self.tensors[*i])
    }

    /// The tensor of this name and shape.
    ///
    /// # Errors
    /// [`Error::MissingTensors`], [`Error::TensorShape`].
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo> {
        let path = self.path.clone();
        let Some(tensor) = self.find(name) else {
            return Err(Error::MissingTensors { path, names: vec![name.into()], is_all: false });
        };
        if tensor.shape != shape {
            let (name, found) = (name.into(), tensor.shape.clone());
            return Err(Error::TensorShape { path, name, found, expected: shape.into() });
        }
        Ok(tensor)
    }

    /// The blocks of a tensor of this file, as stored.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoMemory`].
    pub fn blocks(&self, tensor: &TensorInfo) -> Result<Vec<u8>> {
        self.check_memory(tensor, tensor.bytes.end - tensor.bytes.start)?;
        self.rows(tensor, 0..tensor.n_rows())
    }

    /// The blocks of some rows of a tensor of this file.
    ///
    /// # Errors
    /// [`Error::Io`].
    ///
    /// # Panics
    /// If the tensor does not have these rows.
    pub fn rows(&self, tensor: &TensorInfo, rows: Range<usize>) -> Result<Vec<u8>> {
        assert!(rows.start <= rows.end && rows.end <= tensor.n_rows(), "rows {rows:?}");
        let mut blocks = vec![0; rows.len() * tensor.row_bytes()];
        self.read_at(tensor, rows.start, &mut blocks)?;
        Ok(blocks)
    }

    /// The values of a tensor of this file, row by row.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoMemory`].
    pub fn dequantise(&self, tensor: &TensorInfo) -> Result<Vec<f32>> {
        let n_values = tensor.n_values();
        self.check_memory(tensor, (n_values as u64).saturating_mul(4))?;
        let mut values = vec![0.0; n_values];
        if n_values == 0 {
            return Ok(values);
        }
        // Not all blocks at once: they would take as much memory again if they are F32.
        let (row_len, row_bytes) = (tensor.row_len(), tensor.row_bytes());
        let n_rows = (TILE / row_bytes).max(1);
        let mut blocks = vec![0; n_rows * row_bytes];
        for (i, values) in values.chunks_mut(n_rows * row_len).enumerate() {
            let blocks = &mut blocks[..values.len() / row_len * row_bytes];
            self.read_at(tensor, i * n_rows, blocks)?;
            dequantise_row(tensor.tensor_type, blocks, values);
        }
        Ok(values)
    }

    /// Fills `blocks` with whole rows, from `row` on.
    fn read_at(&self, tensor: &TensorInfo, row: usize, blocks: &mut [u8]) -> Result<()> {
        let begin = tensor.bytes.start + row as u64 * tensor.row_bytes() as u64;
        self.file.read_exact_at(blocks, begin).map_err(Error::io("read", &self.path))
    }

    /// A failed allocation would abort the process.
    fn check_memory(&self, tensor: &TensorInfo, n_bytes: u64) -> Result<()> {
        let what = || format!("tensor `{}` of {}", tensor.name, self.path.display());
        check_memory(n_bytes, what, "use a machine with more")
    }
}

/// Magic, version, and the numbers of tensors and of pairs of the metadata.
fn read_head(cursor: &mut Cursor<'_>, path: &Path) -> Result<(usize, usize)> {
    let magic = cursor.bytes::<4>()?;
    if magic != MAGIC {
        return Err(cursor.corrupt("it does not begin with `GGUF`".into()));
    }
    let version = cursor.u32()?;
    // A small number in the other byte order.
    let is_big_endian = version.trailing_zeros() >= 16;
    let version = if is_big_endian { version.swap_bytes() } else { version };
    if is_big_endian || !(2..=super::VERSION).contains(&version) {
        return Err(Error::GgufVersion { path: path.into(), version, is_big_endian });
    }
    let n_tensors = cursor.count(MIN_TENSOR, "tensors")?;
    let n_pairs = cursor.count(MIN_PAIR, "metadata keys")?;
    Ok((n_tensors, n_pairs))
}

fn read_pairs(cursor: &mut Cursor<'_>, n: usize) -> Result<BTreeMap<String, Value>> {
    let mut values = BTreeMap::new();
    for i in 0..n {
        cursor.place = format!("metadata key {i}");
        let key = cursor.string()?;
        cursor.place = format!("metadata `{key}`");
        let id = cursor.u32()?;
        let value = Value::read(cursor, id)?;
        if values.insert(key, value).is_some() {
            return Err(cursor.corrupt(format!("it has {} twice", cursor.place)));
        }
    }
    Ok(values)
}

/// The tensors, with positions relative to the first.
fn read_tensors(cursor: &mut Cursor<'_>, path: &Path, n: usize) -> Result<Vec<TensorInfo>> {
    let mut tensors = vec![];
    let mut names = HashSet::new();
    for i in 0..n {
        cursor.place = format!("the entry of tensor {i}");
        let name = cursor.string()?;
        cursor.place = format!("tensor `{name}`");
        let n_dimensions = cursor.u32()? as usize;
        if n_dimensions > MAX_DIMENSIONS {
            let place = &cursor.place;
            return Err(cursor.corrupt(format!("{place} has {n_dimensions} dimensions")));
        }
        let mut dimensions = vec![];
        for _ in 0..n_dimensions {
            dimensions.push(cursor.u64()?);
        }
        dimensions.reverse();
        let tensor_type = TensorType::from_id(cursor.u32()?).map_err(|found| {
            Error::GgufTensorType { path: path.into(), name: name.clone(), found }
        })?;
        let begin = cursor.u64()?;
        let sized = size(&dimensions, tensor_type)
            .and_then(|(shape, n_bytes)| Some((shape, begin..begin.checked_add(n_bytes)?)));
        let Some((shape, bytes)) = sized else {
            return Err(cursor.corrupt(format!(
                "{} of type {tensor_type} has the shape {dimensions:?}, which is impossible",
                cursor.place
            )));
        };
        if !names.insert(name.clone()) {
            return Err(cursor.corrupt(format!("it has {} twice", cursor.place)));
        }
        tensors.push(TensorInfo { name, shape, tensor_type, bytes });
    }
    Ok(tensors)
}

/// Shape and bytes of a tensor; `None` for rows that are not whole blocks and sizes that overflow.
fn size(dimensions: &[u64], tensor_type: TensorType) -> Option<(Vec<usize>, u64)> {
    let shape: Option<Vec<usize>> = dimensions.iter().map(|n| (*n).try_into().ok()).collect();
    let shape = shape?;
    let (row_len, rows) = shape.split_last().map_or((1, &[][..]), |(last, rest)| (*last, rest));
    let n_rows = rows.iter().try_fold(1_usize, |n, size| n.checked_mul(*size))?;
    n_rows.checked_mul(row_len)?;
    let n_bytes = tensor_type.row_bytes(row_len)?.checked_mul(n_rows)?;
    Some((shape, n_bytes as u64))
}

/// Moves the tensors to where they are in the file; the error says which of them cannot be there.
fn place(
    mut tensors: Vec<TensorInfo>,
    begin: u64,
    alignment: u64,
    n_bytes: u64,
) -> std::result::Result<Vec<TensorInfo>, String> {
    for tensor in &mut tensors {
        let (name, from) = (&tensor.name, tensor.bytes.start);
        if from % alignment != 0 {
            return Err(format!("tensor `{name}` is at {from}, not a multiple of {alignment}"));
        }
        let placed = from.checked_add(begin).zip(tensor.bytes.end.checked_add(begin));
        match placed {
            Some((from, to)) if to <= n_bytes => tensor.bytes = from..to,
            _ => {
                let to = tensor.bytes.end.saturating_add(begin);
                return Err(format!("tensor `{name}` should end at byte {to}"));
            }
        }
    }
    let mut sorted: Vec<_> = tensors.iter().filter(|tensor| !tensor.bytes.is_empty()).collect();
    sorted.sort_by_key(|tensor| tensor.bytes.start);
    for pair in sorted.windows(2) {
        if pair[0].bytes.end > pair[1].bytes.start {
            return Err(format!("tensors `{}` and `{}` overlap", pair[0].name, pair[1].name));
        }
    }
    Ok(tensors)
}
