//! Files of rows: JSON Lines, a JSON array, either of them in gzip, and Parquet. Recognised by
//! content, never by name, and streamed: neither a file nor a row of more than
//! [`MAX_ROW_BYTES`](crate::MAX_ROW_BYTES) is held in memory.
//!
//! The readers know what the columns mean.

mod json;
mod parquet;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;

use crate::{Error, Result};

const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
const GZIP: &[u8] = &[0x1f, 0x8b];
const PARQUET: &[u8] = b"PAR1";
const LFS_POINTER: &[u8] = b"version https://git-lfs";
/// Unsupported compressions: first bytes, name, and how to decompress.
const FOREIGN: [(&[u8], &str, &str); 5] = [
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "xz -d"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "zstd -d"),
    (b"BZh", "bzip2", "bzip2 -d"),
    (b"PK\x03\x04", "zip", "unzip"),
    (b"ARROW1", "Arrow", "`datasets`' `to_parquet` or `to_json` on it instead"),
];

pub use json::as_json;
pub(crate) use parquet::not_json_reason;

/// A row in the form of its container.
#[derive(Clone, Debug)]
pub(crate) enum Row<'a> {
    /// Text without surrounding white space, not parsed yet.
    Json(&'a [u8]),
    /// Columns of a Parquet file.
    Columns {
        /// An object with the requested columns.
        values: Value,
        /// All columns of the file, sorted.
        names: &'a [String],
    },
}

/// A row, or why there is none.
pub(crate) type RawRow<'a> = std::result::Result<Row<'a>, String>;
/// Receives the number of a row (its line if the file has lines; counted from 1) and the row. An
/// error ends the reading.
pub(crate) type EachRow<'a> = dyn FnMut(usize, RawRow<'_>) -> Result<()> + 'a;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    Parquet,
    /// Its first character is `[`.
    JsonArray,
    /// Its first character is `{`.
    JsonLines,
    /// Some other text.
    Text,
}

/// A file whose format is known.
pub(crate) struct DataFile {
    path: PathBuf,
    gzip: bool,
    format: Format,
}

impl DataFile {
    /// Reads the file's first bytes. `fetch` is the remedy if the data is missing.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Empty`] for no bytes and for a git-lfs pointer;
    /// [`Error::Container`] for another compression; [`Error::Gzip`], [`Error::Io`].
    pub(crate) fn open(path: &Path, fetch: &str) -> Result<Self> {
        if !path.exists() {
            return Err(Error::NotFound { path: path.into(), remedy: fetch.into() });
        }
        let mut head = Vec::new();
        File::open(path)
            .and_then(|file| file.take(64).read_to_end(&mut head))
            .map_err(Error::io("read", path))?;
        let empty = |remedy: String| Error::Empty { what: path.display().to_string(), remedy };
        if head.is_empty() {
            return Err(empty(format!("the file is empty: {fetch}")));
        }
        if head.starts_with(LFS_POINTER) {
            return Err(empty("it is a git-lfs pointer, not the data: run `git lfs pull`".into()));
        }
        for (magic, name, command) in FOREIGN {
            if head.starts_with(magic) {
                return Err(Error::Container {
                    file: path.into(),
                    rows_read: 0,
                    why: format!("{name} files are not supported"),
                    remedy: format!("unpack it with {command}"),
                });
            }
        }
        let mut found =
            Self { path: path.into(), gzip: head.starts_with(GZIP), format: Format::Text };
        if head.starts_with(PARQUET) {
            found.format = Format::Parquet;
            return Ok(found);
        }
        let mut text = found.text()?;
        let start = text.fill_buf().map_err(|e| found.failed(0, e))?;
        if start.starts_with(PARQUET) {
            return Err(Error::Container {
                file: path.into(),
                rows_read: 0,
                why: "it is a gzipped Parquet file, which cannot be streamed".into(),
                remedy: "unpack it with gzip -d".into(),
            });
        }
        let start = start.strip_prefix(UTF8_MARK).unwrap_or(start);
        found.format = match start.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'[') => Format::JsonArray,
            Some(b'{') => Format::JsonLines,
            _ => Format::Text,
        };
        Ok(found)
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The text, decompressed and without a byte-order mark.
    pub(crate) fn text(&self) -> Result<Box<dyn BufRead>> {
        let file = File::open(&self.path).map_err(Error::io("read", &self.path))?;
        let file = BufReader::new(file);
        let mut text: Box<dyn BufRead> = if self.gzip {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        };
        if text.fill_buf().map_err(|e| self.failed(0, e))?.starts_with(UTF8_MARK) {
            text.consume(UTF8_MARK.len());
        }
        Ok(text)
    }

    /// Every row in order. Text that is not JSON is read line by line, and each line is malformed.
    /// For Parquet files only the columns `wanted` are read; for JSON the readers select theirs.
    ///
    /// # Errors
    /// Those of `each`; [`Error::Gzip`] for a truncated or damaged stream, [`Error::Container`] for
    /// such a Parquet file, [`Error::Line`] for an array that is invalid from some line on and for
    /// a row
    /// that is too long.
    pub(crate) fn for_each_row(&self, wanted: &[&str], each: &mut EachRow<'_>) -> Result<()> {
        match self.format {
            Format::Parquet => parquet::for_each_row(&self.path, wanted, each),
            Format::JsonArray => json::for_each_element(self, each),
            Format::JsonLines | Format::Text => json::for_each_line(self, each),
        }
    }

    /// A read error, after this many complete rows.
    pub(crate) fn failed(&self, rows_read: usize, source: std::io::Error) -> Error {
        if self.gzip {
            Error::Gzip { file: self.path.clone(), rows_read, source }
        } else {
            Error::io("read", &self.path)(source)
        }
    }
}

#[cfg(test)]
mod tests;
