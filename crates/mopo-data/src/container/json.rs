//! JSON Lines, and one array of objects. Rows are split here and parsed by the readers, each of
//! which reads only its own columns.

use std::borrow::Cow;
use std::io::{BufRead, ErrorKind};
use std::path::Path;

use memchr::memmem;

use super::{DataFile, EachRow, Row};
use crate::stream::{Lines, MAX_ROW_BYTES, too_long};
use crate::{Error, Result};

/// Blank lines are not rows.
pub(super) fn for_each_line(file: &DataFile, each: &mut EachRow<'_>) -> Result<()> {
    let mut lines = Lines::unpacked(&file.path, file.gzip, file.text()?);
    while let Some((number, line)) = lines.next_line()? {
        let row = line.trim_ascii();
        if !row.is_empty() {
            each(number, Ok(Row::Json(&as_json(row))))?;
        }
    }
    Ok(())
}

/// The elements of a file that is one array, numbered from 1.
pub(super) fn for_each_element(file: &DataFile, each: &mut EachRow<'_>) -> Result<()> {
    let mut elements = Elements::new(&file.path, file.text()?);
    loop {
        match elements.next() {
            Ok(Some((number, element))) => each(number, Ok(Row::Json(&as_json(element))))?,
            Ok(None) => return Ok(()),
            Err(Stop::Error(error)) => return Err(error),
            Err(Stop::Io(error)) => return Err(file.failed(elements.n_rows, error)),
        }
    }
}

/// Why reading ends.
enum Stop {
    Error(Error),
    Io(std::io::Error),
}

/// Splits an array at the commas between its elements.
struct Elements<'a, R> {
    path: &'a Path,
    text: R,
    /// The line of the consumed text, counted from 1.
    line: usize,
    n_rows: usize,
    begun: bool,
    after_comma: bool,
    element: Vec<u8>,
}

impl<'a, R: BufRead> Elements<'a, R> {
    fn new(path: &'a Path, text: R) -> Self {
        Self {
            path,
            text,
            line: 1,
            n_rows: 0,
            begun: false,
            after_comma: false,
            element: Vec::new(),
        }
    }

    fn next(&mut self) -> std::result::Result<Option<(usize, &[u8])>, Stop> {
        if self.element.capacity() > 1 << 20 {
            self.element = Vec::new();
        }
        self.element.clear();
        if !self.begun {
            self.begun = true;
            if self.skip_space()? != Some(b'[') {
                return Err(self.broken("it does not start with `[`"));
            }
            self.text.consume(1);
        }
        match self.skip_space()? {
            Some(b']') if !self.after_comma => {
                self.text.consume(1);
                return match self.skip_space()? {
                    None => Ok(None),
                    Some(_) => Err(self.broken("there is text after its `]`")),
                };
            }
            Some(b',' | b']') => return Err(self.broken("an element is missing")),
            _ => {}
        }
        let mut scan = Scan::default();
        loop {
            let bytes = match self.text.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Stop::Io(error)),
            };
            if bytes.is_empty() {
                return Err(self.broken("it ends before its `]`"));
            }
            let end = bytes.iter().position(|&byte| scan.ends_at(byte));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.element.len() + part.len() > MAX_ROW_BYTES {
                return Err(Stop::Error(too_long(self.path, self.n_rows + 1)));
            }
            self.element.extend_from_slice(part);
            self.line += memchr::memchr_iter(b'\n', part).count();
            let n_bytes = part.len();
            // The closing bracket of the array is left for the next call.
            self.after_comma = end.is_some_and(|at| bytes[at] == b',');
            self.text.consume(n_bytes + usize::from(self.after_comma));
            if end.is_some() {
                break;
            }
        }
        self.n_rows += 1;
        Ok(Some((self.n_rows, self.element.trim_ascii())))
    }

    /// The next byte that is not white space, without consuming it.
    fn skip_space(&mut self) -> std::result::Result<Option<u8>, Stop> {
        loop {
            let bytes = self.text.fill_buf().map_err(Stop::Io)?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let n_space = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.line += memchr::memchr_iter(b'\n', &bytes[..n_space]).count();
            let found = bytes.get(n_space).copied();
            self.text.consume(n_space);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn broken(&self, why: &str) -> Stop {
        Stop::Error(Error::Line {
            file: self.path.into(),
            line: self.line,
            why: format!("the array is not valid JSON after {} whole rows: {why}", self.n_rows),
            remedy: "fetch the file again, or correct it".into(),
        })
    }
}

/// Position of a byte in a JSON text.
#[derive(Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Whether `byte`, the next one, ends an element: it is the array's comma or closing bracket.
    fn ends_at(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' if self.depth > 0 => self.depth -= 1,
            b',' | b']' => return self.depth == 0,
            _ => {}
        }
        false
    }
}

/// The row with replacements for what Python's `json` writes for numbers that JSON does not have:
/// NaN becomes `null`, as other tables write a missing number; ±infinity a number beyond every
/// range, so that it is an error where a number is read and ignored elsewhere.
pub fn as_json(row: &[u8]) -> Cow<'_, [u8]> {
    if memmem::find(row, b"NaN").is_none() && memmem::find(row, b"Infinity").is_none() {
        return Cow::Borrowed(row);
    }
    let mut found = Vec::with_capacity(row.len());
    let mut scan = Scan::default();
    let mut rest = row;
    while let Some(&byte) = rest.first() {
        let word = [(&b"NaN"[..], &b"null"[..]), (b"Infinity", b"1e999")]
            .into_iter()
            .find(|(word, _)| !scan.in_string && rest.starts_with(word));
        if let Some((word, instead)) = word {
            found.extend_from_slice(instead);
            rest = &rest[word.len()..];
        } else {
            scan.ends_at(byte);
            found.push(byte);
            rest = &rest[1..];
        }
    }
    Cow::Owned(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_python_are_replaced_outside_of_strings() {
        for (row, expected) in [
            ("{\"NaN\":NaN,\"a\":[-Infinity,Infinity]}", "{\"NaN\":null,\"a\":[-1e999,1e999]}"),
            ("{\"a\":\"\\\"NaN\",\"b\": NaN}", "{\"a\":\"\\\"NaN\",\"b\": null}"),
            ("{\"a\":\"Infinity\\\\\",\"b\":1}", "{\"a\":\"Infinity\\\\\",\"b\":1}"),
        ] {
            assert_eq!(std::str::from_utf8(&as_json(row.as_bytes())).unwrap(), expected);
        }
    }

    #[test]
    fn arrays_are_cut_at_their_own_commas() {
        let cut = |text: &str| {
            // A small buffer, so that elements extend beyond it.
            let text = std::io::BufReader::with_capacity(2, text.as_bytes());
            let mut elements = Elements::new(Path::new("rows.json"), text);
            let mut found = vec![];
            loop {
                match elements.next() {
                    Ok(Some((_, row))) => found.push(String::from_utf8(row.to_vec()).unwrap()),
                    Ok(None) => return Ok(found),
                    Err(Stop::Error(error)) => return Err(error.to_string()),
                    Err(Stop::Io(error)) => panic!("{error}"),
                }
            }
        };
        assert_eq!(cut(" [ ] ").unwrap(), [""; 0]);
        assert_eq!(
            cut("[{\"a\":[1,2]} ,\n 7, \"],\\\"[\" , {}]\n").unwrap(),
            ["{\"a\":[1,2]}", "7", "\"],\\\"[\"", "{}"]
        );
        for (text, expected) in [
            (
                "[1,\n2",
                "rows.json:2: the array is not valid JSON after 1 whole rows: it ends before",
            ),
            ("[1,,2]", "after 1 whole rows: an element is missing"),
            ("[1,2,]", "an element is missing"),
            ("[,1]", "after 0 whole rows: an element is missing"),
            (
                "[1]\n\n 2",
                "rows.json:3: the array is not valid JSON after 1 whole rows: there is text",
            ),
            ("[", "it ends before"),
        ] {
            let found = cut(text).unwrap_err();
            assert!(found.contains(expected), "{text}: {found}");
        }
    }
}
