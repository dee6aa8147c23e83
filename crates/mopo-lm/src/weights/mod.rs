//! phi's weights in Hugging Face's files: `config.json` with `model.safetensors` or
//! `pytorch_model.bin` (or their shards), as transformers reads and writes them. Adapters and heads
//! are in `adapter`.

#[cfg(test)]
mod tests;

use std::path::Path;

use burn::module::Param;
use burn::nn::{Embedding, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::backend::Backend;
use mopo_hub::{TensorFiles, TensorWriter, WEIGHTS, WeightDtype};

use crate::lora::LoraTarget;
use crate::phi::{PhiAttention, PhiLayer, PhiMlp, Rotary};
use crate::projection::{Projection, Weight};
use crate::{Error, Phi, PhiConfig, QuantFormat, QuantisedWeight, Result};

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

/// How [`load_phi`] stores what it reads. The default keeps the checkpoint's data type.
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

/// Loads a phi model of this configuration from a Hugging Face model directory
/// (`model.safetensors`, `pytorch_model.bin`, or the shards that either's `….index.json` names;
/// safetensors first) or from one file. The parameters are trainable; see [`Phi::freeze`].
///
/// Tensors are read, and quantised if requested, one by one: peak memory is the model in its final
/// form plus one tensor of the file. Matrices keep the file's layout, `[outputs, inputs]`, in
/// memory, behind a transposed view. Nothing in a PyTorch file (a pickle) is executed.
///
/// # Errors
/// A file that cannot be read or is truncated; missing, unexpected or misshapen tensors or
/// unsupported data types, by name; weights to quantise that are not finite.
pub fn load_phi<B: Backend>(
    dir_or_file: impl AsRef<Path>,
    config: &PhiConfig,
    options: LoadOptions,
    device: &B::Device,
) -> Result<Phi<B>> {
    config.check()?;
    config.check_rotary_memory()?;
    let mut files = TensorFiles::open(dir_or_file.as_ref())?;
    // Older transformers checkpoints contain this constant.
    files.ignore(|name| name.ends_with("rotary_emb.inv_freq"));
    let (d, vocab) = (config.hidden_size, config.vocab_size);

    let keep = options.dtype == LoadDtype::Checkpoint;
    let embed = files.matrix("model.embed_tokens.weight", [vocab, d], keep, device)?;
    let mut layers = vec![];
    for i in 0..config.num_hidden_layers {
        let mut at = |target: LoraTarget| {
            let name = format!("model.layers.{i}.{}", target.path());
            read_projection(&mut files, &name, target.shape(config), options, device)
        };
        let self_attn = PhiAttention {
            q_proj: at(LoraTarget::QProj)?,
            k_proj: at(LoraTarget::KProj)?,
            v_proj: at(LoraTarget::VProj)?,
            dense: at(LoraTarget::Dense)?,
        };
        let mlp = PhiMlp { fc1: at(LoraTarget::Fc1)?, fc2: at(LoraTarget::Fc2)? };
        let name = format!("model.layers.{i}.input_layernorm");
        let input_layernorm = read_norm(&mut files, &name, config, device)?;
        layers.push(PhiLayer { input_layernorm, self_attn, mlp });
    }
    let final_layernorm = read_norm(&mut files, "model.final_layernorm", config, device)?;
    let lm_head = read_linear(&mut files, "lm_head", [d, vocab], keep, device)?;
    files.finish()?;
    Ok(Phi {
        embed_tokens: Embedding { weight: Param::from_tensor(embed) },
        layers,
        final_layernorm,
        lm_head,
        rotary: Rotary::new(config, device),
        config: config.clone(),
        gradient_checkpointing: false,
    })
}

/// Writes `config.json` and `model.safetensors` to `dir`, which is created if needed, with the
/// names and the layout of transformers' `PhiForCausalLM`. Each tensor keeps its data type, so
/// nothing is lost; quantised weights become F32. `torch_dtype` is that of the embedding.
///
/// # Errors
/// A file cannot be written.
pub fn save_phi<B: Backend>(phi: &Phi<B>, dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    mopo_hub::create_dir(dir)?;
    write_weights(phi, &phi.lm_head, None, &dir.join(WEIGHTS))?;
    let mut config = phi.config().to_hub();
    config["torch_dtype"] = phi.weight_dtype().hub_name().into();
    Ok(mopo_hub::write_json(&dir.join("config.json"), &config)?)
}

/// The tensors of a model with this output layer, in one data type or each in its own.
pub(crate) fn write_weights<B: Backend>(
    phi: &Phi<B>,
    lm_head: &Linear<B>,
    dtype: Option<WeightDtype>,
    file: &Path,
) -> Result<()> {
    let mut out = TensorWriter::with_dtype(dtype).finite_only();
    out.tensor("model.embed_tokens.weight", phi.embed_tokens.weight.val());
    for (i, layer) in phi.layers.iter().enumerate() {
        for target in LoraTarget::ALL {
            let name = format!("model.layers.{i}.{}", target.path());
            let layer = layer.linear(target);
            out.transposed(&format!("{name}.weight"), layer.dense_weight());
            out.tensor(&format!("{name}.bias"), layer.bias.val());
        }
        write_norm(&mut out, &format!("model.layers.{i}.input_layernorm"), &layer.input_layernorm);
    }
    write_norm(&mut out, "model.final_layernorm", &phi.final_layernorm);
    write_linear(&mut out, "lm_head", lm_head);
    Ok(out.write(file)?)
}

impl<B: Backend> Phi<B> {
    /// The data type of the large matrices, taken from the embedding.
    pub fn weight_dtype(&self) -> WeightDtype {
        WeightDtype::of(self.embed_tokens.weight.val().dtype())
    }
}

/// A linear layer of a block.
fn read_projection<B: Backend>(
    files: &mut TensorFiles,
    name: &str,
    shape: [usize; 2],
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
    let bias = files.tensor(&format!("{name}.bias"), [shape[1]], device)?;
    Ok(Projection { weight, bias: Param::from_tensor(bias) })
}

/// A linear layer of `[inputs, outputs]`, stored transposed.
pub(crate) fn read_linear<B: Backend>(
    files: &mut TensorFiles,
    name: &str,
    shape: [usize; 2],
    keep_dtype: bool,
    device: &B::Device,
) -> Result<Linear<B>> {
    let weight = files.transposed(&format!("{name}.weight"), shape, keep_dtype, device)?;
    let bias = files.tensor(&format!("{name}.bias"), [shape[1]], device)?;
    Ok(Linear { weight: Param::from_tensor(weight), bias: Some(Param::from_tensor(bias)) })
}

/// The counterpart of [`read_linear`].
pub(crate) fn write_linear<B: Backend>(out: &mut TensorWriter, name: &str, layer: &Linear<B>) {
    out.transposed(&format!("{name}.weight"), layer.weight.val());
    let bias = layer.bias.as_ref().expect("every linear layer of phi has a bias");
    out.tensor(&format!("{name}.bias"), bias.val());
}

fn read_norm<B: Backend>(
    files: &mut TensorFiles,
    name: &str,
    config: &PhiConfig,
    device: &B::Device,
) -> Result<LayerNorm<B>> {
    let d = config.hidden_size;
    let mut norm = LayerNormConfig::new(d).with_epsilon(config.layer_norm_eps).init(device);
    norm.gamma = Param::from_tensor(files.tensor(&format!("{name}.weight"), [d], device)?);
    norm.beta = Some(Param::from_tensor(files.tensor(&format!("{name}.bias"), [d], device)?));
    Ok(norm)
}

fn write_norm<B: Backend>(out: &mut TensorWriter, name: &str, norm: &LayerNorm<B>) {
    out.tensor(&format!("{name}.weight"), norm.gamma.val());
    let beta = norm.beta.as_ref().expect("every LayerNorm of phi has a bias");
    out.tensor(&format!("{name}.bias"), beta.val());
}
