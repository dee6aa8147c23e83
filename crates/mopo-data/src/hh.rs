//! Reader of Anthropic's HH-RLHF files: rows of `{chosen, rejected}` dialogues.
//!
//! Each file labels one objective. Rows that cannot be compared are counted in a
//! [`ReadReport`](crate::ReadReport), never dropped silently.

use std::path::Path;

use mopo_core::Objectives;
use serde::Deserialize;

use crate::container::Row as RawRow;
use crate::files::{Files, NamedFile, files_of};
use crate::row::typed;
use crate::source::{EMPTY_RESPONSE, OneObjective, Pairs, Rejected, read_these, swapped};
use crate::template::{ASSISTANT, split_dialogue};
use crate::{Error, ReadOptions, Result, Sink, SourceRead};

const FETCH: &str = "download the data as described in datasets/hh-rlhf/README.md";
const IDENTICAL: &str = "the dialogues are equal";
const DIFFERENT_PROMPTS: &str = "the prompts differ";
const COLUMNS: [&str; 2] = ["chosen", "rejected"];

#[derive(Deserialize)]
struct Row {
    chosen: String,
    rejected: String,
}

/// Reads one file, which labels objective `objective_idx` of `n_objectives`; the others' indicators
/// are missing.
///
/// A hash of `seed` and the row decides which response comes first, so that the label is not
/// constant.
/// Texts are kept verbatim. With `strict` the first malformed row is an error; otherwise it is
/// counted and skipped.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Io`]; [`Error::Gzip`] for a truncated or damaged stream;
/// [`Error::Line`] with `strict`, or if every row is malformed; [`Error::Empty`] if no row is
/// usable; [`Error::InvalidParameter`] if `objective_idx` is not below `n_objectives`; those of
/// `sink`.
pub fn read_hh(
    path: &Path,
    objective_idx: usize,
    n_objectives: usize,
    options: &ReadOptions,
    sink: &mut Sink<'_>,
) -> Result<SourceRead> {
    let files = Files { files: vec![NamedFile::new(path)], passed_over: vec![] };
    read_named(path, files, objective_idx, n_objectives, options, sink)
}

/// [`read_hh`] for several files with names for records and sources.
fn read_named(
    path: &Path,
    files: Files,
    objective_idx: usize,
    n_objectives: usize,
    options: &ReadOptions,
    sink: &mut Sink<'_>,
) -> Result<SourceRead> {
    let objective = OneObjective::new(objective_idx, n_objectives)?;
    let mut pairs = Pairs::new(sink);
    let read = read_these(files, FETCH, options.strict, &COLUMNS, &mut |place, row| {
        let (prompt, chosen, rejected) = split_row(row)?;
        let swap = swapped(options.seed, &prompt, &chosen, &rejected);
        let (first, second) = if swap { (rejected, chosen) } else { (chosen, rejected) };
        let indicators = objective.indicators(if swap { 0.0 } else { 1.0 });
        pairs.push(place, [prompt, first, second], indicators, None)
    })?;
    pairs.finish(read, path)
}

/// Prompt, preferred and other response.
fn split_row(row: &RawRow<'_>) -> std::result::Result<(String, String, String), Rejected> {
    let row: Row = typed(row)?;
    fn split<'a>(
        field: &str,
        dialogue: &'a str,
    ) -> std::result::Result<(&'a str, &'a str), String> {
        split_dialogue(dialogue)
            .ok_or_else(|| format!("`{field}` has no {ASSISTANT:?}, so its prompt cannot be found"))
    }
    let (prompt, chosen) = split("chosen", &row.chosen)?;
    let (rejected_prompt, rejected) = split("rejected", &row.rejected)?;
    if row.chosen == row.rejected {
        return Err(Rejected::LeftOut(IDENTICAL));
    }
    if prompt != rejected_prompt {
        return Err(Rejected::LeftOut(DIFFERENT_PROMPTS));
    }
    if chosen.trim().is_empty() || rejected.trim().is_empty() {
        return Err(Rejected::LeftOut(EMPTY_RESPONSE));
    }
    Ok((prompt.into(), chosen.into(), rejected.into()))
}

/// Reads folders of HH-RLHF: `folders` maps objectives to subfolders of `root`, such as
/// `("helpful", "helpful-base")`; an objective may have several, and one without any has no
/// labels. Every data file of a subfolder is read.
///
/// # Errors
/// [`Error::Core`] for a name that is not in `objectives`; [`Error::NotFound`] for a missing
/// folder or one without data files; those of [`read_hh`].
pub fn read_hh_dir(
    root: &Path,
    objectives: &Objectives,
    folders: &[(&str, &str)],
    options: &ReadOptions,
    sink: &mut Sink<'_>,
) -> Result<SourceRead> {
    if folders.is_empty() {
        return Err(Error::Empty {
            what: root.display().to_string(),
            remedy: "name at least one objective and its folder".into(),
        });
    }
    let mut read = SourceRead::default();
    for (objective, folder) in folders {
        let objective_idx = objectives.index_of(objective)?;
        let path = root.join(folder);
        if root.is_file() {
            let remedy =
                format!("{} is a file: pass the folder that has {folder}/", root.display());
            return Err(Error::NotFound { path, remedy });
        }
        let mut found = files_of(&path, options.stem.as_deref(), FETCH)?;
        for file in &mut found.files {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            file.name = format!("{folder}/{name}");
        }
        read.merge(read_named(&path, found, objective_idx, objectives.len(), options, sink)?);
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
