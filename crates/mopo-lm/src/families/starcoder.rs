//! StarCoder 2: LayerNorm and plain GELU in serial blocks, with biases everywhere and a window.

use mopo_ops::{Activation, Gelu, NormKind};

use crate::Result;
use crate::hub_config::{HubConfig, MAX_POSITIONS};
use crate::layers::{Rotary, RotaryKeys};
use crate::serial::{Defaults, Names, SerialConfig};

/// `model_type` `starcoder2`: every block has the window, if there is one.
pub(crate) fn starcoder_2(config: &HubConfig) -> Result<SerialConfig> {
    let gelu = ["gelu_pytorch_tanh".into(), "gelu_new".into()];
    config.only("hidden_act", &gelu, "only `gelu_pytorch_tanh` is supported")?;
    config.only("mlp_type", &["default".into()], "only `default` is supported")?;
    config.only("norm_type", &["layer_norm".into()], "only `layer_norm` is supported")?;
    let defaults = Defaults { max_position_embeddings: 4096, head_dim: None, is_tied: true };
    let mut this = SerialConfig::read(config, defaults)?;
    (this.norm, this.epsilon) = (NormKind::Layer, config.number("norm_epsilon", 1e-5)?);
    let has_biases = config.flag("use_bias", true)?;
    (this.attention_biases, this.feed_forward_bias) = ([has_biases; 2], has_biases);
    (this.is_gated, this.activation) = (false, Activation::Gelu(Gelu::Tanh));
    this.names = Names { up: "mlp.c_fc", down: "mlp.c_proj", ..Names::llama() };
    let (dim, positions) = (this.head_dim, this.max_position_embeddings);
    this.rotaries = vec![Rotary::read(config, RotaryKeys::shared(), dim, positions)?];
    if config.value("sliding_window").is_some() {
        let window = config.count("sliding_window", None, MAX_POSITIONS)?;
        this.set_window(window, |_| true);
    }
    Ok(this)
}
