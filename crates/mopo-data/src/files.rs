//! Which files at a path are read, and which are skipped and why.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A file with the name for records and sources.
pub(crate) struct NamedFile {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
}

impl NamedFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.into(), name: short_name(path) }
    }

    /// Whether the name is that of a JSON text, which may have something other than rows.
    pub(crate) fn is_json(&self) -> bool {
        [".json", ".json.gz"].iter().any(|ending| self.name.ends_with(ending))
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

/// An entry of a data folder that was not read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PassedOver {
    /// Its path.
    pub path: PathBuf,
    /// Why.
    pub why: &'static str,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path.display(), self.why)
    }
}

/// The files at a path.
pub(crate) struct Files {
    /// Files to read, sorted by name.
    pub(crate) files: Vec<NamedFile>,
    /// Skipped entries, sorted by name, without files of another stem.
    pub(crate) passed_over: Vec<PassedOver>,
}

const ENDINGS: [&str; 5] = [".jsonl.gz", ".json.gz", ".jsonl", ".json", ".parquet"];
/// Files that programs write next to data.
const ABOUT_DATA: [&str; 6] = [
    "dataset_infos.json",
    "dataset_info.json",
    "dataset_dict.json",
    "state.json",
    "metadata.json",
    "croissant.json",
];

/// A file, or the data files of a folder.
///
/// # Errors
/// [`Error::NotFound`] if there is none, with `fetch` as its remedy; [`Error::Doubled`] for two
/// files
/// whose names differ only in compression.
pub(crate) fn files_of(path: &Path, stem: Option<&str>, fetch: &str) -> Result<Files> {
    if path.is_file() {
        return Ok(Files { files: vec![NamedFile::new(path)], passed_over: vec![] });
    }
    if !path.is_dir() {
        return Err(Error::NotFound { path: path.into(), remedy: fetch.into() });
    }
    let (mut paths, mut passed_over) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(path).map_err(Error::io("list", path))? {
        let path = entry.map_err(Error::io("list", path))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match use_of(&path, &name, stem) {
            Use::Read => paths.push(path),
            Use::PassOver(why) => passed_over.push(PassedOver { path, why }),
            Use::OtherStem => {}
        }
    }
    passed_over.sort_by(|a, b| a.path.cmp(&b.path));
    if paths.is_empty() {
        let pattern = format!("{}.{{jsonl,json,parquet}}[.gz]", stem.unwrap_or("*"));
        let mut remedy = String::from(fetch);
        if !passed_over.is_empty() {
            let names: Vec<String> = passed_over.iter().take(9).map(ToString::to_string).collect();
            remedy = format!("{fetch}; skipped: {}", names.join(", "));
        }
        return Err(Error::NotFound { path: path.join(pattern), remedy });
    }
    paths.sort();
    for packed in &paths {
        // `x.jsonl` and `x.jsonl.gz`.
        let plain = packed.with_extension("");
        if packed.extension().is_some_and(|end| end == "gz") && paths.binary_search(&plain).is_ok()
        {
            return Err(Error::Doubled { first: plain, second: packed.clone() });
        }
    }
    let files = paths.iter().map(|path| NamedFile::new(path)).collect();
    Ok(Files { files, passed_over })
}

enum Use {
    Read,
    PassOver(&'static str),
    OtherStem,
}

/// Whether an entry of a folder is read.
fn use_of(path: &Path, name: &str, stem: Option<&str>) -> Use {
    if name.starts_with('.') {
        return Use::PassOver("hidden");
    }
    if path.is_dir() {
        return Use::PassOver("a folder");
    }
    let Some(found) = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)) else {
        return Use::PassOver("no data by its name");
    };
    let wanted = |stem: &str| {
        found.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    if !path.is_file() {
        Use::PassOver("no file")
    } else if ABOUT_DATA.contains(&name) {
        Use::PassOver("says what the data are")
    } else if stem.is_none_or(wanted) {
        Use::Read
    } else {
        Use::OtherStem
    }
}
