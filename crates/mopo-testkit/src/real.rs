//! The published models that `cargo xtask models` fetches.

use std::path::PathBuf;

/// Their files.
pub const REAL_MODELS: [&str; 2] = ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"];

/// Those that are in the folder that `MOPO_MODELS` names, or else in the user's cache folder.
pub fn real_models() -> Vec<PathBuf> {
    let of =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
    let Some(dir) = of("MOPO_MODELS").or_else(|| Some(cache()?.join("mopo/models"))) else {
        return vec![];
    };
    REAL_MODELS.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect()
}
