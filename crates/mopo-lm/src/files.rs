//! Reading and writing of JSON and safetensors files, atomically. What the tensors mean is known to
//! `weights` and `adapter`.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};

use crate::{Error, Result};

/// Reads a file, or says which.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })
}

/// Reads JSON; `expected` completes "expected …".
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<T> {
    serde_json::from_slice(&read(path)?).map_err(|e| Error::Json {
        path: path.into(),
        reason: e.to_string(),
        expected,
    })
}

/// Creates a directory and its parents.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|source| Error::Io {
        action: "create",
        path: dir.into(),
        source,
    })
}

/// Writes a whole file or nothing: a temporary file beside it, synced, then renamed.
pub(crate) fn write_atomically(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        // The rename itself is durable once the directory is.
        std::fs::File::open(parent)?.sync_all()
    };
    write().map_err(|source| Error::Io { action: "write", path: path.into(), source })
}

/// Writes JSON, indented, with a final newline.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("plain data");
    write_atomically(path, &[text.as_bytes(), b"\n"])
}

/// The tensors of one or several safetensors files, taken one by one by name; what is left over at
/// the end is an error.
pub(crate) struct TensorFiles {
    /// Named in errors: the file, or the index of several.
    path: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Which file holds a tensor. Sorted, so that errors are stable.
    left: BTreeMap<String, usize>,
    missing: Vec<String>,
}

impl TensorFiles {
    /// Opens the files. `path` stands for all of them in errors.
    pub(crate) fn open(path: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut this =
            Self { path: path.into(), files: vec![], left: BTreeMap::new(), missing: vec![] };
        for file in files {
            let bytes = read(file)?;
            for name in parse(file, &bytes)?.names() {
                this.left.insert(name.into(), this.files.len());
            }
            this.files.push((file.clone(), bytes));
        }
        Ok(this)
    }

    /// Leaves a tensor out of account.
    pub(crate) fn ignore(&mut self, is_ignored: impl Fn(&str) -> bool) {
        self.left.retain(|name, _| !is_ignored(name));
    }

    /// Takes a tensor as f32; zeros of the right shape if it is missing, which
    /// [`finish`](Self::finish) reports together with all others.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some(file) = self.left.remove(name) else {
            self.missing.push(name.into());
            return Ok(vec![0.0; shape.iter().product()]);
        };
        let (path, bytes) = &self.files[file];
        let tensors = parse(path, bytes)?;
        let view = tensors.tensor(name).map_err(|e| corrupt(path, bytes, &e))?;
        if view.shape() != shape {
            return Err(Error::TensorShape {
                path: path.clone(),
                name: name.into(),
                found: view.shape().into(),
                expected: shape.into(),
            });
        }
        let floats = |dtype: DType| {
            TensorData::from_bytes_vec(view.data().to_vec(), shape.to_vec(), dtype)
                .convert::<f32>()
                .to_vec::<f32>()
                .expect("just converted")
        };
        match view.dtype() {
            Dtype::F32 => Ok(view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()),
            Dtype::F16 => Ok(floats(DType::F16)),
            Dtype::BF16 => Ok(floats(DType::BF16)),
            dtype => Err(Error::TensorDtype {
                path: path.clone(),
                name: name.into(),
                dtype: dtype.to_string(),
            }),
        }
    }

    /// A tensor as it is stored.
    pub(crate) fn tensor<B: Backend, const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        device: &B::Device,
    ) -> Result<Tensor<B, D>> {
        let values = self.take(name, &shape)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }

    /// A matrix stored as `[outputs, inputs]`, returned as `[inputs, outputs]`, its `shape`.
    pub(crate) fn transposed<B: Backend>(
        &mut self,
        name: &str,
        shape: [usize; 2],
        device: &B::Device,
    ) -> Result<Tensor<B, 2>> {
        let [d_in, d_out] = shape;
        let values = transpose(&self.take(name, &[d_out, d_in])?, d_out, d_in);
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }

    /// Reports what was missing, then what nobody took.
    pub(crate) fn finish(self) -> Result<()> {
        if !self.missing.is_empty() {
            return Err(Error::MissingTensors { path: self.path, names: self.missing });
        }
        if !self.left.is_empty() {
            let names = self.left.into_keys().collect();
            return Err(Error::UnusedTensors { path: self.path, names });
        }
        Ok(())
    }
}

/// Tensors on their way into a file.
#[derive(Default)]
pub(crate) struct TensorWriter {
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
}

impl TensorWriter {
    /// Adds a tensor as it is.
    pub(crate) fn tensor<B: Backend, const D: usize>(&mut self, name: &str, tensor: Tensor<B, D>) {
        let shape = tensor.dims().to_vec();
        self.push(name, shape, &floats(tensor));
    }

    /// Adds an `[inputs, outputs]` matrix as `[outputs, inputs]`.
    pub(crate) fn transposed<B: Backend>(&mut self, name: &str, tensor: Tensor<B, 2>) {
        let [d_in, d_out] = tensor.dims();
        self.push(name, vec![d_out, d_in], &transpose(&floats(tensor), d_in, d_out));
    }

    fn push(&mut self, name: &str, shape: Vec<usize>, values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.push((name.into(), shape, bytes));
    }

    /// Writes the file, atomically, as f32.
    pub(crate) fn write(self, path: &Path) -> Result<()> {
        let views = self.tensors.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (name, view.expect("bytes of that shape"))
        });
        // The reference library refuses files without this entry.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| Error::Io {
            action: "write",
            path: path.into(),
            source: std::io::Error::other(e.to_string()),
        })?;
        drop(self);
        write_atomically(path, &[&bytes])
    }
}

fn floats<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().to_vec::<f32>().expect("just converted")
}

/// `[rows, columns]` to `[columns, rows]`, in blocks that fit a cache.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const BLOCK: usize = 32;
    let mut out = vec![0.0; values.len()];
    for row in (0..rows).step_by(BLOCK) {
        for column in (0..columns).step_by(BLOCK) {
            for i in row..(row + BLOCK).min(rows) {
                for j in column..(column + BLOCK).min(columns) {
                    out[j * rows + i] = values[i * columns + j];
                }
            }
        }
    }
    out
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes).map_err(|e| corrupt(path, bytes, &e))
}

fn corrupt(path: &Path, bytes: &[u8], error: &SafeTensorError) -> Error {
    Error::CorruptTensors { path: path.into(), n_bytes: bytes.len(), reason: error.to_string() }
}
