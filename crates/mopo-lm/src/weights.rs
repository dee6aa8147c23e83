//! How weights are read and written, whatever the family of the model. Which tensors there are is in
//! the family's file; adapters and heads are in `adapter`.

use std::path::Path;

use burn::module::Param;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use mopo_hub::gguf::GgufFile;
use mopo_hub::{TensorFiles, TensorWriter};
use mopo_ops::QuantisedData;

use crate::gguf::{GgufTensors, gguf_file};
use crate::layers::{Projection, Weight};
use crate::{Error, QuantFormat, QuantisedWeight, Result};

/// The data type of the large matrices (embedding, linear layers, output layer) in memory.
/// LayerNorms and biases always become F32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadDtype {
    /// That of the checkpoint, or F32 if the device does not support it. For a frozen base.
    #[default]
    Checkpoint,
    /// F32, for a model that is trained.
    F32,
    /// BF16 whatever the checkpoint has, or F32 if the device does not support it. For a frozen base.
    Bf16,
}

/// How [`CausalLm::load`](crate::CausalLm::load) stores what it reads. The default keeps the checkpoint's
/// data type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// Data type of the large matrices.
    pub dtype: LoadDtype,
    /// Quantise the linear layers of the blocks while reading. `dtype` applies to embedding and
    /// output layer.
    pub quantise: Option<QuantFormat>,
    /// Quantise the output layer as well; where it is tied to the embedding, this too.
    pub quantise_output: bool,
}

impl LoadOptions {
    /// Everything in F32.
    pub fn f32() -> Self {
        Self { dtype: LoadDtype::F32, ..Self::default() }
    }

    /// The large matrices in BF16.
    pub fn bf16() -> Self {
        Self { dtype: LoadDtype::Bf16, ..Self::default() }
    }

    /// The linear layers quantised to `format`, the rest as in the checkpoint. The layers then have
    /// no parameters: such a model is a frozen base.
    pub fn quantised(format: QuantFormat) -> Self {
        Self { quantise: Some(format), ..Self::default() }
    }

    /// The output layer quantised as well.
    pub fn with_output(self) -> Self {
        Self { quantise_output: true, ..self }
    }

    /// Those of the output layer.
    pub(crate) fn of_output(self) -> Self {
        Self { quantise: self.quantise.filter(|_| self.quantise_output), ..self }
    }

    /// Those of the embedding.
    pub(crate) fn of_embedding(self, is_tied: bool) -> Self {
        if is_tied { self.of_output() } else { Self { quantise: None, ..self } }
    }
}

/// Where a model's tensors are read from, under their names on Hugging Face.
pub(crate) enum Source {
    /// safetensors or PyTorch files.
    Files(TensorFiles),
    /// A GGUF file.
    Gguf(GgufTensors),
}

impl Source {
    /// A model directory, or one file; `heads` of queries and of keys are those of its attention.
    pub(crate) fn open(dir_or_file: &Path, heads: [usize; 2]) -> Result<Self> {
        match gguf_file(dir_or_file) {
            None => Ok(Self::Files(TensorFiles::open(dir_or_file)?)),
            Some(file) => Ok(Self::Gguf(GgufTensors::new(GgufFile::open(&file)?, heads)?)),
        }
    }

    /// The files of a model directory, whose values must be finite.
    pub(crate) fn files(dir: &Path) -> Result<Self> {
        Ok(Self::Files(TensorFiles::open(dir)?.finite_only()))
    }

    /// Number of unread tensors.
    pub(crate) fn n_tensors(&self) -> usize {
        match self {
            Self::Files(files) => files.names().count(),
            Self::Gguf(file) => file.n_unread(),
        }
    }

    /// Whether there is an unread tensor of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        match self {
            Self::Files(files) => files.contains(name),
            Self::Gguf(file) => file.contains(name),
        }
    }

    /// The first of some prefixes with which there is a tensor of this name; the first of all if there
    /// is none, so that errors show the usual one.
    pub(crate) fn prefix(&self, prefixes: &[&'static str], name: &str) -> &'static str {
        let found = prefixes.iter().find(|prefix| self.contains(&format!("{prefix}{name}")));
        found.or(prefixes.first()).expect("at least one prefix")
    }

    /// Ignores the tensors for which `is_ignored` holds, in files that may have more than a model needs.
    pub(crate) fn ignore(&mut self, is_ignored: impl Fn(&str) -> bool) {
        if let Self::Files(files) = self {
            files.ignore(is_ignored);
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Files(files) => files.path(),
            Self::Gguf(file) => file.path(),
        }
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<TensorData> {
        match self {
            Self::Files(files) => Ok(files.take(name, shape)?),
            Self::Gguf(file) => file.values(name, shape),
        }
    }

    /// A vector in F32.
    pub(crate) fn vector<B: Backend>(
        &mut self,
        name: &str,
        d: usize,
        device: &B::Device,
    ) -> Result<Tensor<B, 1>> {
        match self {
            Self::Files(files) => Ok(files.tensor(name, [d], device)?),
            Self::Gguf(file) => {
                Ok(Tensor::from_data(file.values(name, &[d])?, (device, DType::F32)))
            }
        }
    }

    /// A matrix in the layout of the file: of a GGUF file in F32; otherwise as
    /// [`TensorFiles::matrix`] reads it.
    pub(crate) fn matrix<B: Backend>(
        &mut self,
        name: &str,
        shape: [usize; 2],
        dtype: LoadDtype,
        device: &B::Device,
    ) -> Result<Tensor<B, 2>> {
        let matrix = match self {
            Self::Files(files) => files.matrix(name, shape, dtype != LoadDtype::F32, device)?,
            Self::Gguf(file) => Tensor::from_data(file.values(name, &shape)?, (device, DType::F32)),
        };
        Ok(match dtype {
            LoadDtype::Bf16 if B::supports_dtype(device, DType::BF16) => {
                matrix.cast(FloatDType::BF16)
            }
            _ => matrix,
        })
    }

    /// A matrix `[inputs, outputs]` in F32, stored as `[outputs, inputs]`.
    pub(crate) fn transposed<B: Backend>(
        &mut self,
        name: &str,
        [inputs, outputs]: [usize; 2],
        device: &B::Device,
    ) -> Result<Tensor<B, 2>> {
        Ok(self.matrix(name, [outputs, inputs], LoadDtype::F32, device)?.transpose())
    }

    /// A weight `[inputs, outputs]`, stored as `[outputs, inputs]`. The blocks of a GGUF file stay as they are,
    /// unless the options ask for something else.
    pub(crate) fn weight<B: Backend>(
        &mut self,
        name: &str,
        shape: [usize; 2],
        options: LoadOptions,
        device: &B::Device,
    ) -> Result<Weight<B>> {
        let stored = [shape[1], shape[0]];
        if let (Self::Gguf(file), LoadOptions { dtype: LoadDtype::Checkpoint, quantise: None, .. }) =
            (&mut *self, options)
            && let Some((kind, blocks)) = file.blocks(name, stored)?
        {
            let data = QuantisedData::from_blocks(kind, shape, &blocks);
            return Ok(Weight::Quantised(QuantisedWeight::from_data(data, device)));
        }
        match options.quantise {
            None => {
                let weight = self.matrix(name, stored, options.dtype, device)?;
                Ok(Weight::Dense(Param::from_tensor(weight.transpose())))
            }
            Some(format) => {
                let data = self.take(name, &stored)?;
                let weight = QuantisedWeight::new(&data, format, name, device);
                let in_file = |e| Error::InFile { path: self.path().into(), source: Box::new(e) };
                Ok(Weight::Quantised(weight.map_err(in_file)?))
            }
        }
    }

    /// Reports missing tensors, then unread ones.
    pub(crate) fn finish(self) -> Result<()> {
        match self {
            Self::Files(files) => Ok(files.finish()?),
            Self::Gguf(file) => file.finish(),
        }
    }
}

/// A linear layer of a block, `[inputs, outputs]`.
pub(crate) fn read_projection<B: Backend>(
    source: &mut Source,
    name: &str,
    shape: [usize; 2],
    has_bias: bool,
    options: LoadOptions,
    device: &B::Device,
) -> Result<Projection<B>> {
    let weight = source.weight(&format!("{name}.weight"), shape, options, device)?;
    let bias = match has_bias {
        true => Some(source.vector(&format!("{name}.bias"), shape[1], device)?),
        false => None,
    };
    Ok(Projection { weight, bias: bias.map(Param::from_tensor) })
}

/// The counterpart of [`read_projection`]; quantised weights become F32.
pub(crate) fn write_projection<B: Backend>(
    out: &mut TensorWriter,
    name: &str,
    layer: &Projection<B>,
) {
    out.transposed(&format!("{name}.weight"), layer.dense_weight());
    if let Some(bias) = &layer.bias {
        out.tensor(&format!("{name}.bias"), bias.val());
    }
}

/// A LayerNorm of width `d`, with a bias.
pub(crate) fn read_norm<B: Backend>(
    source: &mut Source,
    name: &str,
    d: usize,
    epsilon: f64,
    device: &B::Device,
) -> Result<LayerNorm<B>> {
    let mut norm = LayerNormConfig::new(d).with_epsilon(epsilon).init(device);
    norm.gamma = Param::from_tensor(source.vector(&format!("{name}.weight"), d, device)?);
    norm.beta = Some(Param::from_tensor(source.vector(&format!("{name}.bias"), d, device)?));
    Ok(norm)
}

/// The counterpart of [`read_norm`].
pub(crate) fn write_norm<B: Backend>(out: &mut TensorWriter, name: &str, norm: &LayerNorm<B>) {
    out.tensor(&format!("{name}.weight"), norm.gamma.val());
    let beta = norm.beta.as_ref().expect("every LayerNorm here has a bias");
    out.tensor(&format!("{name}.bias"), beta.val());
}
