//! `tokenizer_config.json`: its settings are honoured, or refused by key, never ignored.

use std::path::{Path, PathBuf};

use mopo_hub::gguf::is_gguf;
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::gguf;
use crate::{ChatTemplate, Error, Result};

const FILE: &str = "tokenizer_config.json";
/// Names of special tokens, where older models have them.
const SPECIAL: &str = "special_tokens_map.json";
/// The chat template, where newer models have it.
const TEMPLATE: &str = "chat_template.jinja";

const REMEDY: &str = "remove it if tokens do not depend on it, or use another tokenizer";

/// Keys that change no token of a text: names of classes and files, padding and truncation (which
/// the caller does), and what matters only to other tokenizers' Python code or decoding.
const HARMLESS: [&str; 37] = [
    "_commit_hash",
    "auto_map",
    "backend",
    "clean_up_tokenization_spaces",
    "device_map",
    "errors",
    "from_slow",
    "is_local",
    "legacy",
    "legacy_behaviour",
    "local_files_only",
    "max_len",
    "max_length",
    "merges_file",
    "model_input_names",
    "model_max_length",
    "model_specific_special_tokens",
    "name_or_path",
    "pad_to_multiple_of",
    "padding",
    "padding_side",
    "processor_class",
    "return_tensors",
    "return_token_type_ids",
    "sp_model_kwargs",
    "spaces_between_special_tokens",
    "special_tokens_map_file",
    "stride",
    "tokenizer_class",
    "tokenizer_file",
    "transformers_version",
    "trim_offsets",
    "truncation",
    "truncation_side",
    "truncation_strategy",
    "use_default_system_prompt",
    "vocab_file",
];

/// A `tokenizer_config.json` with what the files beside it add, or an empty one if there is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenizerSettings {
    path: PathBuf,
    map: Map<String, Value>,
    /// Keys from another file, with its name.
    elsewhere: Vec<(String, &'static str)>,
}

impl TokenizerSettings {
    /// Reads the file in a model directory, if it exists. As in transformers, `special_tokens_map.json`
    /// names special tokens too, and goes first unless `added_tokens_decoder` lists them all;
    /// `chat_template.jinja` goes before `chat_template`. Of a GGUF file, what its metadata says.
    ///
    /// # Errors
    /// Names the file: it cannot be read, or is not a JSON object (a template: not UTF-8; a GGUF
    /// file: a damaged one, or a key that is missing or wrong).
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        if is_gguf(dir) {
            return gguf::read_settings(dir);
        }
        // A file that cannot be looked for is not an absent one.
        let exists = |path: &Path| {
            let found = path.try_exists();
            found.map_err(|source| Error::Io { action: "read", path: path.into(), source })
        };
        let optional = |name: &str, expected| -> Result<_> {
            let path = dir.join(name);
            match exists(&path)? {
                true => Ok(mopo_hub::read_json(&path, expected)?),
                false => Ok(Map::new()),
            }
        };
        let map = optional(FILE, "the settings of a tokenizer")?;
        let mut this = Self { path: dir.join(FILE), map, elsewhere: vec![] };
        let goes_first = !this.map.contains_key("added_tokens_decoder");
        for (role, token) in optional(SPECIAL, "the names of special tokens")? {
            let is_free = goes_first || this.get(&role).is_none();
            if role.ends_with("_token") && !token.is_null() && is_free {
                this.insert(role, token, SPECIAL);
            }
        }
        let template = dir.join(TEMPLATE);
        if exists(&template)? {
            let text =
                String::from_utf8(mopo_hub::read(&template)?).map_err(|e| Error::Tokenizer {
                    what: template.display().to_string(),
                    why: format!("it is not UTF-8: {e}"),
                    remedy: "fetch it again",
                })?;
            this.insert("chat_template".into(), text.into(), TEMPLATE);
        }
        Ok(this)
    }

    /// Settings from one file, of any format.
    pub(super) fn of_file(path: &Path, map: Map<String, Value>) -> Self {
        Self { path: path.into(), map, elsewhere: vec![] }
    }

    fn insert(&mut self, key: String, value: Value, file: &'static str) {
        self.elsewhere.push((key.clone(), file));
        self.map.insert(key, value);
    }

    /// A value that exists and is not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// All keys and values.
    pub fn entries(&self) -> &Map<String, Value> {
        &self.map
    }

    /// A switch.
    ///
    /// # Errors
    /// Names the key if its value is neither true nor false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(other) => Err(self.refuse(key, other, "expected true or false")),
        }
    }

    /// The name of a special token by its role, such as `eos_token`: text, or a table with the name
    /// in `content`.
    ///
    /// # Errors
    /// Names the key if its value is neither.
    pub fn token(&self, role: &str) -> Result<Option<&str>> {
        let Some(value) = self.get(role) else { return Ok(None) };
        match value.as_str().or_else(|| value.get("content")?.as_str()) {
            Some(name) => Ok(Some(name)),
            None => Err(self.refuse(role, value, "expected the token as text")),
        }
    }

    /// The chat template (of several named ones, `default`), if it is one of [`ChatTemplate`].
    ///
    /// # Errors
    /// Names the key if its value is no template.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        Ok(self.chat_template_text()?.and_then(ChatTemplate::from_jinja))
    }

    /// The same as Jinja, whatever it is.
    ///
    /// # Errors
    /// Names the key if its value is no template.
    pub fn chat_template_text(&self) -> Result<Option<&str>> {
        const KEY: &str = "chat_template";
        let Some(value) = self.get(KEY) else { return Ok(None) };
        let named = |name: &Value| name == "default";
        let template = match value {
            Value::Array(list) => {
                list.iter().find(|one| named(&one["name"])).map(|one| &one["template"])
            }
            Value::Object(map) => map.get("default"),
            one => Some(one),
        };
        match template.map(|template| (template, template.as_str())) {
            None => Ok(None),
            Some((_, Some(text))) => Ok(Some(text)),
            Some((other, None)) => Err(self.refuse(KEY, other, "expected a template as text")),
        }
    }

    /// The file that a key is from.
    pub(crate) fn file_of(&self, key: &str) -> PathBuf {
        let elsewhere = self.elsewhere.iter().find(|(other, _)| other == key);
        elsewhere.map_or(self.path.clone(), |(_, file)| self.path.with_file_name(file))
    }

    /// An error that names file and key.
    pub fn refuse(&self, key: &str, value: &Value, why: &str) -> Error {
        let mut value = value.to_string();
        if value.chars().count() > 60 {
            value = value.chars().take(60).chain(['…']).collect();
        }
        Error::Tokenizer {
            what: self.file_of(key).display().to_string(),
            why: format!("`{key}` is {value}: {why}"),
            remedy: REMEDY,
        }
    }

    /// Refuses keys that are neither harmless, nor off, nor among `honoured`, the keys that the
    /// caller
    /// honours. The names and ids of special tokens (`…_token`, `…_token_id`) change no text.
    ///
    /// # Errors
    /// The first such key, with the file and its value.
    pub fn refuse_others(&self, honoured: &[&str]) -> Result<()> {
        for (key, value) in &self.map {
            let is_off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                Value::Bool(true) | Value::Number(_) => false,
            };
            let names_a_token =
                !value.is_boolean() && (key.ends_with("_token") || key.ends_with("_token_id"));
            if !is_off
                && !names_a_token
                && !honoured.contains(&key.as_str())
                && !HARMLESS.contains(&key.as_str())
            {
                return Err(self.refuse(key, value, "this is not supported here"));
            }
        }
        Ok(())
    }

    /// Checks that the tokens listed in the file are in the tokenizer, with the same ids:
    /// `added_tokens_decoder`, `additional_special_tokens`, `extra_special_tokens`. Returns the
    /// names of
    /// those that are special.
    ///
    /// # Errors
    /// Names the key and the token.
    pub fn special_tokens(&self, inner: &Tokenizer) -> Result<Vec<String>> {
        let mut special = Vec::new();
        let absent = "the tokenizer has no such token";
        if let Some(value) = self.get("added_tokens_decoder") {
            let key = "added_tokens_decoder";
            let Value::Object(listed) = value else {
                return Err(self.refuse(key, value, "expected a table from ids to tokens"));
            };
            for (id, token) in listed {
                let content = token.get("content").and_then(Value::as_str);
                let found = content.and_then(|content| inner.token_to_id(content));
                if found.is_none() || found != id.parse().ok() {
                    let why = match found {
                        Some(found) => format!("the tokenizer has this token with the id {found}"),
                        None => absent.into(),
                    };
                    return Err(self.refuse(&format!("{key}.{id}"), token, &why));
                }
                // Where `tokenizer.json` says otherwise, transformers takes what is said here.
                let has = id
                    .parse()
                    .ok()
                    .and_then(|id: u32| inner.get_added_tokens_decoder().remove(&id));
                for (flag, found) in has.iter().flat_map(|token| {
                    let normalized = token.normalized && inner.get_normalizer().is_some();
                    [
                        ("lstrip", token.lstrip),
                        ("rstrip", token.rstrip),
                        ("single_word", token.single_word),
                        ("normalized", normalized),
                    ]
                }) {
                    let counts = flag != "normalized" || inner.get_normalizer().is_some();
                    if counts && token.get(flag).is_some_and(|wanted| *wanted != Value::Bool(found))
                    {
                        let why = format!("`{flag}` is {found} in tokenizer.json; make them agree");
                        return Err(self.refuse(&format!("{key}.{id}"), token, &why));
                    }
                }
                if token.get("special").and_then(Value::as_bool) == Some(true) {
                    special.extend(content.map(str::to_owned));
                }
            }
        }
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            let listed: Vec<&Value> = match self.get(key) {
                None => continue,
                Some(Value::Array(list)) => list.iter().collect(),
                Some(Value::Object(map)) => map.values().collect(),
                Some(other) => return Err(self.refuse(key, other, "expected a list of tokens")),
            };
            for token in listed {
                let content = token.as_str().or_else(|| token.get("content")?.as_str());
                match content.filter(|content| inner.token_to_id(content).is_some()) {
                    Some(content) => special.push(content.into()),
                    None => return Err(self.refuse(key, token, absent)),
                }
            }
        }
        Ok(special)
    }

    /// A `tokenizer.json` with the pre-tokenizer that `add_prefix_space` asks for; `None` if
    /// nothing
    /// has to change.
    ///
    /// # Errors
    /// Names the key if the tokenizer has no part that could add a space.
    pub fn with_prefix_space(&self, json: &[u8]) -> Result<Option<Vec<u8>>> {
        const KEY: &str = "add_prefix_space";
        let Some(wanted) = self.flag(KEY)? else { return Ok(None) };
        let Ok(mut json) = serde_json::from_slice::<Value>(json) else { return Ok(None) };
        let mut parts: Vec<&mut Value> = match json.get_mut("pre_tokenizer") {
            None => vec![],
            Some(one) if one["type"] == "Sequence" => match &mut one["pretokenizers"] {
                Value::Array(parts) => parts.iter_mut().collect(),
                _ => vec![],
            },
            Some(one) => vec![one],
        };
        parts.retain(|part| part["type"] == "ByteLevel" || part["type"] == "Metaspace");
        let Some(part) = parts.first_mut() else {
            let why = "its tokenizer.json has no part that adds a prefix space";
            return match wanted {
                true => Err(self.refuse(KEY, &Value::Bool(true), why)),
                false => Ok(None),
            };
        };
        let is_byte_level = part["type"] == "ByteLevel";
        let found = match is_byte_level {
            true => part[KEY].as_bool().unwrap_or(true),
            false => part["prepend_scheme"] != "never" && part[KEY] != Value::Bool(false),
        };
        if found == wanted {
            return Ok(None);
        }
        part[KEY] = wanted.into();
        if !is_byte_level {
            part["prepend_scheme"] = if wanted { "always" } else { "never" }.into();
        }
        Ok(Some(serde_json::to_vec(&json).expect("JSON that was read")))
    }
}
