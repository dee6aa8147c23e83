//! Fields of a JSON body, taken one by one by name and type: what is wrong is named with its place, and what nobody
//! took is unknown.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// An object of a request's body.
pub(crate) struct Fields {
    /// Its place in the body, with a dot at the end; empty for the body itself.
    path: String,
    map: Map<String, Value>,
    /// Names that were asked for.
    known: RefCell<BTreeSet<&'static str>>,
}

type Taken<T> = Result<T, ApiError>;

impl Fields {
    /// Parses a body.
    pub(crate) fn parse(body: &[u8]) -> Taken<Self> {
        let malformed = |why: String| {
            ApiError::new(StatusCode::BAD_REQUEST, format!("the body is not valid JSON: {why}"))
                .code("invalid_json")
        };
        let text = std::str::from_utf8(body).map_err(|e| malformed(e.to_string()))?;
        let value: Value = serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
        match value {
            Value::Object(map) => Ok(Self::new(String::new(), map)),
            other => Err(malformed(format!("expected an object, but got {}", kind(&other)))),
        }
    }

    pub(crate) fn new(path: String, map: Map<String, Value>) -> Self {
        Self { path, map, known: RefCell::default() }
    }

    /// The place of a field, as in errors.
    pub(crate) fn place(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// A field's value; null is absent.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.borrow_mut().insert(name);
        self.map.remove(name).filter(|value| !value.is_null())
    }

    fn wrong<T>(&self, name: &str, expected: &str, found: &Value) -> Taken<T> {
        Err(wrong_type(&self.place(name), expected, found))
    }

    pub(crate) fn bool(&mut self, name: &'static str) -> Taken<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => self.wrong(name, "a boolean", &other),
        }
    }

    pub(crate) fn string(&mut self, name: &'static str) -> Taken<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => self.wrong(name, "a string", &other),
        }
    }

    pub(crate) fn object(&mut self, name: &'static str) -> Taken<Option<Self>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self::new(format!("{}.", self.place(name)), map))),
            Some(other) => self.wrong(name, "an object", &other),
        }
    }

    pub(crate) fn array(&mut self, name: &'static str) -> Taken<Option<Vec<Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => self.wrong(name, "an array", &other),
        }
    }

    pub(crate) fn number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<f64>,
    ) -> Taken<Option<f64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Some(number) = value.as_f64() else { return self.wrong(name, "a number", &value) };
        self.within(name, number, &range).map(Some)
    }

    /// A number without a fraction.
    pub(crate) fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Taken<Option<i64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let whole = |x: f64| (x.fract() == 0.0 && x.abs() < 9e15).then_some(x as i64);
        match value.as_i64().or_else(|| value.as_f64().and_then(whole)) {
            Some(number) => self.within(name, number, &range).map(Some),
            None if value.is_number() => Err(ApiError::invalid(
                self.place(name),
                format!("invalid value of '{}': expected an integer", self.place(name)),
            )),
            None => self.wrong(name, "an integer", &value),
        }
    }

    /// The same for counts.
    pub(crate) fn count(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
    ) -> Taken<Option<usize>> {
        let range = *range.start() as i64..=i64::try_from(*range.end()).unwrap_or(i64::MAX);
        Ok(self.integer(name, range)?.and_then(|n| usize::try_from(n).ok()))
    }

    fn within<T: PartialOrd + Display>(
        &self,
        name: &str,
        value: T,
        range: &RangeInclusive<T>,
    ) -> Taken<T> {
        if range.contains(&value) {
            return Ok(value);
        }
        let (low, high, place) = (range.start(), range.end(), self.place(name));
        Err(ApiError::invalid(
            place.clone(),
            format!(
                "invalid value of '{place}': {value} is outside of the range from {low} to {high}"
            ),
        ))
    }

    /// One string or an array of them, at most `most`, none of them empty.
    pub(crate) fn strings(&mut self, name: &'static str, most: usize) -> Taken<Vec<String>> {
        let place = self.place(name);
        let values = match self.take(name) {
            None => return Ok(vec![]),
            Some(Value::Array(values)) => values,
            Some(value @ Value::String(_)) => vec![value],
            Some(other) => return self.wrong(name, "a string or an array of strings", &other),
        };
        if values.len() > most {
            let n = values.len();
            let message = format!("'{place}' has {n} entries; at most {most} are allowed");
            return Err(ApiError::invalid(place, message));
        }
        let text = |(i, value): (usize, Value)| match value {
            Value::String(text) if text.is_empty() => {
                Err(ApiError::invalid(&*place, format!("'{place}' must not be an empty string")))
            }
            Value::String(text) => Ok(text),
            other => Err(wrong_type(&format!("{place}[{i}]"), "a string", &other)),
        };
        values.into_iter().enumerate().map(text).collect()
    }

    /// Takes fields that have no effect here, whatever their values.
    pub(crate) fn ignore(&mut self, names: &[&'static str]) {
        for name in names {
            self.take(name);
        }
    }

    /// Takes fields of things that this server does not do; only values that ask for nothing are allowed.
    pub(crate) fn refuse(&mut self, names: &[&'static str]) -> Taken<()> {
        for name in names {
            let asked = self.take(name).filter(|value| !is_neutral(value));
            if asked.is_some() {
                let place = self.place(name);
                let message = format!("'{place}' is not supported by this server; leave it out");
                return Err(ApiError::invalid(place, message).code("unsupported_parameter"));
            }
        }
        Ok(())
    }

    /// The fields that nobody took, which are objectives' names or the like.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.map
    }

    /// Refuses the fields that nobody took.
    pub(crate) fn finish(self) -> Taken<()> {
        let Some(name) = self.map.keys().next() else { return Ok(()) };
        let known = self.known.borrow();
        // Names of any length could take any time.
        let near = known
            .iter()
            .filter(|_| name.len() < 100)
            .map(|known| (strsim::jaro_winkler(known, name), *known))
            .filter(|(similarity, _)| *similarity > 0.85)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = near.map_or(String::new(), |(_, known)| format!("; did you mean '{known}'?"));
        let place = shortened(&self.place(name));
        let message = format!("Unrecognized request argument supplied: {place}{hint}");
        Err(ApiError::invalid(place, message).code("unknown_parameter"))
    }

    /// Names that were asked for.
    #[cfg(test)]
    pub(crate) fn known(&self) -> BTreeSet<&'static str> {
        self.known.borrow().clone()
    }
}

/// A name in an error: clients choose its length.
pub(crate) fn shortened(name: &str) -> String {
    match name.char_indices().nth(80) {
        None => name.into(),
        Some((end, _)) => format!("{}…", &name[..end]),
    }
}

/// 400 for a value of another type.
pub(crate) fn wrong_type(place: &str, expected: &str, found: &Value) -> ApiError {
    let message =
        format!("invalid type of '{place}': expected {expected}, but got {}", kind(found));
    ApiError::invalid(place, message).code("invalid_type")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Whether a value asks for nothing.
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty() || text == "none",
        Value::Array(values) => values.is_empty() || *values == ["text"],
        Value::Object(map) => {
            map.is_empty() || (map.len() == 1 && map.get("type").is_some_and(|t| t == "text"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn fields_are_taken_by_type_and_range() {
        let mut all = fields(r#"{"a": 1, "b": 2.0, "c": true, "d": "x", "e": null, "f": ["y"]}"#);
        assert_eq!(all.integer("a", 0..=3).unwrap(), Some(1));
        assert_eq!(all.count("b", 0..=3).unwrap(), Some(2));
        assert_eq!(all.bool("c").unwrap(), Some(true));
        assert_eq!(all.strings("d", 1).unwrap(), ["x"]);
        assert_eq!(all.number("e", 0.0..=1.0).unwrap(), None);
        assert_eq!(all.strings("f", 1).unwrap(), ["y"]);
        all.finish().unwrap();
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let of = |e: ApiError| (e.param.unwrap_or_default(), e.code.unwrap_or_default());
        let mut all = fields(r#"{"t": "x", "n": 7, "k": 1.5, "s": ["", 3], "o": {"p": 1}}"#);
        assert_eq!(of(all.number("t", 0.0..=1.0).unwrap_err()), ("t".into(), "invalid_type"));
        let e = all.count("n", 1..=4).unwrap_err();
        assert!(e.message.contains("7 is outside of the range from 1 to 4"), "{}", e.message);
        assert_eq!(of(all.integer("k", 0..=4).unwrap_err()), ("k".into(), "invalid_value"));
        assert_eq!(of(all.strings("s", 1).unwrap_err()), ("s".into(), "invalid_value"));
        let inner = all.object("o").unwrap().unwrap();
        assert_eq!(of(inner.finish().unwrap_err()), ("o.p".into(), "unknown_parameter"));
        for text in ["", "[1]", "{\"a\": NaN}", "{\"a\": 1e999}", "{", "\"\u{1}\""] {
            let e = Fields::parse(text.as_bytes()).err().expect(text);
            assert_eq!((e.status.as_u16(), e.code), (400, Some("invalid_json")), "{text}");
        }
        assert!(Fields::parse(b"\xff{}").is_err());
    }

    #[test]
    fn an_unknown_field_is_refused_with_a_near_one() {
        let mut all = fields(r#"{"temprature": 1}"#);
        assert_eq!(all.number("temperature", 0.0..=2.0).unwrap(), None);
        let e = all.finish().unwrap_err();
        assert!(e.message.contains("temprature; did you mean 'temperature'?"), "{}", e.message);
        let long = "x".repeat(1000);
        let e = fields(&format!(r#"{{"{long}": 1}}"#)).finish().unwrap_err();
        assert!(e.message.len() < 200);
    }

    #[test]
    fn fields_of_other_features_are_allowed_where_they_ask_for_nothing() {
        let neutral = r#"{"a": [], "b": {"type": "text"}, "c": null, "d": false, "e": "none"}"#;
        fields(neutral).refuse(&["a", "b", "c", "d", "e"]).unwrap();
        for asking in [r#"[{"x": 1}]"#, r#"{"type": "json_object"}"#, "true", "3", "\"auto\""] {
            let e = fields(&format!(r#"{{"a": {asking}}}"#)).refuse(&["a"]).unwrap_err();
            assert_eq!(e.code, Some("unsupported_parameter"), "{asking}");
        }
    }
}
