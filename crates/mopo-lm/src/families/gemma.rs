//! Gemma 2 and the text models of Gemma 3: norms with 1 + w before and after each sub-layer, GeGLU, scaled
//! embeddings, and local blocks with a window between global ones. Gemma 2 caps scores and logits;
//! Gemma 3 has norms of queries' and keys' heads and another rotary embedding in local blocks.

use mopo_ops::{Activation, Gelu, NormKind};

use crate::Result;
use crate::hub_config::{HubConfig, MAX_POSITIONS};
use crate::layers::{Rotary, RotaryKeys};
use crate::serial::{Defaults, Names, SerialConfig};

/// `model_type` `gemma2`.
pub(crate) fn gemma_2(config: &HubConfig) -> Result<SerialConfig> {
    let mut this = gemma(config, 8192)?;
    let (dim, positions) = (this.head_dim, this.max_position_embeddings);
    this.rotaries = vec![Rotary::read(config, RotaryKeys::shared(), dim, positions)?];
    this.heads.soft_cap = config.optional_number("attn_logit_softcapping")?.map(|x| x as f32);
    this.output_soft_cap = config.optional_number("final_logit_softcapping")?.map(|x| x as f32);
    // Every second block is local, the first one too.
    set_windows(config, &mut this, 2)?;
    Ok(this)
}

/// `model_type` `gemma3_text`.
pub(crate) fn gemma_3(config: &HubConfig) -> Result<SerialConfig> {
    const BOTH: &str = "attention in both directions is not supported";
    config.only("use_bidirectional_attention", &[false.into()], BOTH)?;
    let mut this = gemma(config, 131_072)?;
    let (dim, positions) = (this.head_dim, this.max_position_embeddings);
    let global = RotaryKeys {
        of_layers: Some("full_attention"),
        theta: "rope_theta",
        default_theta: 1_000_000.0,
        scaled: true,
    };
    let local = RotaryKeys {
        of_layers: Some("sliding_attention"),
        theta: "rope_local_base_freq",
        default_theta: 10_000.0,
        scaled: false,
    };
    let read = |keys| Rotary::read(config, keys, dim, positions);
    this.rotaries = vec![read(global)?, read(local)?];
    this.has_head_norms = true;
    // transformers has a key for a cap of scores, too, and does not use it.
    this.output_soft_cap = config.optional_number("final_logit_softcapping")?.map(|x| x as f32);
    let pattern = config.count("sliding_window_pattern", Some(6), MAX_POSITIONS)?;
    set_windows(config, &mut this, pattern)?;
    for layer in &mut this.layers {
        layer.rotary = usize::from(layer.window.is_some());
    }
    Ok(this)
}

/// What both have.
fn gemma(config: &HubConfig, max_position_embeddings: usize) -> Result<SerialConfig> {
    for key in ["hidden_activation", "hidden_act"] {
        let accepted = ["gelu_pytorch_tanh".into(), "gelu_new".into()];
        // Early files say `gelu` in the second key and mean the other form, which the first one names.
        if key == "hidden_activation" || config.value("hidden_activation").is_none() {
            config.only(key, &accepted, "only `gelu_pytorch_tanh` is supported")?;
        }
    }
    let defaults = Defaults { max_position_embeddings, head_dim: Some(256), is_tied: true };
    let mut this = SerialConfig::read(config, defaults)?;
    this.norm = NormKind::RmsPlusOne;
    this.activation = Activation::Gelu(Gelu::Tanh);
    this.has_post_norms = true;
    this.names = Names::gemma();
    this.attention_biases = [config.flag("attention_bias", false)?; 2];
    this.embedding_scale = Some((this.hidden_size as f64).sqrt());
    let scale = config.number("query_pre_attn_scalar", 256.0)?;
    this.heads.scale = Some(scale.powf(-0.5) as f32);
    Ok(this)
}

/// Gives local blocks their window: those that `layer_types` names, or all but every `pattern`-th.
fn set_windows(config: &HubConfig, this: &mut SerialConfig, pattern: usize) -> Result<()> {
    let window = config.count("sliding_window", Some(4096), MAX_POSITIONS)?;
    match config.layer_types(this.layers.len())? {
        Some(types) => this.set_window(window, |i| types[i] == "sliding_attention"),
        None => this.set_window(window, |i| !(i + 1).is_multiple_of(pattern)),
    }
    Ok(())
}
