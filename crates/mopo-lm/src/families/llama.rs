//! Llama 2 and 3 and what has its blocks: SmolLM2, TinyLlama, and Mistral with its window.

use crate::Result;
use crate::hub_config::{HubConfig, MAX_POSITIONS};
use crate::layers::{Rotary, RotaryKeys};
use crate::serial::{Defaults, SerialConfig};

/// `model_type` `llama`. Scaled rotary embeddings (linear, Llama 3, YaRN) and biases are the file's.
pub(crate) fn llama(config: &HubConfig) -> Result<SerialConfig> {
    let defaults = Defaults { max_position_embeddings: 2048, head_dim: None, is_tied: false };
    let mut this = silu(config, defaults)?;
    this.attention_biases = [config.flag("attention_bias", false)?; 2];
    this.feed_forward_bias = config.flag("mlp_bias", false)?;
    Ok(this)
}

/// `model_type` `mistral`: every block has the window, if there is one.
pub(crate) fn mistral(config: &HubConfig) -> Result<SerialConfig> {
    let defaults = Defaults { max_position_embeddings: 131_072, head_dim: None, is_tied: false };
    let mut this = silu(config, defaults)?;
    if config.value("sliding_window").is_some() {
        let window = config.count("sliding_window", None, MAX_POSITIONS)?;
        this.set_window(window, |_| true);
    }
    Ok(this)
}

/// A Llama with this default shape, one rotary embedding and no biases.
pub(super) fn silu(config: &HubConfig, defaults: Defaults) -> Result<SerialConfig> {
    config.only("hidden_act", &["silu".into(), "swish".into()], "only `silu` is supported")?;
    let mut this = SerialConfig::read(config, defaults)?;
    let (dim, positions) = (this.head_dim, this.max_position_embeddings);
    this.rotaries = vec![Rotary::read(config, RotaryKeys::shared(), dim, positions)?];
    Ok(this)
}
