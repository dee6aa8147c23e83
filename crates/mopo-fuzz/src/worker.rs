//! A process that gives inputs to one target. It says which one is next before it reads it, so that whoever watches knows
//! what it ended or hung at.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{Outcome, Place, Runner, Target};

/// How often the same is reported.
const SAME: usize = 3;
/// The number of a worker that has not begun.
const STARTING: u64 = u64::MAX;

/// What a worker does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Work {
    /// The target's name.
    pub target: String,
    /// Which inputs.
    pub inputs: Inputs,
    /// The file in which it says where it is.
    pub state: PathBuf,
}

/// The inputs of a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Inputs {
    /// Made from a seed: the numbers `first`, `first + step`, … below `end`, until `seconds` have passed.
    Made {
        /// The seed.
        seed: u64,
        /// The first number.
        first: u64,
        /// The distance between two numbers.
        step: u64,
        /// Where the numbers end.
        end: u64,
        /// The most seconds.
        seconds: Option<f64>,
    },
    /// Files, whose numbers are their places from `first` on.
    Files {
        /// Their paths.
        paths: Vec<PathBuf>,
        /// The first number.
        first: u64,
    },
}

/// A line of a worker's output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    /// Something is wrong at this number.
    Found { number: u64, what: String },
    /// The end of the work.
    Done,
}

/// Where a worker is: the number that it reads, and how many it has read and accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) number: u64,
    pub(crate) n_inputs: u64,
    pub(crate) n_accepted: u64,
}

impl State {
    pub(crate) const NONE: Self = Self { number: STARTING, n_inputs: 0, n_accepted: 0 };

    /// Whether the worker still makes its first input.
    pub(crate) fn is_starting(self) -> bool {
        self.number == STARTING
    }

    pub(crate) fn write(self, file: &File) -> std::io::Result<()> {
        let words = [self.number, self.n_inputs, self.n_accepted];
        file.write_all_at(words.map(u64::to_le_bytes).as_flattened(), 0)
    }

    pub(crate) fn read(file: &File) -> std::io::Result<Self> {
        let mut bytes = [[0; 8]; 3];
        file.read_exact_at(bytes.as_flattened_mut(), 0)?;
        let [number, n_inputs, n_accepted] = bytes.map(u64::from_le_bytes);
        Ok(Self { number, n_inputs, n_accepted })
    }
}

/// The first panic of any thread since it was last taken.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

fn taken_panic() -> Option<String> {
    PANIC.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
}

/// Keeps the text of panics instead of printing it.
fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let mut kept = PANIC.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        kept.get_or_insert_with(|| {
            let thread = std::thread::current().name().unwrap_or("?").to_owned();
            format!("panic in thread {thread}: {info}").replace('\n', " ")
        });
    }));
}

/// A target that is being run.
pub(crate) struct Running<'a> {
    target: &'a Target,
    place: Place,
    runner: Runner,
}

impl<'a> Running<'a> {
    pub(crate) fn start(target: &'a Target) -> Result<Self> {
        let place = Place::new().context("making a folder for the files of a target")?;
        let runner = (target.start)(&place);
        Ok(Self { target, place, runner })
    }

    /// Reads an input; a panic of any thread is something wrong.
    pub(crate) fn read(&mut self, input: &[u8]) -> Result<Outcome> {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.runner)(input)));
        let panic = taken_panic();
        match (outcome, panic) {
            (Ok(outcome), None) => Ok(outcome),
            (Ok(_), Some(text)) => Ok(Outcome::Wrong(text)),
            (Err(_), text) => {
                // What it has left half done is not the next input's fault.
                self.runner = (self.target.start)(&self.place);
                Ok(Outcome::Wrong(text.unwrap_or_else(|| "a panic without a text".into())))
            }
        }
    }
}

/// Reads one input of a target in this process.
///
/// # Errors
/// The target cannot be started.
pub fn read_one(target: &Target, input: &[u8]) -> Result<Outcome> {
    keep_panics();
    Running::start(target)?.read(input)
}

/// Does the work of a worker, in a process of its own; `limit` sets the limit of memory once the target is ready.
///
/// # Errors
/// No such target; its files, or those of the work, cannot be read or written.
pub fn run_worker(work: &Work, limit: impl FnOnce()) -> Result<()> {
    keep_panics();
    let target = crate::target(&work.target)
        .with_context(|| format!("no target is called {}", work.target))?;
    let state = File::options()
        .write(true)
        .open(&work.state)
        .with_context(|| work.state.display().to_string())?;
    let mut running = Running::start(&target)?;
    let seeds = (target.seeds)();
    if let Some(text) = taken_panic() {
        anyhow::bail!("{} panics before its first input: {text}", target.name);
    }
    limit();
    let mut at = State { number: 0, n_inputs: 0, n_accepted: 0 };
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut read = |number: u64, input: &[u8]| -> Result<()> {
        at.number = number;
        at.write(&state).context("writing where it is")?;
        let outcome = running.read(input)?;
        at.n_inputs += 1;
        match outcome {
            Outcome::Accepted => at.n_accepted += 1,
            Outcome::Refused => {}
            Outcome::Wrong(what) => {
                // The same place of the program, whatever the numbers in its message.
                let key: String = what.chars().filter(|c| !c.is_ascii_digit()).take(160).collect();
                let n = seen.entry(key).or_default();
                *n += 1;
                if *n <= SAME {
                    let what = what.chars().take(1000).collect();
                    say(&Line::Found { number, what })?;
                }
            }
        }
        Ok(())
    };
    match &work.inputs {
        Inputs::Made { seed, first, step, end, seconds } => {
            let until = seconds.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
            let mut number = *first;
            while number < *end && until.is_none_or(|until| Instant::now() < until) {
                read(number, &target.input(&seeds, *seed, number))?;
                number += step;
            }
        }
        Inputs::Files { paths, first } => {
            for (path, number) in paths.iter().zip(*first..) {
                let input = std::fs::read(path).with_context(|| path.display().to_string())?;
                read(number, &input)?;
            }
        }
    }
    at.write(&state).context("writing where it is")?;
    say(&Line::Done)
}

fn say(line: &Line) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// The files of a corpus: `DIR/TARGET/FILE`, sorted.
pub(crate) fn corpus_files(dir: &Path, target: &str) -> Result<Vec<PathBuf>> {
    let dir = dir.join(target);
    if !dir.is_dir() {
        return Ok(vec![]);
    }
    let mut paths = vec![];
    for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}
