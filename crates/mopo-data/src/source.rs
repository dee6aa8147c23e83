//! What all readers share: the files of a path, what happens to each row, and the options.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::container::DataFile;
use crate::hash::stable_hash;
use crate::report::{MalformedRow, ReadReport};
use crate::{Error, Indicator, PreferenceRecord, Result, SourceFile, file_sha256};

/// How a source is read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadOptions {
    /// Of a folder, only files whose name without its ending is this or begins with this and a
    /// hyphen: `train` takes `train.jsonl.gz` and `train-00000-of-00002.parquet`. `None` takes every
    /// file, which mixes the publisher's splits.
    pub stem: Option<String>,
    /// Makes the first malformed row an error.
    pub strict: bool,
    /// Decides which response comes first, and which pairs are taken where not all are.
    pub seed: u64,
}

/// What a reader found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SourceRead {
    /// In the order of the files (sorted) and rows.
    pub records: Vec<PreferenceRecord>,
    /// Over all files.
    pub report: ReadReport,
    /// One per file.
    pub sources: Vec<SourceFile>,
}

/// Why a row gives nothing.
pub(crate) enum Rejected {
    /// It has the schema, but cannot be used.
    LeftOut(&'static str),
    /// It has not the schema.
    Malformed(String),
}

impl From<String> for Rejected {
    fn from(why: String) -> Self {
        Self::Malformed(why)
    }
}

/// Leaves a row out whose `text` has nothing but white space.
pub(crate) fn not_blank(text: &str, reason: &'static str) -> std::result::Result<(), Rejected> {
    if text.trim().is_empty() { Err(Rejected::LeftOut(reason)) } else { Ok(()) }
}

/// The one of several objectives that a file labels.
#[derive(Clone, Copy)]
pub(crate) struct OneObjective {
    objective_idx: usize,
    n_objectives: usize,
}

impl OneObjective {
    /// # Errors
    /// [`Error::InvalidParameter`] if `objective_idx` is not below `n_objectives`.
    pub(crate) fn new(objective_idx: usize, n_objectives: usize) -> Result<Self> {
        if objective_idx >= n_objectives {
            return Err(Error::InvalidParameter {
                field: "objective_idx",
                value: objective_idx.to_string(),
                expected: format!("there are {n_objectives} objectives, counted from 0"),
            });
        }
        Ok(Self { objective_idx, n_objectives })
    }

    /// Its indicator; the others' are missing.
    pub(crate) fn indicators(self, indicator: f32) -> Vec<Indicator> {
        let mut indicators = vec![None; self.n_objectives];
        indicators[self.objective_idx] = Some(indicator);
        indicators
    }
}

/// Reasons that several readers share.
pub(crate) const EMPTY_RESPONSE: &str = "a response is empty";
pub(crate) const EMPTY_PROMPT: &str = "the prompt is empty";
pub(crate) const EQUAL_RESPONSES: &str = "both responses are equal";

/// Where a row stands.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Name of the file: folder and file.
    pub(crate) source: &'a str,
    /// Line or row, from 1.
    pub(crate) line: usize,
}

impl Place<'_> {
    pub(crate) fn id(self) -> String {
        format!("{}:{}", self.source, self.line)
    }
}

/// A file and the name that records and sources get.
pub(crate) struct NamedFile {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
}

impl NamedFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.into(), name: short_name(path) }
    }
}

/// Folder and file name: enough to tell sources apart, nothing about the machine.
fn short_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    match path.parent().and_then(Path::file_name) {
        Some(folder) => format!("{}/{file}", folder.to_string_lossy()),
        None => file.into_owned(),
    }
}

const ENDINGS: [&str; 6] = [".jsonl.gz", ".json.gz", ".jsonl", ".json", ".parquet", ".csv"];

/// A file as it is, or the data files of a folder, sorted by name.
///
/// # Errors
/// [`Error::NotFound`] if there is none, with `fetch` as its remedy.
pub(crate) fn files_of(path: &Path, stem: Option<&str>, fetch: &str) -> Result<Vec<NamedFile>> {
    if path.is_file() {
        return Ok(vec![NamedFile::new(path)]);
    }
    if !path.is_dir() {
        return Err(Error::NotFound { path: path.into(), remedy: fetch.into() });
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Error::io("list", path))? {
        let path = entry.map_err(Error::io("list", path))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let found = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending));
        let wanted = |found: &str| {
            stem.is_none_or(|stem| {
                found
                    .strip_prefix(stem)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            })
        };
        if found.is_some_and(wanted) && path.is_file() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        let pattern = format!("{}.{{jsonl,json,parquet}}[.gz]", stem.unwrap_or("*"));
        return Err(Error::NotFound { path: path.join(pattern), remedy: fetch.into() });
    }
    paths.sort();
    Ok(paths.iter().map(|path| NamedFile::new(path)).collect())
}

/// Gives every row of a file, or of the files of a folder, to `each`: the report and the sources of what
/// it makes of them.
///
/// # Errors
/// Those of [`files_of`] and [`read_file`].
pub(crate) fn read_files(
    path: &Path,
    fetch: &str,
    options: &ReadOptions,
    each: &mut dyn FnMut(Place<'_>, &Value) -> std::result::Result<(), Rejected>,
) -> Result<SourceRead> {
    let mut read = SourceRead::default();
    for file in files_of(path, options.stem.as_deref(), fetch)? {
        read.sources.push(read_file(&file, fetch, options.strict, &mut read.report, each)?);
    }
    Ok(read)
}

impl SourceRead {
    /// The same with what the rows of `path` gave.
    ///
    /// # Errors
    /// [`Error::Empty`] if that is nothing.
    pub(crate) fn with_records(
        mut self,
        records: Vec<PreferenceRecord>,
        path: &Path,
    ) -> Result<Self> {
        if records.is_empty() {
            return Err(nothing_used(path, &self.report));
        }
        self.report.made = records.len();
        self.records = records;
        Ok(self)
    }
}

/// Gives every row of a file to `each` and counts what becomes of it.
///
/// # Errors
/// Those of the container; [`Error::Line`] for the first malformed row under `strict`, and if every
/// row is malformed: then the file is of another source. [`Error::Empty`] if it has no rows.
pub(crate) fn read_file(
    file: &NamedFile,
    fetch: &str,
    strict: bool,
    report: &mut ReadReport,
    each: &mut dyn FnMut(Place<'_>, &Value) -> std::result::Result<(), Rejected>,
) -> Result<SourceFile> {
    let NamedFile { path, name } = file;
    let data = DataFile::open(path, fetch)?;
    let mut mine = ReadReport::default();
    data.for_each_row(&mut |line, row| {
        mine.rows += 1;
        let outcome = match &row {
            Ok(value) => each(Place { source: name, line }, value),
            Err(why) => Err(Rejected::Malformed(why.clone())),
        };
        count(&mut mine, path, line, outcome, strict)
    })?;
    finish(&mine, path, fetch)?;
    report.merge(&mine);
    Ok(SourceFile { path: name.clone(), sha256: file_sha256(path)?, rows: mine.rows })
}

/// Counts one row.
///
/// # Errors
/// [`Error::Line`] under `strict`.
pub(crate) fn count(
    report: &mut ReadReport,
    path: &Path,
    line: usize,
    outcome: std::result::Result<(), Rejected>,
    strict: bool,
) -> Result<()> {
    match outcome {
        Ok(()) => report.used += 1,
        Err(Rejected::LeftOut(reason)) => report.leave_out(reason),
        Err(Rejected::Malformed(why)) if strict => {
            return Err(Error::Line {
                file: path.into(),
                line,
                why,
                remedy: "correct it, or read without `--strict` to count it and go on".into(),
            });
        }
        Err(Rejected::Malformed(why)) => {
            report.malformed(MalformedRow { file: path.into(), line, why });
        }
    }
    Ok(())
}

/// Refuses a file without rows, and one in which no row has the schema.
pub(crate) fn finish(report: &ReadReport, path: &Path, fetch: &str) -> Result<()> {
    if report.rows == 0 {
        let remedy = format!("it has no rows: {fetch}");
        return Err(Error::Empty { what: path.display().to_string(), remedy });
    }
    if report.malformed_total == report.rows {
        let first = &report.malformed[0];
        return Err(Error::Line {
            file: first.file.clone(),
            line: first.line,
            why: first.why.clone(),
            remedy: format!(
                "none of its {} rows can be read: check that it is a file of this source ({fetch})",
                report.rows
            ),
        });
    }
    Ok(())
}

/// The error of a source in which no row could be used.
pub(crate) fn nothing_used(path: &Path, report: &ReadReport) -> Error {
    Error::Empty {
        what: path.display().to_string(),
        remedy: format!("what became of its rows:\n{report}"),
    }
}

/// Whether the responses change places. A hash of the seed and the texts, so that the order says
/// nothing about the label.
pub(crate) fn swapped(seed: u64, prompt: &str, first: &str, second: &str) -> bool {
    stable_hash(seed, &["order", prompt, first, second]) & 1 == 1
}
