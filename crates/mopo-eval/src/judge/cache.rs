//! A judge's answers on disk: one line for each, written as soon as it arrives.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use mopo_hub::sha256_hex;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Answers by the hash of what was asked.
#[derive(Debug)]
pub struct AnswerCache {
    path: PathBuf,
    file: File,
    answers: BTreeMap<String, String>,
    n_damaged: usize,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    model: String,
    answer: String,
}

impl AnswerCache {
    /// Opens a file, or begins one. Lines that cannot be read, such as one that an interrupted command has not finished,
    /// are left alone; what they answered is asked again.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; [`Error::File`] for anything but a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |action| move |source| Error::Io { action, path: path.to_path_buf(), source };
        if std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            let message = "it is not a regular file; move it away".into();
            return Err(Error::File { path: path.into(), message });
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).append(true).create(true).open(path).map_err(io("open"))?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes).map_err(io("read"))?;
        let (mut answers, mut n_damaged) = (BTreeMap::new(), 0);
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => drop(answers.insert(line.key, line.answer)),
                Err(_) => n_damaged += 1,
            }
        }
        if bytes.last().is_some_and(|byte| *byte != b'\n') {
            file.write_all(b"\n").map_err(io("write"))?;
        }
        Ok(Self { path: path.into(), file, answers, n_damaged })
    }

    /// Number of answers.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there is no answer.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Number of lines that could not be read.
    pub fn n_damaged(&self) -> usize {
        self.n_damaged
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.answers.get(key).map(String::as_str)
    }

    /// Adds an answer, in the file first.
    pub(super) fn insert(&mut self, key: String, model: &str, answer: String) -> Result<()> {
        let line = Line { key, model: model.into(), answer };
        let mut bytes = serde_json::to_vec(&line)
            .map_err(|source| Error::Json { what: "an answer of the judge".into(), source })?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(|source| Error::Io {
            action: "write",
            path: self.path.clone(),
            source,
        })?;
        self.answers.insert(line.key, line.answer);
        Ok(())
    }
}

/// What an answer depends on: the model, the length that it may have, and the text that it answers.
pub(super) fn key(model: &str, max_tokens: usize, asked: &str) -> String {
    let whole = serde_json::to_vec(&(model, max_tokens, asked)).expect("texts and a number");
    sha256_hex(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_outlive_the_command_and_damaged_lines_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("judge-cache.jsonl");
        let mut cache = AnswerCache::open(&path).unwrap();
        assert!(cache.is_empty());
        cache.insert("one".into(), "m", "first\nA".into()).unwrap();
        cache.insert("two".into(), "m", "B".into()).unwrap();
        drop(cache);
        // Cut within the second line, as by a kill.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 4]).unwrap();
        let mut cache = AnswerCache::open(&path).unwrap();
        assert_eq!((cache.len(), cache.n_damaged()), (1, 1));
        assert_eq!((cache.get("one"), cache.get("two")), (Some("first\nA"), None));
        cache.insert("two".into(), "m", "TIE".into()).unwrap();
        drop(cache);
        let cache = AnswerCache::open(&path).unwrap();
        assert_eq!((cache.len(), cache.get("two")), (2, Some("TIE")));

        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        let said = AnswerCache::open(&dir.path().join("link")).unwrap_err().to_string();
        assert!(said.contains("regular file"), "{said}");
    }

    #[test]
    fn keys_depend_on_everything_that_is_asked() {
        let keys = [key("m", 1, "x"), key("n", 1, "x"), key("m", 2, "x"), key("m", 1, "y")];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), 4);
        assert_eq!(keys[0], key("m", 1, "x"));
    }
}
