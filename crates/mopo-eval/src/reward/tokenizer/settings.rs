//! The settings of a tokenizer in `tokenizer_config.json` and the small files next to it. Keys that
//! tokens depend on are read here, or refused by name; the others (padding, decoding, chat
//! templates, notes of the saving library) change no score.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::{TruncationSide, file_error};
use crate::{Error, Result};

const CONFIG: &str = "tokenizer_config.json";

/// Roles of special tokens, in the order in which transformers adds them.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A class of transformers, which determines what a tokenizer does besides its vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Byte-level BPE without special tokens around a text.
    Gpt2,
    /// Byte-level BPE with `<s>` and `</s>` around it; also BART's.
    Roberta,
    /// WordPiece with `[CLS]` and `[SEP]` around it; also DistilBERT's.
    Bert,
    /// `tokenizer.json` as it is: the class without parts of its own, and those of decoders, whose parts the
    /// file has.
    Whole,
}

impl Class {
    fn of_name(name: &str) -> Option<Self> {
        Some(match name.strip_suffix("Fast").unwrap_or(name) {
            "GPT2Tokenizer" => Self::Gpt2,
            "RobertaTokenizer" | "BartTokenizer" => Self::Roberta,
            "BertTokenizer" | "DistilBertTokenizer" => Self::Bert,
            "PreTrainedTokenizer"
            | "TokenizersBackend"
            | "LlamaTokenizer"
            | "Qwen2Tokenizer"
            | "GemmaTokenizer" => Self::Whole,
            _ => return None,
        })
    }

    fn of_architecture(architecture: &str) -> Self {
        match architecture {
            "distilbert" => Self::Bert,
            "bart" => Self::Roberta,
            "gpt2" => Self::Gpt2,
            _ => Self::Whole,
        }
    }

    /// The default token for a role.
    fn default_token(self, role: &str) -> Option<&'static str> {
        match (self, role) {
            (Self::Gpt2, "bos_token" | "eos_token" | "unk_token") => Some("<|endoftext|>"),
            (Self::Roberta, "bos_token" | "cls_token") => Some("<s>"),
            (Self::Roberta, "eos_token" | "sep_token") => Some("</s>"),
            (Self::Roberta, "unk_token") => Some("<unk>"),
            (Self::Roberta, "pad_token") => Some("<pad>"),
            (Self::Roberta, "mask_token") => Some("<mask>"),
            (Self::Bert, "unk_token") => Some("[UNK]"),
            (Self::Bert, "sep_token") => Some("[SEP]"),
            (Self::Bert, "pad_token") => Some("[PAD]"),
            (Self::Bert, "cls_token") => Some("[CLS]"),
            (Self::Bert, "mask_token") => Some("[MASK]"),
            _ => None,
        }
    }
}

/// The files next to a vocabulary, empty if they do not exist.
pub(super) struct Settings {
    dir: PathBuf,
    config: Map<String, Value>,
    /// `special_tokens_map.json`.
    special: Map<String, Value>,
    /// `added_tokens.json`.
    added: Map<String, Value>,
    pub(super) class: Class,
}

impl Settings {
    /// Reads them for a classifier of this architecture (its name in `config.json`).
    pub(super) fn read(dir: &Path, architecture: &str) -> Result<Self> {
        let optional = |name: &str, expected| match dir.join(name) {
            path if path.exists() => mopo_hub::read_json(&path, expected),
            _ => Ok(Map::new()),
        };
        let model: Map<String, Value> = optional("config.json", "the config.json of a classifier")?;
        let class = Class::of_architecture(architecture);
        let mut this = Self {
            dir: dir.into(),
            config: optional(CONFIG, "the settings of a tokenizer")?,
            special: optional("special_tokens_map.json", "the names of special tokens")?,
            added: optional("added_tokens.json", "tokens and their ids")?,
            class,
        };
        // Newer files have everything about tokens in one place, and the older ones are ignored
        // then.
        if this.config.contains_key("added_tokens_decoder") {
            (this.special, this.added) = (Map::new(), Map::new());
        }
        let named = this.get("tokenizer_class").or(model.get("tokenizer_class"));
        if let Some(name) = named.filter(|name| !name.is_null()) {
            this.class = name.as_str().and_then(Class::of_name).ok_or_else(|| {
                let expected = "GPT2Tokenizer, BertTokenizer, DistilBertTokenizer, \
                                RobertaTokenizer and BartTokenizer are built here; \
                                PreTrainedTokenizerFast, LlamaTokenizer, Qwen2Tokenizer and \
                                GemmaTokenizer take tokenizer.json as it is";
                this.refused("tokenizer_class", name, expected)
            })?;
        }
        this.refuse_what_is_not_built()?;
        Ok(this)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key).filter(|value| !value.is_null())
    }

    /// An error that names `tokenizer_config.json` and the key.
    pub(super) fn refused(&self, key: &str, value: &Value, expected: impl Into<String>) -> Error {
        let error = Error::invalid(key, value, expected);
        Error::InFile { path: self.dir.join(CONFIG), source: Box::new(error) }
    }

    fn refuse_what_is_not_built(&self) -> Result<()> {
        const VERSIONS: &str = "versions of transformers differ about it; remove it";
        let empty = |value: &Value| match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            other => other == &Value::Bool(false),
        };
        for (key, expected) in [
            ("never_split", VERSIONS),
            ("init_inputs", "only named keys are supported"),
            ("vocab", "the vocabulary must be a separate file"),
            ("merges", "the merges must be a separate file"),
            ("add_special_tokens", "transformers refuses it too: remove it"),
        ] {
            match self.get(key) {
                Some(value) if key == "add_special_tokens" || !empty(value) => {
                    return Err(self.refused(key, value, expected));
                }
                _ => {}
            }
        }
        if !self.flag("do_basic_tokenize", true)? {
            return Err(self.refused("do_basic_tokenize", &false.into(), VERSIONS));
        }
        Ok(())
    }

    /// A boolean, or a default.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.optional_flag(key)?.unwrap_or(default))
    }

    pub(super) fn optional_flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let flag = value.as_bool();
        flag.map(Some).ok_or_else(|| self.refused(key, value, "it must be true or false"))
    }

    /// Refuses truncation on another side than the reward's: in transformers this file decides.
    pub(super) fn check_truncation_side(&self, side: TruncationSide) -> Result<()> {
        let (wanted, other) = match side {
            TruncationSide::Left => ("left", "right"),
            TruncationSide::Right => ("right", "left"),
        };
        match self.get("truncation_side") {
            None => Ok(()),
            Some(value) if value == wanted => Ok(()),
            Some(value) if value == other => Err(self.refused(
                "truncation_side",
                value,
                format!(
                    "the reward's `truncation_side` is \"{wanted}\": the model's tokenizer cuts \
                     long texts at the other end; set both to the same value"
                ),
            )),
            Some(value) => {
                Err(self.refused("truncation_side", value, "it must be \"left\" or \"right\""))
            }
        }
    }

    /// A special token by its role (`eos_token`, …), with the class's default.
    pub(super) fn token(&self, role: &str) -> Result<Option<AddedToken>> {
        let found = [&self.special, &self.config].into_iter().find_map(|map| map.get(role));
        match found.filter(|value| !value.is_null()) {
            Some(value) => self.added_token(role, value, true).map(Some),
            None => Ok(self.class.default_token(role).map(|name| AddedToken::from(name, true))),
        }
    }

    /// A token as text, or as a table with the text in `content`.
    fn added_token(&self, key: &str, value: &Value, special: bool) -> Result<AddedToken> {
        let wrong = || {
            let expected = "it must be a token: text, or a table with `content`";
            self.refused(key, value, expected)
        };
        match value {
            Value::String(text) => Ok(AddedToken::from(text.clone(), special)),
            Value::Object(table) => {
                let flag = |key: &str, default| match table.get(key) {
                    None | Some(Value::Null) => Ok(default),
                    Some(value) => value.as_bool().ok_or_else(wrong),
                };
                let text = table.get("content").and_then(Value::as_str).ok_or_else(wrong)?;
                let special = flag("special", special)?;
                Ok(AddedToken::from(text, special)
                    .lstrip(flag("lstrip", false)?)
                    .rstrip(flag("rstrip", false)?)
                    .single_word(flag("single_word", false)?)
                    .normalized(flag("normalized", !special)?))
            }
            _ => Err(wrong()),
        }
    }

    /// Tokens that are found in a text before it is split into words, in the order of their ids:
    /// those of these files, or of `in_file` (`tokenizer.json`), then those of the roles, then
    /// further ones.
    pub(super) fn added_tokens(&self, in_file: &[Value]) -> Result<Vec<AddedToken>> {
        const KEY: &str = "added_tokens_decoder";
        let mut by_id: Vec<(u64, AddedToken)> = vec![];
        if let Some(value) = self.get(KEY) {
            let map = value
                .as_object()
                .ok_or_else(|| self.refused(KEY, value, "it must map ids to tokens"))?;
            for (id, token) in map {
                let id = id.parse().map_err(|_| {
                    self.refused(KEY, &Value::from(id.as_str()), "ids are whole numbers")
                })?;
                by_id.push((id, self.added_token(KEY, token, false)?));
            }
        } else {
            let names: Vec<String> = ROLES
                .iter()
                .filter_map(|role| self.token(role).transpose())
                .map(|token| token.map(|token| token.content))
                .collect::<Result<_>>()?;
            for (text, id) in &self.added {
                let path = self.dir.join("added_tokens.json");
                let id = id.as_u64().ok_or_else(|| {
                    file_error(&path)(format!("the id of `{text}` is {id}, not a whole number"))
                })?;
                by_id.push((id, AddedToken::from(text.clone(), names.contains(text))));
            }
            for token in in_file {
                let id = token["id"].as_u64().unwrap_or(u64::MAX);
                by_id.push((id, self.added_token("added_tokens", token, false)?));
            }
        }
        by_id.sort_by_key(|(id, _)| *id);
        let mut tokens: Vec<AddedToken> = by_id.into_iter().map(|(_, token)| token).collect();
        let mut add = |token: AddedToken| {
            if !tokens.iter().any(|there| there.content == token.content) {
                tokens.push(token);
            }
        };
        for role in ROLES {
            self.token(role)?.into_iter().for_each(&mut add);
        }
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            let value = self.special.get(key).filter(|value| !value.is_null()).or(self.get(key));
            let list: Vec<&Value> = match value {
                None => continue,
                Some(Value::Array(list)) => list.iter().collect(),
                Some(Value::Object(map)) => map.values().collect(),
                Some(other) => {
                    return Err(self.refused(key, other, "it must be a list of tokens"));
                }
            };
            for value in list {
                add(self.added_token(key, value, true)?);
            }
        }
        Ok(tokens)
    }
}
