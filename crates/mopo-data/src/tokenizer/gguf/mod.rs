//! The tokenizer of a GGUF file: its metadata as a `tokenizer.json` with settings, so that it is
//! loaded, saved and exported like that of a model directory. llama.cpp is the reference for ids.

mod byte_level;
mod file;
mod sentencepiece;
mod write;

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use mopo_hub::gguf::{GgufFile, Metadata};
use serde_json::{Map, Value};
use tokenizers::Tokenizer;
use tokenizers::models::bpe::Vocab;

use crate::{Error, Result, TokenizerSettings};
use file::{AddedToken, TokenizerFile};

const KIND: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const TEMPLATE: &str = "tokenizer.chat_template";

/// Roles of special tokens: the setting's name, the key, the id without the key in a file of the
/// kind `llama`.
const ROLES: [(&str, &str, Option<u32>); 4] = [
    ("bos_token", BOS, Some(1)),
    ("eos_token", EOS, Some(2)),
    ("pad_token", "tokenizer.ggml.padding_token_id", None),
    ("unk_token", UNKNOWN, Some(0)),
];
/// Further tokens that end a response, by key
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// and, where they are control tokens, by name: most files lack the keys.
const END_NAMES: [&str; 6] =
    ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"];

/// Maximum number of tokens, and of bytes of one: published vocabularies have up to 262,144 tokens
/// of up to 256 bytes.
const MOST_TOKENS: usize = 1 << 20;
const MOST_BYTES: usize = 1024;

const REMEDY: &str = "download the file again, convert the model again with a current llama.cpp, or \
                      use its `tokenizer.json`";

/// The type of tokens that no text has.
const UNUSED: i64 = 5;

/// The name of a row of the embedding that has no token.
fn fill_name(id: usize) -> String {
    format!("[PAD{id}]")
}

/// What a file contains of a tokenizer.
pub(super) struct FromGguf {
    pub(super) inner: Tokenizer,
    /// The same as a `tokenizer.json`.
    pub(super) json: Vec<u8>,
    pub(super) settings: TokenizerSettings,
    pub(super) vocab_size: usize,
    /// The ids that end a response; the first is the file's `eos_token`.
    pub(super) ends: Vec<u32>,
}

/// Reads the tokenizer of a file.
///
/// # Errors
/// Those of [`GgufFile::open`]; names file and key: a missing value or one of another type, a kind
/// that is not supported, lists that contradict each other, an id out of range.
pub(super) fn read(path: &Path) -> Result<FromGguf> {
    let file = GgufFile::open(path)?;
    let (vocabulary, ids) = Vocabulary::read(path, file.metadata())?;
    let parts = match vocabulary.kind {
        Kind::ByteLevel => byte_level::parts(&vocabulary, &ids)?,
        Kind::SentencePiece => sentencepiece::parts(&vocabulary, &ids)?,
    };
    let file = TokenizerFile::new(&vocabulary, &parts);
    let json = file.to_json();
    let inner = file.into_library(ids, &path.display().to_string())?;
    let (settings, ends) = (vocabulary.settings()?, vocabulary.ends()?);
    Ok(FromGguf { inner, json, settings, vocab_size: vocabulary.tokens.len(), ends })
}

/// Only the settings: roles of special tokens and the chat template.
///
/// # Errors
/// Those of [`read`].
pub(super) fn read_settings(path: &Path) -> Result<TokenizerSettings> {
    let file = GgufFile::open(path)?;
    Vocabulary::read(path, file.metadata())?.0.settings()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `gpt2`: BPE of bytes, with merges.
    ByteLevel,
    /// `llama`: BPE of characters, with scores.
    SentencePiece,
}

/// What `tokenizer.ggml.token_type` says of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenType {
    /// Part of texts; also the tokens that no text has.
    Normal,
    /// Never part of a text: control tokens, and the one for unknown characters.
    Special,
    /// Found in texts before anything else, whole.
    UserDefined,
    /// A byte of a character that has no token.
    Byte,
}

/// Tokens with their types, and the metadata for what depends on the kind.
struct Vocabulary<'a> {
    path: &'a Path,
    metadata: &'a Metadata,
    kind: Kind,
    tokens: Vec<Cow<'a, str>>,
    types: Vec<TokenType>,
    /// Tokens in the file's list, with those that only fill the model's rows.
    n_listed: usize,
    /// Whether texts begin with the token of the role `bos_token`.
    add_bos: bool,
}

impl<'a> Vocabulary<'a> {
    /// With the id of each token.
    fn read(path: &'a Path, metadata: &'a Metadata) -> Result<(Self, Vocab)> {
        let refused = |key: &str, why: String| refused(path, key, why);
        let kind = match metadata.get::<&str>(KIND)? {
            "gpt2" => Kind::ByteLevel,
            "llama" => Kind::SentencePiece,
            other => {
                let why = format!("is `{other}`; supported kinds are `gpt2` and `llama`");
                return Err(refused(KIND, why));
            }
        };
        let texts = metadata.get::<&[String]>(TOKENS)?;
        if texts.is_empty() || texts.len() > MOST_TOKENS {
            let why = format!("has {} tokens; expected 1 to {MOST_TOKENS}", texts.len());
            return Err(refused(TOKENS, why));
        }
        if let Some(i) = texts.iter().position(|text| text.len() > MOST_BYTES) {
            let n_bytes = texts[i].len();
            let why = format!("has a token of {n_bytes} bytes (id {i}); at most {MOST_BYTES} fit");
            return Err(refused(TOKENS, why));
        }
        // As llama.cpp names tokens without text.
        let name = |(id, text): (usize, &'a String)| match text.is_empty() {
            true => Cow::Owned(format!("[EMPTY_{id}]")),
            false => Cow::Borrowed(text.as_str()),
        };
        let mut tokens: Vec<Cow<'_, str>> = texts.iter().enumerate().map(name).collect();
        let n_listed = tokens.len();
        let numbers = metadata.find::<Vec<i64>>(TYPES)?;
        let mut types: Vec<TokenType> = match &numbers {
            None if kind == Kind::ByteLevel => vec![TokenType::Normal; tokens.len()],
            None => return Err(refused(TYPES, "is missing".into())),
            Some(types) => {
                same_length(path, TYPES, types.len(), tokens.len())?;
                let read = |(id, number): (usize, &i64)| match number {
                    0 | 1 | 5 => Ok(TokenType::Normal),
                    2 | 3 => Ok(TokenType::Special),
                    4 => Ok(TokenType::UserDefined),
                    6 => Ok(TokenType::Byte),
                    _ => Err(refused(TYPES, format!("is {number} for id {id}; types are 0 to 6"))),
                };
                types.iter().enumerate().map(read).collect::<Result<_>>()?
            }
        };
        // What fills the rows of a model that has more of them than tokens is no token.
        let fills = |id: usize| {
            let is_unused = numbers.as_ref().is_some_and(|numbers| numbers[id] == UNUSED);
            is_unused && texts[id] == fill_name(id)
        };
        let n_tokens = (0..n_listed).rev().find(|id| !fills(*id)).map_or(0, |id| id + 1);
        tokens.truncate(n_tokens);
        types.truncate(n_tokens);
        let mut ids = Vocab::with_capacity(tokens.len());
        for (id, token) in (0..).zip(&tokens) {
            if let Some(first) = ids.insert(token.to_string(), id) {
                let why = format!("has `{token}` twice, as the ids {first} and {id}");
                return Err(refused(TOKENS, why));
            }
        }
        let mut this = Self { path, metadata, kind, tokens, types, n_listed, add_bos: false };
        // A text must not be able to begin or end a sequence, whatever type its token has.
        for key in [BOS, EOS].into_iter().chain(ENDS) {
            if let Some(id) = this.id(key)? {
                this.types[id as usize] = TokenType::Special;
            }
        }
        this.add_bos = match metadata.find::<bool>(ADD_BOS)? {
            Some(true) if this.role(BOS, Some(1))?.is_none() => {
                return Err(this.refused(ADD_BOS, format!("is true, but `{BOS}` is missing")));
            }
            Some(on) => on,
            None => this.adds_bos()? && this.role(BOS, Some(1))?.is_some(),
        };
        Ok((this, ids))
    }

    /// Whether llama.cpp adds a first token if the file does not say.
    fn adds_bos(&self) -> Result<bool> {
        match self.kind {
            Kind::SentencePiece => Ok(true),
            Kind::ByteLevel => byte_level::adds_bos(self),
        }
    }

    /// The id that a key gives, which must be that of a token; `None` also for a row without one.
    fn id(&self, key: &str) -> Result<Option<u32>> {
        let Some(id) = self.metadata.find::<u32>(key)? else { return Ok(None) };
        match id as usize {
            n if n < self.tokens.len() => Ok(Some(id)),
            n if n < self.n_listed => Ok(None),
            _ => Err(self.refused(key, format!("is {id}, but there are {} tokens", self.n_listed))),
        }
    }

    /// The same, or the id that the kind implies.
    fn role(&self, key: &str, implied: Option<u32>) -> Result<Option<u32>> {
        let implied = implied.filter(|id| {
            self.kind == Kind::SentencePiece
                && self.types.get(*id as usize) == Some(&TokenType::Special)
        });
        Ok(self.id(key)?.or(implied))
    }

    fn token(&self, id: u32) -> &str {
        &self.tokens[id as usize]
    }

    fn type_of(&self, id: u32) -> TokenType {
        self.types[id as usize]
    }

    /// What `tokenizer_config.json` would say.
    fn settings(&self) -> Result<TokenizerSettings> {
        let mut map = Map::new();
        for (role, key, implied) in ROLES {
            if let Some(id) = self.role(key, implied)? {
                map.insert(role.into(), self.token(id).into());
            }
        }
        map.insert("add_bos_token".into(), self.add_bos.into());
        if let Some(on) = self.metadata.find::<bool>(ADD_EOS)? {
            map.insert("add_eos_token".into(), on.into());
        }
        if let Some(template) = self.metadata.find::<&str>(TEMPLATE)? {
            map.insert("chat_template".into(), template.into());
        }
        Ok(TokenizerSettings::of_file(self.path, map))
    }

    fn ends(&self) -> Result<Vec<u32>> {
        let mut ends: Vec<u32> = self.role(EOS, Some(2))?.into_iter().collect();
        for key in ENDS {
            ends.extend(self.id(key)?);
        }
        let named = (0..).zip(&self.tokens).filter(|(id, token)| {
            END_NAMES.contains(&&***token) && self.type_of(*id) == TokenType::Special
        });
        ends.extend(named.map(|(id, _)| id));
        let mut seen = HashSet::new();
        ends.retain(|id| seen.insert(*id));
        Ok(ends)
    }

    /// Tokens that are found in texts, or only where a template writes them.
    fn added_tokens(&self) -> Vec<AddedToken<'_>> {
        let ids = (0..).zip(self.tokens.iter().zip(&self.types));
        let added = ids.filter_map(|(id, (token, kind))| match kind {
            TokenType::Special => Some(AddedToken::new(id, token, true)),
            TokenType::UserDefined => Some(AddedToken::new(id, token, false)),
            TokenType::Normal | TokenType::Byte => None,
        });
        added.collect()
    }

    fn refused(&self, key: &str, why: String) -> Error {
        refused(self.path, key, why)
    }
}

/// Parts of a `tokenizer.json` that depend on the kind.
struct Parts<'a> {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    unknown: Option<&'a str>,
    /// Whether a character without a token becomes bytes.
    byte_fallback: bool,
    /// Whether a word that is a token is not merged.
    ignore_merges: bool,
    /// Pairs of ids, the first merged first.
    merges: Vec<(u32, u32)>,
}

fn same_length(path: &Path, key: &str, found: usize, n_tokens: usize) -> Result<()> {
    match found == n_tokens {
        true => Ok(()),
        false => Err(refused(path, key, format!("has {found} items, but {TOKENS} {n_tokens}"))),
    }
}

fn refused(path: &Path, key: &str, why: String) -> Error {
    Error::Tokenizer {
        what: path.display().to_string(),
        why: format!("`{key}` {why}"),
        remedy: REMEDY,
    }
}

#[cfg(test)]
mod tests;
