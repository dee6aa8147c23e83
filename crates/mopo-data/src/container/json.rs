//! JSON Lines, and one array of objects.

use std::fmt;
use std::io::BufRead;

use serde::de::{DeserializeSeed, Error as _, SeqAccess, Visitor};
use serde_json::Value;

use super::{DataFile, EachRow, object};
use crate::set::json_reason;
use crate::{Error, Result};

/// Lines with white space only are no rows.
pub(super) fn for_each_line(file: &DataFile, each: &mut EachRow<'_>) -> Result<()> {
    let mut text = file.text()?;
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        let n_read = text.read_until(b'\n', &mut buffer).map_err(|e| file.failed(line - 1, e))?;
        if n_read == 0 {
            break;
        }
        let row = buffer.trim_ascii();
        if !row.is_empty() {
            each(line, parse_line(row))?;
        }
    }
    Ok(())
}

fn parse_line(line: &[u8]) -> super::RawRow {
    let text = std::str::from_utf8(line).map_err(|e| format!("invalid UTF-8: {e}"))?;
    let value = serde_json::from_str(text).map_err(|e| format!("no JSON: {}", json_reason(&e)))?;
    object(value)
}

/// The elements of the array that the file is, numbered from 1.
pub(super) fn for_each_element(file: &DataFile, each: &mut EachRow<'_>) -> Result<()> {
    let mut rows = Elements { each, n_read: 0, stopped: None };
    let mut deserializer = serde_json::Deserializer::from_reader(file.text()?);
    let end = (&mut rows).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    let Err(error) = end else { return Ok(()) };
    if let Some(stopped) = rows.stopped {
        return Err(stopped);
    }
    if error.is_io() {
        return Err(file.failed(rows.n_read, error.into()));
    }
    Err(Error::Line {
        file: file.path.clone(),
        line: error.line(),
        why: format!("the array is no JSON after {} whole rows: {error}", rows.n_read),
        remedy: "fetch the file again, or correct it".into(),
    })
}

struct Elements<'a, 'b> {
    each: &'a mut EachRow<'b>,
    n_read: usize,
    /// The error of `each`, which has no way through serde's.
    stopped: Option<Error>,
}

impl<'de> DeserializeSeed<'de> for &mut Elements<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> std::result::Result<(), A::Error> {
        while let Some(value) = rows.next_element::<Value>()? {
            self.n_read += 1;
            if let Err(error) = (self.each)(self.n_read, object(value)) {
                self.stopped = Some(error);
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}
