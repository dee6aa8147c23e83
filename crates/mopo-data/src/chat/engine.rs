//! The template language: minijinja, set up as transformers sets up Jinja, with limits on what a
//! template from a file may use.

use std::fmt::Write as _;
use std::io;

use chrono::format::{Item, StrftimeItems};
use chrono::{Local, NaiveDateTime};
use minijinja::value::{Kwargs, Rest, Value, ValueIter, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, syntax::SyntaxConfig};

use super::bounds::{check, is_namespace};
use super::rewrite::{CHECK, CHECK_ATTRIBUTE, CHECK_FACTOR};
use super::{json, methods};

/// Steps of one rendering; 64 bytes of text made on the way count as one. Published templates take
/// about a hundred for a message, and one for 20 bytes of it.
pub(super) const FUEL: u64 = 2_000_000;
/// Bytes of a rendered conversation.
pub(super) const MAX_OUTPUT: usize = 16 << 20;
/// Macros and blocks inside each other.
const RECURSION: usize = 200;

/// The variable with the time of [`strftime_now`]; no template can name it.
pub(super) const NOW: &str = "time of now";

/// What templates cannot use: the library's own additions, and what makes large values of small
/// ones.
const NO_FILTERS: [&str; 10] =
    ["batch", "chain", "format", "groupby", "lines", "pprint", "slice", "split", "sum", "zip"];

/// Marks the error of `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised;

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("raised by the template")
    }
}

impl std::error::Error for Raised {}

/// An engine without a template.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    // So that an error says what is undefined.
    env.set_debug(true);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION);
    env.set_unknown_method_callback(methods::call);
    NO_FILTERS.iter().for_each(|name| env.remove_filter(name));
    env.remove_global("debug");
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    env.add_function("namespace", namespace);
    env.add_function("dict", dict);
    env.add_filter("tojson", json::tojson);
    env.add_filter("trim", trim);
    env.add_filter("join", join);
    env.add_filter("map", map);
    env.add_filter(CHECK, |state: &State, value: Value| {
        check(state, &value, false).map(|()| value)
    });
    env.add_filter(CHECK_ATTRIBUTE, |state: &State, value: Value| {
        check(state, &value, true).map(|()| value)
    });
    env.add_filter(CHECK_FACTOR, |value: Value| match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => Err(failed("lists cannot be multiplied")),
        _ => Ok(value),
    });
    env.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    // As in Python, which cannot iterate over None,
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_test("mapping", |value: &Value| value.kind() == ValueKind::Map && !is_namespace(value));
    // and where texts and dicts have a length and items, too.
    env.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined
        )
    });
    Ok(env)
}

fn failed(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

fn raise_exception(message: Value) -> Result<Value, Error> {
    Err(failed(message.to_string().chars().take(300).collect::<String>()).with_source(Raised))
}

fn strftime_now(state: &State, format: &str) -> Result<String, Error> {
    let fixed = state.lookup(NOW).and_then(|now| parse_time(now.as_str()?));
    let now = fixed.unwrap_or_else(|| Local::now().naive_local());
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    let mut text = String::new();
    if items.contains(&Item::Error)
        || write!(text, "{}", now.format_with_items(items.iter())).is_err()
    {
        return Err(failed(format!("`strftime_now` does not know the format `{format}`")));
    }
    Ok(text)
}

/// A time as `2024-07-26T12:00:00`.
pub(super) fn parse_time(text: &str) -> Option<NaiveDateTime> {
    text.parse().ok()
}

fn namespace(state: &State, values: Option<ValueOrKwargs>) -> Result<Value, Error> {
    let made = minijinja::functions::namespace(values)?;
    check(state, &made, false)?;
    Ok(made)
}

fn dict(state: &State, value: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let made = minijinja::functions::dict(value, named)?;
    check(state, &made, false)?;
    Ok(made)
}

fn trim(value: Value, chars: Option<&str>) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    methods::strip(&text, "strip", chars).into()
}

fn map(state: &mut State, value: Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let made = Value::from(minijinja::filters::map(state, value, args)?);
    check(state, &made, false)?;
    Ok(made)
}

fn join(value: Value, by: Option<&str>, named: Kwargs) -> Result<Value, Error> {
    let by = by.or(named.get::<Option<&str>>("d")?).unwrap_or_default();
    let attribute = named.get::<Option<&str>>("attribute")?;
    named.assert_all_used()?;
    match attribute {
        None => join_texts(value.try_iter()?, by),
        Some(attribute) => {
            let items = value.try_iter()?.map(|item| item.get_attr(attribute));
            let items = items.collect::<Result<Vec<_>, _>>()?;
            join_texts(Value::from(items).try_iter()?, by)
        }
    }
}

/// The texts with `by` between them.
pub(super) fn join_texts(values: ValueIter, by: &str) -> Result<Value, Error> {
    let mut text = String::new();
    for (i, value) in values.enumerate() {
        if i > 0 {
            text.push_str(by);
        }
        write!(text, "{value}")?;
        if text.len() > MAX_OUTPUT {
            return Err(failed("a text is too large"));
        }
    }
    Ok(Value::from(text))
}

/// Receives what a template writes, up to [`MAX_OUTPUT`].
#[derive(Default)]
pub(super) struct Written {
    pub(super) bytes: Vec<u8>,
    /// Whether there was more.
    pub(super) is_full: bool,
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT {
            self.is_full = true;
            return Err(io::Error::other("the text is too large"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
