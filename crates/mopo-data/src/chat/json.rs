//! `tojson` as transformers has it: Python's `json.dumps`, without HTML escapes.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::engine::MAX_OUTPUT;

const MOST_LEVELS: usize = 64;

/// The filter, with the arguments of `json.dumps` that transformers passes on.
pub(super) fn tojson(
    _: &State,
    value: Value,
    ensure_ascii: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let indent = named.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none());
    let indent = match indent {
        None => None,
        Some(indent) => Some(match (indent.as_usize(), indent.as_str()) {
            (Some(n), _) if n <= 16 => " ".repeat(n),
            (_, Some(text)) if text.len() <= 16 => text.into(),
            _ => return Err(failed("its indent is neither text nor a number up to 16")),
        }),
    };
    let separators = named.get::<Option<Vec<String>>>("separators")?;
    let (item, key) = match separators.as_deref() {
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(failed("it needs two separators")),
    };
    let mut writer = Writer {
        out: String::new(),
        ensure_ascii: ensure_ascii.or(named.get("ensure_ascii")?).unwrap_or(false),
        sort_keys: named.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
    };
    named.assert_all_used()?;
    writer.value(&value, 0)?;
    Ok(writer.out)
}

fn failed(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("`tojson`: {why}"))
}

struct Writer<'a> {
    out: String,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: &'a str,
    key: &'a str,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, level: usize) -> Result<(), Error> {
        if level > MOST_LEVELS || self.out.len() > MAX_OUTPUT {
            return Err(failed("the value is too large"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.group(['[', ']'], &items, level, |this, item| this.value(item, level + 1))?;
            }
            ValueKind::Map => {
                let object = value.as_object().and_then(|object| object.try_iter_pairs());
                let mut pairs = object.into_iter().flatten().map(|(key, value)| {
                    let name = match key.kind() {
                        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                        ValueKind::None => "null".into(),
                        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
                        ValueKind::Number => key.to_string(),
                        other => return Err(failed(format_args!("{other} is no name"))),
                    };
                    Ok((name, value))
                });
                let mut pairs = pairs.by_ref().collect::<Result<Vec<_>, Error>>()?;
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.group(['{', '}'], &pairs, level, |this, (name, value)| {
                    this.text(name);
                    this.out.push_str(this.key);
                    this.value(value, level + 1)
                })?;
            }
            other => return Err(failed(format_args!("{other} is not JSON"))),
        }
        Ok(())
    }

    fn group<T>(
        &mut self,
        [open, close]: [char; 2],
        items: &[T],
        level: usize,
        mut write: impl FnMut(&mut Self, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push_str(self.item);
            }
            self.line(level + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(level);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, level: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..level).for_each(|_| self.out.push_str(indent));
        }
    }

    fn number(&mut self, value: &Value) {
        let float = f64::try_from(value.clone()).ok().filter(|_| !value.is_integer());
        match float {
            None => write!(self.out, "{value}").unwrap_or_default(),
            Some(x) if x.is_nan() => self.out.push_str("NaN"),
            Some(x) if x.is_infinite() => {
                self.out.push_str(if x > 0.0 { "Infinity" } else { "-Infinity" });
            }
            // As Python writes floats: with an exponent of two digits outside of 1e-4 … 1e16.
            Some(x) if x != 0.0 && !(1e-4..1e16).contains(&x.abs()) => {
                let text = format!("{x:e}");
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let (sign, exponent) = match exponent.strip_prefix('-') {
                    Some(exponent) => ('-', exponent),
                    None => ('+', exponent),
                };
                write!(self.out, "{digits}e{sign}{exponent:0>2}").unwrap_or_default();
            }
            Some(x) => write!(self.out, "{x:?}").unwrap_or_default(),
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\x08' => self.out.push_str("\\b"),
                '\x0c' => self.out.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}").unwrap_or_default();
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}
