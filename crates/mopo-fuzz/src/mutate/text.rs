//! Changes of texts: values and subtrees of JSON and TOML, keys twice, numbers without measure, odd characters, nesting.

use std::ops::Range;

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::{Dice, bytes, n_changes, part};

/// Values at which something ends.
const VALUES: [&str; 44] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "-0",
    "0.5",
    "1.0",
    "-0.0",
    "1e308",
    "1e309",
    "-1e400",
    "1e-320",
    "1e39",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "1E+2",
    "00",
    "nan",
    "inf",
    "-inf",
    "NaN",
    "Infinity",
    "null",
    "true",
    "false",
    "\"\"",
    "\"0\"",
    "\"a b\"",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "{\"\":{}}",
    "1979-05-27T07:32:00Z",
    "'''\n'''",
];
/// Characters and escapes that texts are not expected to have.
const ODD: [&str; 30] = [
    "\0",
    "\u{feff}",
    "\u{202e}",
    "\u{200d}",
    "\u{fffd}",
    "\u{10ffff}",
    "😀",
    "é",
    "e\u{301}",
    "ß",
    "İ",
    "ﬁ",
    "\r",
    "\r\n",
    "\n",
    "\t",
    " ",
    "\u{a0}",
    "\u{2028}",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "\\uD83D\\uDE00",
    "\\",
    "\"",
    "'",
    "`",
    "/",
    "../",
    "\u{1f}",
];

pub(super) fn change(text: &mut Vec<u8>, other: &[u8], words: &[&str], dice: &mut Dice) {
    for _ in 0..n_changes(dice) {
        once(text, other, words, dice);
    }
}

pub(super) fn once(text: &mut Vec<u8>, other: &[u8], words: &[&str], dice: &mut Dice) {
    match dice.random_range(0..20) {
        // A value, or a whole subtree.
        0..5 => {
            if let Some(span) = value(text, dice) {
                let new = hard_value(words, dice);
                text.splice(span, new);
            }
        }
        5 => {
            if let Some(span) = value(text, dice) {
                text.drain(span);
            }
        }
        6 => {
            // Another one, from here or from another input.
            let from = if dice.random_bool(0.5) { text.clone() } else { other.to_vec() };
            if let (Some(span), Some(source)) = (value(text, dice), value(&from, dice)) {
                text.splice(span, from[source].iter().copied());
            }
        }
        7 => {
            if let Some(span) = value(text, dice) {
                nest(text, span, dice);
            }
        }
        8..10 => inside_string(text, words, dice),
        10 => {
            // A member twice: the value and what is before it up to the last comma or brace.
            if let Some(span) = value(text, dice) {
                let from = text[..span.start]
                    .iter()
                    .rposition(|b| b"{[,\n".contains(b))
                    .map_or(span.start, |at| at + 1);
                let mut member = text[from..span.end].to_vec();
                member.push(*b",\n".choose(dice).unwrap());
                text.splice(from..from, member);
            }
        }
        11..13 => lines(text, other, dice),
        13 => {
            let at = dice.random_range(0..=text.len());
            let word = if dice.random_bool(0.6) { words.choose(dice) } else { ODD.choose(dice) };
            text.splice(at..at, word.copied().unwrap_or("{").bytes());
        }
        14 => {
            let at = dice.random_range(0..=text.len());
            text.splice(at..at, [*b"{}[]\",:=#'%\n\\".choose(dice).unwrap()]);
        }
        15 => longer(text, dice),
        16 if dice.random_bool(0.3) => text.truncate(dice.random_range(0..=text.len())),
        _ => bytes::once(text, other, words, dice),
    }
}

/// A value that a reader may not expect.
fn hard_value(words: &[&str], dice: &mut Dice) -> Vec<u8> {
    match dice.random_range(0..12) {
        0 | 1 => {
            let word = words.choose(dice).copied().unwrap_or("x");
            format!("\"{word}\"").into_bytes()
        }
        2 => words.choose(dice).copied().unwrap_or("x").into(),
        3 => format!("\"{}\"", ODD.choose(dice).unwrap()).into_bytes(),
        4 => format!("{}", dice.random::<i64>() >> dice.random_range(0..63)).into_bytes(),
        5 => format!("{:e}", f64::from_bits(dice.random())).into_bytes(),
        6 => {
            let n = dice.random_range(0..40);
            let value = *VALUES.choose(dice).unwrap();
            format!("[{}]", vec![value; n].join(",")).into_bytes()
        }
        _ => VALUES.choose(dice).copied().unwrap().into(),
    }
}

/// Puts brackets around a part, few or very many.
fn nest(text: &mut Vec<u8>, span: Range<usize>, dice: &mut Dice) {
    let n = *[1, 2, 10, 100, 130, 1000, 30_000].choose(dice).unwrap();
    let (open, close) =
        *[("[", "]"), ("{\"a\":", "}"), ("(", ")"), ("{{", "}}")].choose(dice).unwrap();
    let n = n.min(100_000 / open.len());
    let end = if dice.random_bool(0.8) { close.repeat(n) } else { String::new() };
    text.splice(span.end..span.end, end.bytes());
    text.splice(span.start..span.start, open.repeat(n).bytes());
}

/// Changes the inside of a string: another word, a longer one, odd characters.
fn inside_string(text: &mut Vec<u8>, words: &[&str], dice: &mut Dice) {
    let start = dice.random_range(0..=text.len());
    let quote = |from: usize| (from..text.len()).find(|at| b"\"'".contains(&text[*at]));
    let Some(from) = quote(start).or_else(|| quote(0)) else { return };
    let Some(to) = quote(from + 1) else { return };
    let inside = from + 1..to;
    match dice.random_range(0..5) {
        0 | 1 => {
            let word = words.choose(dice).copied().unwrap_or("");
            text.splice(inside, word.bytes());
        }
        2 => {
            let at = dice.random_range(inside.start..=inside.end);
            text.splice(at..at, ODD.choose(dice).unwrap().bytes());
        }
        3 => {
            let n = *[0, 1, 64, 300, 5000].choose(dice).unwrap();
            let one = ODD.choose(dice).unwrap();
            text.splice(inside, one.repeat(n).bytes());
        }
        _ => {
            let at = dice.random_range(inside.start..=inside.end);
            let word = words.choose(dice).copied().unwrap_or("");
            text.splice(at..at, word.bytes());
        }
    }
}

/// Moves, repeats and removes lines.
fn lines(text: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let one = |text: &[u8], dice: &mut Dice| -> Range<usize> {
        let at = dice.random_range(0..=text.len());
        let from = text[..at].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let to = text[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |n| at + n + 1);
        from..to
    };
    let span = one(text, dice);
    match dice.random_range(0..4) {
        0 => drop(text.drain(span)),
        1 => {
            let line = text[span.clone()].to_vec();
            text.splice(span.start..span.start, line);
        }
        2 => {
            let line = other[one(other, dice)].to_vec();
            text.splice(span.start..span.start, line);
        }
        _ => {
            let line: Vec<u8> = text.drain(span).collect();
            let to = one(text, dice).start;
            text.splice(to..to, line);
        }
    }
}

/// Repeats a part many times.
fn longer(text: &mut Vec<u8>, dice: &mut Dice) {
    let span = part(text.len(), dice);
    let n = *[2, 10, 100, 2000].choose(dice).unwrap();
    let piece = text[span.clone()].repeat(n.min(40_000 / span.len().max(1)));
    text.splice(span, piece);
}

/// A value at random: a string, a word or number, or all between two brackets.
fn value(text: &[u8], dice: &mut Dice) -> Option<Range<usize>> {
    if text.is_empty() {
        return None;
    }
    // From a place on, the first byte at which one begins.
    let start = dice.random_range(0..text.len());
    let begins = |at: &usize| {
        let before = at.checked_sub(1).map_or(b' ', |before| text[before]);
        match text[*at] {
            b'{' | b'[' => true,
            b'"' | b'\'' => b" \t\n:,[{=(".contains(&before),
            byte => is_word(byte) && !is_word(before) && before != b'"',
        }
    };
    let from = (start..text.len()).find(begins).or_else(|| (0..start).find(begins))?;
    Some(from..end_of(text, from))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-+.".contains(&byte)
}

/// Where the value that begins there ends.
fn end_of(text: &[u8], from: usize) -> usize {
    let n = text.len();
    match text[from] {
        quote @ (b'"' | b'\'') => {
            let mut at = from + 1;
            while at < n && text[at] != quote {
                at += 1 + usize::from(text[at] == b'\\');
            }
            (at + 1).min(n)
        }
        b'{' | b'[' => {
            let (mut at, mut depth) = (from, 0);
            while at < n {
                match text[at] {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    b'"' => {
                        at = end_of(text, at);
                        continue;
                    }
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    break;
                }
            }
            at
        }
        _ => (from..n).find(|at| !is_word(text[*at])).unwrap_or(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_where_they_do() {
        let text = br#"{"a": [1, "]\"x"], "b": -2.5e3} "#;
        let whole = |from: usize| &text[from..end_of(text, from)];
        assert_eq!(whole(0), br#"{"a": [1, "]\"x"], "b": -2.5e3}"#);
        assert_eq!(whole(1), br#""a""#);
        assert_eq!(whole(6), br#"[1, "]\"x"]"#);
        assert_eq!(whole(24), b"-2.5e3");
        assert_eq!(end_of(b"[[", 0), 2);
    }
}
