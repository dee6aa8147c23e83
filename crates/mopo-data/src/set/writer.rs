//! A prepared set that is written record by record. Its first line has their number and sources, so
//! they are kept in an unnamed file until the last one is there.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use mopo_core::Objectives;
use mopo_hub::write_atomically_with;
use sha2::{Digest, Sha256};

use super::{FORMAT, Header, PreparedSet, SCHEMA, SourceFile};
use crate::stream::{Lines, MAX_ROW_BYTES, Repeats};
use crate::{Error, PreferenceRecord, Result, Split};

const WRITTEN: &str = "plain structs of strings and numbers are always JSON";

/// Receives records one by one and checks them. Nothing is visible before [`StagedSet::write`], and
/// nothing is left if that is never called.
pub struct PreparedWriter {
    objectives: Objectives,
    folder: PathBuf,
    body: Option<BufWriter<File>>,
    line: Vec<u8>,
    ids: Repeats,
    n_records: usize,
}

impl PreparedWriter {
    /// A writer that keeps the records in an unnamed file in `folder`, which must exist.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be created.
    pub fn new(folder: &Path, objectives: Objectives) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(Error::io("write into", folder))?;
        let body = Some(BufWriter::with_capacity(1 << 16, file));
        Ok(Self { body, ..Self::checking(folder, objectives) })
    }

    /// A writer that only checks the records.
    pub fn checking(folder: &Path, objectives: Objectives) -> Self {
        let ids = Repeats::new(folder);
        Self { objectives, folder: folder.into(), body: None, line: vec![], ids, n_records: 0 }
    }

    /// The order of every record's indicators and scores.
    pub fn objectives(&self) -> &Objectives {
        &self.objectives
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`Error::Record`] if it fails [`PreferenceRecord::check`] or is longer than the maximum line
    /// length; [`Error::Io`].
    pub fn push(&mut self, record: &PreferenceRecord) -> Result<()> {
        record.check(&self.objectives)?;
        self.ids.push(&record.id).map_err(Error::io("write into", &self.folder))?;
        self.n_records += 1;
        let Some(body) = &mut self.body else { return Ok(()) };
        self.line.clear();
        serde_json::to_writer(&mut self.line, record).expect(WRITTEN);
        if self.line.len() > MAX_ROW_BYTES {
            return Err(Error::Record {
                id: record.id.clone(),
                field: "prompt",
                why: format!(
                    "with both responses it is larger than {} MiB; remove the record",
                    MAX_ROW_BYTES >> 20
                ),
            });
        }
        self.line.push(b'\n');
        let written = body.write_all(&self.line);
        if self.line.capacity() > 1 << 20 {
            self.line = vec![];
        }
        written.map_err(Error::io("write into", &self.folder))
    }

    /// The set, with the other fields of its header.
    ///
    /// # Errors
    /// [`Error::Empty`] without records; [`Error::Record`] for the first duplicate id;
    /// [`Error::Io`].
    pub fn finish(
        self,
        split: Option<Split>,
        sources: Vec<SourceFile>,
        notes: Vec<String>,
    ) -> Result<StagedSet> {
        let Self { objectives, folder, body, ids, n_records: records, .. } = self;
        if records == 0 {
            return Err(super::no_records());
        }
        let found = ids.finish().map_err(Error::io("write into", &folder))?;
        let body = match body {
            Some(body) => {
                let body = body.into_inner().map_err(io::IntoInnerError::into_error);
                Some(body.map_err(Error::io("write into", &folder))?)
            }
            None => None,
        };
        let format = FORMAT.into();
        let header = Header { format, schema: SCHEMA, objectives, split, sources, notes, records };
        let set = StagedSet { header, folder, body };
        if let Some((place, first)) = found.repeated {
            let record = set.records()?.nth(place as usize).transpose()?;
            let id = record.map_or_else(|| format!("of record {}", first + 1), |record| record.id);
            return Err(super::repeated_id(id));
        }
        Ok(set)
    }
}

/// A complete set without a file name. It can be read any number of times, and written.
#[derive(Debug)]
pub struct StagedSet {
    header: Header,
    folder: PathBuf,
    /// The records, unless they were only checked.
    body: Option<File>,
}

impl StagedSet {
    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Writes the set to `path`, whole or not at all, and returns the SHA-256 of the file.
    ///
    /// # Errors
    /// [`Error::Hub`] if that fails, [`Error::Io`] if the records cannot be read back.
    pub fn write(&self, path: &Path) -> Result<String> {
        let mut hash = Sha256::new();
        let body = self.body()?;
        write_atomically_with(path, |file| self.copy(body, &mut hash, Some(file)))?;
        Ok(mopo_hub::hex(&hash.finalize()))
    }

    /// The SHA-256 of the file that [`StagedSet::write`] would write.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn hash(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let body = self.body()?;
        self.copy(body, &mut hash, None).map_err(Error::io("read in", &self.folder))?;
        Ok(mopo_hub::hex(&hash.finalize()))
    }

    /// The records in order; none if they were only checked.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn records(&self) -> Result<StagedRecords> {
        let lines = Lines::new(&self.folder, self.body()?);
        Ok(StagedRecords { lines, left: self.body.as_ref().map_or(0, |_| self.header.records) })
    }

    /// The set in memory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn into_memory(self) -> Result<PreparedSet> {
        let records = self.records()?.collect::<Result<_>>()?;
        Ok(PreparedSet { header: self.header, records })
    }

    /// From its beginning, through a separate handle: two readers are independent.
    fn body(&self) -> Result<Box<dyn BufRead + Send>> {
        Ok(match &self.body {
            Some(file) => {
                let file = file.try_clone().map_err(Error::io("read in", &self.folder))?;
                Box::new(BufReader::with_capacity(1 << 16, FromStart { file, at: 0 }))
            }
            None => Box::new(io::empty()),
        })
    }

    fn copy(
        &self,
        mut body: Box<dyn BufRead + Send>,
        hash: &mut Sha256,
        mut file: Option<&mut dyn Write>,
    ) -> io::Result<()> {
        let mut take = |bytes: &[u8]| -> io::Result<()> {
            hash.update(bytes);
            file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
        };
        let mut header = serde_json::to_vec(&self.header).expect(WRITTEN);
        header.push(b'\n');
        take(&header)?;
        loop {
            let bytes = body.fill_buf()?;
            if bytes.is_empty() {
                return Ok(());
            }
            take(bytes)?;
            let n_bytes = bytes.len();
            body.consume(n_bytes);
        }
    }
}

/// Reads a file from its first byte, whatever the position of other handles.
struct FromStart {
    file: File,
    at: u64,
}

impl io::Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_read = std::os::unix::fs::FileExt::read_at(&self.file, buffer, self.at)?;
        self.at += n_read as u64;
        Ok(n_read)
    }
}

/// The records of a [`StagedSet`].
pub struct StagedRecords {
    lines: Lines<Box<dyn BufRead + Send>>,
    left: usize,
}

impl Iterator for StagedRecords {
    type Item = Result<PreferenceRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.lines.next_line().and_then(|line| {
            let (_, line) = line.ok_or_else(super::no_records)?;
            // Checked when it was written.
            Ok(serde_json::from_slice(line).expect("a record that was written a moment ago"))
        });
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }
}
