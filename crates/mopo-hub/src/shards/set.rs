//! The files of shards: one each, and all of a job together.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::ShardIndex;
use super::job::{difference, saved_rows_dir};
use crate::{Error, Result, hex};

const FORMAT: &str = "mopo-shard";
const SCHEMA: u32 = 2;
/// Longest first line: beyond it the file is something else.
const MAX_HEADER: u64 = 16 << 20;

/// The first line of a shard's file. Its rows follow, one per line.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) format: String,
    pub(super) schema: u32,
    /// The command that wrote it.
    pub(super) command: String,
    pub(super) shard: ShardIndex,
    /// Rows of the whole input.
    pub(super) n_rows: usize,
    /// Rows of this file.
    pub(super) rows: usize,
    pub(super) identity: Map<String, Value>,
    /// SHA-256 of the whole file, in which this value is empty.
    pub(super) sha256: String,
    /// What was known only afterwards; it may differ between two computations of one shard.
    #[serde(default)]
    pub(super) about: Value,
}

impl Header {
    /// That of an empty file of a command.
    pub(super) fn of(command: &str) -> Self {
        Self {
            format: FORMAT.into(),
            schema: SCHEMA,
            command: command.into(),
            shard: ShardIndex::new(1, 1).expect("the whole"),
            n_rows: 0,
            rows: 0,
            identity: Map::new(),
            sha256: String::new(),
            about: Value::Null,
        }
    }
}

/// A shard whose first line has been read.
#[derive(Debug)]
pub(super) struct ShardFile {
    path: PathBuf,
    pub(super) header: Header,
    /// The hash of the first line, to go on with.
    hash: Sha256,
}

impl ShardFile {
    /// Reads the first line.
    ///
    /// # Errors
    /// [`Error::RowShards`] for a shard that is not finished, and for what is none of this command; [`Error::Io`].
    pub(super) fn open(path: &Path, command: &str) -> Result<Self> {
        check_finished(path)?;
        let mut first = String::new();
        let read = File::open(path)
            .and_then(|file| BufReader::new(file.take(MAX_HEADER)).read_line(&mut first));
        let is_text = |e: &std::io::Error| e.kind() != std::io::ErrorKind::InvalidData;
        match read {
            Err(e) if is_text(&e) => return Err(Error::io("read", path)(e)),
            _ => {}
        }
        let found: Option<Header> = serde_json::from_str(&first).ok();
        let is_whole = |header: &Header| {
            (&*header.format, header.schema, &*header.command) == (FORMAT, SCHEMA, command)
        };
        match found.filter(is_whole) {
            Some(header) => {
                let hash = Sha256::new_with_prefix(first.replacen(&header.sha256, "", 1));
                Ok(Self { path: path.into(), header, hash })
            }
            None => {
                let message =
                    format!("this is not a shard; give the files that `{command} --shard` wrote");
                Err(Error::RowShards { path: path.into(), message })
            }
        }
    }

    /// Calls `each` with every row, without its line feed, and checks number and hash of all: of a row that it refuses, too,
    /// it is said first that the file was changed.
    ///
    /// # Errors
    /// [`Error::RowShards`] for a file that was cut off or changed; [`Error::Io`]; those of `each`.
    fn for_each<E: From<Error>>(
        &self,
        each: &mut dyn FnMut(&str) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let io = |e| Error::io("read", &self.path)(e);
        let mut file = BufReader::with_capacity(1 << 16, File::open(&self.path).map_err(io)?);
        let mut line = vec![];
        file.read_until(b'\n', &mut line).map_err(io)?;
        let (mut hash, mut n_rows) = (self.hash.clone(), 0);
        let mut found = Ok(());
        loop {
            line.clear();
            if file.read_until(b'\n', &mut line).map_err(io)? == 0 {
                break;
            }
            hash.update(&line);
            n_rows += 1;
            let text = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
            let text = text.ok_or_else(|| self.damaged())?;
            found = found.and_then(|()| each(text));
        }
        let is_whole = n_rows == self.header.rows && hex(&hash.finalize()) == self.header.sha256;
        if is_whole { found } else { Err(self.damaged().into()) }
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// As for each row.
    pub(super) fn check(&self) -> Result<()> {
        self.for_each(&mut |_| Ok(()))
    }

    fn damaged(&self) -> Error {
        let message = format!(
            "shard {} was cut off or changed (its SHA-256 is not that of its first line); remove it and run its command \
             again",
            self.header.shard
        );
        Error::RowShards { path: self.path.clone(), message }
    }
}

/// Refuses a shard of which there is only what was saved while it was computed.
///
/// # Errors
/// [`Error::RowShards`].
pub fn check_finished(path: &Path) -> Result<()> {
    let progress = saved_rows_dir(path);
    if path.exists() || !progress.is_dir() {
        return Ok(());
    }
    let message = format!(
        "this shard is not finished: {} has what is done of it; run its command again",
        progress.display()
    );
    Err(Error::RowShards { path: path.into(), message })
}

/// A shard and its file.
pub type ShardPlace<'a> = (ShardIndex, &'a Path);

/// The files of all shards of one job, in the order of their rows; `place` says which shard a file is.
///
/// # Errors
/// [`Error::RowShards`] names the file: another number of shards, a duplicate, or missing ones; no files at all.
pub fn in_order<T>(files: Vec<T>, place: impl Fn(&T) -> ShardPlace<'_>) -> Result<Vec<T>> {
    let order = order(&files.iter().map(place).collect::<Vec<_>>())?;
    let mut files: Vec<Option<T>> = files.into_iter().map(Some).collect();
    Ok(order.iter().map(|i| files[*i].take().expect("each once")).collect())
}

fn order(files: &[ShardPlace<'_>]) -> Result<Vec<usize>> {
    let refuse =
        |path: &Path, message: String| Err(Error::RowShards { path: path.into(), message });
    let Some(&(first, first_path)) = files.first() else {
        return refuse(Path::new("--merge"), "give the file of every shard".into());
    };
    for (shard, path) in files {
        if shard.of() != first.of() {
            return refuse(
                path,
                format!(
                    "shard {shard} has another number of shards than {} (shard {first}); give only the shards of one \
                     job",
                    first_path.display()
                ),
            );
        }
    }
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|i| files[*i].0.index());
    for pair in order.windows(2) {
        let [(one, there), (shard, path)] = [files[pair[0]], files[pair[1]]];
        if one == shard {
            return refuse(
                path,
                format!(
                    "duplicate shard {shard}, which {} has too; give each shard once",
                    there.display()
                ),
            );
        }
    }
    let of = first.of();
    let there: Vec<usize> = order.iter().map(|i| files[*i].0.index()).collect();
    let mut missing = (1..=of).filter(|i| there.binary_search(i).is_err());
    let named: Vec<String> = missing.by_ref().take(16).map(|i| format!("{i}/{of}")).collect();
    if !named.is_empty() {
        let more = if missing.next().is_some() { " and others" } else { "" };
        return refuse(
            first_path,
            format!(
                "there are {of} shards, but these are missing: {}{more}; give their files too",
                named.join(", ")
            ),
        );
    }
    Ok(order)
}

/// The shards of one job, whose first lines agree, in the order of their rows.
#[derive(Debug)]
pub struct ShardSet {
    files: Vec<ShardFile>,
}

impl ShardSet {
    /// Reads the first lines of the shards that a command wrote, in any order.
    ///
    /// # Errors
    /// [`Error::RowShards`] names the file: one that is not finished or no shard; one of another job, with what differs; a
    /// duplicate or missing shard, or one of another number of shards. [`Error::Io`].
    pub fn open(paths: &[PathBuf], command: &str) -> Result<Self> {
        let files = paths.iter().map(|path| ShardFile::open(path, command));
        let files = files.collect::<Result<Vec<_>>>()?;
        if let Some(first) = files.first() {
            for file in &files[1..] {
                let than = format!("{} (shard {})", first.path.display(), first.header.shard);
                file.check_same(&first.header.identity, first.header.n_rows, &than)?;
            }
        }
        Ok(Self { files: in_order(files, |file| (file.header.shard, &file.path))? })
    }

    /// Refuses shards of another job than that of this call.
    ///
    /// # Errors
    /// [`Error::RowShards`] with what differs.
    pub(super) fn check(&self, identity: &Map<String, Value>, n_rows: usize) -> Result<()> {
        self.files[0].check_same(identity, n_rows, "this command")
    }

    /// Number of shards.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Always false: a set has every shard.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// What each shard's process knew only afterwards.
    pub fn about(&self) -> impl Iterator<Item = &Value> {
        self.files.iter().map(|file| &file.header.about)
    }

    /// Calls `each` with the line of every row, in order.
    ///
    /// # Errors
    /// Those of `each`; [`Error::RowShards`] for a file that was cut off or changed; [`Error::Io`].
    pub fn for_each<E: From<Error>>(
        &self,
        each: &mut dyn FnMut(&str) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.files.iter().try_for_each(|file| file.for_each(each))
    }
}

impl ShardFile {
    fn check_same(&self, identity: &Map<String, Value>, n_rows: usize, than: &str) -> Result<()> {
        let differs = difference(&self.header.identity, identity)
            .or_else(|| (self.header.n_rows != n_rows).then(|| "number of rows".into()));
        let Some(differs) = differs else { return Ok(()) };
        let message = format!(
            "shard {} was made with another {differs} than {than}; give only the shards of one job",
            self.header.shard
        );
        Err(Error::RowShards { path: self.path.clone(), message })
    }
}
