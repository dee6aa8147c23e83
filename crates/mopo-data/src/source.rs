//! What all readers share: the handling of each row of the files at a path, and the options.

use std::path::{Path, PathBuf};

use crate::container::{DataFile, Row};
use crate::files::{Files, NamedFile, PassedOver, files_of};
use crate::hash::stable_hash;
use crate::report::{MalformedRow, ReadReport};
use crate::stream::{KeyHasher, RowKey};
use crate::{Error, Indicator, Message, PreferenceRecord, Result, Scores, SourceFile, file_sha256};

/// How a source is read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadOptions {
    /// In a folder, read only files whose name without its extension is this, or begins with this
    /// and a hyphen: `train` selects `train.jsonl.gz` and `train-00000-of-00002.parquet`. `None`
    /// selects every file, which mixes the publisher's splits.
    pub stem: Option<String>,
    /// Makes the first malformed row an error.
    pub strict: bool,
    /// Decides which response comes first, and which pairs are used if not all are.
    pub seed: u64,
    /// The folder for unnamed files with data that does not fit into memory; `None` means the
    /// system's temporary folder.
    pub scratch: Option<PathBuf>,
}

impl ReadOptions {
    /// The folder for unnamed files.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// Receives the records of a reader, in the order of the files (sorted) and rows. An error ends the
/// reading.
pub type Sink<'a> = dyn FnMut(PreferenceRecord) -> Result<()> + 'a;

/// The result of a reader, besides the records passed to its sink. If it returns an error instead,
/// those records must not be used.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SourceRead {
    /// Over all files.
    pub report: ReadReport,
    /// One per file.
    pub sources: Vec<SourceFile>,
}

/// The records of a reader in memory.
///
/// ```no_run
/// # fn main() -> mopo_data::Result<()> {
/// use mopo_data::{ReadOptions, collect, safe_rlhf::read_safe_rlhf, ChatTemplate};
/// let (records, read) = collect(|sink| {
///     read_safe_rlhf("rows.jsonl".as_ref(), &ReadOptions::default(), ChatTemplate::Dialogue, sink)
/// })?;
/// println!("{} pairs of {} rows", records.len(), read.report.rows);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of the reader.
pub fn collect<T>(
    read: impl FnOnce(&mut Sink<'_>) -> Result<T>,
) -> Result<(Vec<PreferenceRecord>, T)> {
    let mut records = Vec::new();
    let read = read(&mut |record| {
        records.push(record);
        Ok(())
    })?;
    Ok((records, read))
}

/// Why a row gives nothing.
pub(crate) enum Rejected {
    /// It has the right schema, but cannot be used.
    LeftOut(&'static str),
    /// It has the wrong schema.
    Malformed(String),
    /// Nothing is wrong with it, but reading cannot continue.
    Stop(Error),
}

impl From<Error> for Rejected {
    fn from(error: Error) -> Self {
        Self::Stop(error)
    }
}

impl From<String> for Rejected {
    fn from(why: String) -> Self {
        Self::Malformed(why)
    }
}

/// Skips a row if `text` is blank.
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
                expected: format!("there are only {n_objectives} objectives, counted from 0"),
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

/// Location of a row.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Name of the file: folder and file.
    pub(crate) source: &'a str,
    /// Line or row, counted from 1.
    pub(crate) line: usize,
}

impl Place<'_> {
    pub(crate) fn id(self) -> String {
        format!("{}:{}", self.source, self.line)
    }
}

/// Handles a row. Returns a key of its content, labels included, or why it gives nothing.
pub(crate) type EachRow<'a> =
    dyn FnMut(Place<'_>, &Row<'_>) -> std::result::Result<RowKey, Rejected> + 'a;

/// The records of a reader whose rows are pairs, on their way to its sink.
pub(crate) struct Pairs<'a, 'b> {
    sink: &'a mut Sink<'b>,
    n_records: usize,
}

impl<'a, 'b> Pairs<'a, 'b> {
    pub(crate) fn new(sink: &'a mut Sink<'b>) -> Self {
        Self { sink, n_records: 0 }
    }

    /// The record of a row: prompt, first and second response.
    ///
    /// # Errors
    /// Those of the sink.
    pub(crate) fn push(
        &mut self,
        place: Place<'_>,
        texts: [String; 3],
        indicators: Vec<Indicator>,
        scores: Option<Scores>,
    ) -> std::result::Result<RowKey, Rejected> {
        self.push_conversation(place, texts, None, indicators, scores)
    }

    /// The same with the prompt's messages.
    ///
    /// # Errors
    /// Those of the sink.
    pub(crate) fn push_conversation(
        &mut self,
        place: Place<'_>,
        [prompt, first, second]: [String; 3],
        messages: Option<Vec<Message>>,
        indicators: Vec<Indicator>,
        scores: Option<Scores>,
    ) -> std::result::Result<RowKey, Rejected> {
        let (id, source) = (place.id(), place.source.into());
        let record =
            PreferenceRecord { id, source, prompt, messages, first, second, indicators, scores };
        let key = record.key();
        self.n_records += 1;
        (self.sink)(record)?;
        Ok(key)
    }

    /// What was read of `path`, after its last row.
    ///
    /// # Errors
    /// [`Error::Empty`] if no record was made.
    pub(crate) fn finish(self, read: SourceRead, path: &Path) -> Result<SourceRead> {
        read.having_made(self.n_records, path)
    }
}

/// Calls `each` with every row of a file, or of the files of a folder; for Parquet files only with
/// the
/// `columns`.
///
/// # Errors
/// Those of [`files_of`] and [`read_these`].
pub(crate) fn read_files(
    path: &Path,
    fetch: &str,
    options: &ReadOptions,
    columns: &[&str],
    each: &mut EachRow<'_>,
) -> Result<SourceRead> {
    let files = files_of(path, options.stem.as_deref(), fetch)?;
    read_these(files, fetch, options.strict, columns, each)
}

/// Calls `each` with every row of some files.
///
/// # Errors
/// Those of [`read_file`]; [`Error::Doubled`] for two files with the same used rows.
pub(crate) fn read_these(
    Files { files, passed_over }: Files,
    fetch: &str,
    strict: bool,
    columns: &[&str],
    each: &mut EachRow<'_>,
) -> Result<SourceRead> {
    let mut read = SourceRead::default();
    read.report.passed_over = passed_over;
    let mut seen: Vec<(RowKey, &Path)> = Vec::new();
    for file in &files {
        let mut mine = ReadReport::default();
        let mut key = KeyHasher::new();
        let found = read_file(file, fetch, strict, columns, &mut mine, &mut |place, row| {
            let [a, b] = each(place, row)?;
            key = std::mem::replace(&mut key, KeyHasher::new()).number(a).number(b);
            Ok([a, b])
        });
        // One row, or one that continues on the next lines.
        let one_object = mine.rows == mine.malformed_total
            && mine.malformed.first().is_some_and(|row| mine.rows == 1 || row.why.contains("EOF"));
        let source = match found {
            Err(Error::Line { .. })
                if files.len() > 1 && file.is_json() && one_object && !strict =>
            {
                let why = "one object that is not a row";
                read.report.passed_over.push(PassedOver { path: file.path.clone(), why });
                continue;
            }
            found => found?,
        };
        let key = key.finish();
        if mine.used > 0 {
            if let Some((_, first)) = seen.iter().find(|(other, _)| *other == key) {
                let (first, second) = (first.to_path_buf(), file.path.clone());
                return Err(Error::Doubled { first, second });
            }
            seen.push((key, &file.path));
        }
        read.report.merge(&mine);
        read.sources.push(source);
    }
    Ok(read)
}

impl SourceRead {
    /// The same, after `n_records` were made from the rows at `path`.
    ///
    /// # Errors
    /// [`Error::Empty`] if that is 0.
    pub(crate) fn having_made(mut self, n_records: usize, path: &Path) -> Result<Self> {
        if n_records == 0 {
            return Err(nothing_used(path, &self.report));
        }
        self.report.made = n_records;
        Ok(self)
    }

    /// Adds the result of another reading.
    pub fn merge(&mut self, other: Self) {
        self.report.merge(&other.report);
        self.sources.extend(other.sources);
    }
}

/// Calls `each` with every row of a file and counts the results.
///
/// # Errors
/// Those of the container; [`Error::Line`] for the first malformed row with `strict`, and if every
/// row is malformed, since the file then belongs to another source. [`Error::Empty`] if it has no
/// rows.
pub(crate) fn read_file(
    file: &NamedFile,
    fetch: &str,
    strict: bool,
    columns: &[&str],
    report: &mut ReadReport,
    each: &mut EachRow<'_>,
) -> Result<SourceFile> {
    let NamedFile { path, name } = file;
    let data = DataFile::open(path, fetch)?;
    data.for_each_row(columns, &mut |line, row| {
        report.rows += 1;
        let outcome = match &row {
            Ok(row) => each(Place { source: name, line }, row).map(|_| ()),
            Err(why) => Err(Rejected::Malformed(why.clone())),
        };
        count(report, path, line, outcome, strict)
    })?;
    finish(report, path, fetch)?;
    Ok(SourceFile { path: name.clone(), sha256: file_sha256(path)?, rows: report.rows })
}

/// Counts one row.
///
/// # Errors
/// [`Error::Line`] with `strict`; the error of a row that ends the reading.
pub(crate) fn count(
    report: &mut ReadReport,
    path: &Path,
    line: usize,
    outcome: std::result::Result<(), Rejected>,
    strict: bool,
) -> Result<()> {
    match outcome {
        Ok(()) => report.used += 1,
        Err(Rejected::Stop(error)) => return Err(error),
        Err(Rejected::LeftOut(reason)) => report.leave_out(reason),
        Err(Rejected::Malformed(why)) if strict => {
            return Err(Error::Line {
                file: path.into(),
                line,
                why,
                remedy: "correct it, or read without `--strict` to skip and count it".into(),
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

/// The error for a source without usable rows.
pub(crate) fn nothing_used(path: &Path, report: &ReadReport) -> Error {
    Error::Empty { what: path.display().to_string(), remedy: format!("its rows:\n{report}") }
}

/// Whether the responses are swapped: a hash of the seed and the texts, so that the order says
/// nothing about the label.
pub(crate) fn swapped(seed: u64, prompt: &str, first: &str, second: &str) -> bool {
    stable_hash(seed, &["order", prompt, first, second]) & 1 == 1
}
