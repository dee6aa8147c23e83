//! What is computed for the rows of an input, and where the result goes.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::saved::SavedRows;
use super::set::{Header, ShardFile};
use super::{ShardIndex, ShardSet};
use crate::{Error, Result, hex, write_atomically_with};

/// A computation of one line of text for each row of an input, whole or a shard of it.
#[derive(Debug, Clone, PartialEq)]
pub struct RowJob {
    /// What the command is called, for messages: `mopo score`.
    pub command: &'static str,
    /// What determines every bit of every row: the hashes of the input and of the models, the options, the version. Rows
    /// of other identities are never mixed.
    pub identity: Map<String, Value>,
    /// Number of rows of the whole input.
    pub n_rows: usize,
    /// Rows are computed in units that begin at multiples of this number.
    pub unit: usize,
    /// The part to compute; `None` for all.
    pub shard: Option<ShardIndex>,
    /// The result: the file of the shard, or of all rows.
    pub out: PathBuf,
}

impl RowJob {
    /// The rows to compute, counted in the whole input.
    pub fn rows(&self) -> Range<usize> {
        self.shard.map_or(0..self.n_rows, |shard| shard.rows(self.n_rows, self.unit))
    }

    /// The folder of saved rows: `<out>.progress`.
    pub fn progress_dir(&self) -> PathBuf {
        saved_rows_dir(&self.out)
    }

    /// Whether the file of this shard is there already. If so, removes saved rows that a kill after the last write has
    /// left.
    ///
    /// # Errors
    /// [`Error::RowShards`] if something else is there. [`Error::Io`].
    pub fn shard_is_done(&self) -> Result<bool> {
        if !self.out.exists() {
            return Ok(false);
        }
        let there =
            ShardFile::open(&self.out, self.command).and_then(|file| file.check().map(|()| file));
        let same = there.is_ok_and(|file| {
            Some(file.header.shard) == self.shard && file.header.identity == self.identity
        });
        if !same {
            let message = "it exists and is something else; replace it with --force".into();
            return Err(Error::RowShards { path: self.out.clone(), message });
        }
        self.remove_saved()?;
        Ok(true)
    }

    /// Opens the saved rows of this job, or begins them. Damaged parts are computed again. The caller holds a lock on
    /// [`progress_dir`](Self::progress_dir).
    ///
    /// # Errors
    /// [`Error::RowShards`] if the folder belongs to another job; [`Error::Io`].
    pub fn open(&self) -> Result<SavedRows> {
        SavedRows::open(self)
    }

    /// Writes the file of the shard, whole or not at all: its `lines`, one for each row, which are asked for twice. `about`
    /// is anything that is known only afterwards, such as notes; it is kept in the first line.
    ///
    /// # Errors
    /// [`Error::Io`]; those of the lines.
    ///
    /// # Panics
    /// For a job without a shard, or for another number of lines.
    pub fn write_shard<L: Iterator<Item = Result<String>>>(
        &self,
        about: &Value,
        lines: impl Fn() -> L,
    ) -> Result<()> {
        let shard = self.shard.expect("a job with a shard");
        let mut header = Header {
            shard,
            n_rows: self.n_rows,
            rows: self.rows().len(),
            identity: self.identity.clone(),
            about: about.clone(),
            ..Header::of(self.command)
        };
        let first =
            serde_json::to_string(&header).map_err(|e| Error::io("write", &self.out)(e.into()))?;
        let (mut hash, mut rows) = (Sha256::new_with_prefix(first + "\n"), 0);
        for line in lines() {
            hash.update(line?);
            hash.update(b"\n");
            rows += 1;
        }
        assert_eq!(rows, header.rows, "one line for each row");
        header.sha256 = hex(&hash.finalize());
        // Errors of the lines are kept apart from those of the file.
        let mut wrong = None;
        let written = write_atomically_with(&self.out, |file| {
            serde_json::to_writer(&mut *file, &header)?;
            file.write_all(b"\n")?;
            for line in lines() {
                match line {
                    Ok(line) => file.write_all(line.as_bytes())?,
                    Err(e) => {
                        wrong = Some(e);
                        return Err(std::io::Error::other("its rows"));
                    }
                }
                file.write_all(b"\n")?;
            }
            Ok(())
        });
        wrong.map_or(written, Err)
    }

    /// Removes the saved rows, once the result is written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_saved(&self) -> Result<()> {
        remove_saved_rows(&self.out)
    }

    /// The files of all shards of this job.
    ///
    /// # Errors
    /// Those of [`ShardSet::open`]; [`Error::RowShards`] for shards of another job, with what differs.
    pub fn merge(&self, paths: &[PathBuf]) -> Result<ShardSet> {
        let set = ShardSet::open(paths, self.command)?;
        set.check(&self.identity, self.n_rows)?;
        Ok(set)
    }
}

/// The folder of the saved rows of a file: `<out>.progress`.
pub fn saved_rows_dir(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".progress");
    name.into()
}

/// Removes the saved rows of a file, if there are any.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_saved_rows(out: &Path) -> Result<()> {
    let dir = saved_rows_dir(out);
    match std::fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &dir)(e)),
        _ => Ok(()),
    }
}

/// What of two identities differs, for a person: `rewards, seed (1, but 2 there)`. Long values are only named.
pub(super) fn difference(one: &Map<String, Value>, other: &Map<String, Value>) -> Option<String> {
    const SHOWN: usize = 32;
    let keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
    let shown =
        |map: &Map<String, Value>, key: &str| map.get(key).unwrap_or(&Value::Null).to_string();
    let differing: Vec<String> = keys
        .filter(|key| one.get(*key) != other.get(*key))
        .map(|key| {
            let [a, b] = [shown(one, key), shown(other, key)];
            match a.len().max(b.len()) <= SHOWN {
                true => format!("`{key}` ({a}, not {b})"),
                false => format!("`{key}`"),
            }
        })
        .collect();
    (!differing.is_empty()).then(|| differing.join(", "))
}
