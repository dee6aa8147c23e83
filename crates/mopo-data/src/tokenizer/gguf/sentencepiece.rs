//! Files of the kind `llama`: SentencePiece's BPE. Of all neighbours that make a token together,
//! those of the token with the highest score are merged first, so the merges follow from the
//! scores.

use std::cmp::Reverse;
use std::collections::HashMap;

use mopo_hub::gguf::Value as Item;
use serde_json::{Value, json};
use tokenizers::models::bpe::Vocab;

use super::byte_level::PRE;
use super::write::{Merge, Stored, Tokens, inexpressible, parts as parts_of};
use super::{Parts, ROLES, TokenType, Vocabulary, same_length};
use crate::Result;

const SCORES: &str = "tokenizer.ggml.scores";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// What stands for a space.
const SPACE: &str = "▁";

/// Maximum bytes of all merges. Gemma 3's half a million have 20 MB.
const MOST_BYTES: usize = 256 << 20;

pub(super) fn parts<'a>(vocabulary: &'a Vocabulary<'_>, ids: &Vocab) -> Result<Parts<'a>> {
    let prefix = vocabulary.metadata.find::<bool>(SPACE_PREFIX)?.unwrap_or(true);
    let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let (mut normalizers, mut decoders) = (vec![], vec![]);
    if prefix {
        normalizers.push(json!({ "type": "Prepend", "prepend": SPACE }));
    }
    normalizers.push(replace(" ", SPACE));
    decoders.push(replace(SPACE, " "));
    decoders.push(json!({ "type": "ByteFallback" }));
    decoders.push(json!({ "type": "Fuse" }));
    if prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let (_, key, implied) = ROLES[3];
    let unknown = vocabulary.role(key, implied)?;
    Ok(Parts {
        normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
        pre_tokenizer: Value::Null,
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        unknown: unknown.map(|id| vocabulary.token(id)),
        byte_fallback: true,
        ignore_merges: false,
        merges: merges(vocabulary, ids)?,
    })
}

/// The merges of a file.
fn merges(vocabulary: &Vocabulary<'_>, ids: &Vocab) -> Result<Vec<(u32, u32)>> {
    let scores = vocabulary.metadata.get::<&[f32]>(SCORES)?;
    same_length(vocabulary.path, SCORES, scores.len(), vocabulary.n_listed)?;
    for byte in 0..=u8::MAX {
        let name = byte_name(byte);
        if ids.get(&name).is_none_or(|id| vocabulary.type_of(*id) != TokenType::Byte) {
            let why = format!("lacks the byte `{name}`, so that not every text has ids");
            return Err(vocabulary.refused(super::TOKENS, why));
        }
    }
    let is_normal = |id: u32| vocabulary.type_of(id) == TokenType::Normal;
    let scored = (0..).zip(scores).take(vocabulary.tokens.len());
    if let Some((id, score)) = scored.into_iter().find(|(id, x)| is_normal(*id) && !x.is_finite()) {
        let why = format!("is {score} for id {id}, not a finite number");
        return Err(vocabulary.refused(SCORES, why));
    }
    by_score(&vocabulary.tokens, scores, ids, is_normal).ok_or_else(|| {
        let why = format!("implies merges of more than {} MiB", MOST_BYTES >> 20);
        vocabulary.refused(super::TOKENS, why)
    })
}

/// All pairs of tokens that make a token together, the one with the highest score first. Only
/// normal tokens take part: user-defined ones are found before, and text must not become a control
/// token or a byte. `None` if there are too many.
fn by_score<T: AsRef<str>>(
    tokens: &[T],
    scores: &[f32],
    ids: &Vocab,
    is_normal: impl Fn(u32) -> bool,
) -> Option<Vec<(u32, u32)>> {
    let normal = |token: &str| ids.get(token).copied().filter(|id| is_normal(*id));
    let mut found = Vec::new();
    let mut n_bytes = 0;
    for (id, (token, score)) in (0..).zip(tokens.iter().zip(scores)) {
        let token = token.as_ref();
        if !is_normal(id) {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (a, b) = token.split_at(at);
            if let Some(a) = normal(a)
                && let Some(b) = normal(b)
            {
                n_bytes += token.len();
                found.push((*score, id, at, (a, b)));
            }
        }
        if n_bytes > MOST_BYTES {
            return None;
        }
    }
    // Of equal scores the lower id, of one token the longest beginning, as SentencePiece's merges
    // are written elsewhere.
    found.sort_unstable_by(|x, y| {
        y.0.total_cmp(&x.0).then_with(|| (x.1, Reverse(x.2)).cmp(&(y.1, Reverse(y.2))))
    });
    Some(found.into_iter().map(|(.., pair)| pair).collect())
}

fn byte_name(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// Whether a token stands for a byte.
pub(super) fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits
        .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        .is_some_and(|byte| byte_name(byte) == token)
}

/// The keys of this kind for a `tokenizer.json`.
///
/// # Errors
/// Names what llama.cpp would do otherwise.
pub(super) fn write(stored: &Stored, tokens: &Tokens) -> Result<Vec<(&'static str, Item)>> {
    let prefix = space_prefix(stored)?;
    if stored.model.ignore_merges {
        return Err(inexpressible("its `model.ignore_merges` is true"));
    }
    if let Some(name) = (0..=u8::MAX).map(byte_name).find(|name| !tokens.ids.contains_key(name)) {
        return Err(inexpressible(format!("it lacks the byte `{name}`")));
    }
    // Tokens in the order of their first merge: the earlier, the higher the score.
    let mut rank: HashMap<u32, usize> = HashMap::new();
    let mut listed = Vec::with_capacity(stored.model.merges.len());
    for (a, b) in stored.model.merges.iter().filter_map(Merge::pair) {
        let id = |token: &str| tokens.ids.get(token).copied();
        let (Some(first), Some(second), Some(whole)) = (id(a), id(b), id(&format!("{a}{b}")))
        else {
            return Err(inexpressible(format!("its merge of `{a}` and `{b}` gives no token")));
        };
        if [first, second, whole].into_iter().all(|id| tokens.is_normal(id)) {
            let n = rank.len();
            listed.push((*rank.entry(whole).or_insert(n), first, second));
        }
    }
    let last = rank.len();
    let n_tokens = tokens.texts.len() as u32;
    let scores: Vec<f32> =
        (0..n_tokens).map(|id| -(rank.get(&id).copied().unwrap_or(last) as f32)).collect();

    let is_normal = |id| tokens.is_normal(id);
    let implied = by_score(&tokens.texts, &scores, &tokens.ids, is_normal).unwrap_or_default();
    let whole =
        |a: u32, b: u32| format!("{}{}", tokens.texts[a as usize], tokens.texts[b as usize]);
    let ranked = implied.into_iter().map(|(a, b)| {
        let id = tokens.ids.get(&whole(a, b));
        (id.and_then(|id| rank.get(id)).copied().unwrap_or(last), a, b)
    });
    let mut implied: Vec<_> = ranked.collect();
    implied.sort_unstable();
    let in_order = listed.is_sorted_by_key(|(rank, ..)| *rank);
    listed.sort_unstable();
    if !in_order || listed != implied {
        let differs = listed.iter().zip(&implied).find(|(a, b)| a != b);
        let at =
            differs.map_or(String::new(), |((_, a, b), _)| format!(" (see `{}`)", whole(*a, *b)));
        return Err(inexpressible(format!("its merges follow from no scores of tokens{at}")));
    }
    Ok(vec![(SCORES, scores.into()), (PRE, "default".into()), (SPACE_PREFIX, prefix.into())])
}

/// Whether a text gets a space before it.
fn space_prefix(stored: &Stored) -> Result<bool> {
    let (mut prepends, mut replaces) = (false, false);
    for part in parts_of(&stored.normalizer, "normalizers") {
        match part["type"].as_str() {
            Some("Prepend") if part["prepend"] == SPACE && !prepends => prepends = true,
            Some("Replace") if part["pattern"]["String"] == " " && part["content"] == SPACE => {
                replaces = true;
            }
            _ => return Err(inexpressible(format!("its `normalizer` has the part {part}"))),
        }
    }
    for part in parts_of(&stored.pre_tokenizer, "pretokenizers") {
        let refused = || inexpressible(format!("its `pre_tokenizer` has the part {part}"));
        match part["type"].as_str() {
            // No space is left to split at.
            Some("Split") if part["pattern"]["String"] == " " && replaces => {}
            Some("Metaspace") if part["replacement"] == SPACE && part["split"] == false => {
                let adds = part["prepend_scheme"] != "never";
                if adds && prepends {
                    return Err(refused());
                }
                (replaces, prepends) = (true, prepends || adds);
            }
            _ => return Err(refused()),
        }
    }
    match replaces {
        true => Ok(prepends),
        false => Err(inexpressible(format!("it does not replace spaces by `{SPACE}`"))),
    }
}
