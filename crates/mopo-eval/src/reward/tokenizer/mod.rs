//! From text to a reward model's token ids: `tokenizer.json`, or GPT-2's and BART's `vocab.json`
//! with `merges.txt`, or DistilBERT's `vocab.txt`, with the settings in `tokenizer_config.json` and
//! the
//! special tokens of its class, truncated to a length.
//!
//! As in transformers, special tokens written out in a text are special tokens.

mod class;
mod settings;

use std::path::{Path, PathBuf};

use mopo_data::guarded;
use serde::{Deserialize, Serialize};
use tokenizers::{
    Encoding, PostProcessor, Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy,
    truncate_encodings,
};

use crate::{Error, Result};

/// Which end of a text that is too long is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncationSide {
    /// The beginning.
    Left,
    /// The end.
    Right,
}

/// A reward model's tokenizer, which truncates texts.
#[derive(Debug, Clone)]
pub struct RewardTokenizer {
    /// Neither truncates nor pads.
    inner: Tokenizer,
    dir: PathBuf,
    max_tokens: usize,
    direction: TruncationDirection,
}

/// The files that [`RewardTokenizer::load`] reads, if they exist.
pub(super) const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// It may panic on what a file contains.
const LIBRARY: &str = "tokenizers";
const REMEDY: &str = "fetch the model's tokenizer files again";

/// For `map_err`: an error about the tokenizer at `path`.
fn file_error<E: ToString>(path: &Path) -> impl Fn(E) -> Error {
    move |e| Error::Tokenizer { path: path.into(), why: e.to_string(), remedy: REMEDY }
}

/// The number of tokens that are added to a text, or to two.
fn special_tokens(inner: &Tokenizer, is_pair: bool) -> usize {
    inner.get_post_processor().map_or(0, |processor| processor.added_tokens(is_pair))
}

/// Refuses ids far beyond the number of tokens: the library lists all that are missing when it writes a tokenizer.
fn check_ids(inner: &Tokenizer) -> std::result::Result<(), String> {
    const MOST_MISSING: usize = 1 << 20;
    let vocab = inner.get_vocab(true);
    match vocab.iter().max_by_key(|(_, id)| **id) {
        Some((token, id)) if *id as usize >= vocab.len() + MOST_MISSING => {
            Err(format!("the id of `{token}` is {id}, but there are only {} tokens", vocab.len()))
        }
        _ => Ok(()),
    }
}

impl RewardTokenizer {
    /// The tokenizer in a model directory, as transformers would build it: the class of
    /// `tokenizer_config.json` or else of the architecture (`gpt2`, `bart`, `distilbert`) around
    /// the
    /// vocabulary of `tokenizer.json`, or of `vocab.json` and `merges.txt` or `vocab.txt`, with the
    /// settings in `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
    /// Texts
    /// are truncated to `max_tokens` tokens, special ones included; in a pair the longer text
    /// first.
    ///
    /// # Errors
    /// A file that is missing or not a tokenizer; an unsupported key of `tokenizer_config.json`,
    /// by name; `max_tokens` that leaves no room for text.
    pub fn load(
        dir: impl AsRef<Path>,
        architecture: &str,
        max_tokens: usize,
        side: TruncationSide,
    ) -> Result<Self> {
        let dir = dir.as_ref();
        let load = || Ok(class::load(dir, architecture, side));
        Self::new(guarded(LIBRARY, load).map_err(file_error(dir))??, dir, max_tokens, side)
    }

    /// A `tokenizer.json` as it is, whatever other files there are.
    ///
    /// # Errors
    /// A file that is not a tokenizer; `max_tokens` that leaves no room for text.
    pub fn from_file(
        path: impl AsRef<Path>,
        max_tokens: usize,
        side: TruncationSide,
    ) -> Result<Self> {
        let path = path.as_ref();
        let bytes = mopo_hub::read(path)?;
        // Parsed first, since the library panics on JSON that ends inside its decoder.
        let _: serde::de::IgnoredAny = serde_json::from_slice(&bytes).map_err(file_error(path))?;
        let parse = || Tokenizer::from_bytes(bytes).map_err(|e| e.to_string());
        let inner = guarded(LIBRARY, parse).map_err(file_error(path))?;
        Self::new(inner, path, max_tokens, side)
    }

    /// Any tokenizer of the `tokenizers` library; `dir` is used in errors.
    ///
    /// # Errors
    /// `max_tokens` that leaves no room for text.
    pub fn new(
        mut inner: Tokenizer,
        dir: impl Into<PathBuf>,
        max_tokens: usize,
        side: TruncationSide,
    ) -> Result<Self> {
        let dir = dir.into();
        inner.with_padding(None);
        inner.with_truncation(None).map_err(file_error(&dir))?;
        check_ids(&inner).map_err(file_error(&dir))?;
        let special = special_tokens(&inner, true).max(special_tokens(&inner, false));
        if max_tokens <= special {
            let expected =
                format!("the tokenizer adds up to {special} special tokens to its texts");
            return Err(Error::invalid("max_length", max_tokens, expected));
        }
        let direction = match side {
            TruncationSide::Left => TruncationDirection::Left,
            TruncationSide::Right => TruncationDirection::Right,
        };
        Ok(Self { inner, dir, max_tokens, direction })
    }

    /// The ids of a text, or of two, with the special tokens around them, and how many tokens were cut off.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the library refuses the text.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<(Vec<u32>, usize)> {
        guarded(LIBRARY, || self.encoded(text, pair)).map_err(file_error(&self.dir))
    }

    fn encoded(
        &self,
        text: &str,
        pair: Option<&str>,
    ) -> std::result::Result<(Vec<u32>, usize), String> {
        let refused = |e: tokenizers::Error| e.to_string();
        let one = |text: &str| self.inner.encode_fast(text, false).map_err(refused);
        // An empty second text means none, as in transformers.
        let pair = pair.filter(|pair| !pair.is_empty());
        let (text, pair) = (one(text)?, pair.map(one).transpose()?);
        let n = |encoding: &Encoding| encoding.get_ids().len();
        let before = n(&text) + pair.as_ref().map_or(0, n);
        // Truncated here and not by the library's `encode`, which stops early in each of the two
        // texts and then does not know which was longer.
        let params = TruncationParams {
            direction: self.direction,
            max_length: self.max_tokens - special_tokens(&self.inner, pair.is_some()),
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let (text, pair) = truncate_encodings(text, pair, &params).map_err(|e| e.to_string())?;
        let cut = before - n(&text) - pair.as_ref().map_or(0, n);
        let whole = self.inner.post_process(text, pair, true).map_err(refused)?;
        Ok((whole.get_ids().to_vec(), cut))
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The highest id + 1: the size of the smallest embedding that fits.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Writes `tokenizer.json` to `dir`.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let json = self.inner.to_string(true).map_err(file_error(&self.dir))?;
        Ok(mopo_hub::write_atomically(&dir.as_ref().join("tokenizer.json"), json.as_bytes())?)
    }
}
