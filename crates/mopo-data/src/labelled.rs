//! Texts with a label of two kinds (funny or not, toxic or not), for training classifiers.
//!
//! CSV with a header, or rows of any container that the readers of pairs accept (JSON Lines, a JSON
//! array, Parquet, gzip), recognised by content.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use serde_json::Value;

use crate::container::{DataFile, Format, Row};
use crate::files::NamedFile;
use crate::report::ReadReport;
use crate::row::{kind, listed, picked};
use crate::source::{Rejected, count, finish, not_blank, read_file};
use crate::stream::{MAX_ROW_BYTES, too_long};
use crate::{Error, Result, SourceFile, file_sha256};

const FETCH: &str = "give a CSV, JSON or Parquet file with a column of texts and one of labels";
/// Maximum number of distinct labels in a message.
const LISTED_LABELS: usize = 10;

/// A text and whether it is of the positive kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabelledText {
    /// Verbatim.
    pub text: String,
    /// 1 for the positive kind, 0 for all others.
    pub label: u8,
}

/// The result of [`read_labelled`].
#[derive(Clone, PartialEq, Debug)]
pub struct LabelledRead {
    /// In the order of the file.
    pub texts: Vec<LabelledText>,
    /// How often each label occurs in the file, as written.
    pub labels: BTreeMap<String, usize>,
    /// Counts of the rows.
    pub report: ReadReport,
    /// The file.
    pub source: SourceFile,
}

/// Reads texts and labels from two named columns. A label equal to `positive`, ignoring surrounding
/// white
/// space and ASCII case, becomes 1, every other one 0; booleans are `true` and
/// `false`, numbers are as written in the file. Rows with an empty text or label are
/// counted and skipped. With `strict` the first malformed row is an error; otherwise it is counted.
///
/// # Errors
/// [`Error::Line`] for a missing column, with the existing columns; [`Error::Labels`] if all
/// texts are of one kind, with the labels that occur; those of the container.
pub fn read_labelled(
    path: &Path,
    text_column: &str,
    label_column: &str,
    positive: &str,
    strict: bool,
) -> Result<LabelledRead> {
    let file = NamedFile::new(path);
    let mut report = ReadReport::default();
    let mut texts = Vec::new();
    let mut labels = BTreeMap::new();
    let mut add = |text: &str, label: &str| {
        not_blank(text, "the text is empty")?;
        let label = label.trim();
        if label.is_empty() {
            return Err(Rejected::LeftOut("the label is empty"));
        }
        *labels.entry(label.to_string()).or_insert(0) += 1;
        let label = u8::from(label.eq_ignore_ascii_case(positive.trim()));
        texts.push(LabelledText { text: text.into(), label });
        Ok(())
    };
    let data = DataFile::open(path, FETCH)?;
    let source = if data.format() == Format::Text {
        read_csv(&data, &file, [text_column, label_column], strict, &mut report, &mut add)?
    } else {
        let columns = [text_column, label_column];
        read_file(&file, FETCH, strict, &columns, &mut report, &mut |_, row| {
            let [text, label] = picked(row, columns)?;
            let text = cell(row, text_column, text)?;
            add(&text, &cell(row, label_column, label)?)?;
            Ok([0; 2])
        })?
    };
    report.made = texts.len();
    if texts.is_empty() {
        return Err(crate::source::nothing_used(path, &report));
    }
    let n_positive = texts.iter().filter(|text| text.label == 1).count();
    if n_positive == 0 || n_positive == texts.len() {
        let mut found: Vec<String> = labels
            .iter()
            .take(LISTED_LABELS)
            .map(|(label, count)| format!("`{label}` ({count})"))
            .collect();
        if labels.len() > LISTED_LABELS {
            found.push(format!("and {} more", labels.len() - LISTED_LABELS));
        }
        return Err(Error::Labels {
            file: path.into(),
            column: label_column.into(),
            positive: positive.into(),
            n_positive,
            n_texts: texts.len(),
            found: found.join(", "),
        });
    }
    Ok(LabelledRead { texts, labels, report, source })
}

/// A cell of a JSON row as CSV text. `null` is empty.
fn cell(row: &Row<'_>, column: &str, value: Option<Value>) -> std::result::Result<String, String> {
    match value {
        None => Err(format!("there is no column `{column}`; {}", listed(&row.names()?))),
        Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => Ok(value.to_string()),
        Some(other) => Err(format!("`{column}` is {}, not text", kind(&other))),
    }
}

/// Refuses to return more than the maximum row size for one row.
struct Bounded<R> {
    text: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n_read = self.text.read(buffer)?;
        let left = self.left.get();
        self.left.set(left.saturating_sub(n_read));
        if n_read > left { Err(std::io::Error::other("a row is too long")) } else { Ok(n_read) }
    }
}

fn read_csv(
    data: &DataFile,
    file: &NamedFile,
    wanted: [&str; 2],
    strict: bool,
    report: &mut ReadReport,
    add: &mut dyn FnMut(&str, &str) -> std::result::Result<(), Rejected>,
) -> Result<SourceFile> {
    let NamedFile { path, name } = file;
    // Rows of another length are reported below with the numbers, not by the library.
    let left = Rc::new(Cell::new(MAX_ROW_BYTES));
    let text = Bounded { text: data.text()?, left: left.clone() };
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text);
    let failed = |rows_read, line, error| match left.get() {
        0 => too_long(path, line),
        _ => failed(data, path, rows_read, error),
    };
    let header = reader.byte_headers().map_err(|e| failed(0, 1, e))?.clone();
    let header: Vec<String> =
        header.iter().map(|name| String::from_utf8_lossy(name).trim().to_string()).collect();
    let mut at = [0; 2];
    for (at, wanted) in at.iter_mut().zip(wanted) {
        *at = header.iter().position(|name| name == wanted).ok_or_else(|| Error::Line {
            file: path.clone(),
            line: 1,
            why: format!(
                "there is no column `{wanted}`; the columns are {}",
                header.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            ),
            remedy: "use the names of columns in the file's first line".into(),
        })?;
    }
    let mut record = csv::ByteRecord::new();
    loop {
        left.set(MAX_ROW_BYTES);
        let next_line = reader.position().line() as usize;
        let more = reader.read_byte_record(&mut record);
        if !more.map_err(|e| failed(report.rows, next_line, e))? {
            break;
        }
        report.rows += 1;
        let line = record.position().map_or(0, csv::Position::line) as usize;
        let outcome = cells(&record, header.len(), at).and_then(|[text, label]| add(text, label));
        count(report, path, line, outcome, strict)?;
    }
    finish(report, path, FETCH)?;
    Ok(SourceFile { path: name.clone(), sha256: file_sha256(path)?, rows: report.rows })
}

/// The two cells of a row.
fn cells(
    record: &csv::ByteRecord,
    n_columns: usize,
    at: [usize; 2],
) -> std::result::Result<[&str; 2], Rejected> {
    if record.len() != n_columns {
        let n_cells = record.len();
        return Err(format!("it has {n_cells} cells, but there are {n_columns} columns").into());
    }
    let mut found = [""; 2];
    for (found, at) in found.iter_mut().zip(at) {
        *found = std::str::from_utf8(&record[at]).map_err(|e| format!("invalid UTF-8: {e}"))?;
    }
    Ok(found)
}

fn failed(data: &DataFile, path: &Path, rows_read: usize, error: csv::Error) -> Error {
    let why = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(source) => data.failed(rows_read, source),
        _ => Error::Container {
            file: path.into(),
            rows_read,
            why: format!("it cannot be read as CSV: {why}"),
            remedy: "correct it, or fetch it again".into(),
        },
    }
}

#[cfg(test)]
mod tests;
