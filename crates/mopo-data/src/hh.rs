//! Reader of Anthropic's HH-RLHF files: JSON Lines of `{chosen, rejected}` dialogues, plain or
//! gzip.
//!
//! Each file labels one objective. Rows that cannot be compared are counted in a [`ReadReport`],
//! never dropped in silence.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use mopo_core::Objectives;
use serde::Deserialize;

use crate::hash::stable_hash;
use crate::set::json_reason;
use crate::{Error, PreferenceRecord, Result, SourceFile, sha256_hex};

/// A prompt ends with, and includes, the last of these in a dialogue.
const ASSISTANT: &str = "\n\nAssistant:";
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const LFS_POINTER: &[u8] = b"version https://git-lfs";
/// Malformed lines beyond these are counted, not kept.
const KEPT_MALFORMED: usize = 20;
const FETCH: &str = "fetch the data as datasets/hh-rlhf/README.md says";

#[derive(Deserialize)]
struct Row {
    chosen: String,
    rejected: String,
}

/// A line that is not a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MalformedLine {
    /// The file.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// What became of the rows. `rows` is the sum of `kept` and everything left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadReport {
    /// Lines that are not blank.
    pub rows: usize,
    /// Records made.
    pub kept: usize,
    /// Rows whose two dialogues are equal.
    pub identical: usize,
    /// Rows whose prompts differ before the last turn.
    pub different_prompts: usize,
    /// Rows with a response of white space only.
    pub empty_responses: usize,
    /// The first 20 malformed lines.
    pub malformed: Vec<MalformedLine>,
    /// All malformed lines.
    pub malformed_total: usize,
}

impl ReadReport {
    /// Adds another file's report to this one.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.kept += other.kept;
        self.identical += other.identical;
        self.different_prompts += other.different_prompts;
        self.empty_responses += other.empty_responses;
        self.malformed_total += other.malformed_total;
        let room = KEPT_MALFORMED - self.malformed.len().min(KEPT_MALFORMED);
        self.malformed.extend(other.malformed.iter().take(room).cloned());
    }

    fn malformed(&mut self, line: MalformedLine) {
        self.malformed_total += 1;
        if self.malformed.len() < KEPT_MALFORMED {
            self.malformed.push(line);
        }
    }
}

impl fmt::Display for ReadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in [
            ("rows", self.rows),
            ("kept", self.kept),
            ("identical pairs", self.identical),
            ("different prompts", self.different_prompts),
            ("empty responses", self.empty_responses),
            ("malformed lines", self.malformed_total),
        ] {
            writeln!(f, "{name:<18}{count:>9}")?;
        }
        for MalformedLine { file, line, why } in &self.malformed {
            writeln!(f, "  {}:{line}: {why}", file.display())?;
        }
        let unlisted = self.malformed_total - self.malformed.len();
        if unlisted > 0 {
            writeln!(f, "  … and {unlisted} more")?;
        }
        Ok(())
    }
}

/// Reads one file, which labels objective `objective_idx` of `n_objectives`; the others' indicators
/// are missing.
///
/// Which response comes first is a hash of `seed` and the row, so that the label is not constant.
/// Texts are kept verbatim. Under `strict` the first malformed line is an error; otherwise it is
/// counted and left out.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Io`]; [`Error::Gzip`] for a truncated or damaged stream;
/// [`Error::Line`] under `strict`; [`Error::Empty`] if no row is usable;
/// [`Error::InvalidParameter`] if `objective_idx` is not below `n_objectives`.
pub fn read_hh(
    path: &Path,
    objective_idx: usize,
    n_objectives: usize,
    strict: bool,
    seed: u64,
) -> Result<(Vec<PreferenceRecord>, ReadReport, SourceFile)> {
    read_named(path, short_name(path), objective_idx, n_objectives, strict, seed)
}

/// [`read_hh`] with the name that records and source get.
fn read_named(
    path: &Path,
    name: String,
    objective_idx: usize,
    n_objectives: usize,
    strict: bool,
    seed: u64,
) -> Result<(Vec<PreferenceRecord>, ReadReport, SourceFile)> {
    if objective_idx >= n_objectives {
        return Err(Error::InvalidParameter {
            field: "objective_idx",
            value: objective_idx.to_string(),
            expected: format!("there are {n_objectives} objectives, counted from 0"),
        });
    }
    if !path.exists() {
        return Err(Error::NotFound { path: path.into(), remedy: FETCH.into() });
    }
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let empty = |remedy: String| Error::Empty { what: path.display().to_string(), remedy };
    if bytes.is_empty() {
        return Err(empty(format!("the file has no bytes: {FETCH}")));
    }
    if bytes.starts_with(LFS_POINTER) {
        return Err(empty("it is a pointer of git-lfs, not the data: run `git lfs pull`".into()));
    }
    let is_gzip = bytes.starts_with(&GZIP_MAGIC);
    let reader: Box<dyn Read + '_> =
        if is_gzip { Box::new(MultiGzDecoder::new(&bytes[..])) } else { Box::new(&bytes[..]) };

    let mut report = ReadReport::default();
    let mut records = Vec::new();
    let mut reader = BufReader::new(reader);
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        let n_read = reader.read_until(b'\n', &mut buffer).map_err(|source| {
            if is_gzip {
                Error::Gzip { file: path.into(), lines_read: line - 1, source }
            } else {
                Error::io("read", path)(source)
            }
        })?;
        if n_read == 0 {
            break;
        }
        let text = buffer.strip_prefix(b"\xef\xbb\xbf").filter(|_| line == 1).unwrap_or(&buffer);
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        report.rows += 1;
        match parse_row(text) {
            Err(why) if strict => {
                return Err(Error::Line {
                    file: path.into(),
                    line,
                    why,
                    remedy: "correct the line, or read without `--strict` to count it and go on"
                        .into(),
                });
            }
            Err(why) => report.malformed(MalformedLine { file: path.into(), line, why }),
            Ok(Parsed::Identical) => report.identical += 1,
            Ok(Parsed::DifferentPrompts) => report.different_prompts += 1,
            Ok(Parsed::EmptyResponse) => report.empty_responses += 1,
            Ok(Parsed::Pair { prompt, chosen, rejected }) => {
                report.kept += 1;
                let swap = stable_hash(seed, &["order", &prompt, &chosen, &rejected]) & 1 == 1;
                let (first, second) = if swap { (rejected, chosen) } else { (chosen, rejected) };
                let mut indicators = vec![None; n_objectives];
                indicators[objective_idx] = Some(if swap { 0.0 } else { 1.0 });
                records.push(PreferenceRecord {
                    id: format!("{name}:{line}"),
                    source: name.clone(),
                    prompt,
                    first,
                    second,
                    indicators,
                    scores: None,
                });
            }
        }
    }
    if records.is_empty() {
        return Err(empty(format!("of its lines none was kept; the counts are:\n{report}")));
    }
    let source = SourceFile { path: name, sha256: sha256_hex(&bytes), rows: report.rows };
    Ok((records, report, source))
}

enum Parsed {
    Identical,
    DifferentPrompts,
    EmptyResponse,
    Pair { prompt: String, chosen: String, rejected: String },
}

/// Classifies one line; the error says why it is malformed.
fn parse_row(line: &[u8]) -> std::result::Result<Parsed, String> {
    let text = std::str::from_utf8(line).map_err(|e| format!("invalid UTF-8: {e}"))?;
    let row: Row = serde_json::from_str(text)
        .map_err(|e| format!("not a row of `chosen` and `rejected`: {}", json_reason(&e)))?;
    let split = |field: &str, dialogue: &str| match dialogue.rfind(ASSISTANT) {
        Some(at) => Ok(at + ASSISTANT.len()),
        None => Err(format!("`{field}` has no {ASSISTANT:?}, so its prompt cannot be found")),
    };
    let (chosen_at, rejected_at) =
        (split("chosen", &row.chosen)?, split("rejected", &row.rejected)?);
    if row.chosen == row.rejected {
        return Ok(Parsed::Identical);
    }
    let (prompt, chosen) = row.chosen.split_at(chosen_at);
    let (rejected_prompt, rejected) = row.rejected.split_at(rejected_at);
    if prompt != rejected_prompt {
        return Ok(Parsed::DifferentPrompts);
    }
    if chosen.trim().is_empty() || rejected.trim().is_empty() {
        return Ok(Parsed::EmptyResponse);
    }
    Ok(Parsed::Pair { prompt: prompt.into(), chosen: chosen.into(), rejected: rejected.into() })
}

/// Folder and file name: enough to tell sources apart, nothing about the machine.
fn short_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    match path.parent().and_then(Path::file_name) {
        Some(folder) => format!("{}/{file}", folder.to_string_lossy()),
        None => file.into_owned(),
    }
}

/// How [`read_hh_dir`] reads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HhOptions {
    /// Only files of this stem (`train` or `test`); `None` takes every file, which mixes the
    /// publisher's splits.
    pub stem: Option<String>,
    /// Makes the first malformed line an error.
    pub strict: bool,
    /// Decides which response comes first.
    pub seed: u64,
}

/// What [`read_hh_dir`] found.
#[derive(Clone, PartialEq, Debug)]
pub struct HhRead {
    /// In the order of the folders, files (sorted) and lines.
    pub records: Vec<PreferenceRecord>,
    /// Over all files.
    pub report: ReadReport,
    /// One per file.
    pub sources: Vec<SourceFile>,
}

/// Reads folders of HH-RLHF: `folders` maps objectives to subfolders of `root`, such as
/// `("helpful", "helpful-base")`; an objective may have several, and one without any has no
/// labels. Every `*.jsonl` and `*.jsonl.gz` of a subfolder is read.
///
/// # Errors
/// [`Error::Core`] for a name that is not in `objectives`; [`Error::NotFound`] for an absent
/// folder or one without such files; those of [`read_hh`].
pub fn read_hh_dir(
    root: &Path,
    objectives: &Objectives,
    folders: &[(&str, &str)],
    options: &HhOptions,
) -> Result<HhRead> {
    let mut read = HhRead { records: vec![], report: ReadReport::default(), sources: vec![] };
    for (objective, folder) in folders {
        let objective_idx = objectives.index_of(objective)?;
        for path in data_files(&root.join(folder), options.stem.as_deref())? {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("{folder}/{file}");
            let n_objectives = objectives.len();
            let HhOptions { strict, seed, .. } = *options;
            let (records, report, source) =
                read_named(&path, name, objective_idx, n_objectives, strict, seed)?;
            read.records.extend(records);
            read.report.merge(&report);
            read.sources.push(source);
        }
    }
    if read.records.is_empty() {
        return Err(Error::Empty {
            what: root.display().to_string(),
            remedy: "name at least one objective and its folder".into(),
        });
    }
    Ok(read)
}

/// The data files of a folder, sorted by name.
fn data_files(folder: &Path, stem: Option<&str>) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Err(Error::NotFound { path: folder.into(), remedy: FETCH.into() });
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let found = name.strip_suffix(".jsonl.gz").or_else(|| name.strip_suffix(".jsonl"));
        if found.is_some_and(|found| stem.is_none_or(|stem| stem == found)) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        let stem = stem.unwrap_or("*");
        return Err(Error::NotFound {
            path: folder.join(format!("{stem}.jsonl[.gz]")),
            remedy: FETCH.into(),
        });
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests;
