//! Methods of Python's `str`, `list` and `dict` that templates call, where they are not as in
//! `minijinja-contrib`.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::engine::join_texts;

/// What Python's `str.isspace` is true for; Unicode's White_Space lacks four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// Calls a method that the engine itself does not have.
pub(super) fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => {
            let text = text.to_owned();
            of_text(state, &text, value, method, args)
        }
        (ValueKind::Seq, _) if method == "index" => {
            let (wanted,): (Value,) = from_args(args)?;
            let mut items = value.try_iter()?;
            items.position(|item| item == wanted).map(Value::from).ok_or_else(|| absent("item"))
        }
        _ => unknown_method_callback(state, value, method, args),
    }
}

fn of_text(
    state: &mut State,
    text: &str,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<String>,) = from_args(args)?;
            Ok(Value::from(strip(text, method, chars.as_deref())))
        }
        "split" | "rsplit" => {
            let (separator, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = match separator {
                None => named.get::<Option<Value>>("sep")?,
                some => some,
            };
            let most = match most {
                None => named.get::<Option<i64>>("maxsplit")?,
                some => some,
            };
            named.assert_all_used()?;
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            let separator = separator.filter(|separator| !separator.is_none());
            let parts = match separator.as_ref().map(|separator| (separator, separator.as_str())) {
                None if method == "split" => split_spaces(text, most),
                None => rsplit_spaces(text, most),
                Some((_, Some(""))) => return Err(invalid("empty separator")),
                Some((_, Some(by))) if method == "split" => {
                    text.splitn(most.saturating_add(1), by).collect()
                }
                Some((_, Some(by))) => {
                    let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), by).collect();
                    parts.reverse();
                    parts
                }
                Some((other, None)) => {
                    return Err(invalid(format!("a separator is text, not {}", other.kind())));
                }
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "splitlines" => {
            let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(named.get::<Option<bool>>("keepends")?).unwrap_or(false);
            Ok(lines(text, keep).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let (by,): (String,) = from_args(args)?;
            if by.is_empty() {
                return Err(invalid("empty separator"));
            }
            let is_first = method == "partition";
            let found = if is_first { text.find(&by) } else { text.rfind(&by) };
            let parts = match found {
                Some(at) => [&text[..at], &by, &text[at + by.len()..]],
                None if is_first => [text, "", ""],
                None => ["", "", text],
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "removeprefix" => {
            let (prefix,): (String,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix.as_str()).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (String,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix.as_str()).unwrap_or(text)))
        }
        "index" | "rindex" => {
            let (part,): (String,) = from_args(args)?;
            let at = if method == "index" { text.find(&part) } else { text.rfind(&part) };
            at.map(|at| Value::from(text[..at].chars().count())).ok_or_else(|| absent("substring"))
        }
        "join" => {
            let (values,): (Value,) = from_args(args)?;
            join_texts(values.try_iter()?, text)
        }
        // It can ask for any width.
        "format" => Err(Error::from(ErrorKind::UnknownMethod)),
        _ => {
            let Rest(args): Rest<Value> = Rest(args.to_vec());
            unknown_method_callback(state, value, method, &args)
        }
    }
}

/// Python's `strip`, `lstrip` and `rstrip`.
pub(super) fn strip<'a>(text: &'a str, method: &str, chars: Option<&str>) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if method == "rstrip" { text } else { text.trim_start_matches(goes) };
    if method == "lstrip" { text } else { text.trim_end_matches(goes) }
}

fn split_spaces(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if parts.len() < most { rest.find(is_space) } else { None };
        // The last part keeps the white space at its end if splits ran out.
        parts.push(&rest[..end.unwrap_or(rest.len())]);
        rest = end.map_or("", |end| rest[end..].trim_start_matches(is_space));
    }
    parts
}

fn rsplit_spaces(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let space = if parts.len() < most {
            rest.char_indices().rfind(|(_, c)| is_space(*c))
        } else {
            None
        };
        let start = space.map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// Python breaks lines at more than `\n`.
fn lines(text: &str, keep: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r'
                | '\x0b'
                | '\x0c'
                | '\x1c'
                | '\x1d'
                | '\x1e'
                | '\u{85}'
                | '\u{2028}'
                | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, n_end) = match rest.find(is_end) {
            None => (rest.len(), 0),
            Some(at) if rest[at..].starts_with("\r\n") => (at, 2),
            Some(at) => (at, rest[at..].chars().next().map_or(0, char::len_utf8)),
        };
        lines.push(&rest[..if keep { line + n_end } else { line }]);
        rest = &rest[line + n_end..];
    }
    lines
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

fn absent(what: &str) -> Error {
    invalid(format!("{what} not found"))
}
