//! The prepared-set format: JSON Lines, a header followed by one record per line.

mod reader;
mod writer;

use std::path::Path;

use mopo_core::Objectives;
use serde::{Deserialize, Serialize};

pub use reader::PreparedReader;
pub use writer::{PreparedWriter, StagedRecords, StagedSet};

use crate::{Error, PreferenceRecord, Result, Split, sha256_hex, write_atomically};

/// The value of [`Header::format`].
pub const FORMAT: &str = "mopo-preferences";
/// The version of the format that is written, and the only one that is read.
pub const SCHEMA: u32 = 1;

/// A file that records were read from.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Folder and name, without anything machine-specific: `helpful-base/test.jsonl.gz`.
    pub path: String,
    /// SHA-256 of the file on disk (compressed, if it is).
    pub sha256: String,
    /// Number of rows in the file, unusable ones included.
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
    /// The part of a split, if the set was split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// The files the records came from; empty for generated ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceFile>,
    /// How the set was made, for information: seeds, generators, reward models that filled
    /// indicators.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Number of records that follow; a file with another number is refused as incomplete.
    pub records: usize,
}

/// A header and its records, all checked.
#[derive(Clone, PartialEq, Debug)]
pub struct PreparedSet {
    /// The header.
    pub header: Header,
    /// In file order.
    pub records: Vec<PreferenceRecord>,
}

impl PreparedSet {
    /// A set of checked records.
    ///
    /// # Errors
    /// [`Error::Empty`] without records; [`Error::Record`] for the first record that fails
    /// [`PreferenceRecord::check`] or has a duplicate id.
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

    /// Writes the set to `path`, atomically, and returns the SHA-256 of the file. It is checked
    /// first, so
    /// that it can be read back; `header.records` is set to the number of records.
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

    /// Reads and checks a set; [`PreparedReader`] does it record by record.
    ///
    /// # Errors
    /// [`Error::Line`] with file and line: not a header of this format and schema, an unknown or
    /// missing field, an invalid record or one with a duplicate id, fewer or more records than
    /// the header says. [`Error::Io`], [`Error::Empty`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let mut reader = PreparedReader::open(path)?;
        let records = reader.by_ref().collect::<Result<_>>()?;
        Ok(Self { header: reader.header().clone(), records })
    }

    fn check(&self) -> Result<()> {
        if self.records.is_empty() {
            return Err(no_records());
        }
        let mut seen = std::collections::HashSet::new();
        for record in &self.records {
            record.check(&self.header.objectives)?;
            if !seen.insert(&record.id) {
                return Err(repeated_id(record.id.clone()));
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

fn no_records() -> Error {
    Error::Empty {
        what: "the prepared set".into(),
        remedy: "check the source files and the reasons for skipped rows".into(),
    }
}

fn repeated_id(id: String) -> Error {
    let why = "two records have this id; make ids unique".into();
    Error::Record { id, field: "id", why }
}

/// Checks format and schema before the fields: "version 2" says more than "unknown field".
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
    // From the text: a value has lost keys that were there twice.
    let remedy = "correct the field or prepare the set again";
    serde_json::from_slice(line).map_err(|e| (format!("not a header: {}", json_reason(&e)), remedy))
}

/// serde's message without its "line 1", which is never the file's line.
pub(crate) fn json_reason(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column", " at column")
}

#[cfg(test)]
mod tests;
