//! Reader of Anthropic's HH-RLHF files: rows of `{chosen, rejected}` dialogues.
//!
//! Each file labels one objective. Rows that cannot be compared are counted in a [`ReadReport`],
//! never dropped in silence.

use std::path::Path;

use mopo_core::Objectives;
use serde::Deserialize;
use serde_json::Value;

use crate::row::typed;
use crate::source::{
    EMPTY_RESPONSE, NamedFile, OneObjective, Rejected, files_of, nothing_used, read_file, swapped,
};
use crate::{Error, PreferenceRecord, ReadOptions, ReadReport, Result, SourceFile, SourceRead};

/// A prompt ends with, and includes, the last of these in a dialogue.
const ASSISTANT: &str = "\n\nAssistant:";
const FETCH: &str = "fetch the data as datasets/hh-rlhf/README.md says";
const IDENTICAL: &str = "both dialogues are equal";
const DIFFERENT_PROMPTS: &str = "the prompts differ";

#[derive(Deserialize)]
struct Row {
    chosen: String,
    rejected: String,
}

/// Reads one file, which labels objective `objective_idx` of `n_objectives`; the others' indicators
/// are missing.
///
/// Which response comes first is a hash of `seed` and the row, so that the label is not constant.
/// Texts are kept verbatim. Under `strict` the first malformed row is an error; otherwise it is
/// counted and left out.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Io`]; [`Error::Gzip`] for a truncated or damaged stream;
/// [`Error::Line`] under `strict`, or if every row is malformed; [`Error::Empty`] if no row is
/// usable; [`Error::InvalidParameter`] if `objective_idx` is not below `n_objectives`.
pub fn read_hh(
    path: &Path,
    objective_idx: usize,
    n_objectives: usize,
    strict: bool,
    seed: u64,
) -> Result<(Vec<PreferenceRecord>, ReadReport, SourceFile)> {
    read_named(&NamedFile::new(path), objective_idx, n_objectives, strict, seed)
}

/// [`read_hh`] with the name that records and source get.
fn read_named(
    file: &NamedFile,
    objective_idx: usize,
    n_objectives: usize,
    strict: bool,
    seed: u64,
) -> Result<(Vec<PreferenceRecord>, ReadReport, SourceFile)> {
    let objective = OneObjective::new(objective_idx, n_objectives)?;
    let mut report = ReadReport::default();
    let mut records = Vec::new();
    let source = read_file(file, FETCH, strict, &mut report, &mut |place, row| {
        let (prompt, chosen, rejected) = split_row(row)?;
        let swap = swapped(seed, &prompt, &chosen, &rejected);
        let (first, second) = if swap { (rejected, chosen) } else { (chosen, rejected) };
        records.push(PreferenceRecord {
            id: place.id(),
            source: place.source.into(),
            prompt,
            first,
            second,
            indicators: objective.indicators(if swap { 0.0 } else { 1.0 }),
            scores: None,
        });
        Ok(())
    })?;
    report.made = records.len();
    if records.is_empty() {
        return Err(nothing_used(&file.path, &report));
    }
    Ok((records, report, source))
}

/// Prompt, preferred and other response.
fn split_row(row: &Value) -> std::result::Result<(String, String, String), Rejected> {
    let row: Row = typed(row)?;
    let split = |field: &str, dialogue: &str| match dialogue.rfind(ASSISTANT) {
        Some(at) => Ok(at + ASSISTANT.len()),
        None => Err(format!("`{field}` has no {ASSISTANT:?}, so its prompt cannot be found")),
    };
    let (chosen_at, rejected_at) =
        (split("chosen", &row.chosen)?, split("rejected", &row.rejected)?);
    if row.chosen == row.rejected {
        return Err(Rejected::LeftOut(IDENTICAL));
    }
    let (prompt, chosen) = row.chosen.split_at(chosen_at);
    let (rejected_prompt, rejected) = row.rejected.split_at(rejected_at);
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
/// [`Error::Core`] for a name that is not in `objectives`; [`Error::NotFound`] for an absent
/// folder or one without such files; those of [`read_hh`].
pub fn read_hh_dir(
    root: &Path,
    objectives: &Objectives,
    folders: &[(&str, &str)],
    options: &ReadOptions,
) -> Result<SourceRead> {
    let mut read = SourceRead::default();
    for (objective, folder) in folders {
        let objective_idx = objectives.index_of(objective)?;
        for mut file in files_of(&root.join(folder), options.stem.as_deref(), FETCH)? {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            file.name = format!("{folder}/{name}");
            let n_objectives = objectives.len();
            let ReadOptions { strict, seed, .. } = *options;
            let (records, report, source) =
                read_named(&file, objective_idx, n_objectives, strict, seed)?;
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

#[cfg(test)]
mod tests;
