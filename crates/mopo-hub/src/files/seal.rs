//! JSON files with a hash of themselves, so that a byte that changes is noticed where no other file has their hash.

use super::sha256_hex;

/// What comes before the hash, which is the last key of the file's object.
const BEFORE: &str = ",\n  \"sha256\": \"";
/// What comes after it.
const AFTER: &str = "\"\n}";

/// The text of an object, as serde_json prints it on several lines, with the SHA-256 of everything before it as its last
/// key, `sha256`. Any other text stays as it is.
pub fn sealed_json(text: &str) -> String {
    match text.strip_suffix("\n}").filter(|body| !body.ends_with('{')) {
        Some(body) => format!("{body}{BEFORE}{}{AFTER}", sha256_hex(body.as_bytes())),
        None => text.into(),
    }
}

/// Whether a text is what [`sealed_json`] made of it, or has no such hash: files of earlier versions, and those that were
/// written by others, have none. White space at the end does not matter.
pub fn is_intact_json(text: &[u8]) -> bool {
    let compare = |text: &[u8]| {
        let rest = text.strip_suffix(AFTER.as_bytes())?;
        let (rest, sha256) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let body = rest.strip_suffix(BEFORE.as_bytes())?;
        Some(sha256_hex(body).as_bytes() == sha256)
    };
    compare(text.trim_ascii_end()).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_what_is_sealed_counts() {
        let value = serde_json::json!({ "a": [1, 2], "sha": "x" });
        let text = sealed_json(&serde_json::to_string_pretty(&value).unwrap());
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&read["a"], read["sha256"].as_str().map(str::len)), (&value["a"], Some(64)));
        assert!(is_intact_json(text.as_bytes()) && is_intact_json(format!("{text}\n").as_bytes()));
        let body = text.rfind(BEFORE).unwrap();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 2;
            // Of the hash's own key: what it says is then no hash, and no JSON or another key.
            let is_known = is_intact_json(&changed);
            let is_key = at >= body
                && serde_json::from_slice::<serde_json::Value>(&changed)
                    .is_ok_and(|v| v["a"] == read["a"]);
            let is_json = serde_json::from_slice::<serde_json::Value>(&changed).is_ok();
            assert!(!is_known || !is_json || is_key, "{at}");
        }
    }

    #[test]
    fn texts_without_a_hash_are_as_they_are() {
        for text in ["{}", "{\n}", "[\n  1\n]", "", "{\"a\":1}"] {
            assert_eq!(sealed_json(text), text);
            assert!(is_intact_json(text.as_bytes()));
        }
    }
}
