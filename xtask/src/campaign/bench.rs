//! What all parts share: the inputs, and what each command makes of them when nothing disturbs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::compare::{Tree, difference, tree};
use super::inputs::{Inputs, remove};
use super::jobs::{self, Job};
use super::process::Ended;
use super::trace::{self, Call};

/// The undisturbed run of a command.
#[derive(Debug)]
pub(super) struct Known {
    /// The directory before and after it.
    pub(super) before: Tree,
    pub(super) after: Tree,
    pub(super) seconds: f64,
    /// Bytes that it adds to the directory.
    pub(super) bytes: u64,
    /// Empty without strace.
    pub(super) calls: Vec<Call>,
    pub(super) reads: Vec<String>,
}

type Slot = Mutex<Option<Arc<Known>>>;

/// Inputs and commands.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) seed: u64,
    pub(super) inputs: Inputs,
    /// Where trials have their directories.
    pub(super) dir: PathBuf,
    pub(super) jobs: Vec<(Job, Slot)>,
    pub(super) has_strace: bool,
    /// Says everything, and keeps the directory of the trial.
    pub(super) verbose: bool,
}

/// What became of a trial.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    /// What was tried: a command, mostly.
    pub(super) job: String,
    /// What was done to it, and how it took it.
    pub(super) class: String,
    /// What is wrong.
    pub(super) failure: Option<String>,
    /// What to type for the same by hand.
    pub(super) shown: String,
}

impl Bench {
    pub(super) fn new(mopo: &Path, dir: &Path, seed: u64, verbose: bool) -> Result<Self> {
        let inputs = Inputs::new(mopo, &dir.join("inputs"))?;
        let jobs =
            jobs::all(&inputs.methods).into_iter().map(|job| (job, Mutex::new(None))).collect();
        let has_strace = super::has_program("strace");
        Ok(Self { seed, inputs, dir: dir.into(), jobs, has_strace, verbose })
    }

    /// The jobs that are interrupted, or all.
    pub(super) fn jobs(&self, also_readers: bool) -> Vec<usize> {
        (0..self.jobs.len()).filter(|i| also_readers || !self.jobs[*i].0.only_reads).collect()
    }

    /// A directory of its own for a trial, with the inputs of a job.
    pub(super) fn workspace(&self, part: &str, trial: u64, job: &Job) -> Result<Workspace> {
        let dir = self.dir.join(format!("{part}-{trial}/w"));
        self.inputs.copied(&job.needs, &dir)?;
        Ok(Workspace { dir, keep: self.verbose })
    }

    /// How the job ends undisturbed; it is run twice for this when it is first asked for.
    pub(super) fn known(&self, index: usize) -> Result<Arc<Known>> {
        let (job, slot) = &self.jobs[index];
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*slot {
            return Ok(known.clone());
        }
        let known = Arc::new(
            self.find_out(index, job).with_context(|| format!("{} undisturbed", job.name))?,
        );
        *slot = Some(known.clone());
        Ok(known)
    }

    fn find_out(&self, index: usize, job: &Job) -> Result<Known> {
        let space = self.workspace("known", index as u64, job)?;
        let before = tree(&space.dir)?;
        let bytes_before = bytes(&space.dir)?;
        let check = |ended: &Ended| match ended.succeeded() {
            true => Ok(()),
            false => bail!("mopo {}: {:?}\n{}", job.line, ended.code, ended.complained),
        };
        let run = self.inputs.run(&job.line, &space.dir);
        let ended = run.to_end()?;
        check(&ended)?;
        let after = tree(&space.dir)?;
        let bytes = bytes(&space.dir)?.saturating_sub(bytes_before);
        // Once more, under strace where there is one.
        let again = self.workspace("known", 1000 + index as u64, job)?;
        let (log, run) = (again.beside("trace"), self.inputs.run(&job.line, &again.dir));
        let (calls, reads) = match self.has_strace {
            true => {
                check(&trace::recorded(&run, &log).to_end()?)?;
                (trace::calls(&log, &again.dir)?, trace::files_read(&log, &again.dir)?)
            }
            false => {
                check(&run.to_end()?)?;
                (vec![], vec![])
            }
        };
        if let Some(what) = difference(&after, &tree(&again.dir)?, |_| false) {
            bail!("mopo {} ends otherwise when it is run again: {what}", job.line);
        }
        // Without strace: everything that it is given.
        let reads = match self.has_strace {
            true => reads.into_iter().filter(|file| before.contains_key(file)).collect(),
            false => before.keys().cloned().collect(),
        };
        Ok(Known { before, after, seconds: ended.seconds, bytes, calls, reads })
    }

    /// Continues a job after an interruption until it has ended, and says what is wrong with the result.
    pub(super) fn continued(
        &self,
        job: &Job,
        known: &Known,
        space: &Workspace,
    ) -> Result<Option<String>> {
        let mut line = job.next(&space.dir).to_owned();
        let mut ended = self.inputs.run(&line, &space.dir).to_end()?;
        // A result that is whole is only replaced when that is asked for.
        if !ended.succeeded() && ended.complained.contains("--force") {
            line += " --force";
            ended = self.inputs.run(&line, &space.dir).to_end()?;
        }
        self.say(|| format!("mopo {line}: {:?}\n{}", ended.code, ended.complained));
        if !ended.succeeded() {
            let why = ended.misbehaved().unwrap_or_else(|| ended.errors().join(" "));
            return Ok(Some(format!("afterwards `mopo {line}` fails: {why}")));
        }
        let found = tree(&space.dir)?;
        Ok(difference(&known.after, &found, |_| false)
            .map(|what| format!("after `mopo {line}`: {what}")))
    }

    /// Says something where one trial is looked at.
    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{}", what());
        }
    }
}

/// The bytes of all files below a directory.
fn bytes(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    super::compare::walk(dir, "", &mut |_, path| {
        sum += fs::metadata(path)?.len();
        Ok(())
    })?;
    Ok(sum)
}

/// The directory of a trial, which goes with this value.
#[derive(Debug)]
pub(super) struct Workspace {
    /// Where the command runs.
    pub(super) dir: PathBuf,
    keep: bool,
}

impl Workspace {
    /// A file beside it, for logs.
    pub(super) fn beside(&self, end: &str) -> PathBuf {
        self.dir.with_extension(end)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.keep {
            let _ = self.dir.parent().map(remove);
        }
    }
}
