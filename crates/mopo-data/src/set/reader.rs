//! A prepared set, record by record.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::{Header, PreparedWriter, StagedSet, json_reason};
use crate::stream::{Lines, Repeats};
use crate::{Error, PreferenceRecord, Result};

const AGAIN: &str = "prepare the set again";

/// Reads and checks a set of any size, with one record in memory. Duplicate ids and missing records
/// are detected only at the end: if the last item is an error, what was made of earlier records
/// must not
/// be used.
///
/// ```no_run
/// # fn main() -> mopo_data::Result<()> {
/// let records = mopo_data::PreparedReader::open("pairs.jsonl")?;
/// println!("{}", records.header().objectives.names().join(", "));
/// for record in records {
///     println!("{}", record?.prompt);
/// }
/// # Ok(())
/// # }
/// ```
pub struct PreparedReader {
    path: PathBuf,
    header: Header,
    lines: Lines<Box<dyn BufRead + Send>>,
    /// `None` after the end or an error.
    ids: Option<Repeats>,
    n_records: usize,
}

impl PreparedReader {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Error::Line`] for a header of another format or schema; [`Error::Io`],
    /// [`Error::Empty`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("read the prepared set", path))?;
        let mut lines: Lines<Box<dyn BufRead + Send>> =
            Lines::new(path, Box::new(BufReader::with_capacity(1 << 16, file)));
        let Some((_, line)) = lines.next_line()? else {
            return Err(Error::Empty { what: path.display().to_string(), remedy: AGAIN.into() });
        };
        let header =
            super::parse_header(line).map_err(|(why, remedy)| wrong(path, 1, why, remedy))?;
        let ids = Some(Repeats::new(&std::env::temp_dir()));
        Ok(Self { path: path.into(), header, lines, ids, n_records: 0 })
    }

    /// Reads and checks the whole set into a file without a name in `folder`.
    ///
    /// # Errors
    /// What is wrong with a record; [`Error::Io`].
    pub fn stage(self, folder: &Path) -> Result<StagedSet> {
        let Header { objectives, split, sources, notes, .. } = self.header.clone();
        let mut writer = PreparedWriter::new(folder, objectives)?;
        for record in self {
            writer.push(&record?)?;
        }
        writer.finish(split, sources, notes)
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn next_record(&mut self) -> Result<Option<PreferenceRecord>> {
        let Some((number, line)) = self.lines.next_line()? else { return Ok(None) };
        let record: PreferenceRecord = serde_json::from_slice(line).map_err(|e| {
            let why = format!("not a record: {}", json_reason(&e));
            wrong(&self.path, number, why, "correct the line or prepare the set again")
        })?;
        record
            .check(&self.header.objectives)
            .map_err(|e| wrong(&self.path, number, e.to_string(), "correct the line"))?;
        if let Some(ids) = &mut self.ids {
            ids.push(&record.id).map_err(Error::io("compare the ids of", &self.path))?;
        }
        self.n_records += 1;
        Ok(Some(record))
    }

    /// Checks that need all records.
    fn check_end(&self, ids: Repeats) -> Result<()> {
        let found = ids.finish().map_err(Error::io("compare the ids of", &self.path))?;
        if let Some((place, first)) = found.repeated {
            // The header is line 1.
            let (line, first_line) = (place as usize + 2, first as usize + 2);
            let id = self.id_in(line)?;
            let why = format!("the id `{id}` is already used in line {first_line}");
            return Err(wrong(&self.path, line, why, "make ids unique"));
        }
        if self.n_records != self.header.records {
            let why = format!(
                "the header announces {} records, but the file has {}",
                self.header.records, self.n_records
            );
            let remedy =
                "the file is incomplete or was edited: prepare it again or correct `records`";
            return Err(wrong(&self.path, self.lines.number(), why, remedy));
        }
        if self.n_records == 0 {
            let what = self.path.display().to_string();
            return Err(Error::Empty { what, remedy: AGAIN.into() });
        }
        Ok(())
    }

    fn id_in(&self, line: usize) -> Result<String> {
        let mut again = Self::open(&self.path)?;
        while again.lines.number() + 1 < line {
            again.lines.next_line()?;
        }
        Ok(again.next_record()?.map_or_else(String::new, |record| record.id))
    }
}

impl Iterator for PreparedReader {
    type Item = Result<PreferenceRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.ids.as_ref()?;
        match self.next_record() {
            Ok(Some(record)) => Some(Ok(record)),
            Ok(None) => {
                let ids = self.ids.take()?;
                self.check_end(ids).err().map(Err)
            }
            Err(error) => {
                self.ids = None;
                Some(Err(error))
            }
        }
    }
}

fn wrong(path: &Path, line: usize, why: String, remedy: &str) -> Error {
    Error::Line { file: path.into(), line, why, remedy: remedy.into() }
}
