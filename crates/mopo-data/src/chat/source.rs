//! Where a model directory has its chat template.

use std::path::Path;

use serde_json::Value;

use super::JinjaTemplate;
use crate::{Error, Result, TokenizerSettings};

/// The name of the template that is used unless another is asked for.
const DEFAULT: &str = "default";
/// Named templates beside `chat_template.jinja`.
const FOLDER: &str = "chat_templates";
const KEY: &str = "chat_template";

impl JinjaTemplate {
    /// The template of a model directory, `None` if it has none: `chat_template.jinja`, or
    /// `chat_template` of `tokenizer_config.json`. Of several, `name` chooses one (`default`
    /// without it); beside `chat_template.jinja` they are in `chat_templates/NAME.jinja`. Special
    /// tokens become variables.
    ///
    /// # Errors
    /// Those of [`new`](Self::new) and [`TokenizerSettings::read`]; no template of that name.
    pub fn load(dir: impl AsRef<Path>, name: Option<&str>) -> Result<Option<Self>> {
        let dir = dir.as_ref();
        let settings = TokenizerSettings::read(dir)?;
        let is_plain = |name: &str| !name.is_empty() && !name.contains(['/', '\\', '\0']);
        if let Some(name) = name.filter(|name| *name != DEFAULT && is_plain(name)) {
            let path = dir.join(FOLDER).join(format!("{name}.jinja"));
            if path.exists() {
                let what = path.display().to_string();
                let text = String::from_utf8(mopo_hub::read(&path)?).map_err(|e| {
                    let why = format!("it is not UTF-8: {e}");
                    Error::ChatTemplate {
                        what: what.clone(),
                        line: None,
                        why,
                        remedy: "fetch it again",
                    }
                })?;
                return Ok(Some(Self::new(what, &text)?.with_tokens_of(&settings)?));
            }
        }
        Self::from_settings(&settings, name)
    }

    /// The template in a tokenizer's settings, `None` if they have none.
    ///
    /// # Errors
    /// Those of [`new`](Self::new); no template of that name; a value that is no template.
    pub fn from_settings(settings: &TokenizerSettings, name: Option<&str>) -> Result<Option<Self>> {
        let Some(value) = settings.get(KEY) else { return Ok(None) };
        let wanted = name.unwrap_or(DEFAULT);
        let named: Vec<(&str, &Value)> = match value {
            Value::Array(list) => list
                .iter()
                .filter_map(|one| Some((one["name"].as_str()?, &one["template"])))
                .collect(),
            Value::Object(map) => {
                map.iter().map(|(name, template)| (name.as_str(), template)).collect()
            }
            one => vec![(DEFAULT, one)],
        };
        let Some((_, template)) = named.iter().find(|(name, _)| *name == wanted) else {
            let names: Vec<String> = named.iter().map(|(name, _)| format!("`{name}`")).collect();
            return Err(Error::ChatTemplate {
                what: settings.file_of(KEY).display().to_string(),
                line: None,
                why: format!("no template has the name `{wanted}`; there is {}", names.join(", ")),
                remedy: "choose one of these",
            });
        };
        let Some(text) = template.as_str() else {
            return Err(settings.refuse(KEY, template, "expected a template as text"));
        };
        let what = settings.file_of(KEY).display().to_string();
        Ok(Some(Self::new(what, text)?.with_tokens_of(settings)?))
    }

    /// With the special tokens that have a role.
    fn with_tokens_of(mut self, settings: &TokenizerSettings) -> Result<Self> {
        for role in settings.entries().keys().filter(|key| key.ends_with("_token")) {
            // Keys such as `add_bos_token` are switches.
            if settings.get(role).is_some_and(|value| !value.is_boolean())
                && let Some(token) = settings.token(role)?
            {
                self = self.with_variable(role, token);
            }
        }
        Ok(self)
    }
}
