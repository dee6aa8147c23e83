//! The presets that the program carries.

use super::data::{section_names, section_text};
use crate::{Error, Result};

/// The presets that the binary carries: name, text.
pub const PRESETS: &[(&str, &str)] = &[
    ("demo", include_str!("../../configs/demo.toml")),
    ("hh-small", include_str!("../../configs/hh-small.toml")),
    ("paper-hh", include_str!("../../configs/paper-hh.toml")),
    ("paper-tldr", include_str!("../../configs/paper-tldr.toml")),
    ("demo-dpo", include_str!("../../configs/demo-dpo.toml")),
];

/// The text of a preset.
///
/// # Errors
/// An unknown name is answered with the known ones.
pub fn preset_text(name: &str) -> Result<&'static str> {
    if let Some((_, text)) = PRESETS.iter().find(|preset| preset.0 == name) {
        return Ok(text);
    }
    let presets = PRESETS.iter().map(|preset| preset.0).collect::<Vec<_>>().join(", ");
    let message = if section_text(name).is_some() {
        format!(
            "it is a source of data, not a whole configuration (presets: {presets}); put the section \
             that `mopo config {name}` prints in the place of another `[data]`, and give the file \
             with --config"
        )
    } else {
        format!(
            "there is no such preset; the presets are: {presets}. For a file of your own give \
             --config FILE. Sources of data, for `mopo prepare` and `mopo config`: {}",
            section_names().join(", ")
        )
    };
    Err(Error::Config { origin: format!("preset `{name}`"), message })
}

/// The text of a preset or of a source's `[data]` section.
///
/// # Errors
/// Those of [`preset_text`].
pub fn config_text(name: &str) -> Result<&'static str> {
    section_text(name).map_or_else(|| preset_text(name), Ok)
}
