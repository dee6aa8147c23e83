//! Phi-3 and Phi-4-mini: Llama's blocks with one layer for queries, keys and values, and one for gate and up.

use super::llama::silu;
use crate::Result;
use crate::hub_config::{HubConfig, MAX_POSITIONS};
use crate::serial::{Defaults, Names, SerialConfig};

/// `model_type` `phi3`: every block has the window, if there is one. `longrope` is refused.
pub(crate) fn phi_3(config: &HubConfig) -> Result<SerialConfig> {
    let defaults = Defaults { max_position_embeddings: 4096, head_dim: None, is_tied: false };
    let mut this = silu(config, defaults)?;
    this.epsilon = config.number("rms_norm_eps", 1e-5)?;
    this.is_joined = true;
    // Its first half is the gate.
    this.names = Names { up: "mlp.gate_up_proj", ..Names::llama() };
    if config.value("sliding_window").is_some() {
        let window = config.count("sliding_window", None, MAX_POSITIONS)?;
        this.set_window(window, |_| true);
    }
    Ok(this)
}
