//! Files of the kind `gpt2`: BPE of bytes, whose merges are listed.

use std::collections::HashSet;

use mopo_hub::gguf::Value as Item;
use serde_json::{Value, json};
use tokenizers::models::bpe::Vocab;

use super::write::{Stored, Tokens, inexpressible, parts as parts_of};
use super::{Parts, TOKENS, TokenType, Vocabulary};
use crate::Result;

pub(super) const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

/// GPT-2's expression.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's and Qwen's, which differ in how many digits are together. The contractions are written
/// out as in llama.cpp, since case-insensitive expressions also find `ſ`.
const CONTRACTIONS: &str = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]";
/// The same in the files of transformers.
const FOLDED: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const WORDS: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+";
const REST: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a text is split into words before merging.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Splitting {
    /// GPT-2's expression alone.
    Gpt2,
    /// Each digit by itself, then GPT-2's.
    Digits,
    /// Up to three digits together; a word that is a token is not merged.
    Llama3,
    /// The same, but all words are merged.
    Dbrx,
    /// Each digit by itself.
    Qwen2,
    /// llama.cpp's, for files that do not say.
    Default,
}

/// Values of `tokenizer.ggml.pre`. llama.cpp knows more; these are those of the supported families,
/// and others with the same expression.
const KNOWN: [(Splitting, &[&str]); 6] = [
    (Splitting::Gpt2, &["gpt-2", "phi-2", "mpt", "olmo"]),
    (Splitting::Digits, &["smollm", "starcoder", "refact", "command-r"]),
    (Splitting::Llama3, &["llama-bpe", "llama3", "llama-v3"]),
    (Splitting::Dbrx, &["dbrx", "smaug-bpe"]),
    (Splitting::Qwen2, &["qwen2", "deepseek-r1-qwen", "stablelm2"]),
    (Splitting::Default, &["default"]),
];

pub(super) fn adds_bos(vocabulary: &Vocabulary<'_>) -> Result<bool> {
    Ok(splitting(vocabulary)? == Splitting::Llama3)
}

pub(super) fn parts<'a>(vocabulary: &'a Vocabulary<'_>, ids: &Vocab) -> Result<Parts<'a>> {
    let splitting = splitting(vocabulary)?;
    Ok(Parts {
        normalizer: Value::Null,
        pre_tokenizer: splitting.pre_tokenizer(),
        decoder: byte_level(false),
        unknown: None,
        byte_fallback: false,
        ignore_merges: splitting == Splitting::Llama3,
        merges: merges(vocabulary, ids)?,
    })
}

fn splitting(vocabulary: &Vocabulary<'_>) -> Result<Splitting> {
    let name = vocabulary.metadata.find::<&str>(PRE)?.unwrap_or("default");
    let known = KNOWN.iter().find(|(_, names)| names.contains(&name));
    known.map(|(splitting, _)| *splitting).ok_or_else(|| {
        let names: Vec<&str> = KNOWN.iter().flat_map(|(_, names)| *names).copied().collect();
        vocabulary.refused(PRE, format!("is `{name}`; supported are {}", names.join(", ")))
    })
}

impl Splitting {
    fn pre_tokenizer(self) -> Value {
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let sequence = |parts: Vec<Value>| json!({ "type": "Sequence", "pretokenizers": parts });
        let words = |numbers: &str| split(&format!("{CONTRACTIONS}|{WORDS}|{numbers}|{REST}"));
        match self {
            Self::Gpt2 => byte_level(true),
            Self::Digits => sequence(vec![digits, byte_level(true)]),
            Self::Llama3 | Self::Dbrx => sequence(vec![words(r"\p{N}{1,3}"), byte_level(false)]),
            Self::Qwen2 => sequence(vec![words(r"\p{N}"), byte_level(false)]),
            Self::Default => sequence(vec![
                split(r"[\p{P}\$\+<=>\^~\|]+"),
                split(GPT2),
                split(r"\p{N}+"),
                split("[0-9][0-9][0-9]"),
                byte_level(false),
            ]),
        }
    }
}

/// What an expression finds, and what is between, as words.
fn split(expression: &str) -> Value {
    json!({
        "type": "Split",
        "pattern": { "Regex": expression },
        "behavior": "Isolated",
        "invert": false,
    })
}

/// Bytes as characters, split by GPT-2's expression before or not.
fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": false,
        "use_regex": use_regex,
    })
}

/// The listed pairs: `a b` merges `a` and `b` into `ab`, all three of them tokens.
fn merges(vocabulary: &Vocabulary<'_>, ids: &Vocab) -> Result<Vec<(u32, u32)>> {
    let lines = vocabulary.metadata.get::<&[String]>(MERGES)?;
    let mut merges = Vec::with_capacity(lines.len());
    let mut seen = HashSet::with_capacity(lines.len());
    let mut joined = String::new();
    for (i, line) in lines.iter().enumerate() {
        let refused = |why: &str| vocabulary.refused(MERGES, format!("[{i}] is `{line}`: {why}"));
        // The first character may be a space.
        let at = line.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let (a, b) = at.map_or((line.as_str(), ""), |at| (&line[..at], &line[at + 1..]));
        if a.is_empty() || b.is_empty() {
            return Err(refused("expected two tokens with a space between them"));
        }
        let id = |token: &str| {
            let unknown = || refused(&format!("`{token}` is not in `{TOKENS}`"));
            ids.get(token).copied().ok_or_else(unknown)
        };
        joined.clear();
        joined.extend([a, b]);
        let (pair, into) = ((id(a)?, id(b)?), id(&joined)?);
        // Text must not become a control token. Of equal pairs the first counts.
        if vocabulary.type_of(into) != TokenType::Special && seen.insert(pair) {
            merges.push(pair);
        }
    }
    Ok(merges)
}

/// The keys of this kind for a `tokenizer.json`.
///
/// # Errors
/// Names what no `tokenizer.ggml.pre` stands for.
pub(super) fn write(stored: &Stored, tokens: &Tokens) -> Result<Vec<(&'static str, Item)>> {
    let pre_tokenizer = &stored.pre_tokenizer;
    let found: Vec<Value> = pieces(pre_tokenizer);
    let ignores = stored.model.ignore_merges;
    let splitting = KNOWN.into_iter().find(|(splitting, _)| {
        pieces(&splitting.pre_tokenizer()) == found && (*splitting == Splitting::Llama3) == ignores
    });
    let Some((splitting, names)) = splitting else {
        let merges = if ignores { " and `ignore_merges`" } else { "" };
        return Err(inexpressible(format!(
            "no `{PRE}` stands for its `pre_tokenizer` {pre_tokenizer}{merges}"
        )));
    };
    for part in parts_of(&stored.normalizer, "normalizers") {
        if part["type"] != "NFC" || splitting != Splitting::Qwen2 {
            return Err(inexpressible(format!("its `normalizer` is {}", stored.normalizer)));
        }
    }
    let mut merges = Vec::with_capacity(stored.model.merges.len());
    for merge in &stored.model.merges {
        let Some((a, b)) = merge.pair() else { continue };
        // In a line a space separates the two tokens.
        if a.contains(' ') || b.contains(' ') || !tokens.ids.contains_key(&format!("{a}{b}")) {
            return Err(inexpressible(format!("its merge of `{a}` and `{b}` gives no token")));
        }
        merges.push(format!("{a} {b}"));
    }
    Ok(vec![(PRE, names[0].into()), (MERGES, merges.into())])
}

/// The parts of a pre-tokenizer, each only with what changes words.
fn pieces(pre_tokenizer: &Value) -> Vec<Value> {
    let piece = |part: &Value| {
        let mut part = part.clone();
        if let Some(map) = part.as_object_mut() {
            map.remove("trim_offsets");
            if map["type"] == "ByteLevel" {
                map.entry("use_regex").or_insert(true.into());
            }
        }
        // What Qwen and Llama 3 write another way.
        if let Some(Value::String(regex)) = part.pointer_mut("/pattern/Regex") {
            *regex = regex.replace(FOLDED, CONTRACTIONS);
        }
        part
    };
    parts_of(pre_tokenizer, "pretokenizers").into_iter().map(piece).collect()
}
