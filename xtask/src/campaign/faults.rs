//! Faults of the machine: a full disk, errors of the disk, a directory that cannot be written, too little memory, a clock
//! that goes back, a lost peer. A command ends with one error that says what it was about, or is not affected; and what is
//! given again afterwards ends with the same bits.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::bench::{Bench, Known, Trial, Workspace};
use super::compare::{difference, tree, tree_of};
use super::inputs::remove;
use super::jobs::Job;
use super::kill::{by_kind, halves};
use super::process::{Ended, PATIENCE};
use super::trace::{Call, injected, injected_files};
use super::{peer, shell};
use crate::random::Random;

/// What is done, in turns; a lost peer takes seconds, and so has one turn of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NoSpace,
    DiskError,
    FullDisk,
    ReadOnly,
    Memory,
    Clock,
    Peer,
}
const TURNS: [Fault; 20] = {
    use Fault::*;
    [
        NoSpace, DiskError, FullDisk, Memory, DiskError, ReadOnly, NoSpace, Clock, DiskError,
        Memory, Peer, DiskError, FullDisk, NoSpace, DiskError, Memory, Clock, DiskError, ReadOnly,
        FullDisk,
    ]
};

/// Where Debian's package `faketime` has its library.
const FAKETIME: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// What a run says that goes on without a file of the cache, which saves time only.
const NO_CACHE: &str = "warning: cannot write the log-prob cache";

/// Why a fault is not tried here, of those that need something.
pub(super) fn missing(bench: &Bench) -> Vec<String> {
    let mut all = vec![];
    if !bench.has_strace {
        all.push("ENOSPC and EIO at chosen calls: there is no strace".into());
    }
    if !shell::can_mount(&bench.dir) {
        all.push(
            "a full disk and a read-only directory: file systems cannot be mounted here".into(),
        );
    }
    if !super::has_program("prlimit") {
        all.push("too little memory: there is no prlimit".into());
    }
    if faketime().is_none() {
        all.push(
            "a clock that goes back: there is no libfaketime (apt-get install faketime)".into(),
        );
    }
    all.extend(peer::lacks(&bench.inputs.mopo).map(|why| format!("a lost peer: {why}")));
    all
}

fn faketime() -> Option<&'static str> {
    FAKETIME.iter().copied().find(|path| Path::new(path).exists())
}

/// One trial.
pub(super) fn one(bench: &Bench, trial: u64) -> Result<Trial> {
    let mut random = Random::of_trial(bench.seed, "faults", trial);
    let turns = TURNS.len() as u64;
    let fault = TURNS[(trial % turns) as usize];
    if fault == Fault::Peer {
        return peer::one(bench, trial, &mut random);
    }
    let jobs = bench.jobs(false);
    // Every fault meets every job in time.
    let index = jobs[random.below(jobs.len())];
    let (job, known) = (&bench.jobs[index].0, bench.known(index)?);
    let space = bench.workspace("faults", trial, job)?;
    let one = One { bench, job, known: &known, space: &space };
    let (class, failure, shown) = match fault {
        Fault::NoSpace => one.injected("ENOSPC", &mut random)?,
        Fault::DiskError => one.injected("EIO", &mut random)?,
        Fault::FullDisk if shell::can_mount(&bench.dir) => one.full_disk(&mut random)?,
        Fault::ReadOnly if shell::can_mount(&bench.dir) => one.read_only(&mut random)?,
        Fault::Memory if super::has_program("prlimit") => one.memory(&mut random)?,
        Fault::Clock => one.clock(&mut random)?,
        _ => one.skipped("not tried here"),
    };
    Ok(Trial { job: job.name.clone(), class, failure, shown })
}

struct One<'a> {
    bench: &'a Bench,
    job: &'a Job,
    known: &'a Known,
    space: &'a Workspace,
}

type Outcome = (String, Option<String>, String);

impl One<'_> {
    fn skipped(&self, why: &str) -> Outcome {
        (why.into(), None, self.job.line.clone())
    }

    /// What is wrong with how it ended and what it left behind. `words` are those of which an error has one.
    fn judged(&self, ended: &Ended, words: &[&str]) -> Result<Option<String>> {
        self.bench.say(|| format!("{:?} {:?}\n{}", ended.code, ended.signal, ended.complained));
        if let Some(why) = ended.misbehaved() {
            return Ok(Some(why));
        }
        if ended.succeeded() {
            let found = tree(&self.space.dir)?;
            let mut expected = self.known.after.clone();
            if ended.complained.contains(NO_CACHE) {
                expected.retain(|name, _| !name.starts_with("cache/") || found.contains_key(name));
            }
            let what = difference(&expected, &found, |_| false);
            return Ok(what.map(|what| format!("it succeeded, but {what}")));
        }
        let error = ended.errors().join(" ");
        if !words.iter().any(|word| error.contains(word)) {
            return Ok(Some(format!("the error does not say why: {error}")));
        }
        if let Some(what) = halves(self.known, self.space)? {
            return Ok(Some(what));
        }
        self.bench.continued(self.job, self.known, self.space)
    }

    /// A call on a file fails once.
    fn injected(&self, error: &str, random: &mut Random) -> Result<Outcome> {
        let is_file = |name: &String| self.known.after.contains_key(name);
        // Rust's own library panics where a directory cannot be closed, which no file system does.
        let may_fail =
            |c: &&Call| c.changes || (error == "EIO" && (c.name != "close" || is_file(&c.file)));
        let calls: Vec<&Call> = self.known.calls.iter().filter(may_fail).collect();
        if calls.is_empty() {
            return Ok(self.skipped("not tried here"));
        }
        let call = by_kind(&calls, random);
        let log = self.space.beside("trace");
        let run = injected(
            &self.bench.inputs.run(&self.job.line, &self.space.dir),
            &log,
            call,
            &format!("error={error}"),
        );
        let ended = run.to_end()?;
        let Some(files) = injected_files(&log, &self.space.dir) else {
            // Another thread was faster, and a pipe or a library was hit.
            return Ok(("another file was hit".into(), None, run.shown()));
        };
        if call.name == "close" && !files.iter().all(is_file) {
            return Ok(("a directory was hit".into(), None, run.shown()));
        }
        let all = files.join(", ");
        self.bench.say(|| format!("{} on {all}", run.shown()));
        let words = match error {
            // Of a directory that is there and cannot be looked at, Rust's library says this.
            "EIO" => ["Input/output error", &*files[0], "File exists"],
            _ => ["No space left", "os error 28", "ENOSPC"],
        };
        // A lock that cannot be removed is left, and is nobody's.
        for lock in files.iter().filter(|file| file.ends_with(".lock") && ended.succeeded()) {
            remove(&self.space.dir.join(lock))?;
        }
        let mut failure = self.judged(&ended, &words)?;
        let error_line = ended.errors().join(" ");
        let is_named = files.iter().any(|file| names(&error_line, file));
        if failure.is_none() && !ended.succeeded() && !is_named {
            failure = Some(format!("the error does not name {all}: {error_line}"));
        }
        let took = if ended.succeeded() { "not affected" } else { "an error" };
        Ok((
            format!("{error} at {}: {took}", call.name),
            failure,
            format!("{} # {all}", run.shown()),
        ))
    }

    /// A file system that becomes full.
    fn full_disk(&self, random: &mut Random) -> Result<Outcome> {
        let kib = (self.known.bytes as f64 / 1024.0 * random.unit() * 1.1) as u64 + 4;
        let again = match self.job.resume {
            Some(resume) => format!(
                "if [ -e out/config.toml ]; then {}; else {}; fi",
                self.mopo(resume),
                self.mopo(&self.job.line)
            ),
            None => format!("{0} || {0} --force", self.mopo(&self.job.line)),
        };
        let kept = self.space.beside("kept");
        let script =
            shell::full_disk(&self.space.dir, &kept, kib, &self.mopo(&self.job.line), &again);
        let (first, second) = shell::two(&script, self.space)?;
        self.bench.say(|| format!("{script}\n{first:?}\n{second:?}"));
        let failure = first.misbehaved().or_else(|| {
            let error = first.errors().join(" ");
            (!first.succeeded() && !error.contains("No space left"))
                .then(|| format!("the error does not say why: {error}"))
        });
        let failure = match failure {
            None if !second.succeeded() => {
                Some(format!("with space again it fails: {}", second.complained.trim()))
            }
            None => difference(&self.known.after, &tree_of(&kept, &self.space.dir)?, |_| false)
                .map(|what| format!("with space again: {what}")),
            failure => failure,
        };
        let took = if first.succeeded() { "enough space" } else { "an error" };
        Ok((format!("full disk: {took}"), failure, format!("{} # {kib} KiB free", self.job.line)))
    }

    fn mopo(&self, line: &str) -> String {
        let words = super::inputs::words(line);
        let program = self.bench.inputs.mopo.display().to_string();
        std::iter::once(&program)
            .chain(&words)
            .map(|word| shell::quoted(word))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// A directory that cannot be written, from the start or after an interruption.
    fn read_only(&self, random: &mut Random) -> Result<Outcome> {
        let mut class = "read-only directory";
        if random.chance(0.5) {
            let time = Duration::from_secs_f64(self.known.seconds * random.unit());
            self.bench.inputs.run(&self.job.line, &self.space.dir).killed_after(time)?;
            class = "read-only directory after an interruption";
        }
        let before = tree(&self.space.dir)?;
        let line = self.job.next(&self.space.dir);
        let script = shell::read_only(&self.space.dir, &self.mopo(line));
        let run = self.bench.inputs.run(line, &self.space.dir);
        let run = super::process::Run {
            program: PathBuf::from("unshare"),
            words: shell::unshared(&script),
            ..run
        };
        let ended = run.to_end()?;
        let mut failure = difference(&before, &tree(&self.space.dir)?, |_| false)
            .map(|what| format!("read-only, but {what}"));
        if failure.is_none() && !ended.succeeded() {
            failure = self.judged(&ended, &["Read-only file system", "--force"])?;
        }
        let took = if ended.succeeded() { "nothing to write" } else { "an error" };
        Ok((format!("{class}: {took}"), failure, line.into()))
    }

    /// Little address space.
    fn memory(&self, random: &mut Random) -> Result<Outcome> {
        // From what a program that does nothing needs to more than these need.
        let mib = (64.0 * 6_f64.powf(random.unit())) as u64;
        let limit = ["prlimit".to_string(), format!("--as={}", mib << 20)];
        let run = self.bench.inputs.run(&self.job.line, &self.space.dir).wrapped(limit.clone());
        let ended = run.to_end()?;
        self.bench.say(|| {
            format!("{}: {:?} {:?}\n{}", run.shown(), ended.code, ended.signal, ended.complained)
        });
        // Where the loader of libraries itself has too little.
        let starts = || -> Result<bool> {
            Ok(self
                .bench
                .inputs
                .run("--version", &self.space.dir)
                .wrapped(limit)
                .to_end()?
                .succeeded())
        };
        let (took, mut failure) = match ended.misbehaved() {
            Some(_) if !starts()? => ("not started", None),
            Some(_) if ended.lacked_memory() => ("aborted for lack of memory", None),
            None if ended.succeeded() => ("enough", None),
            failure => ("an error", failure),
        };
        if failure.is_none() {
            failure = halves(self.known, self.space)?;
        }
        if failure.is_none() {
            failure = self.bench.continued(self.job, self.known, self.space)?;
        }
        Ok((format!("memory: {took}"), failure, run.shown()))
    }

    /// The clock goes back: in the middle of the command, or between an interruption and the next command.
    fn clock(&self, random: &mut Random) -> Result<Outcome> {
        let Some(library) = faketime() else { return Ok(self.skipped("not tried here")) };
        let days = 1 + random.below(3000);
        let run = self.bench.inputs.run(&self.job.line, &self.space.dir);
        if random.chance(0.5) {
            let time = Duration::from_secs_f64(self.known.seconds * random.unit());
            run.killed_after(time)?;
            let next = self.bench.inputs.run(self.job.next(&self.space.dir), &self.space.dir);
            let next =
                next.with_env("LD_PRELOAD", library).with_env("FAKETIME", &format!("-{days}d"));
            let ended = next.to_end()?;
            let failure = self.judged(&ended, &["--force"])?;
            return Ok((
                "clock back before the next command".into(),
                failure,
                format!("{} # {days} days back", next.shown()),
            ));
        }
        let file = self.space.beside("clock");
        fs::write(&file, "+0")?;
        let run = run
            .with_env("LD_PRELOAD", library)
            .with_env("FAKETIME_TIMESTAMP_FILE", &file.display().to_string())
            .with_env("FAKETIME_NO_CACHE", "1")
            .with_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let started = run.start()?;
        std::thread::sleep(Duration::from_secs_f64(self.known.seconds * random.unit()));
        let part = file.with_extension("new");
        fs::write(&part, format!("-{days}d"))?;
        fs::rename(&part, &file).context("setting the clock")?;
        let failure = self.judged(&started.wait(PATIENCE)?, &[])?;
        Ok((
            "clock back in the middle".into(),
            failure,
            format!("{} # {days} days back", run.shown()),
        ))
    }
}

/// Whether an error is about a file: it has the file's name, or that of a directory that it is in. What is written at first
/// to a temporary file is about the file that this becomes, in the same directory; a file without a name is shown as a
/// number, and named by its directory.
fn names(error: &str, file: &str) -> bool {
    let path = Path::new(file);
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let is_temporary =
        path.components().any(|part| part.as_os_str().to_string_lossy().starts_with(".tmp"));
    let mut folders = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    let is_unnamed = name.strip_prefix('#').is_some_and(|n| n.parse::<u64>().is_ok());
    error.contains(&*name)
        || (is_unnamed
            && ["cannot read in ", "cannot write"].iter().any(|what| error.contains(what)))
        || folders.any(|folder| error.contains(&*folder.display().to_string()))
        || (is_temporary && error.contains("out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_a_file_or_its_directory() {
        let error = "error: writing out/policy/heads.safetensors: No space left on device";
        for file in
            ["out/policy/heads.safetensors", "out/policy/.heads.safetensors.tmp", "out/policy", ""]
        {
            assert!(names(error, file), "{file}");
        }
        for file in ["pairs.jsonl", "run-b/policy/adapter_model.safetensors", "#17"] {
            assert!(!names(error, file), "{file}");
        }
        assert!(names("error: cannot read in .: Input/output error", "#10529898"));
    }

    #[test]
    fn every_fault_has_a_turn() {
        use Fault::*;
        for fault in [NoSpace, DiskError, FullDisk, ReadOnly, Memory, Clock, Peer] {
            assert!(TURNS.contains(&fault), "{fault:?}");
        }
    }
}
