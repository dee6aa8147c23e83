//! The prepared-set format: JSON Lines, a header first and then one record a line.

use std::collections::HashMap;
use std::path::Path;

use mopo_core::Objectives;
use serde::{Deserialize, Serialize};

use crate::{Error, PreferenceRecord, Result, Split, sha256_hex, write_atomically};

/// What [`Header::format`] says.
pub const FORMAT: &str = "mopo-preferences";
/// The version of the format that is written and the only one that is read.
pub const SCHEMA: u32 = 1;

/// A file that records were read from.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Folder and name, without what is machine-specific: `helpful-base/test.jsonl.gz`.
    pub path: String,
    /// Of the file as it lies on disk (compressed, if it is).
    pub sha256: String,
    /// Rows in the file, the unusable ones included.
    pub rows: usize,
}

/// The first line of a prepared set.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Always [`FORMAT`].
    pub format: String,
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// The order of every record's indicators and scores.
    pub objectives: Objectives,
    /// Which side this is, if the set was split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Where the records came from; empty for generated ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceFile>,
    /// How the set was made, for people: seeds, generators, reward models that filled indicators.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How many records follow; a file with another number is refused as incomplete.
    pub records: usize,
}

/// A header and its records, all checked.
#[derive(Clone, PartialEq, Debug)]
pub struct PreparedSet {
    /// What the records are.
    pub header: Header,
    /// In file order.
    pub records: Vec<PreferenceRecord>,
}

impl PreparedSet {
    /// A set of checked records.
    ///
    /// # Errors
    /// [`Error::Empty`] without records; [`Error::Record`] for the first record that fails
    /// [`PreferenceRecord::check`] or repeats an id.
    pub fn new(
        objectives: Objectives,
        split: Option<Split>,
        sources: Vec<SourceFile>,
        notes: Vec<String>,
        records: Vec<PreferenceRecord>,
    ) -> Result<Self> {
        let header = Header {
            format: FORMAT.into(),
            schema: SCHEMA,
            objectives,
            split,
            sources,
            notes,
            records: records.len(),
        };
        let set = Self { header, records };
        set.check()?;
        Ok(set)
    }

    /// Writes the set to `path`, atomically, and returns the SHA-256 of the file. Checks first, so
    /// that what was written can be read; `header.records` is set to the number of records.
    ///
    /// # Errors
    /// Those of [`PreparedSet::new`], and [`Error::Io`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<String> {
        self.check()?;
        let bytes = self.to_bytes();
        write_atomically(path.as_ref(), &bytes)?;
        Ok(sha256_hex(&bytes))
    }

    /// The SHA-256 of the file that [`PreparedSet::write`] would write.
    pub fn hash(&self) -> String {
        sha256_hex(&self.to_bytes())
    }

    /// Reads and checks a set.
    ///
    /// # Errors
    /// [`Error::Line`] with file and line: not a header of this format and schema, an unknown or
    /// missing field, a record that fails its check or repeats an id, fewer or more records than
    /// the header says. [`Error::Io`], [`Error::Empty`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io("read the prepared set", path))?;
        let line_error = |line, why: String, remedy: &str| Error::Line {
            file: path.to_path_buf(),
            line,
            why,
            remedy: remedy.into(),
        };
        const AGAIN: &str = "prepare the set again";
        if bytes.is_empty() {
            return Err(Error::Empty { what: path.display().to_string(), remedy: AGAIN.into() });
        }
        // What follows the last newline is not a line.
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let mut lines = text.split(|&byte| byte == b'\n').enumerate();
        let first_line = lines.next().map_or(&[][..], |(_, line)| line);
        let header =
            parse_header(first_line).map_err(|(why, remedy)| line_error(1, why, remedy))?;
        let mut records = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut n_lines = 1;
        for (i, line) in lines {
            n_lines = i + 1;
            let record: PreferenceRecord = serde_json::from_slice(line).map_err(|e| {
                let why = format!("not a record: {}", json_reason(&e));
                line_error(i + 1, why, "correct the line or prepare the set again")
            })?;
            record
                .check(&header.objectives)
                .map_err(|e| line_error(i + 1, e.to_string(), "correct the line"))?;
            if let Some(earlier) = seen.insert(record.id.clone(), i + 1) {
                let why = format!("the id `{}` stands in line {earlier} already", record.id);
                return Err(line_error(i + 1, why, "give every record an id of its own"));
            }
            records.push(record);
        }
        if records.len() != header.records {
            let why = format!(
                "the header promises {} records, the file holds {}",
                header.records,
                records.len()
            );
            return Err(line_error(
                n_lines,
                why,
                "the file is incomplete or was edited: prepare it again or correct `records`",
            ));
        }
        if records.is_empty() {
            return Err(Error::Empty { what: path.display().to_string(), remedy: AGAIN.into() });
        }
        Ok(Self { header, records })
    }

    fn check(&self) -> Result<()> {
        if self.records.is_empty() {
            return Err(Error::Empty {
                what: "the prepared set".into(),
                remedy: "check the source files and what was left out of them".into(),
            });
        }
        let mut seen = std::collections::HashSet::new();
        for record in &self.records {
            record.check(&self.header.objectives)?;
            if !seen.insert(&record.id) {
                return Err(Error::Record {
                    id: record.id.clone(),
                    field: "id",
                    why: "two records have it; give every record an id of its own".into(),
                });
            }
        }
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let header = Header { records: self.records.len(), ..self.header.clone() };
        let mut bytes = Vec::new();
        let written = "plain structs of strings and numbers are always JSON";
        serde_json::to_writer(&mut bytes, &header).expect(written);
        bytes.push(b'\n');
        for record in &self.records {
            serde_json::to_writer(&mut bytes, record).expect(written);
            bytes.push(b'\n');
        }
        bytes
    }
}

/// Looks at format and schema before the fields: "version 2" says more than "unknown field".
fn parse_header(line: &[u8]) -> std::result::Result<Header, (String, &'static str)> {
    const NOT_PREPARED: &str = "give a file that `mopo prepare` wrote";
    let value: serde_json::Value = serde_json::from_slice(line)
        .map_err(|e| (format!("not a header: {}", json_reason(&e)), NOT_PREPARED))?;
    match value.get("format").and_then(|format| format.as_str()) {
        Some(FORMAT) => {}
        other => {
            let found = other.map_or("missing".into(), |found| format!("`{found}`"));
            return Err((format!("`format` is {found}, expected `{FORMAT}`"), NOT_PREPARED));
        }
    }
    let schema = &value["schema"];
    if schema.as_u64() != Some(u64::from(SCHEMA)) {
        return Err((
            format!("`schema` is {schema}, this version reads {SCHEMA}"),
            "prepare the set again with this version",
        ));
    }
    serde_json::from_value(value)
        .map_err(|e| (format!("not a header: {e}"), "correct the field or prepare the set again"))
}

/// serde's message with its "line 1", which is never the file's line, taken out.
pub(crate) fn json_reason(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column", " at column")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objectives() -> Objectives {
        Objectives::new(["helpful", "harmless"]).unwrap()
    }

    fn set() -> PreparedSet {
        let record = |i: usize| PreferenceRecord {
            id: format!("r:{i}"),
            source: "r".into(),
            prompt: "\n\nHuman: \"Tea\"? ☕\u{2028}\n\nAssistant:".into(),
            first: format!(" one {i}"),
            second: " two\nlines".into(),
            indicators: vec![Some(0.1), None],
            scores: None,
        };
        let source = SourceFile { path: "a/b.jsonl".into(), sha256: sha256_hex(b"x"), rows: 3 };
        let notes = vec!["seed 1".into()];
        PreparedSet::new(
            objectives(),
            Some(Split::Train),
            vec![source],
            notes,
            (0..3).map(record).collect(),
        )
        .unwrap()
    }

    /// Writes the set with one replacement made in its text and returns the reader's message.
    fn read_edited(from: &str, to: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.jsonl");
        let text = String::from_utf8(set().to_bytes()).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        PreparedSet::read(&path).unwrap_err().to_string()
    }

    #[test]
    fn round_trip_and_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/set.jsonl");
        let hash = set().write(&path).unwrap();
        assert_eq!(hash, set().hash());
        assert_eq!(hash, sha256_hex(&std::fs::read(&path).unwrap()));
        assert_eq!(PreparedSet::read(&path).unwrap(), set());
    }

    #[test]
    fn header_errors() {
        for (from, to, expected) in [
            ("\"schema\":1", "\"schema\":2", "set.jsonl:1: `schema` is 2, this version reads 1"),
            ("\"schema\":1,", "", "`schema` is null"),
            ("mopo-preferences", "parquet", "set.jsonl:1: `format` is `parquet`"),
            ("\"sources\"", "\"souces\"", "unknown field `souces`"),
            ("\"records\":3", "\"records\":4", "promises 4 records, the file holds 3"),
            ("\"records\":3", "\"records\":2", "promises 2 records, the file holds 3"),
            ("{\"format\"", "\"format\"", "set.jsonl:1: not a header"),
            ("[\"helpful\",\"harmless\"]", "[\"helpful\",\"helpful\"]", "twice"),
            (
                "[\"helpful\",\"harmless\"]",
                "[\"helpful\"]",
                "set.jsonl:2: record `r:0`, field `indicators`: it has 2 entries, expected 1",
            ),
        ] {
            let error = read_edited(from, to);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn record_errors_name_the_line() {
        for (from, to, expected) in [
            ("\"id\":\"r:1\"", "\"id\":\"r:0\"", "set.jsonl:3: the id `r:0` stands in line 2"),
            ("\"first\":\" one 1\"", "\"first\":7", "set.jsonl:3: not a record"),
            ("\"first\":\" one 2\"", "\"frist\":\"\"", "set.jsonl:4: not a record: unknown field"),
            ("[0.1,null]", "[1.1,null]", "set.jsonl:2: record `r:0`, field `indicators`: 1.1"),
            ("\n{\"id\":\"r:1\"", "\n\n{\"id\":\"r:1\"", "set.jsonl:3: not a record"),
        ] {
            let error = read_edited(from, to);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn empty_and_cut_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.jsonl");
        assert!(PreparedSet::read(&path).unwrap_err().to_string().contains("set.jsonl"));
        std::fs::write(&path, "").unwrap();
        let error = PreparedSet::read(&path).unwrap_err().to_string();
        assert!(error.contains("no usable row"), "{error}");
        let bytes = set().to_bytes();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        let error = PreparedSet::read(&path).unwrap_err().to_string();
        assert!(error.contains("set.jsonl:4: not a record: EOF"), "{error}");
        let none = PreparedSet::new(objectives(), None, vec![], vec![], vec![]);
        assert!(none.unwrap_err().to_string().contains("no usable row"));
    }
}
