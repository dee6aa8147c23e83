//! Writes tensors to a safetensors file one at a time, without a second copy of the model in
//! memory.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::WeightDtype;
use super::read::first_not_finite;
use crate::{Error, Result, write_atomically_with};

/// Tensors to be written to a file.
#[derive(Default)]
pub struct TensorWriter {
    dtype: Option<WeightDtype>,
    tensors: Vec<(String, Pending)>,
    finite_only: bool,
}

/// A tensor whose values are made when they are needed.
pub struct NamedTensor {
    /// Its name in Hugging Face's layout.
    pub name: String,
    /// Its dimensions; the last one changes fastest.
    pub shape: Vec<usize>,
    /// Its values as f32.
    pub values: Box<dyn Fn() -> Vec<f32>>,
}

/// A tensor that is converted to bytes when it is written.
struct Pending {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Box<dyn Fn() -> std::result::Result<TensorData, Lost>>,
}

/// The first value out of range of the data type, and its index.
type Lost = (usize, f64);

impl TensorWriter {
    /// Writes all tensors in `dtype`, or each in its own type.
    pub fn with_dtype(dtype: Option<WeightDtype>) -> Self {
        Self { dtype, ..Self::default() }
    }

    /// From now on, writing an infinity or a NaN is an error ([`Error::NotFinite`]).
    pub fn finite_only(mut self) -> Self {
        self.finite_only = true;
        self
    }

    /// Adds a tensor as it is.
    pub fn tensor<B: Backend, const D: usize>(&mut self, name: &str, tensor: Tensor<B, D>) {
        let dtype = self.dtype.unwrap_or_else(|| WeightDtype::of(tensor.dtype()));
        let pending = Pending {
            dtype: dtype.stored(),
            shape: tensor.dims().to_vec(),
            data: Box::new(move || {
                let data = tensor.clone().into_data();
                let converted = data.clone().convert_dtype(dtype.burn());
                if data.dtype != converted.dtype {
                    let pairs = data.iter::<f64>().zip(converted.iter::<f64>()).enumerate();
                    let is_lost =
                        |(_, (from, to)): &(usize, (f64, f64))| from.is_finite() && !to.is_finite();
                    if let Some((index, (from, _))) = pairs.into_iter().find(is_lost) {
                        return Err((index, from));
                    }
                }
                Ok(converted)
            }),
        };
        self.tensors.push((name.into(), pending));
    }

    /// Adds an `[inputs, outputs]` matrix as `[outputs, inputs]`.
    pub fn transposed<B: Backend>(&mut self, name: &str, tensor: Tensor<B, 2>) {
        self.tensor(name, tensor.transpose());
    }

    /// The tensors in the order in which they were added, for a file of another format. For a writer
    /// that keeps each tensor's type.
    pub fn into_tensors(self) -> impl Iterator<Item = NamedTensor> {
        assert!(self.dtype.is_none(), "the values would be converted");
        self.tensors.into_iter().map(|(name, Pending { shape, data, .. })| {
            let data = move || data().expect("not converted").convert::<f32>();
            let values = move || data().into_vec().expect("f32");
            NamedTensor { name, shape, values: Box::new(values) }
        })
    }

    /// Writes the file, atomically.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; [`Error::OutOfRange`] for a finite value that would become infinite;
    /// [`Error::NotFinite`].
    pub fn write(mut self, path: &Path) -> Result<()> {
        // The order of the library that defines the format, which keeps every tensor aligned.
        self.tensors.sort_by(|(a, x), (b, y)| y.dtype.cmp(&x.dtype).then(a.cmp(b)));
        let mut end = 0;
        let infos = self.tensors.iter().map(|(name, tensor)| {
            let begin = end;
            end += tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() / 8;
            let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
            (name.clone(), TensorInfo { dtype, shape, data_offsets: (begin, end) })
        });
        // transformers refuses files without this entry.
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let header = Metadata::new(Some(format), infos.collect()).expect("offsets that follow on");
        let mut header = serde_json::to_vec(&header).expect("plain data");
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut refused = None;
        let written = write_atomically_with(path, |file| {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            for (name, tensor) in &self.tensors {
                let (path, name) = (path.to_path_buf(), name.clone());
                let error = match (tensor.data)() {
                    Ok(data) => match self.finite_only.then(|| first_not_finite(&data)).flatten() {
                        Some((index, value)) => Error::NotFinite { path, name, value, index },
                        None => {
                            file.write_all(data.as_bytes())?;
                            continue;
                        }
                    },
                    Err((index, value)) => {
                        let dtype = match tensor.dtype {
                            Dtype::F16 => "f16",
                            Dtype::BF16 => "bf16",
                            _ => "f32",
                        };
                        Error::OutOfRange { path, name, value, index, dtype }
                    }
                };
                refused = Some(error);
                return Err(std::io::Error::other("a value cannot be written"));
            }
            Ok(())
        });
        refused.map_or(written, Err)
    }
}
