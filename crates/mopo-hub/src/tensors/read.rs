//! Tensors from safetensors files and PyTorch checkpoints, one by one by name: at first only the
//! headers
//! are read, and each tensor when it is requested.
//!
//! A PyTorch checkpoint is a pickle. The library that reads it builds only tensors and containers
//! and
//! runs nothing that the file names.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use pytorch_reader::PytorchReader;
use safetensors::tensor::{Dtype, Metadata};

use super::{find_files, weight_map};
use crate::files::{is_lfs_pointer, open_file};
use crate::{Error, Result};

/// The tensors of one or several files; unread tensors at the end are an error.
pub struct TensorFiles {
    /// The path in errors: the file, or the index of several.
    path: PathBuf,
    files: Vec<Source>,
    /// The file of each unread tensor. Sorted, so that errors are stable.
    left: BTreeMap<String, usize>,
    missing: Vec<String>,
    /// Number of values in the zeros that replace missing tensors.
    n_zeros: usize,
    finite_only: bool,
}

/// Limits on missing tensors and their values, after which reading ends: what a wrong configuration
/// asks for may not fit into memory.
const MAX_MISSING: usize = 10_000;
const MAX_ZEROS: usize = 1 << 20;
/// Maximum size of the header of a safetensors file, as in the library that defines the format.
const MAX_HEADER: u64 = 100_000_000;

/// An open file whose header has been read.
struct Source {
    path: PathBuf,
    tensors: Tensors,
}

enum Tensors {
    /// The header, and where the data begins.
    Safetensors {
        file: File,
        begin: u64,
        header: Metadata,
    },
    Pytorch(HashMap<String, pytorch_reader::Tensor>),
}

impl TensorFiles {
    /// Opens the weights of a directory ([`find_files`]), or one file, and reads the headers.
    ///
    /// # Errors
    /// Those of [`find_files`]; [`Error::Io`]; [`Error::CorruptTensors`] for a file that is
    /// truncated or
    /// not a weights file.
    pub fn open(dir_or_file: &Path) -> Result<Self> {
        let (path, files) = find_files(dir_or_file)?;
        let mut this = Self {
            path,
            files: vec![],
            left: BTreeMap::new(),
            missing: vec![],
            n_zeros: 0,
            finite_only: false,
        };
        for file in files {
            let source = Source::open(&file)?;
            for name in source.names() {
                if let Some(other) = this.left.insert(name.clone(), this.files.len()) {
                    let (a, b) = (this.files[other].path.display(), source.path.display());
                    let reason = format!("is in {a} and in {b}");
                    return this.disagree(name, reason);
                }
            }
            this.files.push(source);
        }
        // An index may leave tensors out, as transformers allows; those that it names must be there.
        if this.path.extension().is_some_and(|e| e == "json") {
            let mut named = weight_map(&this.path)?.into_keys();
            if let Some(name) = named.find(|name| !this.left.contains_key(name)) {
                return this.disagree(name, "is in none of its shards".into());
            }
        }
        Ok(this)
    }

    fn disagree(self, name: String, reason: String) -> Result<Self> {
        Err(Error::Shards { index: self.path, name, reason })
    }

    /// From now on, reading a tensor with an infinity or a NaN is an error ([`Error::NotFinite`]).
    pub fn finite_only(mut self) -> Self {
        self.finite_only = true;
        self
    }

    /// Name of the files in errors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is an unread tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// The names of the unread tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.left.keys().map(String::as_str)
    }

    /// Ignores the tensors for which `is_ignored` holds.
    pub fn ignore(&mut self, is_ignored: impl Fn(&str) -> bool) {
        self.left.retain(|name, _| !is_ignored(name));
    }

    /// Reads a tensor as it is stored; returns zeros of the right shape if it is missing, which
    /// [`finish`](Self::finish) reports together with all others. Memory is allocated only for
    /// shapes that the
    /// file confirms, and for a few small missing tensors.
    ///
    /// # Errors
    /// [`Error::TensorShape`], [`Error::TensorDtype`], [`Error::NotFinite`], [`Error::Io`],
    /// [`Error::NoMemory`]; [`Error::MissingTensors`] as soon as many or large ones are missing.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<TensorData> {
        match self.left.remove(name) {
            Some(file) => {
                let file = &mut self.files[file];
                let data = file.read(name, shape)?;
                if self.finite_only
                    && let Some((index, value)) = first_not_finite(&data)
                {
                    let (path, name) = (file.path.clone(), name.into());
                    return Err(Error::NotFinite { path, name, value, index });
                }
                Ok(data)
            }
            None => {
                self.missing.push(name.into());
                let n_values = shape.iter().fold(1_usize, |n, size| n.saturating_mul(*size));
                self.n_zeros = self.n_zeros.saturating_add(n_values);
                if self.n_zeros > MAX_ZEROS || self.missing.len() > MAX_MISSING {
                    let names = std::mem::take(&mut self.missing);
                    return Err(Error::MissingTensors {
                        path: self.path.clone(),
                        names,
                        is_all: false,
                    });
                }
                Ok(TensorData::zeros::<f32, _>(shape.to_vec()))
            }
        }
    }

    /// Reads a tensor in F32.
    ///
    /// # Errors
    /// Those of [`take`](Self::take).
    pub fn tensor<B: Backend, const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        device: &B::Device,
    ) -> Result<Tensor<B, D>> {
        let data = self.take(name, &shape)?.convert_dtype(DType::F32);
        Ok(Tensor::from_data(data, (device, DType::F32)))
    }

    /// Reads a matrix in the layout of the file, in F32 or, if `keep_dtype` and the device supports
    /// it, in the
    /// data type of the file.
    ///
    /// # Errors
    /// Those of [`take`](Self::take).
    pub fn matrix<B: Backend>(
        &mut self,
        name: &str,
        shape: [usize; 2],
        keep_dtype: bool,
        device: &B::Device,
    ) -> Result<Tensor<B, 2>> {
        let data = self.take(name, &shape)?;
        let keep = keep_dtype && B::supports_dtype(device, data.dtype);
        let dtype = if keep { data.dtype } else { DType::F32 };
        Ok(Tensor::from_data(data.convert_dtype(dtype), (device, dtype)))
    }

    /// Reads a matrix stored as `[outputs, inputs]` and returns it as `[inputs, outputs]`, its
    /// `shape`: a view,
    /// so that nothing is transposed in memory. Otherwise like [`matrix`](Self::matrix).
    ///
    /// # Errors
    /// Those of [`take`](Self::take); they show the file's shape.
    pub fn transposed<B: Backend>(
        &mut self,
        name: &str,
        shape: [usize; 2],
        keep_dtype: bool,
        device: &B::Device,
    ) -> Result<Tensor<B, 2>> {
        let [d_in, d_out] = shape;
        Ok(self.matrix(name, [d_out, d_in], keep_dtype, device)?.transpose())
    }

    /// Reports missing tensors, then unread ones.
    ///
    /// # Errors
    /// [`Error::MissingTensors`], [`Error::UnusedTensors`], each with all names.
    pub fn finish(self) -> Result<()> {
        if !self.missing.is_empty() {
            let (path, names) = (self.path, self.missing);
            return Err(Error::MissingTensors { path, names, is_all: true });
        }
        if !self.left.is_empty() {
            let names = self.left.into_keys().collect();
            return Err(Error::UnusedTensors { path: self.path, names });
        }
        Ok(())
    }
}

/// Position and kind of the first value that is not finite: all bits of its exponent are set, and
/// in a NaN also some of the fraction.
pub(super) fn first_not_finite(data: &TensorData) -> Option<(usize, &'static str)> {
    let bytes = data.as_bytes();
    let kind = |bits: u32, exponent: u32, fraction: u32| match bits & exponent == exponent {
        false => None,
        true if bits & fraction == 0 => Some("an infinity"),
        true => Some("a NaN"),
    };
    let f32 = |b: &[u8]| kind(u32::from_le_bytes(b.try_into().unwrap()), 0x7f80_0000, 0x7f_ffff);
    let half = |b: &[u8]| u16::from_le_bytes(b.try_into().unwrap()).into();
    match data.dtype {
        DType::F32 => bytes.chunks_exact(4).map(f32).enumerate().find_map(placed),
        DType::BF16 => {
            bytes.chunks_exact(2).map(|b| kind(half(b), 0x7f80, 0x7f)).enumerate().find_map(placed)
        }
        DType::F16 => {
            bytes.chunks_exact(2).map(|b| kind(half(b), 0x7c00, 0x3ff)).enumerate().find_map(placed)
        }
        dtype => unreachable!("{dtype:?} is not supported"),
    }
}

fn placed<T>((index, found): (usize, Option<T>)) -> Option<(usize, T)> {
    found.map(|found| (index, found))
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { action: "read", path: path.into(), source };
        let mut file = open_file(path)?;
        let n_bytes = file.metadata().map_err(io)?.len();
        let is_pytorch = path.extension().is_some_and(|e| e == "bin" || e == "pt" || e == "pth");
        let kind = if is_pytorch { "PyTorch" } else { "safetensors" };
        let corrupt =
            |reason: String| Error::CorruptTensors { path: path.into(), n_bytes, kind, reason };

        if is_lfs_pointer(&mut file).map_err(io)? {
            let reason = "it only points to the file (Git LFS: run `git lfs pull` there)";
            return Err(corrupt(reason.into()));
        }

        let tensors = if is_pytorch {
            let reader = PytorchReader::new(path).map_err(|e| corrupt(e.to_string()))?;
            Tensors::Pytorch(reader.into_tensors())
        } else {
            let (begin, header) = read_header(&mut file, n_bytes).map_err(corrupt)?;
            Tensors::Safetensors { file, begin, header }
        };
        Ok(Self { path: path.into(), tensors })
    }

    fn names(&self) -> Vec<String> {
        match &self.tensors {
            Tensors::Safetensors { header, .. } => header.offset_keys(),
            Tensors::Pytorch(tensors) => tensors.keys().cloned().collect(),
        }
    }

    /// Reads a tensor of this file.
    fn read(&mut self, name: &str, shape: &[usize]) -> Result<TensorData> {
        let path = &self.path;
        let other_dtype =
            |dtype| Error::TensorDtype { path: path.clone(), name: name.into(), dtype };
        let check_shape = |found: &[usize]| match found == shape {
            true => Ok(()),
            false => Err(Error::TensorShape {
                path: path.clone(),
                name: name.into(),
                found: found.into(),
                expected: shape.into(),
            }),
        };
        let io = |source| Error::Io { action: "read", path: path.clone(), source };
        let (dtype, bytes) = match &mut self.tensors {
            Tensors::Safetensors { file, begin, header } => {
                let info = header.info(name).expect("one of the names");
                check_shape(&info.shape)?;
                let dtype = match info.dtype {
                    Dtype::F32 => DType::F32,
                    Dtype::F16 => DType::F16,
                    Dtype::BF16 => DType::BF16,
                    dtype => return Err(other_dtype(dtype.to_string())),
                };
                let (from, to) = info.data_offsets;
                reserve(path, name, to - from)?;
                let mut bytes = vec![0; to - from];
                file.seek(SeekFrom::Start(*begin + from as u64)).map_err(io)?;
                file.read_exact(&mut bytes).map_err(io)?;
                (dtype, bytes)
            }
            Tensors::Pytorch(tensors) => {
                // Removed, so that the reader's copy is freed with it.
                let tensor = tensors.remove(name).expect("one of the names");
                check_shape(tensor.shape())?;
                let dtype = match tensor.dtype() {
                    pytorch_reader::DType::F32 => DType::F32,
                    pytorch_reader::DType::F16 => DType::F16,
                    pytorch_reader::DType::BF16 => DType::BF16,
                    dtype => return Err(other_dtype(format!("{dtype:?}"))),
                };
                // A view may have more values than the file: not all of them are stored.
                let n_values = shape.iter().fold(1_usize, |n, size| n.saturating_mul(*size));
                reserve(path, name, n_values.saturating_mul(dtype.size()))?;
                (dtype, tensor.read().map_err(io)?)
            }
        };
        Ok(TensorData::from_bytes_vec(bytes, shape.to_vec(), dtype))
    }
}

/// Checks that memory can be allocated for a tensor: a failed allocation would abort the process.
fn reserve(path: &Path, name: &str, n_bytes: usize) -> Result<()> {
    let what = || format!("tensor `{name}` of {}", path.display());
    crate::check_memory(n_bytes as u64, what, "use a machine with more")
}

/// The header of a safetensors file of `n_bytes`, and where its data begins; the error says what is
/// wrong. The data must end where the file does.
fn read_header(file: &mut File, n_bytes: u64) -> std::result::Result<(u64, Metadata), String> {
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| "it is too short for a header".to_string())?;
    let length = u64::from_le_bytes(length);
    if length > n_bytes.saturating_sub(8) {
        return Err(format!("its header should have {length} bytes"));
    }
    if length > MAX_HEADER {
        return Err(format!("its header has {length} bytes, more than the limit of {MAX_HEADER}"));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(|e| e.to_string())?;
    // Deserialising also checks that offsets, shapes and data types agree.
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| e.to_string())?;
    let (begin, n_data) = (8 + length, header.data_len() as u64);
    if begin.checked_add(n_data) != Some(n_bytes) {
        return Err(format!(
            "its tensors should have {n_data} bytes, but have {}",
            n_bytes - begin
        ));
    }
    Ok((begin, header))
}
