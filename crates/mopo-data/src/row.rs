//! A row as a type of its source, with errors that name the column and the existing columns.

use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_path_to_error::Segment;

use crate::container::{Row, not_json_reason};
use crate::set::json_reason;

/// Reads the columns of a row that `T` has, and ignores all others.
///
/// # Errors
/// Which column is missing, and which exist instead, or which one has the wrong type.
pub(crate) fn typed<T: DeserializeOwned>(row: &Row<'_>) -> Result<T, String> {
    match row {
        // A struct would also accept a list.
        Row::Json(text) if text.first() == Some(&b'{') => {
            serde_json::from_slice(text).map_err(|_| json_error::<T>(text))
        }
        Row::Json(text) => Err(json_error::<T>(text)),
        Row::Columns { values, names } => value_as(values, Some(names)),
    }
}

/// Why a JSON row is not a `T`.
fn json_error<T: DeserializeOwned>(text: &[u8]) -> String {
    match serde_json::from_slice::<Value>(text) {
        Ok(value @ Value::Object(_)) => {
            if let Err(why) = value_as::<T>(&value, None) {
                return why;
            }
        }
        Ok(other) => return format!("it is {}, not an object of columns", kind(&other)),
        Err(_) => {}
    }
    // Something that cannot be a value: invalid text, a duplicate column, infinity.
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let found = serde_path_to_error::deserialize::<_, T>(&mut deserializer);
    let (path, error) = match found {
        Ok(_) => (String::new(), deserializer.end().err()),
        Err(error) => (error.path().to_string(), Some(error.into_inner())),
    };
    let mut too_large = false;
    let reason = error.map_or_else(
        || "it cannot be read".into(),
        |error| {
            let reason = json_reason(&error);
            if error.is_data() {
                reason
            } else if reason.starts_with("number out of range") && path != "." {
                too_large = true;
                format!("`{path}` is infinite or too large")
            } else {
                format!("not valid JSON: {reason}")
            }
        },
    );
    if too_large {
        return reason;
    }
    match std::str::from_utf8(text) {
        Err(error) => format!("invalid UTF-8: {error}"),
        Ok(_) if ["", ".", "?"].contains(&path.as_str()) => reason,
        Ok(_) => format!("{reason} (in `{path}`)"),
    }
}

/// Reads a value; `names` are all columns if the value has only those that are read.
pub(crate) fn value_as<T: DeserializeOwned>(
    row: &Value,
    names: Option<&[String]>,
) -> Result<T, String> {
    serde_path_to_error::deserialize(row).map_err(|error| {
        let reason = error.inner().to_string();
        let mut here = row;
        let mut path = String::new();
        for segment in error.path().iter() {
            let next = match segment {
                Segment::Map { key } => {
                    path.push_str(if path.is_empty() { "" } else { "." });
                    path.push_str(key);
                    here.get(key)
                }
                Segment::Seq { index } => {
                    path.push_str(&format!("[{index}]"));
                    here.get(index)
                }
                _ => None,
            };
            here = next.unwrap_or(&Value::Null);
        }
        let place = if path.is_empty() { String::new() } else { format!("`{path}`: ") };
        if let Some(what) = not_json_reason(here) {
            return format!("{place}{what}");
        }
        match (reason.strip_prefix("missing field "), names) {
            (Some(field), Some(names)) if path.is_empty() => {
                format!("there is no column {field}; {}", listed(names))
            }
            (Some(field), _) => format!("{place}there is no column {field}; {}", columns(here)),
            (None, _) => format!("{place}{reason}"),
        }
    })
}

impl Row<'_> {
    /// All existing columns, sorted, whether they are read or not.
    ///
    /// # Errors
    /// The row is not an object.
    pub(crate) fn names(&self) -> Result<Vec<String>, String> {
        match self {
            Self::Json(_) => typed::<Names>(self).map(|Names(mut names)| {
                names.sort();
                names
            }),
            Self::Columns { names, .. } => Ok(names.to_vec()),
        }
    }
}

/// The keys of an object.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of columns")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// For a column that must exist but may be `null`.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// For an optional column in which `null` differs from no column.
pub(crate) fn there<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A score within the publisher's scale.
pub(crate) fn on_scale(
    column: &str,
    score: Option<f64>,
    low: f64,
    high: f64,
) -> Result<Option<f64>, String> {
    match score {
        Some(score) if !(low..=high).contains(&score) => {
            Err(format!("`{column}` is {score}, but the scale is {low} to {high}"))
        }
        score => Ok(score),
    }
}

/// The columns of an object, for messages.
pub(crate) fn columns(row: &Value) -> String {
    match row.as_object() {
        Some(object) => listed(&object.keys().cloned().collect::<Vec<_>>()),
        None => listed(&[]),
    }
}

/// Names of columns, for messages.
pub(crate) fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "there are none".into();
    }
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    format!("the columns are {}", names.join(", "))
}

/// The kind of a value, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The values of some named columns; `None` if there is no such column.
///
/// # Errors
/// The row is not an object, or a value in these columns is invalid.
pub(crate) fn picked<const N: usize>(
    row: &Row<'_>,
    wanted: [&str; N],
) -> Result<[Option<Value>; N], String> {
    match row {
        Row::Json(text) if text.first() == Some(&b'{') => {
            let mut deserializer = serde_json::Deserializer::from_slice(text);
            Pick(wanted)
                .deserialize(&mut deserializer)
                .and_then(|found| deserializer.end().map(|()| found))
                .map_err(|_| json_error::<HashMap<String, Value>>(text))
        }
        Row::Json(text) => Err(json_error::<HashMap<String, Value>>(text)),
        Row::Columns { values, .. } => Ok(wanted.map(|name| values.get(name).cloned())),
    }
}

struct Pick<'a, const N: usize>([&'a str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Pick<'_, N> {
    type Value = [Option<Value>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Pick<'_, N> {
    type Value = [Option<Value>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [const { None }; N];
        while let Some(name) = map.next_key::<String>()? {
            match self.0.iter().position(|wanted| *wanted == name) {
                Some(i) => found[i] = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct Part {
        text: String,
    }

    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct Whole {
        parts: Vec<Part>,
        choice: u8,
    }

    fn error(row: &str) -> String {
        typed::<Whole>(&Row::Json(row.as_bytes())).unwrap_err()
    }

    #[test]
    fn errors_name_the_column_and_what_is_there() {
        for (row, expected) in [
            (r#"{"parts":[]}"#, "there is no column `choice`; the columns are `parts`"),
            ("{}", "there is no column `parts`; there are none"),
            (
                r#"{"choice":1,"parts":[{"text":"a"},{"note":1,"txt":"b"}]}"#,
                "`parts[1]`: there is no column `text`; the columns are `note`, `txt`",
            ),
            (
                r#"{"choice":1,"parts":[{"text":3}]}"#,
                "`parts[0].text`: invalid type: integer `3`, expected a string",
            ),
            (r#"{"choice":"1","parts":[]}"#, "`choice`: invalid type: string \"1\""),
            (r#"{"choice":1e999,"parts":[]}"#, "`choice` is infinite or too large"),
            (r#"{"choice":1,"choice":2,"parts":[]}"#, "duplicate field `choice`"),
            (r#"{"choice":1,"parts":[],}"#, "not valid JSON: trailing comma"),
            (r#"{"choice":1,"parts":[]} x"#, "not valid JSON: trailing characters"),
            ("[[],1]", "it is a list, not an object"),
            ("null", "it is null, not an object"),
        ] {
            let found = error(row);
            assert!(found.contains(expected), "{row}: {found}");
        }
        let row = Row::Columns {
            values: serde_json::json!({ "choice": 1 }),
            names: &["choice".into(), "other".into()],
        };
        let found = typed::<Whole>(&row).unwrap_err();
        assert_eq!(found, "there is no column `parts`; the columns are `choice`, `other`");
    }

    /// The content of a column that is not read: anything whose end can be found.
    const UNREAD: [&[u8]; 5] =
        [b"1e999", b"\"\xff\"", b"\"\\ud800\"", b"{\"a\":[-1e999]}", b"null"];

    #[test]
    fn columns_that_are_not_read_do_not_matter() {
        let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
        for unread in UNREAD.iter().copied().chain([deep.as_bytes()]) {
            let row = [b"{\"more\":", unread, b",\"choice\":1,\"parts\":[{\"x\":", unread].concat();
            let row = [&row[..], b",\"text\":\"a\"}],\"end\":", unread, b"}"].concat();
            assert_eq!(typed::<Whole>(&Row::Json(&row)).unwrap().parts[0].text, "a");
            let found = picked(&Row::Json(&row), ["choice", "absent"]).unwrap();
            assert_eq!(found, [Some(1.into()), None]);
            assert_eq!(Row::Json(&row).names().unwrap(), ["choice", "end", "more", "parts"]);
        }
        // Deeply nested values in a column that is read are refused before they overflow the stack.
        let row = format!("{{\"choice\":1,\"parts\":{deep}}}");
        assert!(picked(&Row::Json(row.as_bytes()), ["parts"]).unwrap_err().contains("recursion"));
        error(&row);
    }
}
