//! Checkpoints: a directory per step, complete or absent.
//!
//! Files are written into a hidden sibling, flushed, and the directory is renamed into place;
//! `state.json` holds the hash of every other file, so a damaged checkpoint is noticed and the
//! one before it is used.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mopo_data::{sha256_hex, write_atomically};
use serde::{Deserialize, Serialize};

use crate::run_dir::{read_json, sync_dir};
use crate::{Error, Result, RunDir};

/// The parts of a training state, by file name.
pub(crate) type Parts = BTreeMap<String, Vec<u8>>;

/// What is true of a checkpoint as a whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    phase: String,
    /// Steps done; the position in the data and the random state follow from it and the seed.
    step: usize,
    /// Length of metrics.jsonl.
    metrics_len: u64,
    sha256: BTreeMap<String, String>,
}

/// A loaded checkpoint.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) step: usize,
    pub(crate) metrics_len: u64,
    pub(crate) parts: Parts,
    pub(crate) path: PathBuf,
}

impl Checkpoint {
    /// A part by name.
    pub(crate) fn part(&self, name: &str) -> Result<&[u8]> {
        self.parts.get(name).map(Vec::as_slice).ok_or_else(|| {
            Error::corrupt(
                &self.path.join(name),
                "it is missing from the checkpoint; delete this checkpoint to use the one before it",
            )
        })
    }
}

/// Writes the checkpoint of `step` done steps and removes all but the newest `keep` of the phase.
pub(crate) fn save(
    run: &RunDir,
    phase: &str,
    step: usize,
    metrics_len: u64,
    parts: &Parts,
    keep: usize,
) -> Result<PathBuf> {
    let root = run.join("checkpoints");
    fs::create_dir_all(&root).map_err(Error::io("making", &root))?;
    let target = root.join(format!("{phase}-step-{step:06}"));
    if target.exists() {
        // Of a resumed run whose earlier life wrote it: the same bytes.
        fs::remove_dir_all(&target).map_err(Error::io("removing", &target))?;
    }
    let dir = tempfile::Builder::new()
        .prefix(".partial-")
        .tempdir_in(&root)
        .map_err(Error::io("making", &root))?;
    let mut sha256 = BTreeMap::new();
    for (name, bytes) in parts {
        write_atomically(&dir.path().join(name), bytes)?;
        sha256.insert(name.clone(), sha256_hex(bytes));
    }
    let state = State { phase: phase.into(), step, metrics_len, sha256 };
    let text =
        serde_json::to_vec_pretty(&state).map_err(|e| Error::corrupt(&target, e.to_string()))?;
    write_atomically(&dir.path().join("state.json"), &text)?;
    fs::rename(dir.path(), &target).map_err(Error::io("renaming to", &target))?;
    let _ = dir.keep(); // renamed away: nothing to remove
    sync_dir(&root)?;
    for (_, old) in list(run, phase)?.into_iter().rev().skip(keep) {
        fs::remove_dir_all(&old).map_err(Error::io("removing", &old))?;
    }
    Ok(target)
}

/// The newest intact checkpoint of a phase; damaged ones are skipped and reported.
pub(crate) fn latest(run: &RunDir, phase: &str) -> Result<Option<Checkpoint>> {
    remove_partial(run);
    let mut damaged = Vec::new();
    for (step, path) in list(run, phase)?.into_iter().rev() {
        match load(&path, phase, step) {
            Ok(checkpoint) => {
                for message in damaged {
                    tracing::warn!("{message}; using {} instead", path.display());
                }
                return Ok(Some(checkpoint));
            }
            Err(e) => damaged.push(e.to_string()),
        }
    }
    match damaged.into_iter().next() {
        // Starting over silently would throw away what the user has.
        Some(message) => Err(Error::Run {
            path: run.path().into(),
            message: format!(
                "no checkpoint of `{phase}` is intact ({message}); remove {} to start the phase over",
                run.join("checkpoints").display()
            ),
        }),
        None => Ok(None),
    }
}

/// Words for an error message: what is intact and how to go on.
pub(crate) fn describe(run: &RunDir, phase: &str) -> String {
    match latest(run, phase) {
        Ok(Some(c)) => format!(
            "The checkpoint {} is intact: `mopo train --resume {}` goes on from it.",
            c.path.display(),
            run.path().display()
        ),
        _ => "There is no checkpoint of this phase yet.".into(),
    }
}

fn load(path: &Path, phase: &str, step: usize) -> Result<Checkpoint> {
    let state: State = read_json(&path.join("state.json"))?;
    if state.phase != phase || state.step != step {
        return Err(Error::corrupt(path, "its state.json belongs to another checkpoint"));
    }
    let mut parts = Parts::new();
    for (name, sha256) in &state.sha256 {
        let file = path.join(name);
        let bytes = fs::read(&file).map_err(Error::io("reading", &file))?;
        if sha256_hex(&bytes) != *sha256 {
            return Err(Error::corrupt(&file, "its hash is not the one in state.json"));
        }
        parts.insert(name.clone(), bytes);
    }
    Ok(Checkpoint { step, metrics_len: state.metrics_len, parts, path: path.into() })
}

/// Steps and paths of a phase's checkpoints, oldest first.
fn list(run: &RunDir, phase: &str) -> Result<Vec<(usize, PathBuf)>> {
    let root = run.join("checkpoints");
    if !root.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).map_err(Error::io("reading", &root))? {
        let path = entry.map_err(Error::io("reading", &root))?.path();
        let step = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_prefix(phase)?.strip_prefix("-step-")?.parse().ok());
        if let Some(step) = step {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// What a killed process left of an unfinished checkpoint.
fn remove_partial(run: &RunDir) {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".partial-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::RunConfig::preset("demo").unwrap();
        let record = crate::RunRecord {
            mopo_version: String::new(),
            burn_version: String::new(),
            device: String::new(),
            seed: 0,
            started: 0,
            command: vec![],
            data: None,
            strict: false,
            hashes: BTreeMap::new(),
        };
        let run = RunDir::create(&dir.path().join("run"), &config, &record).unwrap();
        (dir, run)
    }

    fn parts(x: u8) -> Parts {
        Parts::from([("params.bin".to_string(), vec![x; 10])])
    }

    #[test]
    fn the_newest_intact_one_is_found_and_old_ones_go() {
        let (_tmp, run) = run();
        assert!(latest(&run, "mopo").unwrap().is_none());
        for step in [10, 20, 30] {
            save(&run, "mopo", step, step as u64, &parts(step as u8), 2).unwrap();
        }
        assert_eq!(list(&run, "mopo").unwrap().len(), 2);
        assert!(latest(&run, "warm_start").unwrap().is_none());
        let c = latest(&run, "mopo").unwrap().unwrap();
        assert_eq!((c.step, c.metrics_len, c.part("params.bin").unwrap()[0]), (30, 30, 30));
        assert!(c.part("optimizer.bin").is_err());

        fs::write(run.join("checkpoints/mopo-step-000030/params.bin"), b"cut").unwrap();
        assert_eq!(latest(&run, "mopo").unwrap().unwrap().step, 20);
        fs::remove_file(run.join("checkpoints/mopo-step-000020/params.bin")).unwrap();
        let e = latest(&run, "mopo").unwrap_err().to_string();
        assert!(e.contains("no checkpoint of `mopo` is intact"), "{e}");
    }

    #[test]
    fn leftovers_of_a_killed_writer_are_ignored() {
        let (_tmp, run) = run();
        save(&run, "mopo", 5, 0, &parts(5), 1).unwrap();
        let partial = run.join("checkpoints/.partial-abc");
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("params.bin"), b"half").unwrap();
        assert_eq!(latest(&run, "mopo").unwrap().unwrap().step, 5);
        assert!(!partial.exists());
    }
}
