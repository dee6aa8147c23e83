//! A row as a type of its source, with errors that name the column and the columns that are there.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_path_to_error::Segment;

/// Reads a row of a container.
///
/// # Errors
/// Says which column is missing, and what is there instead, or which one has another type.
pub(crate) fn typed<T: DeserializeOwned>(row: &Value) -> Result<T, String> {
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
        match reason.strip_prefix("missing field ") {
            Some(field) => format!("{place}there is no column {field}; {}", columns(here)),
            None => format!("{place}{reason}"),
        }
    })
}

/// For a column that has to be there but may be `null`.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
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

/// The columns of a row, for messages.
pub(crate) fn columns(row: &Value) -> String {
    match row.as_object() {
        Some(object) if !object.is_empty() => {
            let names: Vec<_> = object.keys().map(|name| format!("`{name}`")).collect();
            format!("the columns are {}", names.join(", "))
        }
        _ => "there are none".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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

    #[test]
    fn errors_name_the_column_and_what_is_there() {
        for (row, expected) in [
            (json!({ "parts": [] }), "there is no column `choice`; the columns are `parts`"),
            (json!({}), "there is no column `parts`; there are none"),
            (
                json!({ "choice": 1, "parts": [{ "text": "a" }, { "note": 1, "txt": "b" }] }),
                "`parts[1]`: there is no column `text`; the columns are `note`, `txt`",
            ),
            (
                json!({ "choice": 1, "parts": [{ "text": 3 }] }),
                "`parts[0].text`: invalid type: integer `3`, expected a string",
            ),
            (json!({ "choice": "1", "parts": [] }), "`choice`: invalid type: string \"1\""),
        ] {
            let error = typed::<Whole>(&row).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
