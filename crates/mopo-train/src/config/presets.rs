//! The presets of the program.

use mopo_hub::Presets;

use crate::methods::MethodConfig;
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
    let message = if method_text(name).is_some() {
        format!(
            "it is a method, not a full configuration (presets: {presets}); give one of them, or your own with \
             --config, and --method {name}"
        )
    } else if SOURCES.text(name).is_some() {
        format!(
            "it is a data source, not a full configuration (presets: {presets}); replace the \
             [data] section of a configuration by the output of `mopo config {name}`, and pass the \
             file with --config"
        )
    } else {
        format!(
            "unknown preset; the presets are: {presets}. For your own file use --config FILE. Data \
             sources for `mopo prepare` and `mopo config`: {}. Methods for --method and `mopo config`: {}",
            SOURCES.listed(),
            MethodConfig::KINDS.join(", ")
        )
    };
    Err(Error::Config { origin: format!("preset `{name}`"), message })
}

/// The section of a method; its name may be written with hyphens.
fn method_text(name: &str) -> Option<&'static str> {
    let name = name.replace('-', "_");
    MethodConfig::TEXTS.iter().find_map(|(kind, text)| (*kind == name).then_some(*text))
}

impl MethodConfig {
    /// A method with the section that [`config_text`] has of it.
    ///
    /// # Errors
    /// An unknown name; the error lists the known ones.
    pub fn preset(name: &str) -> Result<Self> {
        let text = method_text(name).ok_or_else(|| Error::Config {
            origin: format!("method `{name}`"),
            message: format!("unknown method; the methods are: {}", Self::KINDS.join(", ")),
        })?;
        toml::from_str(text).map_err(|e| Error::Config {
            origin: format!("method `{name}`"),
            message: e.to_string(),
        })
    }
}

/// The text of a preset, of a source's `[data]` section, or of a method's section.
///
/// # Errors
/// Those of [`preset_text`].
pub fn config_text(name: &str) -> Result<&'static str> {
    match SOURCES.text(name).or_else(|| method_text(name)) {
        Some(text) => Ok(text),
        None => preset_text(name),
    }
}

/// What [`config_text`] knows: `preset`, `source` or `method`, and the name.
pub fn config_names() -> impl Iterator<Item = (&'static str, &'static str)> {
    let presets = PRESETS.names().map(|name| ("preset", name));
    let sources = SOURCES.names().map(|name| ("source", name));
    let methods = MethodConfig::KINDS.iter().map(|name| ("method", *name));
    presets.chain(sources).chain(methods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_methods_section_is_whole_and_names_its_policy() {
        for kind in MethodConfig::KINDS {
            let method = MethodConfig::preset(kind).unwrap();
            assert_eq!(method.kind(), *kind);
            let policies =
                method.policies().unwrap_or_else(|| vec!["helpful".into(), "harmless".into()]);
            method.check(&policies).unwrap();
            // Printed by `mopo config`, also with hyphens.
            assert!(config_text(&kind.replace('_', "-")).unwrap().contains(&format!("[{kind}]")));
        }
        assert_eq!(
            config_names()
                .filter(|(kind, _)| *kind == "method")
                .map(|(_, name)| name)
                .collect::<Vec<_>>(),
            MethodConfig::KINDS
        );
        for (_, name) in config_names() {
            assert!(!config_text(name).unwrap().is_empty(), "{name}");
        }
        let error = MethodConfig::preset("dqo").unwrap_err().to_string();
        assert!(error.contains("mopo, dpo"), "{error}");
        let error = preset_text("ipo").unwrap_err().to_string();
        assert!(error.contains("--method ipo"), "{error}");
    }
}
