//! A program that is run to its end, killed, or stopped because it does not end.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// After this a command is said to hang.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A command in a directory, whose output goes to files beside it.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// What starts the program, such as strace; may be empty.
    pub(super) wrapper: Vec<String>,
    pub(super) program: PathBuf,
    pub(super) words: Vec<String>,
    pub(super) dir: PathBuf,
    pub(super) envs: Vec<(String, String)>,
}

/// How it ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    /// It was stopped after [`PATIENCE`].
    pub(super) hung: bool,
    pub(super) said: String,
    pub(super) complained: String,
    pub(super) seconds: f64,
}

impl Run {
    /// A program with words, in a directory.
    pub(super) fn new(program: &Path, words: &[String], dir: &Path) -> Self {
        let (wrapper, envs) = (vec![], vec![]);
        Self { wrapper, program: program.into(), words: words.into(), dir: dir.into(), envs }
    }

    /// The same started by something else.
    pub(super) fn wrapped<S: Into<String>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }

    /// The same with a variable of the environment.
    pub(super) fn with_env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    fn log(&self, end: &str) -> PathBuf {
        PathBuf::from(format!("{}.{end}", self.dir.display()))
    }

    /// Starts it as the leader of a group of processes.
    pub(super) fn start(&self) -> Result<Started> {
        let program = self.program.display().to_string();
        let mut all = self.wrapper.iter().chain([&program]).chain(&self.words);
        let mut command = Command::new(all.next().context("no program")?);
        command.args(all).current_dir(&self.dir).stdin(Stdio::null()).process_group(0);
        crate::program::by_itself(&mut command);
        for (name, value) in &self.envs {
            command.env(name, value);
        }
        command.env("RUST_BACKTRACE", "0").env_remove("MOPO_CACHE");
        let [out, err] = ["out", "err"].map(|end| self.log(end));
        command.stdout(File::create(&out)?).stderr(File::create(&err)?);
        let child =
            command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
        Ok(Started { child, out, err, began: Instant::now(), ended: None })
    }

    /// Runs it to its end.
    pub(super) fn to_end(&self) -> Result<Ended> {
        self.start()?.wait(PATIENCE)
    }

    /// Runs it, and kills it after a time.
    pub(super) fn killed_after(&self, time: Duration) -> Result<Ended> {
        let mut started = self.start()?;
        while started.began.elapsed() < time && !started.has_ended()? {
            let left = time.saturating_sub(started.began.elapsed());
            sleep(left.min(Duration::from_micros(500)));
        }
        started.kill();
        started.wait(PATIENCE)
    }

    /// As one would type it.
    pub(super) fn shown(&self) -> String {
        let words = self.words.iter().map(|word| match word.contains(['"', ' ', '{', '$']) {
            true => format!("'{word}'"),
            false => word.clone(),
        });
        let words: Vec<String> = self.wrapper.iter().cloned().chain(words).collect();
        words.join(" ")
    }
}

/// A process that runs.
#[derive(Debug)]
pub(super) struct Started {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    began: Instant,
    ended: Option<ExitStatus>,
}

impl Started {
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended.is_some())
    }

    /// What it has printed so far.
    pub(super) fn printed(&self) -> String {
        [&self.out, &self.err].map(|path| fs::read_to_string(path).unwrap_or_default()).concat()
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL to it and all that it has started.
    pub(super) fn kill(&mut self) {
        if self.ended.is_none() {
            let group = format!("-{}", self.child.id());
            let mut kill = Command::new("kill");
            kill.args(["-KILL", "--", &group]).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = kill.status();
            let _ = self.child.kill();
        }
    }

    /// Waits for its end, and ends it if there is none.
    pub(super) fn wait(mut self, patience: Duration) -> Result<Ended> {
        let mut hung = false;
        let mut pause = Duration::from_micros(500);
        // Not by the clock: this process may be stopped together with the other.
        let mut waited = Duration::ZERO;
        while !self.has_ended()? {
            if waited > patience {
                hung = true;
                self.kill();
            }
            sleep(pause);
            waited += pause;
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        let status = self.ended.context("no status")?;
        let read =
            |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Ended {
            code: status.code(),
            signal: status.signal(),
            hung,
            said: read(&self.out)?,
            complained: read(&self.err)?,
            seconds: self.began.elapsed().as_secs_f64(),
        })
    }
}

impl Ended {
    pub(super) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// The lines of its error message.
    pub(super) fn errors(&self) -> Vec<&str> {
        self.complained.lines().filter(|line| line.starts_with("error")).collect()
    }

    /// It could not get memory, which Rust answers by aborting.
    pub(super) fn lacked_memory(&self) -> bool {
        self.complained.contains("memory allocation of")
    }

    /// What is wrong with how it ended, whatever it was given: a panic, a hang, a signal, or an end without one
    /// error.
    pub(super) fn misbehaved(&self) -> Option<String> {
        let last = || self.complained.lines().last().unwrap_or("").to_owned();
        if self.hung {
            return Some(format!("it did not end within {} s", PATIENCE.as_secs()));
        }
        if let Some(line) = self.complained.lines().find(|line| line.contains("panicked at")) {
            let next = self.complained.lines().skip_while(|l| *l != line).nth(1).unwrap_or("");
            return Some(format!("a panic: {line} {next}"));
        }
        if let Some(signal) = self.signal {
            return Some(format!("signal {signal}: {}", last()));
        }
        match (self.code, self.errors().len()) {
            (Some(0), _) | (Some(_), 1) => None,
            (code, n) => Some(format!("exit status {code:?} with {n} errors: {}", last())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> Run {
        let dir =
            std::env::temp_dir().join(format!("mopo-campaign-process-{}", std::process::id()));
        let dir = dir.join(script.len().to_string());
        fs::create_dir_all(&dir).unwrap();
        Run::new(Path::new("sh"), &["-c".into(), script.into()], &dir)
    }

    #[test]
    fn ends_are_told_apart() {
        let of = |script: &str| run(script).to_end().unwrap();
        assert_eq!(of("echo yes").misbehaved(), None);
        assert_eq!(of("echo error: no file x >&2; exit 1").misbehaved(), None);
        for (script, word) in [
            ("exit 3", "0 errors"),
            ("echo error: a >&2; echo error: b >&2; exit 1", "2 errors"),
            ("echo \"thread 'main' panicked at a.rs:1:\" >&2; echo why >&2; exit 101", "why"),
            ("kill -SEGV $$", "signal 11"),
        ] {
            let why = of(script).misbehaved().unwrap();
            assert!(why.contains(word), "{script}: {why}");
        }
    }

    #[test]
    fn what_is_killed_ends_with_its_children() {
        let ended = run("sleep 1041 & sleep 1041").killed_after(Duration::from_millis(50)).unwrap();
        assert_eq!(ended.signal, Some(9));
        assert!(ended.seconds < 30.0 && !ended.hung);
        assert!(run("exit 0").killed_after(Duration::from_secs(9)).unwrap().succeeded());
    }
}
