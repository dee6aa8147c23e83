//! A tokenizer as the metadata of a GGUF file: the counterpart of reading one. What llama.cpp would do
//! otherwise is refused.

use std::collections::HashMap;

use mopo_hub::gguf::Value as Item;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;
use tokenizers::models::bpe::Vocab;

use super::{ADD_BOS, ADD_EOS, BOS, ENDS, EOS, KIND, ROLES, TEMPLATE, TOKENS, TYPES, UNKNOWN};
use super::{byte_level, fill_name, sentencepiece};
use crate::tokenizer::{Tokenizer, refused};
use crate::{Error, Result};

const WHAT: &str = "the tokenizer as metadata of a GGUF file";
const REMEDY: &str = "export the model in the layout of Hugging Face instead";

/// The numbers of types in files.
const NORMAL: i32 = 1;
const UNKNOWN_TYPE: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// The parts of a `tokenizer.json` that matter here.
#[derive(Deserialize)]
pub(super) struct Stored {
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    pub(super) model: Model,
}

/// BPE.
#[derive(Deserialize)]
pub(super) struct Model {
    pub(super) merges: Vec<Merge>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
}

/// Two tokens, in newer and older files.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    Pair([String; 2]),
    Line(String),
}

impl Merge {
    pub(super) fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pair([a, b]) => Some((a, b)),
            Self::Line(line) => line.split_once(' '),
        }
    }
}

/// What both kinds share: tokens and types by id.
pub(super) struct Tokens {
    pub(super) texts: Vec<String>,
    types: Vec<i32>,
    pub(super) ids: Vocab,
}

impl Tokens {
    pub(super) fn is_normal(&self, id: u32) -> bool {
        self.types[id as usize] == NORMAL
    }
}

/// Why a tokenizer has no counterpart in GGUF.
pub(super) fn inexpressible(why: impl Into<String>) -> Error {
    refused(WHAT, why.into(), REMEDY)
}

/// The parts of a sequence, or the one part there is.
pub(super) fn parts<'a>(whole: &'a Value, key: &str) -> Vec<&'a Value> {
    match &whole[key] {
        Value::Array(parts) if whole["type"] == "Sequence" => parts.iter().collect(),
        _ if whole.is_null() => vec![],
        _ => vec![whole],
    }
}

impl Tokenizer {
    /// The tokenizer as metadata of a GGUF file (`tokenizer.ggml.*`) for a model with `n_rows` rows in its embedding;
    /// rows without a token get names such as `[PAD7]`. The chat template goes with it, if one is given.
    ///
    /// Byte-level BPE becomes llama.cpp's `gpt2` with the `tokenizer.ggml.pre` of its pre-tokenizer, and
    /// SentencePiece's BPE `llama`, with scores that give the same merges. Of the normalisers only Qwen's NFC is left
    /// out, which llama.cpp does not apply.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] names what llama.cpp cannot do: another model than BPE, an unknown pre-tokenizer or
    /// normaliser, merges that follow from no scores, tokens that absorb white space.
    pub fn gguf_metadata(
        &self,
        n_rows: usize,
        chat_template: Option<&str>,
    ) -> Result<Vec<(String, Item)>> {
        self.check_fits(n_rows)?;
        let stored = self.stored()?;
        let is_byte_level = parts(&stored.pre_tokenizer, "pretokenizers")
            .iter()
            .any(|part| part["type"] == "ByteLevel");
        let tokens = self.tokens(n_rows, &stored.model, is_byte_level)?;
        let mut out: Vec<(String, Item)> = vec![];
        let mut add = |key: &str, value: Item| out.push((key.into(), value));
        let own = match is_byte_level {
            true => byte_level::write(&stored, &tokens)?,
            false if !stored.model.byte_fallback => {
                let why = "it neither works on bytes nor falls back to them";
                return Err(inexpressible(why));
            }
            false => sentencepiece::write(&stored, &tokens)?,
        };
        own.into_iter().for_each(|(key, value)| add(key, value));
        add(KIND, if is_byte_level { "gpt2" } else { "llama" }.into());
        add(TYPES, tokens.types.into());
        add(TOKENS, tokens.texts.into());

        let begin = self.first_tokens()?;
        let named = self.role_id("bos_token");
        let bos = match begin[..] {
            [] => named,
            [id] if named.is_none_or(|named| named == id) => Some(id),
            _ => {
                let why = "it begins texts with other tokens than its `bos_token`";
                return Err(inexpressible(why));
            }
        };
        // Without the key, llama.cpp takes id 11 in the kind `gpt2`.
        for (role, key, _) in ROLES {
            let id = match key {
                EOS => Some(self.end_of_text),
                BOS if is_byte_level => bos.or(Some(self.end_of_text)),
                UNKNOWN if is_byte_level => None,
                UNKNOWN => self.role_id(role).or_else(|| self.unknown(&stored.model)),
                _ => self.role_id(role),
            };
            if let Some(id) = id {
                add(key, id.into());
            }
        }
        let more = self.stops.iter().filter(|id| **id != self.end_of_text);
        for (key, id) in ENDS.into_iter().zip(more) {
            add(key, (*id).into());
        }
        add(ADD_BOS, (!begin.is_empty()).into());
        add(ADD_EOS, false.into());
        if let Some(template) = chat_template {
            add(TEMPLATE, template.into());
        }
        Ok(out)
    }

    fn stored(&self) -> Result<Stored> {
        let json: Value = serde_json::from_slice(&self.json)
            .map_err(|e| inexpressible(format!("its tokenizer.json: {e}")))?;
        let kind = json["model"]["type"].as_str().unwrap_or("BPE");
        if kind != "BPE" {
            return Err(inexpressible(format!("its `model.type` is `{kind}`, and not `BPE`")));
        }
        let stored: Stored = serde_json::from_value(json)
            .map_err(|e| inexpressible(format!("its tokenizer.json: {e}")))?;
        let model = &stored.model;
        for (key, value) in [
            ("continuing_subword_prefix", &model.continuing_subword_prefix),
            ("end_of_word_suffix", &model.end_of_word_suffix),
        ] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                return Err(inexpressible(format!("its `model.{key}` is `{value}`")));
            }
        }
        Ok(stored)
    }

    fn unknown(&self, model: &Model) -> Option<u32> {
        self.inner.token_to_id(model.unk_token.as_deref()?)
    }

    /// Texts and types of all rows.
    fn tokens(&self, n_rows: usize, model: &Model, is_byte_level: bool) -> Result<Tokens> {
        let mut texts: Vec<String> = (0..n_rows).map(fill_name).collect();
        let mut types = vec![super::UNUSED as i32; n_rows];
        let all: HashMap<String, u32> = self.inner.get_vocab(true);
        for (text, id) in &all {
            let is_byte = !is_byte_level && text.len() == 6 && sentencepiece::is_byte(text);
            types[*id as usize] = if is_byte { BYTE } else { NORMAL };
            texts[*id as usize].clone_from(text);
        }
        for (id, token) in self.inner.get_added_tokens_decoder() {
            let AddedToken { content, single_word, lstrip, rstrip, special, .. } = token;
            if single_word || lstrip || rstrip {
                let why = format!(
                    "its token `{content}` looks at what is around it (`lstrip`, `rstrip`, `single_word`)"
                );
                return Err(inexpressible(why));
            }
            types[id as usize] = if special { CONTROL } else { USER_DEFINED };
        }
        if let Some(id) = self.unknown(model).filter(|_| !is_byte_level) {
            types[id as usize] = UNKNOWN_TYPE;
        }
        Ok(Tokens { texts, types, ids: all.into_iter().collect() })
    }
}

#[cfg(test)]
mod tests;
