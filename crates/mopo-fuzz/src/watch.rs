//! Runs workers and watches them: what ends one, or keeps it for too long, is found like a panic, and another continues
//! behind it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::SECONDS;
use crate::campaign::Found;
use crate::worker::{Inputs, Line, State, Work};

/// How often a worker of one target may end before its time.
const MOST_ENDS: usize = 20;
/// Seconds until the first input.
const START: u64 = 120;
const HANGS: &str = "it hangs for more than";
const LOOK: Duration = Duration::from_millis(50);

/// What came of some work.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) n_inputs: u64,
    pub(crate) n_accepted: u64,
    pub(crate) found: Vec<Found>,
}

/// Does work in processes of `program`, this binary.
pub(crate) fn watched(program: &Path, target: &str, mut inputs: Inputs) -> Result<Done> {
    let mut done = Done::default();
    let began = Instant::now();
    for n_ends in 0.. {
        let (state, ended) =
            one(program, target, inputs.clone().after(began.elapsed()), &mut done)?;
        done.n_inputs += state.n_inputs;
        done.n_accepted += state.n_accepted;
        let Some(what) = ended else { break };
        ensure!(!state.is_starting(), "{target}: {what} before the first input");
        // The one it ended at.
        done.n_inputs += 1;
        let found = inputs.found(state.number, what);
        // On a machine with other work a process may have to wait: only what hangs twice does.
        let hangs_once = found.what.contains(HANGS)
            && one(program, target, inputs.only(state.number), &mut Done::default())?.1.is_none();
        if !hangs_once {
            done.found.push(found);
        }
        if n_ends + 1 == MOST_ENDS || !inputs.continue_after(state.number, began.elapsed()) {
            break;
        }
    }
    Ok(done)
}

impl Inputs {
    fn found(&self, number: u64, what: String) -> Found {
        match self {
            Self::Made { seed, .. } => Found { seed: *seed, number, what },
            Self::Files { paths, first } => {
                let path =
                    paths.get((number - first) as usize).map(|path| path.display().to_string());
                Found { seed: 0, number, what: format!("{}: {what}", path.unwrap_or_default()) }
            }
        }
    }

    /// This one alone.
    fn only(&self, number: u64) -> Self {
        match self {
            Self::Made { seed, .. } => {
                Self::Made { seed: *seed, first: number, step: 1, end: number + 1, seconds: None }
            }
            Self::Files { paths, first } => {
                let paths = vec![paths[(number - first) as usize].clone()];
                Self::Files { paths, first: number }
            }
        }
    }

    /// The inputs behind this one; false if there are none.
    fn continue_after(&mut self, number: u64, took: Duration) -> bool {
        match self {
            Self::Made { first, step, end, seconds, .. } => {
                *first = number + *step;
                let left = seconds.map(|seconds| seconds - took.as_secs_f64());
                first < end && left.is_none_or(|left| left > 0.0)
            }
            Self::Files { paths, first } => {
                paths.drain(..=(number - *first) as usize);
                *first = number + 1;
                !paths.is_empty()
            }
        }
    }

    /// The same for a worker that starts after some time.
    fn after(self, took: Duration) -> Self {
        match self {
            Self::Made { seed, first, step, end, seconds } => {
                let seconds = seconds.map(|seconds| (seconds - took.as_secs_f64()).max(0.0));
                Self::Made { seed, first, step, end, seconds }
            }
            files => files,
        }
    }
}

/// One worker, until it ends: where it was, and what ended it before its time.
fn one(
    program: &Path,
    target: &str,
    inputs: Inputs,
    done: &mut Done,
) -> Result<(State, Option<String>)> {
    let place = crate::Place::new().context("making a folder")?;
    let (path, errors) = (place.file("state", b""), place.file("errors", b""));
    let state = File::options().read(true).write(true).open(&path)?;
    State::NONE.write(&state)?;
    let work = Work { target: target.into(), inputs: inputs.clone(), state: path };
    let mut worker = Command::new(program)
        .args(["--work", &serde_json::to_string(&work)?])
        // The worker's files go with this folder if it is killed.
        .env("TMPDIR", place.path())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&errors)?)
        .spawn()
        .with_context(|| program.display().to_string())?;
    let out = worker.stdout.take().context("its output")?;
    let lines = std::thread::spawn(move || -> Vec<Line> {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
    });
    let hung = wait(&mut worker, &state)?;
    let status = worker.wait()?;
    let lines = lines.join().unwrap_or_default();
    let is_done = lines.iter().any(|line| matches!(line, Line::Done));
    for line in lines {
        if let Line::Found { number, what } = line {
            done.found.push(inputs.found(number, what));
        }
    }
    let ended = match hung {
        Some(seconds) => Some(format!("{HANGS} {seconds} s")),
        None if is_done && status.success() => None,
        None => Some(format!("the process ends ({status}): {}", tail(&errors))),
    };
    Ok((State::read(&state)?, ended))
}

/// Waits for a worker's end, or ends it: the seconds that it stood still. Time in which it, or this process, is stopped
/// from outside does not count.
fn wait(worker: &mut Child, state: &File) -> Result<Option<u64>> {
    let (mut last, mut still, mut looked) = (State::read(state)?, Duration::ZERO, Instant::now());
    loop {
        if worker.try_wait()?.is_some() {
            return Ok(None);
        }
        let now = State::read(state)?;
        let passed = looked.elapsed().min(4 * LOOK);
        looked = Instant::now();
        if now != last {
            (last, still) = (now, Duration::ZERO);
        } else if !is_stopped(worker.id()) {
            still += passed;
        }
        let patience = if now.is_starting() { START } else { SECONDS };
        if still > Duration::from_secs(patience) {
            worker.kill()?;
            return Ok(Some(patience));
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether a process is stopped by a signal, as Linux says it.
fn is_stopped(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // After the name, which may have anything in it.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// The end of what a process wrote to its standard error.
fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let n = file.metadata()?.len();
        file.seek(SeekFrom::Start(n.saturating_sub(600)))?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().replace('\n', " "))
    };
    read().unwrap_or_default()
}
