//! How weights are read and written, whatever the family of the model. Which tensors there are is in
//! the family's file; adapters and heads are in `adapter`.

use burn::module::Param;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::backend::Backend;
use mopo_hub::{TensorFiles, TensorWriter};

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
}

impl LoadOptions {
    /// Everything in F32.
    pub fn f32() -> Self {
        Self { dtype: LoadDtype::F32, quantise: None }
    }

    /// The linear layers quantised to `format`, the rest as in the checkpoint. The layers then have
    /// no parameters: such a model is a frozen base.
    pub fn quantised(format: QuantFormat) -> Self {
        Self { dtype: LoadDtype::Checkpoint, quantise: Some(format) }
    }
}

/// A linear layer of a block, `[inputs, outputs]`, stored transposed.
pub(crate) fn read_projection<B: Backend>(
    files: &mut TensorFiles,
    name: &str,
    shape: [usize; 2],
    has_bias: bool,
    options: LoadOptions,
    device: &B::Device,
) -> Result<Projection<B>> {
    let weight_name = format!("{name}.weight");
    let weight = match options.quantise {
        None => {
            let keep = options.dtype == LoadDtype::Checkpoint;
            let weight = files.transposed(&weight_name, shape, keep, device)?;
            Weight::Dense(Param::from_tensor(weight))
        }
        Some(format) => {
            let data = files.take(&weight_name, &[shape[1], shape[0]])?;
            let weight = QuantisedWeight::new(&data, format, &weight_name, device);
            let in_file = |e| Error::InFile { path: files.path().into(), source: Box::new(e) };
            Weight::Quantised(weight.map_err(in_file)?)
        }
    };
    let bias = match has_bias {
        true => Some(files.tensor(&format!("{name}.bias"), [shape[1]], device)?),
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
    files: &mut TensorFiles,
    name: &str,
    d: usize,
    epsilon: f64,
    device: &B::Device,
) -> Result<LayerNorm<B>> {
    let mut norm = LayerNormConfig::new(d).with_epsilon(epsilon).init(device);
    norm.gamma = Param::from_tensor(files.tensor(&format!("{name}.weight"), [d], device)?);
    norm.beta = Some(Param::from_tensor(files.tensor(&format!("{name}.bias"), [d], device)?));
    Ok(norm)
}

/// The counterpart of [`read_norm`].
pub(crate) fn write_norm<B: Backend>(out: &mut TensorWriter, name: &str, norm: &LayerNorm<B>) {
    out.tensor(&format!("{name}.weight"), norm.gamma.val());
    let beta = norm.beta.as_ref().expect("every LayerNorm here has a bias");
    out.tensor(&format!("{name}.bias"), beta.val());
}
