//! One file per family of decoders: how its `config.json` is read.

pub(crate) mod gemma;
pub(crate) mod llama;
pub(crate) mod phi_3;
pub(crate) mod qwen;
pub(crate) mod starcoder;
