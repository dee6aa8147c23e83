//! phi's weights in the hub's files: `config.json` with `model.safetensors` (or its shards), which
//! the reference library reads and writes too. Adapters and heads are in `adapter`.

use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::nn::{Embedding, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::backend::Backend;
use serde::Deserialize;

use crate::files::{self, TensorFiles, TensorWriter};
use crate::lora::LoraTarget;
use crate::phi::{PhiAttention, PhiLayer, PhiMlp, Rotary};
use crate::{Phi, PhiConfig, Result};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// `model.safetensors.index.json`: which shard holds a tensor.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: std::collections::BTreeMap<String, String>,
}

/// Loads a phi model of that configuration from a directory of the hub (`model.safetensors`, or the
/// shards that `model.safetensors.index.json` names) or from one file. F16 and BF16 become F32. The
/// parameters are trainable; see [`Phi::freeze`].
///
/// # Errors
/// A file that cannot be read or is cut short; tensors missing, left over, of another shape or of
/// an unread data type, by name.
pub fn load_phi<B: Backend>(
    dir_or_file: impl AsRef<Path>,
    config: &PhiConfig,
    device: &B::Device,
) -> Result<Phi<B>> {
    config.check()?;
    let path = dir_or_file.as_ref();
    let (path, shards) = find_files(path)?;
    let mut files = TensorFiles::open(&path, &shards)?;
    // Older checkpoints of the reference library carry this constant.
    files.ignore(|name| name.ends_with("rotary_emb.inv_freq"));
    let (d, vocab) = (config.hidden_size, config.vocab_size);

    let embed = files.tensor("model.embed_tokens.weight", [vocab, d], device)?;
    let mut layers = vec![];
    for i in 0..config.num_hidden_layers {
        let mut at = |target: LoraTarget| {
            let name = format!("model.layers.{i}.{}", target.path());
            read_linear(&mut files, &name, target.shape(config), device)
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
    let lm_head = read_linear(&mut files, "lm_head", [d, vocab], device)?;
    files.finish()?;
    Ok(Phi {
        embed_tokens: Embedding { weight: Param::from_tensor(embed) },
        layers,
        final_layernorm,
        lm_head,
        rotary: Rotary::new(config, device),
        config: config.clone(),
    })
}

/// Writes `config.json` and `model.safetensors` (F32) into `dir`, which is created if need be. The
/// reference library loads it as `PhiForCausalLM`.
///
/// # Errors
/// The file that could not be written.
pub fn save_phi<B: Backend>(phi: &Phi<B>, dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    files::create_dir(dir)?;
    let mut out = TensorWriter::default();
    out.tensor("model.embed_tokens.weight", phi.embed_tokens.weight.val());
    for (i, layer) in phi.layers.iter().enumerate() {
        for target in LoraTarget::ALL {
            let name = format!("model.layers.{i}.{}", target.path());
            write_linear(&mut out, &name, layer.linear(target));
        }
        write_norm(&mut out, &format!("model.layers.{i}.input_layernorm"), &layer.input_layernorm);
    }
    write_norm(&mut out, "model.final_layernorm", &phi.final_layernorm);
    write_linear(&mut out, "lm_head", &phi.lm_head);
    out.write(&dir.join(WEIGHTS))?;
    files::write_json(&dir.join("config.json"), &phi.config().to_hub())
}

fn find_files(path: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    if !path.is_dir() {
        return Ok((path.into(), vec![path.into()]));
    }
    let (single, index) = (path.join(WEIGHTS), path.join(INDEX));
    // One whole file wins; without either, reading it gives the error.
    if single.exists() || !index.exists() {
        return Ok((single.clone(), vec![single]));
    }
    let shards: ShardIndex = files::read_json(&index, "the index of a sharded checkpoint")?;
    let mut names: Vec<String> = shards.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    Ok((index, names.into_iter().map(|name| path.join(name)).collect()))
}

/// A linear layer of `[inputs, outputs]`, stored transposed.
pub(crate) fn read_linear<B: Backend>(
    files: &mut TensorFiles,
    name: &str,
    shape: [usize; 2],
    device: &B::Device,
) -> Result<Linear<B>> {
    let weight = files.transposed(&format!("{name}.weight"), shape, device)?;
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
