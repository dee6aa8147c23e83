//! One byte of a file that a command reads is changed: the command says so by the file's name, or ends with the same
//! result.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::bench::{Bench, Trial};
use super::compare::{compared, difference, tree, without_place};
use crate::random::Random;

/// Inputs of the user without a checksum, and why: what they say is what is wanted, so another letter can be another
/// result. A command must still end well. Everything else must notice the byte, or end with the same result.
const OF_THE_USER: &[(&str, &str)] = &[
    ("reward.toml", "written by people"),
    ("rewards.toml", "written by people"),
    ("train.toml", "written by people"),
    ("study.json", "written by people"),
    ("pairs.jsonl", "an open format that people write too; a run records its hash"),
    ("prompts.jsonl", "the same"),
    ("labelled.jsonl", "the same"),
    ("texts.jsonl", "texts of any program"),
    ("hf/", "a model in the layout of transformers, which has no checksum; a run records its hash"),
    ("rm/model/", "the same"),
    ("export/", "the same, with adapter and heads"),
    ("model.gguf", "a format of llama.cpp, which has no checksum"),
    ("small.gguf", "the same"),
];

/// A log of the program, which grows and has no checksum: nothing that is trained depends on it. What a page draws from it
/// may be another; a line that is no JSON is skipped with a note.
const LOG: &str = "metrics.jsonl";

/// Why a file may say something else, if it may.
fn of_the_user(file: &str) -> bool {
    OF_THE_USER.iter().any(|(name, _)| match name.ends_with('/') {
        true => file.starts_with(name),
        false => file == *name,
    })
}

/// The lines of [`OF_THE_USER`] for a page.
pub(super) fn table() -> String {
    let log = (
        LOG,
        "a log of the program, from which pages draw curves; nothing that is trained depends on it",
    );
    let all = OF_THE_USER.iter().chain([&log]);
    all.map(|(name, why)| format!("| `{name}` | {why} |\n")).collect()
}

/// One trial.
pub(super) fn one(bench: &Bench, trial: u64) -> Result<Trial> {
    let mut random = Random::of_trial(bench.seed, "bytes", trial);
    let mut jobs = bench.jobs(true);
    jobs.retain(|i| !bench.jobs[*i].0.needs.is_empty());
    let index = jobs[(trial % jobs.len() as u64) as usize];
    let (job, known) = (&bench.jobs[index].0, bench.known(index)?);
    let space = bench.workspace("bytes", trial, job)?;
    let file = random.pick(&known.reads).clone();
    let path = space.dir.join(&file);
    let mut bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    if bytes.is_empty() {
        return Ok(Trial {
            job: job.name.clone(),
            class: "an empty file".into(),
            failure: None,
            shown: file,
        });
    }
    let at = random.below(bytes.len());
    let old = bytes[at];
    bytes[at] = match random.chance(0.7) {
        true => old ^ (1 << random.below(8)),
        false => old.wrapping_add(1 + random.below(255) as u8),
    };
    let shown = format!("{} # byte {at} of {file}: {old} → {}", job.line, bytes[at]);
    fs::write(&path, &bytes)?;
    let changed = compared(&file, without_place(bytes, &space.dir));
    let ended = bench.inputs.run(&job.line, &space.dir).to_end()?;
    bench.say(|| format!("{shown}\n{:?}\n{}", ended.code, ended.complained));
    let kind = kind(&file);
    let (class, failure) = if let Some(why) = ended.misbehaved() {
        ("misbehaved", Some(why))
    } else if !ended.succeeded() {
        let error = ended.errors().join(" ");
        let unnamed = !names_itself(&error, &file);
        // What the user wrote may name something that is not there: then that is named.
        let unnamed = unnamed && !of_the_user(&file);
        ("noticed", unnamed.then(|| format!("the error does not name {file}: {error}")))
    } else {
        // The file itself is as it was changed, or was written anew.
        let own = |name: &str| {
            name == file
                && fs::read(&path)
                    .is_ok_and(|now| compared(&file, without_place(now, &space.dir)) == changed)
        };
        match difference(&known.after, &tree(&space.dir)?, own) {
            None => ("without effect", None),
            Some(_) if of_the_user(&file) => ("another input of the user's", None),
            Some(_) if file.ends_with(LOG) => ("another log", None),
            Some(what) => ("not noticed", Some(format!("{file} was changed, and {what}"))),
        }
    };
    Ok(Trial { job: kind, class: class.into(), failure, shown })
}

/// Whether an error has the file's name, or the directory that it is in below that of its run.
fn names_itself(error: &str, file: &str) -> bool {
    let path = Path::new(file);
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let folder = path.parent().filter(|folder| folder.components().count() > 1);
    error.contains(&*name)
        || folder.is_some_and(|folder| error.contains(&*folder.display().to_string()))
}

/// What kind of file it is, for the table: its path without the name of the run and the number of the checkpoint.
fn kind(file: &str) -> String {
    if of_the_user(file) {
        return file.into();
    }
    let below = file.split_once('/').map_or(file, |(_, below)| below);
    let parts = below.split('/').map(|part| match part.split_once("-step-") {
        Some((phase, _)) => format!("{phase}-step-N"),
        None => part.into(),
    });
    format!("run: {}", parts.collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inputs_of_the_user_may_say_something_else() {
        for file in ["train.toml", "hf/model.safetensors", "rm/model/config.json"] {
            assert!(of_the_user(file), "{file}");
        }
        for file in [
            "run-b/config.toml",
            "cut/data/train.jsonl",
            "run-b/policy/heads.safetensors",
            "rm/run.json",
        ] {
            assert!(!of_the_user(file), "{file}");
        }
    }

    #[test]
    fn the_name_of_a_run_does_not_name_its_files() {
        let error = "error: run-b/data/train.jsonl has another SHA-256 than in run.json";
        assert!(names_itself(error, "run-b/data/train.jsonl"));
        assert!(names_itself(
            "error: run-b/policy: another hash",
            "run-b/policy/heads.safetensors"
        ));
        for file in ["run-b/config.toml", "run-b/policy/heads.safetensors", "run-b/tokenizer.json"]
        {
            assert!(!names_itself(error, file), "{file}");
        }
    }

    #[test]
    fn files_of_runs_are_counted_by_what_they_are() {
        assert_eq!(
            kind("cut/checkpoints/mopo-step-000003/policy.bin"),
            "run: checkpoints/mopo-step-N/policy.bin"
        );
        assert_eq!(kind("run-b/config.toml"), "run: config.toml");
        assert_eq!(kind("hf/config.json"), "hf/config.json");
    }
}
