//! What is submitted to Slurm: labels and a study, in arrays, of which some tasks are killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Outcome;
use super::inputs::{Inputs, check_same, deploy};
use super::packages::Installed;
use super::processes::{last_lines, output, processes, signal, wait_for};
use super::slurm::{PACKAGES, PROGRAMS, Slurm};

const STUDY: &str = include_str!("tiny-study.toml");
const PATIENCE: Duration = Duration::from_secs(300);
const N_SHARDS: usize = 4;
const N_STUDY_SHARDS: usize = 3;

/// The step of Slurm.
pub(super) fn run(inputs: &Inputs, no_install: bool, dir: &Path) -> Result<Outcome> {
    let _installed = match Installed::for_programs(&PROGRAMS, &PACKAGES, !no_install)? {
        Ok(installed) => installed,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let dir = dir.join("slurm");
    fs::create_dir_all(&dir)?;
    let slurm = Slurm::start(&dir)?;
    let labels = labels(inputs, &slurm, &dir).context("labels")?;
    let study = study(inputs, &slurm, &dir).context("study")?;
    let shown = format!("{labels}; {study}");
    if let Some(why) = super::train::lacks_mpi(&inputs.mopo) {
        return Ok(Outcome::Partly(shown, format!("no training: {why}")));
    }
    let training = super::train::slurm(inputs, &slurm, &dir).context("training")?;
    Ok(Outcome::Passed(format!("{shown}; {training}")))
}

/// Submits a command as an array with its merge; returns the number of the array.
fn submit(inputs: &Inputs, slurm: &Slurm, n: usize, words: &[String]) -> Result<String> {
    let mut submit = slurm.client(&deploy("slurm/submit.sh").display().to_string());
    submit.env("MOPO", &inputs.mopo).env("XTASK", std::env::current_exe()?);
    let said = output(submit.arg(n.to_string()).args(words))?;
    let id = said.split_whitespace().nth(1).context("submit.sh names the array")?;
    Ok(id.to_owned())
}

/// Labels in an array: the process of one task is killed, another task is put back into the queue.
fn labels(inputs: &Inputs, slurm: &Slurm, dir: &Path) -> Result<String> {
    let out = dir.join("labelled.jsonl");
    let array = submit(inputs, slurm, N_SHARDS, &inputs.label_words(&out))?;
    let shard = |i: usize| PathBuf::from(format!("{}.{i}-of-{N_SHARDS}", out.display()));
    // Saved scores show that it is in the middle of its work.
    let has_saved = |i: usize| {
        let entries = fs::read_dir(format!("{}.progress", shard(i).display()));
        let mut names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().starts_with("rows-"))
    };
    let saved = |i: usize| {
        wait_for(&format!("scores of shard {i}"), PATIENCE, || {
            ensure!(!shard(i).exists(), "shard {i} was faster than whoever kills it");
            Ok(has_saved(i).then_some(()))
        })
    };
    let label = |i: usize| {
        let flag = format!("auto/{N_SHARDS}");
        let task = format!("{array}_{i}");
        processes(move |words| {
            words.get(1).is_some_and(|word| word == "label") && words.contains(&flag)
        })
        .into_iter()
        .find(|pid| is_of_task(*pid, &task))
    };
    saved(1)?;
    signal("-KILL", label(1).context("the process of task 1")?)?;
    saved(2)?;
    output(slurm.client("scontrol").args(["requeue", &format!("{array}_2")]))?;
    slurm.wait(PATIENCE)?;
    for (i, how) in [(1, "once more"), (2, "resuming:")] {
        let log = dir.join(format!("mopo-label-{array}_{i}.log"));
        let text = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        ensure!(
            text.contains(how) && text.contains("resuming:"),
            "task {i} did not go on where it was:\n{text}"
        );
    }
    inputs.check_labels(&out)?;
    Ok(format!("labels of {N_SHARDS} shards, one killed, one requeued, are those of one process"))
}

/// Whether a process belongs to a task of an array.
fn is_of_task(pid: u32, task: &str) -> bool {
    let (array, index) = task.split_once('_').unwrap_or_default();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let has = |name: &str, value: &str| {
        let wanted = format!("{name}={value}");
        environment.split(|byte| *byte == 0).any(|pair| pair == wanted.as_bytes())
    };
    has("SLURM_ARRAY_JOB_ID", array) && has("SLURM_ARRAY_TASK_ID", index)
}

/// A study of a few steps, whose methods are divided.
fn study(inputs: &Inputs, slurm: &Slurm, dir: &Path) -> Result<String> {
    let plan = dir.join("study.toml");
    fs::write(&plan, STUDY)?;
    let words = |out: &Path| {
        let shown = |path: &Path| path.display().to_string();
        ["study", &shown(&plan), "--mopo", &shown(&inputs.mopo), "--out", &shown(out)]
            .map(String::from)
            .to_vec()
    };
    let [whole, shared] = ["study-whole", "study-shared"].map(|name| dir.join(name));
    output(Command::new(std::env::current_exe()?).args(words(&whole)))?;
    let array = submit(inputs, slurm, N_STUDY_SHARDS, &words(&shared))?;
    slurm.wait(PATIENCE)?;
    let page = shared.join("report/index.html");
    ensure!(page.exists(), "there is no {}:\n{}", page.display(), logs(dir, &array)?);
    let mut n = 0;
    for file in files(&whole)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".safetensors") || name == "samples.jsonl" {
            check_same(&file, &shared.join(file.strip_prefix(&whole)?))?;
            n += 1;
        }
    }
    ensure!(n > 0, "the study has no files to compare");
    Ok(format!(
        "a study of {N_STUDY_SHARDS} shards: {n} files of weights and answers are those of one process"
    ))
}

/// What the tasks of an array and their merge said last.
fn logs(dir: &Path, array: &str) -> Result<String> {
    let mut said = vec![];
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".log") && (name.contains(array) || name.contains("merge")) {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            said.push(format!("{name}:\n{}", last_lines(&text, 20)));
        }
    }
    said.sort();
    Ok(said.join("\n"))
}

/// All files below a folder.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut folders, mut found) = (vec![dir.to_path_buf()], vec![]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    Ok(found)
}
