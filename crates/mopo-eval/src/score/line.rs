//! A line of a file of texts.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

type Line = Map<String, Value>;

/// Whether a line is blank.
pub(super) fn is_empty(line: &[u8]) -> bool {
    // Most lines begin with a brace.
    line.first() != Some(&b'{')
        && std::str::from_utf8(line).is_ok_and(|text| text.trim().is_empty())
}

/// Checks a line; the error completes "line 3 …".
pub(super) fn check(line: &[u8]) -> Result<(), String> {
    // Most lines are valid, which can be checked without building values.
    match serde_json::from_slice::<Text>(line) {
        Ok(text) if text.is_plain => Ok(()),
        _ => explain(line),
    }
}

fn explain(line: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(line).map_err(|e| {
        format!(
            "is not UTF-8 (byte {} of the line is {:#04x}); convert the file to UTF-8",
            e.valid_up_to() + 1,
            line[e.valid_up_to()]
        )
    })?;
    let fields = parse(text)?;
    let is_text = |key: &str| match fields.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::String(_)) => Ok(true),
        Some(other) => Err(format!("has `{key}` {other}, which must be text")),
    };
    is_text("prompt")?;
    if !is_text("response")? {
        return Err("has no `response`: the text that is scored".into());
    }
    match fields.get("scores") {
        None | Some(Value::Object(_)) => Ok(()),
        Some(_) => Err(NO_SCORES.into()),
    }
}

const NO_SCORES: &str = "has `scores` that are not an object; remove or rename them";

fn parse(text: &str) -> Result<Line, String> {
    serde_json::from_str(text).map_err(|e| format!("is not a JSON object ({e})"))
}

/// The line with these scores in `scores`, and a line feed.
pub(super) fn with_scores(line: &[u8], names: &[&str], scores: &[f32]) -> Result<String, String> {
    let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8")?;
    let mut fields = parse(text)?;
    let places = fields.entry("scores").or_insert_with(|| Map::new().into());
    let places = places.as_object_mut().ok_or(NO_SCORES)?;
    for (name, score) in names.iter().zip(scores) {
        places.insert((*name).to_owned(), number(*score));
    }
    let mut line = Value::Object(fields).to_string();
    line.push('\n');
    Ok(line)
}

/// The shortest digits for this f32.
fn number(score: f32) -> Value {
    let digits: f64 = score.to_string().parse().expect("digits of a number");
    digits.into()
}

/// The text of a checked line. Of duplicate keys the last one counts, as in [`check`].
pub(super) struct Text<'a> {
    pub(super) prompt: Cow<'a, str>,
    pub(super) response: Cow<'a, str>,
    /// Whether it has a response and no `scores` yet.
    is_plain: bool,
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
                let mut text = Text { prompt: "".into(), response: "".into(), is_plain: false };
                let mut has_scores = false;
                while let Some(Chars(key)) = map.next_key()? {
                    let place = match &*key {
                        "prompt" => &mut text.prompt,
                        "response" => &mut text.response,
                        other => {
                            has_scores |= other == "scores";
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    let chars = map.next_value::<Option<Chars>>()?;
                    if &*key == "response" {
                        text.is_plain = chars.is_some();
                    }
                    *place = chars.map_or("".into(), |chars| chars.0);
                }
                text.is_plain &= !has_scores;
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
