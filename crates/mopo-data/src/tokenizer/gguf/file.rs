//! A `tokenizer.json`, and the library's tokenizer without the way through its parser, which takes
//! seconds for large vocabularies.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken as LibraryToken, Tokenizer};

use super::{BOS, Parts, REMEDY, Vocabulary};
use crate::tokenizer::library::{guarded, try_out};
use crate::{Error, Result};

/// A `tokenizer.json`, in the order of the `tokenizers` library.
#[derive(Serialize)]
pub(super) struct TokenizerFile<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: &'a Value,
    pre_tokenizer: &'a Value,
    post_processor: Value,
    decoder: &'a Value,
    model: Model<'a>,
}

#[derive(Serialize)]
pub(super) struct AddedToken<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl<'a> AddedToken<'a> {
    pub(super) fn new(id: u32, content: &'a str, special: bool) -> Self {
        let (single_word, lstrip, rstrip, normalized) = (false, false, false, false);
        Self { id, content, single_word, lstrip, rstrip, normalized, special }
    }
}

#[derive(Serialize)]
struct Model<'a> {
    r#type: &'static str,
    dropout: (),
    unk_token: Option<&'a str>,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "vocab")]
    vocab: &'a [Cow<'a, str>],
    merges: Vec<[&'a str; 2]>,
}

/// A table from tokens to ids.
fn vocab<S: Serializer>(
    tokens: &[Cow<'_, str>],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().zip(0_u32..))
}

impl<'a> TokenizerFile<'a> {
    pub(super) fn new(vocabulary: &'a Vocabulary<'a>, parts: &'a Parts<'a>) -> Self {
        let merges = parts.merges.iter();
        let merges = merges.map(|(a, b)| [vocabulary.token(*a), vocabulary.token(*b)]);
        Self {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: vocabulary.added_tokens(),
            normalizer: &parts.normalizer,
            pre_tokenizer: &parts.pre_tokenizer,
            post_processor: first_token(vocabulary),
            decoder: &parts.decoder,
            model: Model {
                r#type: "BPE",
                dropout: (),
                unk_token: parts.unknown,
                continuing_subword_prefix: (),
                end_of_word_suffix: (),
                fuse_unk: parts.unknown.is_some(),
                byte_fallback: parts.byte_fallback,
                ignore_merges: parts.ignore_merges,
                vocab: &vocabulary.tokens,
                merges: merges.collect(),
            },
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers")
    }

    /// What the library makes of the file; `ids` are those of the vocabulary, and `what` is the
    /// name in errors.
    pub(super) fn into_library(mut self, ids: Vocab, what: &str) -> Result<Tokenizer> {
        let added = std::mem::take(&mut self.added_tokens);
        let merges = std::mem::take(&mut self.model.merges);
        self.model.vocab = &[];
        let build = || -> tokenizers::Result<Tokenizer> {
            // All that is small is parsed.
            let mut inner = Tokenizer::from_bytes(self.to_json())?;
            let merges = merges.into_iter().map(|[a, b]| (a.into(), b.into())).collect();
            let mut model = BPE::builder()
                .vocab_and_merges(ids, merges)
                .fuse_unk(self.model.fuse_unk)
                .byte_fallback(self.model.byte_fallback)
                .ignore_merges(self.model.ignore_merges);
            if let Some(unknown) = self.model.unk_token {
                model = model.unk_token(unknown.into());
            }
            inner.with_model(model.build()?);
            let token =
                |t: AddedToken<'_>| LibraryToken::from(t.content, t.special).normalized(false);
            inner.add_tokens(added.into_iter().map(token))?;
            Ok(inner)
        };
        let refused = |why| Error::Tokenizer { what: what.into(), why, remedy: REMEDY };
        let inner = guarded(|| build().map_err(|e| e.to_string())).map_err(refused)?;
        try_out(&inner, what)?;
        Ok(inner)
    }
}

/// The part that puts `bos_token` before a text.
fn first_token(vocabulary: &Vocabulary<'_>) -> Value {
    let id = match vocabulary.role(BOS, Some(1)) {
        Ok(Some(id)) if vocabulary.add_bos => id,
        _ => return Value::Null,
    };
    let name = vocabulary.token(id);
    let special = |kind: u32| json!({ "SpecialToken": { "id": name, "type_id": kind } });
    let text = |id: &str, kind: u32| json!({ "Sequence": { "id": id, "type_id": kind } });
    json!({
        "type": "TemplateProcessing",
        "single": [special(0), text("A", 0)],
        "pair": [special(0), text("A", 0), special(1), text("B", 1)],
        "special_tokens": { name: { "id": name, "ids": [id], "tokens": [name] } },
    })
}
