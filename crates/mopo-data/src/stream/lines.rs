//! Lines of a text, with a maximum length.

use std::io::{BufRead, Read as _};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Maximum size of a row: 64 MiB. Compressed files can have lines of any length in a few bytes.
pub const MAX_ROW_BYTES: usize = 64 << 20;

/// Lines of a file, numbered from 1, without line feeds. Text after the last line feed is a line
/// unless it is empty.
pub struct Lines<R> {
    path: PathBuf,
    gzip: bool,
    text: R,
    number: usize,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The lines of `text`; errors name `path`.
    pub fn new(path: &Path, text: R) -> Self {
        Self { path: path.into(), gzip: false, text, number: 0, line: Vec::new() }
    }

    /// The same for text from a gzip file, if `gzip`: a failed read then means a damaged file.
    pub(crate) fn unpacked(path: &Path, gzip: bool, text: R) -> Self {
        Self { gzip, ..Self::new(path, text) }
    }

    /// The next line and its number; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Line`] for a line of more than [`MAX_ROW_BYTES`]; [`Error::Io`], [`Error::Gzip`].
    pub fn next_line(&mut self) -> Result<Option<(usize, &[u8])>> {
        // A long line must not leave its memory to the short ones after it.
        if self.line.capacity() > 1 << 20 {
            self.line = Vec::new();
        }
        self.line.clear();
        let most = MAX_ROW_BYTES as u64 + 1;
        let n_read = match self.text.by_ref().take(most).read_until(b'\n', &mut self.line) {
            Ok(n_read) => n_read,
            Err(source) if self.gzip => {
                return Err(Error::Gzip {
                    file: self.path.clone(),
                    rows_read: self.number,
                    source,
                });
            }
            Err(source) => return Err(Error::io("read", &self.path)(source)),
        };
        if n_read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if n_read > MAX_ROW_BYTES {
            return Err(too_long(&self.path, self.number));
        }
        Ok(Some((self.number, &self.line)))
    }

    /// Number of lines so far.
    pub fn number(&self) -> usize {
        self.number
    }
}

/// The error for a row that is too long.
pub(crate) fn too_long(path: &Path, line: usize) -> Error {
    Error::Line {
        file: path.into(),
        line,
        why: format!("it is longer than {} MiB", MAX_ROW_BYTES >> 20),
        remedy: "shorten or remove it".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read, repeat};

    use super::*;

    fn lines(text: &[u8]) -> Vec<(usize, Vec<u8>)> {
        // A small buffer, so that lines extend beyond it.
        let mut lines = Lines::new(Path::new("rows"), BufReader::with_capacity(3, text));
        let mut found = vec![];
        while let Some((number, line)) = lines.next_line().unwrap() {
            found.push((number, line.to_vec()));
        }
        found
    }

    #[test]
    fn lines_are_separated_by_line_feeds() {
        let found = lines(b"one\n\nthree\r\nfour");
        let expected: [(usize, &[u8]); 4] = [(1, b"one"), (2, b""), (3, b"three\r"), (4, b"four")];
        assert_eq!(found, expected.map(|(number, line)| (number, line.to_vec())));
        assert_eq!(lines(b"a\n"), [(1, b"a".to_vec())]);
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn an_endless_line_is_refused_with_its_number() {
        let endless = b"{}\n".chain(repeat(b'a'));
        let mut lines = Lines::new(Path::new("rows.jsonl"), BufReader::new(endless));
        assert_eq!(lines.next_line().unwrap(), Some((1, &b"{}"[..])));
        let error = lines.next_line().unwrap_err().to_string();
        assert!(error.contains("rows.jsonl:2: it is longer than 64 MiB"), "{error}");
    }
}
