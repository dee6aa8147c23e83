//! A wrapper of the `tokenizers` library: reading a `tokenizer.json`, encoding and decoding return
//! errors and never panic, whatever the file contains.

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::{Error, Result};

/// Maximum number of ids in a vocabulary. Published ones have up to 262,144; an id far beyond means
/// a damaged file, and would require an embedding of that many rows.
const MOST_IDS: u64 = 1 << 24;

/// Tried once on every tokenizer: letters, a space, a line break and a character of several bytes.
const PROBE: &str = "Hello world\n é";

const REMEDY: &str =
    "fetch the file again, or give another `tokenizer.json` of the `tokenizers` library";

/// Parses a `tokenizer.json`, without its truncation and padding; `what` is the name in errors.
///
/// # Errors
/// [`Error::Tokenizer`] for everything that makes it unusable: not JSON (a truncated file), unknown
/// parts, ids that differ from those of the library, dropout (encoding would be random), and parts on
/// which the library fails.
pub(super) fn parse_tokenizer(json: &[u8], what: &str) -> Result<Tokenizer> {
    let refused = |why: String| Error::Tokenizer { what: what.into(), why, remedy: REMEDY };
    // Parsed first, since the library panics on JSON that ends inside its decoder.
    let value: Value =
        serde_json::from_slice(json).map_err(|e| refused(format!("invalid JSON: {e}")))?;
    check(&value).map_err(refused)?;
    let parse = || Tokenizer::from_bytes(json).map_err(|e| e.to_string());
    let mut inner = guarded(parse).map_err(refused)?;
    // The caller truncates and pads, visibly, whatever the file asks for.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|e| refused(e.to_string()))?;
    for token in value["added_tokens"].as_array().into_iter().flatten() {
        let content = token["content"].as_str().unwrap_or_default();
        let found = inner.token_to_id(content).map(u64::from);
        if !content.is_empty() && found != token["id"].as_u64() {
            return Err(refused(format!(
                "`added_tokens` gives `{content}` the id {}, but the `tokenizers` library assigns \
                 {}",
                token["id"],
                found.map_or("not at all".into(), |id| id.to_string())
            )));
        }
    }
    try_out(&inner, what)?;
    Ok(inner)
}

/// Encodes and decodes once: a post-processor that names missing tokens or texts fails only then.
///
/// # Errors
/// [`Error::Tokenizer`] with the library's error; `what` is the name in errors.
pub(super) fn try_out(inner: &Tokenizer, what: &str) -> Result<()> {
    let refused = |why: String| Error::Tokenizer { what: what.into(), why, remedy: REMEDY };
    for pair in [false, true] {
        for special in [false, true] {
            let probe = || match pair {
                false => inner.encode_fast(PROBE, special).map_err(|e| e.to_string()),
                true => inner.encode_fast((PROBE, PROBE), special).map_err(|e| e.to_string()),
            };
            let ids = guarded(probe).map_err(refused)?.get_ids().to_vec();
            guarded(|| inner.decode(&ids, false).map_err(|e| e.to_string())).map_err(refused)?;
        }
    }
    Ok(())
}

/// What the library accepts but no model can use.
fn check(json: &Value) -> std::result::Result<(), String> {
    let Value::Object(object) = json else { return Err("it is not a JSON object".into()) };
    let Some(model) = object.get("model").filter(|model| model.is_object()) else {
        return Err("it has no `model`".into());
    };
    if model["dropout"].as_f64().is_some_and(|dropout| dropout != 0.0) {
        return Err(format!(
            "`model.dropout` is {}: the same text would get other tokens each time; set it to null",
            model["dropout"]
        ));
    }
    let vocab = model["vocab"].as_object().into_iter().flatten();
    let vocab = vocab.map(|(token, id)| (token.as_str(), id));
    let added = object.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let added = added.map(|token| (token["content"].as_str().unwrap_or_default(), &token["id"]));
    for (token, id) in vocab.chain(added) {
        if id.as_u64().is_none_or(|id| id >= MOST_IDS) {
            return Err(format!(
                "the id of `{token}` is {id}; ids are whole numbers from 0 to {}",
                MOST_IDS - 1
            ));
        }
    }
    Ok(())
}

/// The result of `call`; a panic becomes an error, and nothing is printed.
pub(super) fn guarded<T>(
    call: impl FnOnce() -> std::result::Result<T, String>,
) -> std::result::Result<T, String> {
    crate::guarded::guarded("tokenizers", call)
}
