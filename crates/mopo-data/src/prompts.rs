//! Prompts without responses, to sample from: JSON Lines of [`Prompt`].

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::hash::stable_hash;
use crate::report::ReadReport;
use crate::row::typed;
use crate::source::{NamedFile, Rejected, read_file};
use crate::{PreferenceRecord, Result, SourceFile, sha256_hex, write_atomically};

const FETCH: &str = "write one with `mopo prepare … --prompts`";

/// A prompt that responses are generated for.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Unique within a file; readers use `source:line`.
    pub id: String,
    /// Where it came from, for people.
    pub source: String,
    /// Verbatim.
    pub prompt: String,
    /// A response that its author, or an annotator, wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// What a reader of prompts found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PromptRead {
    /// Distinct, in the order of the files and rows.
    pub prompts: Vec<Prompt>,
    /// Over all files.
    pub report: ReadReport,
    /// One per file.
    pub sources: Vec<SourceFile>,
}

/// The distinct prompts of some pairs, in their order, each with the id of its first pair.
pub fn prompts_of(records: &[PreferenceRecord]) -> Vec<Prompt> {
    let mut seen = HashSet::new();
    records
        .iter()
        .filter(|record| seen.insert(record.prompt.as_str()))
        .map(|record| Prompt {
            id: record.id.clone(),
            source: record.source.clone(),
            prompt: record.prompt.clone(),
            reference: None,
        })
        .collect()
}

/// `n_prompts` of them, or all if there are not so many, in their order. A prompt's place is a hash
/// of the seed and its text, so it does not depend on which others are there.
pub fn sample_prompts(prompts: Vec<Prompt>, n_prompts: usize, seed: u64) -> Vec<Prompt> {
    let hash =
        |prompt: &Prompt| (stable_hash(seed, &["sample", &prompt.prompt]), prompt.id.clone());
    let mut hashes: Vec<_> = prompts.iter().map(hash).collect();
    hashes.sort_unstable();
    hashes.truncate(n_prompts);
    prompts.into_iter().filter(|prompt| hashes.binary_search(&hash(prompt)).is_ok()).collect()
}

/// Writes prompts, one a line, atomically; returns the file's SHA-256.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io).
pub fn write_prompts(path: &Path, prompts: &[Prompt]) -> Result<String> {
    let mut bytes = Vec::new();
    for prompt in prompts {
        serde_json::to_writer(&mut bytes, prompt)
            .expect("plain structs of strings are always JSON");
        bytes.push(b'\n');
    }
    write_atomically(path, &bytes)?;
    Ok(sha256_hex(&bytes))
}

/// Reads what [`write_prompts`] wrote; every malformed line is an error.
///
/// # Errors
/// [`Error::Line`](crate::Error::Line) names the line: an unknown or missing field, an empty prompt,
/// an id that occurred before.
pub fn read_prompts(path: &Path) -> Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    let mut seen = HashSet::new();
    let mut report = ReadReport::default();
    read_file(&NamedFile::new(path), FETCH, true, &mut report, &mut |_, row| {
        let prompt: Prompt = typed(row)?;
        if prompt.prompt.trim().is_empty() {
            return Err(Rejected::Malformed("`prompt` is empty".into()));
        }
        if !seen.insert(prompt.id.clone()) {
            return Err(Rejected::Malformed(format!("the id `{}` occurred before", prompt.id)));
        }
        prompts.push(prompt);
        Ok(())
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

    #[test]
    fn a_sample_does_not_depend_on_what_else_is_there() {
        let all: Vec<Prompt> = (0..200).map(prompt).collect();
        let sample = sample_prompts(all.clone(), 50, 1);
        assert_eq!(sample.len(), 50);
        assert_ne!(sample, sample_prompts(all.clone(), 50, 2));
        assert_eq!(sample_prompts(all.clone(), 500, 1), all);
        // Without those that were not chosen the same ones are.
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
            write_atomically(&path, format!("{good}{line}").as_bytes()).unwrap();
            let error = read_prompts(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(texts in prop::collection::vec(("\\PC*[a-z]", prop::option::of(".*")), 1..9)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("prompts.jsonl");
            let of = |(i, (prompt, reference)): (usize, (String, Option<String>))| {
                Prompt { id: i.to_string(), source: "made".into(), prompt, reference }
            };
            let prompts: Vec<Prompt> = texts.into_iter().enumerate().map(of).collect();
            write_prompts(&path, &prompts).unwrap();
            prop_assert_eq!(read_prompts(&path).unwrap(), prompts);
        }
    }
}
