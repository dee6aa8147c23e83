//! Qwen 2 and 2.5, with biases on queries, keys and values; Qwen 3, with norms of queries' and keys' heads.

use super::llama::silu;
use crate::Result;
use crate::hub_config::{HubConfig, MAX_POSITIONS};
use crate::serial::{Defaults, SerialConfig};

/// `model_type` `qwen2`.
pub(crate) fn qwen_2(config: &HubConfig) -> Result<SerialConfig> {
    let defaults = Defaults { max_position_embeddings: 32_768, head_dim: None, is_tied: false };
    let mut this = silu(config, defaults)?;
    this.attention_biases = [true, false];
    set_windows(config, &mut this)?;
    Ok(this)
}

/// `model_type` `qwen3`.
pub(crate) fn qwen_3(config: &HubConfig) -> Result<SerialConfig> {
    let defaults =
        Defaults { max_position_embeddings: 32_768, head_dim: Some(128), is_tied: false };
    let mut this = silu(config, defaults)?;
    this.attention_biases = [config.flag("attention_bias", false)?; 2];
    this.has_head_norms = true;
    set_windows(config, &mut this)?;
    Ok(this)
}

/// The blocks from `max_window_layers` on have a window, if it is used; or those that `layer_types`
/// names.
fn set_windows(config: &HubConfig, this: &mut SerialConfig) -> Result<()> {
    if !config.flag("use_sliding_window", false)? || config.value("sliding_window").is_none() {
        return Ok(());
    }
    let window = config.count("sliding_window", None, MAX_POSITIONS)?;
    if let Some(types) = config.layer_types(this.layers.len())? {
        this.set_window(window, |i| types[i] == "sliding_attention");
        return Ok(());
    }
    // 0 is a valid value: all blocks have the window.
    let first = config.value("max_window_layers").map_or(Some(28), serde_json::Value::as_u64);
    let Some(first) = first else {
        let value = config.value("max_window_layers").map_or_else(String::new, ToString::to_string);
        return Err(config.invalid("max_window_layers", value, "it must be a whole number"));
    };
    this.set_window(window, |i| i as u64 >= first);
    Ok(())
}
