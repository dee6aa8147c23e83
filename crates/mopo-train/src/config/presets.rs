//! The presets of the program.

use mopo_hub::Presets;

use crate::{Error, Result};

/// Complete configurations.
pub const PRESETS: Presets =
    mopo_hub::presets!("../../configs/": "demo", "hh-small", "paper-hh", "paper-tldr", "demo-dpo");

/// `[data]` sections, one for each source with files.
pub const SOURCES: Presets = mopo_hub::presets!("../../configs/data/":
    "hh", "tldr", "tldr-axes", "summeval-op", "trl", "safe-rlhf", "beavertails", "ultrafeedback",
    "helpsteer",
);

/// The text of a preset.
///
/// # Errors
/// An unknown name; the error lists the known ones.
pub fn preset_text(name: &str) -> Result<&'static str> {
    if let Some(text) = PRESETS.text(name) {
        return Ok(text);
    }
    let presets = PRESETS.listed();
    let message = if SOURCES.text(name).is_some() {
        format!(
            "it is a data source, not a full configuration (presets: {presets}); replace the \
             [data] section of a configuration by the output of `mopo config {name}`, and pass the \
             file with --config"
        )
    } else {
        format!(
            "unknown preset; the presets are: {presets}. For your own file use --config FILE. Data \
             sources for `mopo prepare` and `mopo config`: {}",
            SOURCES.listed()
        )
    };
    Err(Error::Config { origin: format!("preset `{name}`"), message })
}

/// The text of a preset or of a source's `[data]` section.
///
/// # Errors
/// Those of [`preset_text`].
pub fn config_text(name: &str) -> Result<&'static str> {
    SOURCES.text(name).map_or_else(|| preset_text(name), Ok)
}
