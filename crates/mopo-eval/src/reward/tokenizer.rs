//! Text to token ids as a reward model wants them: `tokenizer.json`, or GPT-2's and BART's `vocab.json`
//! with `merges.txt`, or DistilBERT's `vocab.txt`; with the special tokens of the architecture, cut to
//! a length.
//!
//! As in the reference library, special tokens that are written out in a text are special tokens.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{
    AddedToken, Encoding, PostProcessor, Tokenizer, TruncationDirection, TruncationParams,
    TruncationStrategy, truncate_encodings,
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

/// A reward model's tokenizer, which cuts texts to a length.
#[derive(Debug, Clone)]
pub struct RewardTokenizer {
    /// Neither cuts nor pads.
    inner: Tokenizer,
    dir: PathBuf,
    max_tokens: usize,
    direction: TruncationDirection,
}

/// What [`RewardTokenizer::load`] reads, where it is there.
pub(super) const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

const REMEDY: &str = "fetch the model's tokenizer files again";

/// For `map_err`: an error about the tokenizer of `path`.
fn refused<E: ToString>(path: &Path) -> impl Fn(E) -> Error {
    move |e| Error::Tokenizer { path: path.into(), why: e.to_string(), remedy: REMEDY }
}

impl RewardTokenizer {
    /// The tokenizer in a directory of the hub: `tokenizer.json` if it is there, else the files of the
    /// architecture (`gpt2`, `bart`: `vocab.json` and `merges.txt`; `distilbert`: `vocab.txt`) with the
    /// settings in `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`. Texts
    /// are cut to `max_tokens` tokens, special ones included; of a pair the longer text first.
    ///
    /// # Errors
    /// A file that is missing or no tokenizer; `max_tokens` that leaves no room for text.
    pub fn load(
        dir: impl AsRef<Path>,
        architecture: &str,
        max_tokens: usize,
        side: TruncationSide,
    ) -> Result<Self> {
        let dir = dir.as_ref();
        let whole = dir.join("tokenizer.json");
        let inner = if whole.exists() {
            Tokenizer::from_bytes(mopo_hub::read(&whole)?).map_err(refused(&whole))?
        } else if architecture == "distilbert" {
            word_piece(dir)?
        } else {
            byte_level(dir, architecture == "bart")?
        };
        Self::new(inner, dir, max_tokens, side)
    }

    /// Any tokenizer of the `tokenizers` library; `dir` is what errors name.
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
        inner.with_truncation(None).map_err(refused(&dir))?;
        let special = inner.get_post_processor().map_or(0, |p| p.added_tokens(true));
        if max_tokens <= special {
            let expected =
                format!("the tokenizer adds {special} special tokens to a pair of texts");
            return Err(Error::invalid("max_length", max_tokens, expected));
        }
        let direction = match side {
            TruncationSide::Left => TruncationDirection::Left,
            TruncationSide::Right => TruncationDirection::Right,
        };
        Ok(Self { inner, dir, max_tokens, direction })
    }

    /// The ids of a text, or of two, with the special tokens that belong around them, and whether
    /// something was cut off.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the library refuses the text.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<(Vec<u32>, bool)> {
        let refused = refused(&self.dir);
        let one = |text: &str| self.inner.encode_fast(text, false).map_err(&refused);
        // An empty second text is none, as in the reference library.
        let pair = pair.filter(|pair| !pair.is_empty());
        let (text, pair) = (one(text)?, pair.map(one).transpose()?);
        let special = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(pair.is_some()));
        let n = |encoding: &Encoding| encoding.get_ids().len();
        let before = n(&text) + pair.as_ref().map_or(0, n);
        // Cut here and not within the library's `encode`, which stops early in each of the two texts
        // and then does not know which was the longer.
        let params = TruncationParams {
            direction: self.direction,
            max_length: self.max_tokens - special,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let (text, pair) = truncate_encodings(text, pair, &params).map_err(&refused)?;
        let cut = before > n(&text) + pair.as_ref().map_or(0, n);
        let whole = self.inner.post_process(text, pair, true).map_err(&refused)?;
        Ok((whole.get_ids().to_vec(), cut))
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The highest id + 1: the smallest embedding that fits.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Writes `tokenizer.json` into `dir`.
    ///
    /// # Errors
    /// The file that could not be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let json = self.inner.to_string(true).map_err(refused(&self.dir))?;
        Ok(mopo_hub::write_atomically(&dir.as_ref().join("tokenizer.json"), json.as_bytes())?)
    }
}

/// What the small files beside a vocabulary say.
struct Settings {
    dir: PathBuf,
    config: Map<String, Value>,
    special: Map<String, Value>,
    added: Map<String, Value>,
}

impl Settings {
    fn read(dir: &Path) -> Result<Self> {
        let optional = |name: &str, expected| match dir.join(name) {
            path if path.exists() => mopo_hub::read_json(&path, expected),
            _ => Ok(Map::new()),
        };
        Ok(Self {
            dir: dir.into(),
            config: optional("tokenizer_config.json", "the settings of a tokenizer")?,
            special: optional("special_tokens_map.json", "the names of special tokens")?,
            added: optional("added_tokens.json", "tokens and their ids")?,
        })
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.config.get(key).and_then(Value::as_bool)
    }

    /// A special token by its role (`eos_token`, …): a name, or a table with the name as `content`.
    fn special(&self, role: &str, default: Option<&str>) -> Option<AddedToken> {
        let found = [&self.config, &self.special].into_iter().find_map(|map| map.get(role));
        let token = |text: &str| AddedToken::from(text, true);
        match found {
            Some(Value::String(text)) => Some(token(text)),
            Some(Value::Object(table)) => {
                let flag = |key| table.get(key).and_then(Value::as_bool).unwrap_or(false);
                let text = table.get("content").and_then(Value::as_str)?;
                Some(
                    token(text)
                        .lstrip(flag("lstrip"))
                        .rstrip(flag("rstrip"))
                        .single_word(flag("single_word"))
                        .normalized(flag("normalized")),
                )
            }
            _ => default.map(token),
        }
    }

    /// Adds the tokens that are no part of the model's vocabulary, and makes those of the roles
    /// special, in this order.
    fn add_to(&self, inner: &mut Tokenizer, special: Vec<AddedToken>) -> Result<()> {
        let mut added: Vec<(u64, &String)> =
            self.added.iter().filter_map(|(token, id)| Some((id.as_u64()?, token))).collect();
        added.sort_unstable();
        let added = added.into_iter().map(|(_, token)| AddedToken::from(token.clone(), false));
        inner.add_tokens(added.collect::<Vec<_>>()).map_err(refused(&self.dir))?;
        inner.add_special_tokens(special).map_err(refused(&self.dir))?;
        Ok(())
    }

    /// The id of a special token.
    fn id(&self, inner: &Tokenizer, token: &AddedToken) -> Result<(String, u32)> {
        let name = token.content.clone();
        let id = inner.token_to_id(&name).ok_or_else(|| {
            refused(&self.dir)(format!("the special token `{name}` is not in its vocabulary"))
        })?;
        Ok((name, id))
    }
}

/// A path that must be there, as the library takes it.
fn file(dir: &Path, name: &str) -> Result<String> {
    let path = dir.join(name);
    if !path.exists() {
        let why = format!("there is neither tokenizer.json nor {name}");
        return Err(Error::Tokenizer { path: dir.into(), why, remedy: REMEDY });
    }
    path.to_str().map(str::to_owned).ok_or_else(|| refused(dir)("its path is not UTF-8"))
}

/// Byte-level BPE of GPT-2 or BART.
fn byte_level(dir: &Path, is_bart: bool) -> Result<Tokenizer> {
    let settings = Settings::read(dir)?;
    let model = BPE::from_file(&file(dir, "vocab.json")?, &file(dir, "merges.txt")?);
    let broken = |e: tokenizers::Error| refused(dir)(format!("vocab.json with merges.txt: {e}"));
    let mut inner = Tokenizer::new(model.build().map_err(broken)?);
    let prefix = settings.flag("add_prefix_space").unwrap_or(false);
    let bytes = ByteLevel::default().add_prefix_space(prefix);
    inner.with_pre_tokenizer(Some(bytes));
    inner.with_decoder(Some(bytes));
    let roles: &[(&str, Option<&str>)] = if is_bart {
        &[
            ("bos_token", Some("<s>")),
            ("eos_token", Some("</s>")),
            ("unk_token", Some("<unk>")),
            ("sep_token", Some("</s>")),
            ("pad_token", Some("<pad>")),
            ("cls_token", Some("<s>")),
            ("mask_token", Some("<mask>")),
        ]
    } else {
        &[
            ("bos_token", Some("<|endoftext|>")),
            ("eos_token", Some("<|endoftext|>")),
            ("unk_token", Some("<|endoftext|>")),
            ("pad_token", None),
        ]
    };
    let special = roles.iter().filter_map(|(role, default)| settings.special(role, *default));
    settings.add_to(&mut inner, special.collect())?;
    if is_bart {
        let of = |role, default| {
            let token = settings.special(role, Some(default)).expect("it has a default");
            settings.id(&inner, &token)
        };
        let (sep, cls) = (of("sep_token", "</s>")?, of("cls_token", "<s>")?);
        let trim = settings.flag("trim_offsets").unwrap_or(true);
        let around = RobertaProcessing::new(sep, cls).trim_offsets(trim).add_prefix_space(prefix);
        inner.with_post_processor(Some(around));
    }
    Ok(inner)
}

/// WordPiece of BERT.
fn word_piece(dir: &Path) -> Result<Tokenizer> {
    let settings = Settings::read(dir)?;
    let special = |role, default| settings.special(role, Some(default)).expect("it has a default");
    let unknown = special("unk_token", "[UNK]");
    let model = WordPiece::from_file(&file(dir, "vocab.txt")?).unk_token(unknown.content.clone());
    let broken = |e: tokenizers::Error| refused(dir)(format!("vocab.txt: {e}"));
    let mut inner = Tokenizer::new(model.build().map_err(broken)?);
    let normalizer = BertNormalizer::new(
        true,
        settings.flag("tokenize_chinese_chars").unwrap_or(true),
        settings.flag("strip_accents"),
        settings.flag("do_lower_case").unwrap_or(true),
    );
    inner.with_normalizer(Some(normalizer)).map_err(refused(dir))?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    let (sep, cls) = (special("sep_token", "[SEP]"), special("cls_token", "[CLS]"));
    let all = vec![
        unknown,
        sep.clone(),
        special("pad_token", "[PAD]"),
        cls.clone(),
        special("mask_token", "[MASK]"),
    ];
    settings.add_to(&mut inner, all)?;
    let (sep, cls) = (settings.id(&inner, &sep)?, settings.id(&inner, &cls)?);
    inner.with_post_processor(Some(BertProcessing::new(sep, cls)));
    Ok(inner)
}
