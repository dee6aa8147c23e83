//! Prompts without responses, to sample from: JSON Lines of [`Prompt`].

use std::collections::{BinaryHeap, HashSet};
use std::convert::identity;
use std::path::{Path, PathBuf};

use mopo_hub::write_atomically_with;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files::NamedFile;
use crate::hash::stable_hash;
use crate::report::ReadReport;
use crate::row::typed;
use crate::source::{Rejected, read_file};
use crate::stream::{RowAt, RowKey, Sorter, Spool, Spooled, text_key};
use crate::{Error, Result, SourceFile};

const FETCH: &str = "write one with `mopo prepare … --prompts`";

/// A prompt to generate responses for.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Unique within a file; readers use `source:line`. In a file it may be left out: then it is the line's number.
    #[serde(default)]
    pub id: String,
    /// Where it came from, for information; may be left out.
    #[serde(default)]
    pub source: String,
    /// Verbatim.
    pub prompt: String,
    /// A response written by its author or an annotator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// The result of a reader of prompts.
#[derive(Debug)]
pub struct PromptRead {
    /// Distinct, in the order of the files and rows.
    pub prompts: StagedPrompts,
    /// Over all files.
    pub report: ReadReport,
    /// One per file.
    pub sources: Vec<SourceFile>,
}

/// Receives prompts one by one and keeps the first of each text, in bounded memory.
pub struct PromptWriter {
    folder: PathBuf,
    rows: Spool<Prompt>,
    /// Key of the text, number of the prompt, its location.
    by_text: Sorter<5>,
    n_rows: u64,
}

impl PromptWriter {
    /// Keeps them in unnamed files in `folder`, which must exist.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be created.
    pub fn new(folder: &Path) -> Result<Self> {
        let rows = Spool::new(folder).map_err(Error::io("write into", folder))?;
        Ok(Self { folder: folder.into(), rows, by_text: Sorter::new(folder), n_rows: 0 })
    }

    /// Adds a prompt.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn push(&mut self, prompt: &Prompt) -> Result<()> {
        let io = |error| Error::io("write into", &self.folder)(error);
        let RowAt { offset, n_bytes } = self.rows.push(prompt).map_err(io)?;
        let [a, b] = text_key(&prompt.prompt);
        self.by_text.push([a, b, self.n_rows, offset, n_bytes]).map_err(io)?;
        self.n_rows += 1;
        Ok(())
    }

    /// The distinct prompts.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self) -> Result<StagedPrompts> {
        let Self { folder, rows, by_text, .. } = self;
        let io = |error| Error::io("read in", &folder)(error);
        let rows = rows.finish().map_err(io)?;
        let mut in_order = Sorter::new(&folder);
        let mut n_distinct = 0;
        let mut last: Option<RowKey> = None;
        by_text
            .for_each(identity, |[a, b, number, offset, n_bytes]| {
                if last.replace([a, b]) == Some([a, b]) {
                    return Ok(());
                }
                n_distinct += 1;
                in_order.push([number, offset, n_bytes])
            })
            .map_err(io)?;
        Ok(StagedPrompts { folder, rows, in_order, n_taken: n_distinct })
    }
}

/// Distinct prompts that have not been written to a file yet.
pub struct StagedPrompts {
    folder: PathBuf,
    rows: Spooled<Prompt>,
    /// Number of the prompt, its location.
    in_order: Sorter<3>,
    n_taken: usize,
}

impl std::fmt::Debug for StagedPrompts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StagedPrompts").field("n_taken", &self.n_taken).finish_non_exhaustive()
    }
}

impl StagedPrompts {
    /// Number of prompts.
    pub fn len(&self) -> usize {
        self.n_taken
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n_taken == 0
    }

    /// `n_prompts` of them, or all if there are fewer, in their order. The choice depends on a hash
    /// of the seed and each text, so it does not depend on which other prompts there are. Memory
    /// grows with
    /// `n_prompts`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sample(self, n_prompts: usize, seed: u64) -> Result<Self> {
        if n_prompts >= self.n_taken {
            return Ok(self);
        }
        let Self { folder, mut rows, in_order, .. } = self;
        let io = |error| Error::io("read in", &folder)(error);
        // The largest hash is on top, and is replaced by any smaller one.
        let mut taken: BinaryHeap<(u64, String, [u64; 3])> = BinaryHeap::new();
        in_order
            .for_each(identity, |[number, offset, n_bytes]| {
                let prompt = rows.row(RowAt { offset, n_bytes })?;
                let hash = stable_hash(seed, &["sample", &prompt.prompt]);
                taken.push((hash, prompt.id, [number, offset, n_bytes]));
                if taken.len() > n_prompts {
                    taken.pop();
                }
                Ok(())
            })
            .map_err(io)?;
        let mut in_order = Sorter::new(&folder);
        let n_taken = taken.len();
        taken.into_iter().try_for_each(|(_, _, entry)| in_order.push(entry)).map_err(io)?;
        Ok(Self { folder, rows, in_order, n_taken })
    }

    /// Writes them, one per line, whole or not at all; returns the file's SHA-256.
    ///
    /// # Errors
    /// [`Error::Hub`], [`Error::Io`].
    pub fn write(self, path: &Path) -> Result<String> {
        let Self { mut rows, in_order, .. } = self;
        let mut hash = Sha256::new();
        write_atomically_with(path, |file| {
            in_order.for_each(identity, |[_, offset, n_bytes]| {
                let line = rows.line(RowAt { offset, n_bytes })?;
                hash.update(line);
                file.write_all(line)
            })
        })?;
        Ok(mopo_hub::hex(&hash.finalize()))
    }

    /// The prompts in memory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn into_memory(self) -> Result<Vec<Prompt>> {
        let Self { folder, mut rows, in_order, n_taken, .. } = self;
        let mut prompts = Vec::with_capacity(n_taken);
        in_order
            .for_each(identity, |[_, offset, n_bytes]| {
                prompts.push(rows.row(RowAt { offset, n_bytes })?);
                Ok(())
            })
            .map_err(Error::io("read in", &folder))?;
        Ok(prompts)
    }
}

/// Reads what [`StagedPrompts::write`] wrote, or lines with no more than a `prompt`; every malformed line is an error.
///
/// # Errors
/// [`Error::Line`](crate::Error::Line) names the line: an unknown or missing field, an empty
/// prompt,
/// a duplicate id.
pub fn read_prompts(path: &Path) -> Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    let mut seen = HashSet::new();
    let mut report = ReadReport::default();
    read_file(&NamedFile::new(path), FETCH, true, &[], &mut report, &mut |place, row| {
        let mut prompt: Prompt = typed(row)?;
        if prompt.id.is_empty() {
            prompt.id = place.line.to_string();
        }
        if prompt.prompt.trim().is_empty() {
            return Err(Rejected::Malformed("`prompt` is empty".into()));
        }
        if !seen.insert(prompt.id.clone()) {
            return Err(Rejected::Malformed(format!("the id `{}` occurred before", prompt.id)));
        }
        prompts.push(prompt);
        Ok([0; 2])
    })
    .map_err(|error| match error {
        // Nothing skips a prompt.
        Error::Line { file, line, why, .. } => {
            Error::Line { file, line, why, remedy: "correct it".into() }
        }
        other => other,
    })?;
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prompt(i: usize) -> Prompt {
        Prompt {
            id: i.to_string(),
            source: "made".into(),
            prompt: format!("prompt {i}"),
            reference: None,
        }
    }

    fn staged(prompts: &[Prompt]) -> StagedPrompts {
        let mut writer = PromptWriter::new(&std::env::temp_dir()).unwrap();
        prompts.iter().for_each(|prompt| writer.push(prompt).unwrap());
        writer.finish().unwrap()
    }

    fn sample_prompts(prompts: Vec<Prompt>, n_prompts: usize, seed: u64) -> Vec<Prompt> {
        staged(&prompts).sample(n_prompts, seed).unwrap().into_memory().unwrap()
    }

    #[test]
    fn the_first_of_each_text_is_kept() {
        let repeated = |i: usize, text: &str| Prompt { prompt: text.into(), ..prompt(i) };
        let all = [repeated(0, "b"), repeated(1, "a"), repeated(2, "b"), repeated(3, "c")];
        let found = staged(&all);
        assert_eq!(found.len(), 3);
        let ids: Vec<String> = found.into_memory().unwrap().into_iter().map(|p| p.id).collect();
        assert_eq!(ids, ["0", "1", "3"]);
    }

    #[test]
    fn a_sample_does_not_depend_on_what_else_is_there() {
        let all: Vec<Prompt> = (0..200).map(prompt).collect();
        let sample = sample_prompts(all.clone(), 50, 1);
        assert_eq!(sample.len(), 50);
        assert_ne!(sample, sample_prompts(all.clone(), 50, 2));
        assert_eq!(sample_prompts(all.clone(), 500, 1), all);
        // Without the prompts that were not chosen, the choice is the same.
        assert_eq!(sample_prompts(sample.clone(), 50, 1), sample);
        let mut order: Vec<usize> = sample.iter().map(|p| p.id.parse().unwrap()).collect();
        assert!(order.is_sorted());
        order.dedup();
        assert_eq!(order.len(), 50);
    }

    #[test]
    fn bad_lines_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.jsonl");
        let good = "{\"id\":\"a\",\"source\":\"s\",\"prompt\":\"p\"}\n";
        for (line, expected) in [
            (good, "prompts.jsonl:2: the id `a` occurred before"),
            ("{\"id\":\"b\",\"source\":\"s\"}", "there is no column `prompt`"),
            ("{\"id\":\"b\",\"source\":\"s\",\"prompt\":\" \"}", "`prompt` is empty"),
            ("{\"id\":\"b\",\"source\":\"s\",\"prompt\":\"p\",\"ref\":1}", "unknown field `ref`"),
        ] {
            crate::write_atomically(&path, format!("{good}{line}").as_bytes()).unwrap();
            let error = read_prompts(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn prompts_alone_are_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.jsonl");
        let lines = "{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"id\":\"x\"}\n";
        crate::write_atomically(&path, lines.as_bytes()).unwrap();
        let found = read_prompts(&path).unwrap();
        let found: Vec<[&str; 3]> = found.iter().map(|p| [&*p.id, &p.source, &p.prompt]).collect();
        assert_eq!(found, [["1", "", "a"], ["x", "", "b"]]);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(texts in prop::collection::vec(("\\PC*[a-z]", prop::option::of(".*")), 1..9)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("prompts.jsonl");
            // Distinct, by their beginnings.
            let of = |(i, (prompt, reference)): (usize, (String, Option<String>))| {
                let prompt = format!("{i} {prompt}");
                Prompt { id: i.to_string(), source: "made".into(), prompt, reference }
            };
            let prompts: Vec<Prompt> = texts.into_iter().enumerate().map(of).collect();
            let hash = staged(&prompts).write(&path).unwrap();
            prop_assert_eq!(crate::file_sha256(&path).unwrap(), hash);
            prop_assert_eq!(read_prompts(&path).unwrap(), prompts);
        }
    }
}
