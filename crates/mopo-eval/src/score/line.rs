//! A line of a file of texts.

use std::borrow::Cow;
use std::fmt;

use mopo_data::as_json;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Whether a line is blank.
pub(super) fn is_empty(line: &[u8]) -> bool {
    // Most lines begin with a brace.
    line.first() != Some(&b'{')
        && std::str::from_utf8(line).is_ok_and(|text| text.trim().is_empty())
}

/// Checks a line; the error completes "line 3 …". What keys hold that are not read does not matter.
pub(super) fn check(line: &[u8]) -> Result<(), String> {
    let text = text(line).map_err(|why| explain(line, &why))?;
    if !text.has_response {
        return Err("has no `response`: the text that is scored".into());
    }
    match scores_of(line).filter(|_| text.has_scores) {
        Some((_, scores)) => object(scores).map(drop),
        None => Ok(()),
    }
}

/// Why a line cannot be read; `why` is what the parser says.
fn explain(line: &[u8], why: &serde_json::Error) -> String {
    if let Err(e) = std::str::from_utf8(line) {
        return format!(
            "is not UTF-8 (byte {} of the line is {:#04x}); convert the file to UTF-8",
            e.valid_up_to() + 1,
            line[e.valid_up_to()]
        );
    }
    if let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(&as_json(line)) {
        let is_text = |value: &Value| value.is_null() || value.is_string();
        for key in ["prompt", "response"] {
            if let Some(other) = fields.get(key).filter(|value| !is_text(value)) {
                return format!("has `{key}` {other}, which must be text");
            }
        }
    }
    format!("is not a JSON object ({why})")
}

const NO_SCORES: &str = "has `scores` that are not an object; remove or rename them";

fn object(scores: &[u8]) -> Result<Map<String, Value>, String> {
    let found: Option<_> = serde_json::from_slice(&as_json(scores)).map_err(|_| NO_SCORES)?;
    Ok(found.unwrap_or_default())
}

/// The line with these scores in `scores`, and a line feed. All else stays as it is written, byte by
/// byte.
pub(super) fn with_scores(line: &[u8], names: &[&str], scores: &[f32]) -> Result<Vec<u8>, String> {
    let found = scores_of(line);
    let mut places = match &found {
        Some((_, scores)) => object(scores)?,
        None => Map::new(),
    };
    for (name, score) in names.iter().zip(scores) {
        places.insert((*name).to_owned(), number(*score));
    }
    let places = Value::Object(places).to_string().into_bytes();
    let line = line.trim_ascii();
    let (before, after) = match found {
        Some((start, old)) => (line[..start].to_vec(), &line[start + old.len()..]),
        // A checked line has a response, so a comma is needed.
        None => {
            let end = line.len().saturating_sub(1);
            ([line[..end].trim_ascii_end(), b",\"scores\":"].concat(), &line[end..])
        }
    };
    Ok([&before, &*places, after, b"\n"].concat())
}

/// The value of the line's last `scores`, and where it begins in the line without the white space
/// around it.
fn scores_of(line: &[u8]) -> Option<(usize, &[u8])> {
    const KEY: &[u8] = b"\"scores\"";
    let line = line.trim_ascii();
    memchr::memmem::find(line, KEY)?;
    let (mut depth, mut key, mut value, mut found) = (0_usize, None, None, None);
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b'"' => {
                let start = at;
                at += 1;
                while *line.get(at)? != b'"' {
                    at += if line[at] == b'\\' { 2 } else { 1 };
                }
                if depth == 1 && value.is_none() {
                    key = Some(&line[start..=at]);
                }
            }
            b':' if depth == 1 && value.is_none() => value = Some(at + 1),
            b'{' | b'[' => depth += 1,
            byte @ (b',' | b'}' | b']') => {
                if depth == 1
                    && let (Some(key), Some(start)) = (key.take(), value.take())
                    && key == KEY
                {
                    let all = &line[start..at];
                    found =
                        Some((start + all.len() - all.trim_ascii_start().len(), all.trim_ascii()));
                }
                depth = depth.saturating_sub(usize::from(byte != b','));
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The shortest digits for this f32.
fn number(score: f32) -> Value {
    let digits: f64 = score.to_string().parse().expect("digits of a number");
    digits.into()
}

/// The text of a checked line. Of duplicate keys the last one counts.
pub(super) struct Text<'a> {
    pub(super) prompt: Cow<'a, str>,
    pub(super) response: Cow<'a, str>,
    has_response: bool,
    has_scores: bool,
}

/// Parses a line.
pub(super) fn text(line: &[u8]) -> serde_json::Result<Text<'_>> {
    match as_json(line) {
        Cow::Borrowed(line) => serde_json::from_slice(line),
        Cow::Owned(line) => {
            let Text { prompt, response, has_response, has_scores } =
                serde_json::from_slice(&line)?;
            let [prompt, response] = [prompt, response].map(|text| Cow::Owned(text.into_owned()));
            Ok(Text { prompt, response, has_response, has_scores })
        }
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text<'de>, A::Error> {
                let mut text = Text {
                    prompt: "".into(),
                    response: "".into(),
                    has_response: false,
                    has_scores: false,
                };
                while let Some(Chars(key)) = map.next_key()? {
                    let place = match &*key {
                        "prompt" => &mut text.prompt,
                        "response" => &mut text.response,
                        other => {
                            text.has_scores |= other == "scores";
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    let chars = map.next_value::<Option<Chars>>()?;
                    if &*key == "response" {
                        text.has_response = chars.is_some();
                    }
                    *place = chars.map_or("".into(), |chars| chars.0);
                }
                Ok(text)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Text that is borrowed if it has no escapes.
struct Chars<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Chars<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Chars<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Chars<'de>, E> {
                Ok(Chars(text.into()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Chars<'de>, E> {
                Ok(Chars(text.to_owned().into()))
            }
        }
        deserializer.deserialize_str(Borrowed)
    }
}
