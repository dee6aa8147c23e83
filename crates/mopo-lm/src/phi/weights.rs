//! phi's weights in Hugging Face's files: `model.safetensors` or `pytorch_model.bin` (or their shards),
//! as transformers reads and writes them.

#[cfg(test)]
mod tests;

use std::path::Path;

use burn::module::Param;
use burn::nn::Embedding;
use burn::tensor::backend::Backend;
use mopo_hub::TensorWriter;

use super::{Phi, PhiAttention, PhiConfig, PhiLayer, PhiMlp, PhiRotary};
use crate::Result;
use crate::layers::OutputLayer;
use crate::weights::{
    LoadOptions, Source, read_norm, read_projection, write_norm, write_projection,
};

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
    let heads = [config.num_attention_heads; 2];
    let mut files = Source::open(dir_or_file.as_ref(), heads)?;
    // Older transformers checkpoints contain this constant.
    files.ignore(|name| name.ends_with("rotary_emb.inv_freq"));
    let (d, vocab) = (config.hidden_size, config.vocab_size);
    let shape = config.shape();

    let dtype = options.dtype;
    let embed = files.matrix("model.embed_tokens.weight", [vocab, d], dtype, device)?;
    let mut layers = vec![];
    for i in 0..config.num_hidden_layers {
        let mut linears = shape.linears.iter();
        let mut next = || {
            let linear = linears.next().expect("six of them");
            let name = format!("model.layers.{i}.{}", linear.path);
            read_projection(&mut files, &name, linear.shape, true, options, device)
        };
        let self_attn =
            PhiAttention { q_proj: next()?, k_proj: next()?, v_proj: next()?, dense: next()? };
        let mlp = PhiMlp { fc1: next()?, fc2: next()? };
        let name = format!("model.layers.{i}.input_layernorm");
        let input_layernorm = read_norm(&mut files, &name, d, config.layer_norm_eps, device)?;
        layers.push(PhiLayer { input_layernorm, self_attn, mlp });
    }
    let final_layernorm =
        read_norm(&mut files, "model.final_layernorm", d, config.layer_norm_eps, device)?;
    let of_output = options.of_output();
    let lm_head =
        OutputLayer::read(&mut files, "lm_head", [d, vocab], (true, None), of_output, device)?;
    files.finish()?;
    Ok(Phi {
        embed_tokens: Embedding { weight: Param::from_tensor(embed) },
        layers,
        final_layernorm,
        lm_head,
        rotary: PhiRotary::new(config, device),
        config: config.clone(),
        gradient_checkpointing: false,
    })
}

/// The tensors of a model with this output layer.
pub(super) fn list<B: Backend>(phi: &Phi<B>, lm_head: &OutputLayer<B>, out: &mut TensorWriter) {
    out.tensor("model.embed_tokens.weight", phi.embed_tokens.weight.val());
    for (i, layer) in phi.layers.iter().enumerate() {
        for (linear, shape) in layer.linears().into_iter().zip(&phi.config.shape().linears) {
            write_projection(out, &format!("model.layers.{i}.{}", shape.path), linear);
        }
        write_norm(out, &format!("model.layers.{i}.input_layernorm"), &layer.input_layernorm);
    }
    write_norm(out, "model.final_layernorm", &phi.final_layernorm);
    lm_head.write(out, "lm_head");
}
