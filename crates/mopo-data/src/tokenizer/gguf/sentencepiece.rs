//! Files of the kind `llama`: SentencePiece's BPE. Of all neighbours that make a token together,
//! those of the token with the highest score are merged first, so the merges follow from the
//! scores.

use std::cmp::Reverse;

use serde_json::{Value, json};
use tokenizers::models::bpe::Vocab;

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

/// All pairs of tokens that make a token together, the one with the highest score first. Only
/// normal tokens take part: user-defined ones are found before, and text must not become a control
/// token or a byte.
fn merges(vocabulary: &Vocabulary<'_>, ids: &Vocab) -> Result<Vec<(u32, u32)>> {
    let scores = vocabulary.metadata.get::<&[f32]>(SCORES)?;
    same_length(vocabulary.path, SCORES, scores.len(), vocabulary.tokens.len())?;
    for byte in 0..=u8::MAX {
        let name = format!("<0x{byte:02X}>");
        if ids.get(&name).is_none_or(|id| vocabulary.type_of(*id) != TokenType::Byte) {
            let why = format!("lacks the byte `{name}`, so that not every text has ids");
            return Err(vocabulary.refused(super::TOKENS, why));
        }
    }
    let normal = |token: &str| {
        let id = ids.get(token).copied();
        id.filter(|id| vocabulary.type_of(*id) == TokenType::Normal)
    };
    let mut found = Vec::new();
    let mut n_bytes = 0;
    for (id, (token, score)) in (0..).zip(vocabulary.tokens.iter().zip(scores)) {
        if vocabulary.type_of(id) != TokenType::Normal {
            continue;
        }
        if !score.is_finite() {
            let why = format!("is {score} for id {id}, not a finite number");
            return Err(vocabulary.refused(SCORES, why));
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
            let why = format!("implies merges of more than {} MiB", MOST_BYTES >> 20);
            return Err(vocabulary.refused(super::TOKENS, why));
        }
    }
    // Of equal scores the lower id, of one token the longest beginning, as SentencePiece's merges
    // are written elsewhere.
    found.sort_unstable_by(|x, y| {
        y.0.total_cmp(&x.0).then_with(|| (x.1, Reverse(x.2)).cmp(&(y.1, Reverse(y.2))))
    });
    Ok(found.into_iter().map(|(.., pair)| pair).collect())
}
