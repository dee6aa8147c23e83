//! Checkpoints: a directory per step, complete or absent.
//!
//! Files are written to a hidden directory next to it and flushed, and the directory is renamed
//! into place.
//! `state.json` has the hash of every other file, and `run.json` that of `state.json`: a damaged
//! checkpoint, or one of another run, is detected, and the previous one is used.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mopo_hub::{DirWriter, remove_dir_whole, sha256_hex, write_atomically};
use serde::{Deserialize, Serialize};

use crate::run_dir::OURS;
use crate::{Error, Result, RunDir, RunRecord};

/// The folder of a run's checkpoints.
const FOLDER: &str = "checkpoints";
/// The layout of a checkpoint's parts. It changes with the fields of the models, whose records do not name them.
const FORMAT: u32 = 5;
/// The description of a checkpoint.
const STATE: &str = "state.json";

/// The parts of a training state, by file name.
pub(crate) type Parts = BTreeMap<String, Vec<u8>>;

/// Properties of a checkpoint as a whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The layout of the parts.
    #[serde(default)]
    format: u32,
    phase: String,
    /// Number of finished steps; the position in the data and the random state follow from it and
    /// the seed.
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
                "it is missing from the checkpoint; delete this checkpoint to use the previous one",
            )
        })
    }
}

/// Writes the checkpoint after `step` finished steps and removes all but the latest `keep` of the
/// phase.
pub(crate) fn save(
    run: &RunDir,
    record: &mut RunRecord,
    phase: &str,
    step: usize,
    metrics_len: u64,
    parts: &Parts,
    keep: usize,
) -> Result<PathBuf> {
    run.check_there()?;
    let name = format!("{phase}-step-{step:06}");
    let target = run.join(FOLDER).join(&name);
    let dir = DirWriter::new(&target)?;
    let mut sha256 = BTreeMap::new();
    for (name, bytes) in parts {
        write_atomically(&dir.path().join(name), bytes)?;
        sha256.insert(name.clone(), sha256_hex(bytes));
    }
    let state = State { format: FORMAT, phase: phase.into(), step, metrics_len, sha256 };
    let text =
        serde_json::to_vec_pretty(&state).map_err(|e| Error::corrupt(&target, e.to_string()))?;
    write_atomically(&dir.path().join(STATE), &text)?;
    // The record comes first: a kill in between leaves an extra entry, never a checkpoint that the
    // run does not know. An existing checkpoint of the same name, from before a resume, has the
    // same bytes.
    record.checkpoints.insert(name, sha256_hex(&text));
    run.write_record(record)?;
    dir.place()?;
    remove_old(run, record, phase, keep)?;
    Ok(target)
}

/// Removes all but the newest `keep` checkpoints of a phase.
pub(crate) fn remove_old(
    run: &RunDir,
    record: &mut RunRecord,
    phase: &str,
    keep: usize,
) -> Result<()> {
    for (_, old) in list(run, phase)?.into_iter().rev().skip(keep) {
        remove_dir_whole(&old)?;
    }
    let present = |name: &String| run.join(FOLDER).join(name).exists();
    record.checkpoints.retain(|name, _| present(name));
    Ok(())
}

/// The latest intact checkpoint of a phase, and warnings about damaged ones that were skipped.
pub(crate) fn latest(
    run: &RunDir,
    record: &RunRecord,
    phase: &str,
) -> Result<(Option<Checkpoint>, Vec<String>)> {
    let mut damaged = Vec::new();
    for (step, path) in list(run, phase)?.into_iter().rev() {
        match load(&path, record, phase, step) {
            Ok(checkpoint) => {
                let warn =
                    |message| format!("warning: {message}; using {} instead", path.display());
                return Ok((Some(checkpoint), damaged.into_iter().map(warn).collect()));
            }
            Err(e) => damaged.push(e.to_string()),
        }
    }
    match damaged.into_iter().next() {
        // Starting over silently would discard the user's work.
        Some(message) => Err(Error::Run {
            path: run.path().into(),
            message: format!(
                "no checkpoint of `{phase}` is intact ({message}); remove {} to start the phase over",
                run.join(&format!("{FOLDER}/{phase}-step-*")).display()
            ),
        }),
        None => Ok((None, Vec::new())),
    }
}

/// The checkpoint of a phase after so many steps, which rank 0 has chosen.
pub(crate) fn of_step(
    run: &RunDir,
    record: &RunRecord,
    phase: &str,
    step: usize,
) -> Result<Checkpoint> {
    load(&run.join(FOLDER).join(format!("{phase}-step-{step:06}")), record, phase, step)
}

/// The latest checkpoint of at most `step` finished steps, whatever its content.
pub(crate) fn newest_until(run: &RunDir, phase: &str, step: usize) -> Option<(usize, PathBuf)> {
    list(run, phase).ok()?.into_iter().rev().find(|(found, _)| *found <= step)
}

/// Accepts checkpoints of an earlier version, which recorded none, as this run's own.
pub(crate) fn adopt(run: &RunDir, record: &mut RunRecord) -> Result<()> {
    for (_, path) in list(run, "")? {
        if let (Some(name), Ok(state)) = (path.file_name(), fs::read(path.join(STATE))) {
            record.checkpoints.insert(name.to_string_lossy().into_owned(), sha256_hex(&state));
        }
    }
    Ok(())
}

fn load(path: &Path, record: &RunRecord, phase: &str, step: usize) -> Result<Checkpoint> {
    let file = path.join(STATE);
    let text = fs::read(&file).map_err(Error::io("reading", &file))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match record.checkpoints.get(name.as_ref()) {
        None => {
            return Err(Error::corrupt(path, "it is not in run.json: it belongs to another run"));
        }
        Some(sha256) if *sha256 != sha256_hex(&text) => {
            return Err(Error::corrupt(&file, "its hash is not the one in run.json"));
        }
        Some(_) => {}
    }
    let state: State = mopo_hub::read_json(&file, OURS)?;
    if state.format != FORMAT {
        return Err(Error::corrupt(
            path,
            format!(
                "its parts have layout {}, and this version of mopo reads layout {FORMAT}: go on with the \
                 version that wrote it, or start a new run",
                state.format
            ),
        ));
    }
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

/// Steps and paths of a phase's checkpoints, oldest first; of all phases without `phase`.
fn list(run: &RunDir, phase: &str) -> Result<Vec<(usize, PathBuf)>> {
    let root = run.join(FOLDER);
    if !root.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).map_err(Error::io("reading", &root))? {
        let path = entry.map_err(Error::io("reading", &root))?.path();
        let step = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|name| name.rsplit_once("-step-"))
            .filter(|(of, _)| *of == phase || (phase.is_empty() && !of.starts_with('.')))
            .and_then(|(_, step)| step.parse().ok());
        if let Some(step) = step {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::test_run;

    fn parts(x: u8) -> Parts {
        Parts::from([("params.bin".to_string(), vec![x; 10])])
    }

    /// A run with checkpoints of these steps, and its record.
    fn with_steps(steps: &[usize]) -> (tempfile::TempDir, RunDir, RunRecord) {
        let (tmp, run) = test_run();
        let mut record = run.read_json("run.json").unwrap();
        for &step in steps {
            save(&run, &mut record, "mopo", step, step as u64, &parts(step as u8), 2).unwrap();
        }
        (tmp, run, record)
    }

    fn newest(run: &RunDir, record: &RunRecord) -> Option<usize> {
        latest(run, record, "mopo").unwrap().0.map(|c| c.step)
    }

    #[test]
    fn the_newest_intact_one_is_found_and_old_ones_go() {
        let (_tmp, run, record) = with_steps(&[]);
        assert_eq!(newest(&run, &record), None);
        let (_tmp, run, record) = with_steps(&[10, 20, 30]);
        assert_eq!(list(&run, "mopo").unwrap().len(), 2);
        assert_eq!(record.checkpoints.len(), 2);
        let (c, warnings) = latest(&run, &record, "mopo").unwrap();
        let c = c.unwrap();
        assert!(latest(&run, &record, "warm_start").unwrap().0.is_none() && warnings.is_empty());
        assert_eq!((c.step, c.metrics_len, c.part("params.bin").unwrap()[0]), (30, 30, 30));
        assert!(c.part("optimizer.bin").is_err());

        fs::write(run.join("checkpoints/mopo-step-000030/params.bin"), b"cut").unwrap();
        assert_eq!(newest(&run, &record), Some(20));
        let (_, warnings) = latest(&run, &record, "mopo").unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("000030"), "{warnings:?}");
        fs::remove_file(run.join("checkpoints/mopo-step-000020/params.bin")).unwrap();
        let e = latest(&run, &record, "mopo").unwrap_err().to_string();
        assert!(e.contains("no checkpoint of `mopo` is intact"), "{e}");
    }

    #[test]
    fn what_a_killed_run_did_not_remove_any_more_goes_later() {
        let (_tmp, run, mut record) = with_steps(&[10, 20]);
        // As versions left it that were killed while they removed one.
        let half = run.join("checkpoints/mopo-step-000005");
        fs::create_dir(&half).unwrap();
        fs::write(half.join("params.bin"), "x").unwrap();
        let other = run.join("checkpoints/warm_start-step-000005");
        fs::create_dir(&other).unwrap();
        remove_old(&run, &mut record, "mopo", 2).unwrap();
        assert!(!half.exists() && other.exists());
        assert_eq!(newest(&run, &record), Some(20));
    }

    #[test]
    fn a_state_that_was_changed_and_a_checkpoint_of_another_run_are_not_used() {
        let (_tmp, run, record) = with_steps(&[10, 20]);
        let state = run.join("checkpoints/mopo-step-000020/state.json");
        let text = fs::read_to_string(&state).unwrap();
        // One change would truncate the log at another length; the other only looks different.
        for changed in [text.replace(": 20,", ": 20 ,"), text.replace("len\": 20", "len\": 10")] {
            assert_ne!(changed, text);
            fs::write(&state, changed).unwrap();
            assert_eq!(newest(&run, &record), Some(10));
        }
        fs::write(&state, text).unwrap();
        assert_eq!(newest(&run, &record), Some(20));
        let (_other_tmp, other, _) = with_steps(&[30]);
        let copy = |step: &str| {
            let [from, to] =
                [&other, &run].map(|r| r.join(&format!("checkpoints/mopo-step-{step}")));
            fs::create_dir_all(&to).unwrap();
            for name in ["params.bin", STATE] {
                fs::copy(from.join(name), to.join(name)).unwrap();
            }
        };
        copy("000030");
        assert_eq!(newest(&run, &record), Some(20));
        // Unless the run is from a version that recorded none.
        let mut old = RunRecord { checkpoints: BTreeMap::new(), ..record };
        adopt(&run, &mut old).unwrap();
        assert_eq!((newest(&run, &old), old.checkpoints.len()), (Some(30), 3));
    }

    #[test]
    fn a_run_that_was_removed_gets_no_checkpoint() {
        let (_tmp, run, mut record) = with_steps(&[10]);
        fs::remove_dir_all(run.path()).unwrap();
        let e = save(&run, &mut record, "mopo", 20, 0, &parts(1), 2).unwrap_err().to_string();
        assert!(e.contains("removed"), "{e}");
        assert!(!run.path().exists());
    }

    #[test]
    fn the_newest_before_a_step_is_found() {
        let (_tmp, run, _) = with_steps(&[10, 20]);
        let found = |step| newest_until(&run, "mopo", step).map(|(step, _)| step);
        assert_eq!([9, 10, 19, 20, 99].map(found), [None, Some(10), Some(10), Some(20), Some(20)]);
    }
}
