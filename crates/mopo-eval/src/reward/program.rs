//! A reward that another program computes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mopo_hub::beginning_of;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Reward;
use super::http::check_limits;
use crate::{Error, Result};

/// How long the first batch of a program waits for a line too many.
const SURPLUS: Duration = Duration::from_millis(100);
/// Most bytes of a line; a number has fewer.
const MAX_LINE: usize = 4096;
/// Most restarts.
const MAX_RETRIES: u32 = 1000;

/// A program as a configuration describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramSpec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The name to show; `program` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How long it may take for its next score, in seconds, its start included; 600 by default.
    #[serde(default = "default_timeout", skip_serializing_if = "is_default_timeout")]
    pub timeout: f64,
    /// How often it is started again for one batch of texts, after it ended or was ended for its timeout; 2 by default.
    #[serde(default = "default_retries", skip_serializing_if = "is_default_retries")]
    pub retries: u32,
}

fn default_timeout() -> f64 {
    600.0
}

fn is_default_timeout(timeout: &f64) -> bool {
    *timeout == default_timeout()
}

fn default_retries() -> u32 {
    2
}

fn is_default_retries(retries: &u32) -> bool {
    *retries == default_retries()
}

impl ProgramSpec {
    /// A program and its arguments with default settings.
    pub fn new(command: Vec<String>) -> Self {
        Self { command, name: None, timeout: default_timeout(), retries: default_retries() }
    }

    /// The name to show.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("program")
    }

    /// The same program and name, with defaults for how it is asked, which no score depends on.
    pub(super) fn identity(&self) -> Self {
        Self { name: self.name.clone(), ..Self::new(self.command.clone()) }
    }

    fn check(&self) -> Result<()> {
        if self.command.first().is_none_or(String::is_empty) {
            let expected = "it must be a list: the program, and its arguments";
            return Err(Error::invalid("command", format!("{:?}", self.command), expected));
        }
        check_limits(self.timeout, self.retries, MAX_RETRIES)
    }
}

/// A program that reads an object with `prompt` and `response` per line from its standard input, as JSON, and writes
/// a number per line to its standard output. It is started with the first text and ended with this value; one that ends
/// before, or has no score in time, is started again. What it writes to its standard error is shown.
#[derive(Debug)]
pub struct Program {
    spec: ProgramSpec,
    running: Mutex<Option<Running>>,
}

/// A started program. Threads of their own write to it and read from it: neither side can hold all lines, and one that
/// hangs must not hold this one.
#[derive(Debug)]
struct Running {
    child: Child,
    input: Sender<Vec<u8>>,
    output: Receiver<std::io::Result<String>>,
    /// Whether a batch was answered with as many lines as were asked for.
    is_known: bool,
}

impl Running {
    fn start(command: &[String]) -> std::io::Result<Self> {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let ((input, asked), (answered, output)) = (channel(), channel());
        let running = Self { child, input, output, is_known: false };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        thread("reward program: input").spawn(move || write_all(stdin, asked))?;
        thread("reward program: output").spawn(move || read_lines(stdout, answered))?;
        Ok(running)
    }

    /// What it has written although nothing was asked, if there is any within a time.
    fn surplus(&self, wait: Duration) -> Option<String> {
        self.output.recv_timeout(wait).ok()?.ok()
    }

    /// The lines that answer those of `asked`, `n` of them, or why there are fewer.
    fn answers(
        &mut self,
        asked: Vec<u8>,
        n: usize,
        timeout: Duration,
    ) -> std::result::Result<Vec<String>, String> {
        // A program that has ended takes no more; that it ended says more.
        let _ = self.input.send(asked);
        let mut lines = Vec::with_capacity(n);
        while lines.len() < n {
            match self.output.recv_timeout(timeout) {
                Ok(Ok(line)) => lines.push(line),
                Ok(Err(e)) => return Err(format!("reading from it failed: {e}")),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!(
                        "there was no score for {} s after {} of {n}: give it a larger `timeout`, or see why it hangs",
                        timeout.as_secs_f64(),
                        lines.len()
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!(
                        "it {} after {} of {n} scores: it must write a number for each line that it reads",
                        self.how_it_ended(timeout),
                        lines.len()
                    ));
                }
            }
        }
        Ok(lines)
    }
}

impl Running {
    /// What became of a program whose output has ended.
    fn how_it_ended(&mut self, timeout: Duration) -> String {
        let clock = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return format!("ended ({status})"),
                Ok(None) if clock.elapsed() < timeout => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Ok(None) => return "closed its output, but went on,".into(),
                Err(e) => return format!("ended ({e})"),
            }
        }
    }
}

/// Until the program takes no more, or nothing more is asked.
fn write_all(mut stdin: ChildStdin, asked: Receiver<Vec<u8>>) {
    for lines in asked {
        if stdin.write_all(&lines).and_then(|()| stdin.flush()).is_err() {
            break;
        }
    }
}

/// Until the program's output ends, or nobody reads it.
fn read_lines(mut stdout: impl BufRead, answered: Sender<std::io::Result<String>>) {
    loop {
        let mut line = String::new();
        let found = match stdout.by_ref().take(MAX_LINE as u64).read_line(&mut line) {
            Ok(0) => break,
            Ok(MAX_LINE) if !line.ends_with('\n') => {
                let shown = beginning_of(&line);
                Err(std::io::Error::other(format!(
                    "it wrote a line of more than {MAX_LINE} bytes (`{shown}`), which is no number"
                )))
            }
            Ok(_) => Ok(line.trim().to_owned()),
            Err(e) => Err(e),
        };
        let is_last = found.is_err();
        if answered.send(found).is_err() || is_last {
            break;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may wait for more input.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// The reward of a program.
    ///
    /// # Errors
    /// The invalid field.
    pub fn new(spec: &ProgramSpec) -> Result<Self> {
        spec.check()?;
        Ok(Self { spec: spec.clone(), running: Mutex::new(None) })
    }

    fn failed(&self, message: String) -> Error {
        Error::Program { command: self.spec.command.join(" "), message }
    }

    /// `lines`: what it wrote before.
    fn too_much(&self, lines: &[String], line: &str) -> Error {
        let wrong = match lines.iter().find(|line| line.parse::<f32>().is_err()) {
            Some(line) => format!("`{}`, which is no number", beginning_of(line)),
            None => format!("a line too many (`{}`)", beginning_of(line)),
        };
        self.failed(format!(
            "it wrote {wrong}: it must write one number for each line that it reads, and nothing else"
        ))
    }

    /// The answers to some lines, by a program that is started again where it fails.
    fn answers(&self, asked: &[u8], n: usize) -> Result<Vec<String>> {
        let mut place = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures = 0;
        loop {
            let running = match &mut *place {
                Some(running) => running,
                none => {
                    let started = Running::start(&self.spec.command).map_err(|e| {
                        self.failed(format!("cannot start it: {e}; give the path of a program"))
                    })?;
                    none.insert(started)
                }
            };
            if let Some(line) = running.surplus(Duration::ZERO) {
                return Err(self.too_much(&[], &line));
            }
            let timeout = Duration::from_secs_f64(self.spec.timeout);
            let why = match running.answers(asked.to_vec(), n, timeout) {
                Ok(lines) => {
                    // A line too many at its start would shift all scores. Only once, since it costs time.
                    let is_first = !std::mem::replace(&mut running.is_known, true);
                    return match running.surplus(if is_first { SURPLUS } else { Duration::ZERO }) {
                        Some(line) => Err(self.too_much(&lines, &line)),
                        None => Ok(lines),
                    };
                }
                Err(why) => why,
            };
            // What it would still write answers nothing that is asked again.
            *place = None;
            failures += 1;
            if failures > self.spec.retries {
                let times =
                    if failures > 1 { format!(" ({failures} times)") } else { String::new() };
                return Err(self.failed(why + &times));
            }
            tracing::warn!("{}; it is started again", self.failed(why));
        }
    }
}

impl Reward for Program {
    fn name(&self) -> &str {
        self.spec.name()
    }

    fn uses_all_cores(&self) -> bool {
        true
    }

    fn score(&self, prompt: &str, response: &str) -> Result<f32> {
        Ok(self.score_batch(&[(prompt, response)])?[0])
    }

    fn score_batch(&self, items: &[(&str, &str)]) -> Result<Vec<f32>> {
        let mut asked = vec![];
        for (prompt, response) in items {
            let line = json!({ "prompt": prompt, "response": response }).to_string();
            asked.extend_from_slice(line.as_bytes());
            asked.push(b'\n');
        }
        let answers = self.answers(&asked, items.len())?;
        let score = |(index, line): (usize, &String)| match line.parse::<f32>() {
            Ok(score) if score.is_finite() => Ok(score),
            _ => Err(Error::Text {
                reward: self.name().into(),
                index,
                why: format!(
                    "got the score `{}`, which is not a finite number of 32 bits",
                    beginning_of(line)
                ),
            }),
        };
        answers.iter().enumerate().map(score).collect()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn spec(script: &str) -> ProgramSpec {
        ProgramSpec::new(["sh", "-c", script].map(str::to_owned).into())
    }

    fn program(script: &str) -> Program {
        Program::new(&spec(script)).unwrap()
    }

    #[test]
    fn a_program_is_asked_line_by_line_and_kept() {
        // The length of each line, and how many there were before it.
        let reward = program("n=0; while read -r line; do echo \"${#line}.$n\"; n=$((n+1)); done");
        let length = |prompt: &str, response: &str| {
            json!({ "prompt": prompt, "response": response }).to_string().len() as f32
        };
        let items = [("a\nb", "c"), ("", "ü \"q\"")];
        let expected = [length("a\nb", "c"), length("", "ü \"q\"") + 0.1];
        // `${#line}` counts characters or bytes, by the locale.
        let found = reward.score_batch(&items).unwrap();
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1.5), "{found:?}");
        let third = reward.score("x", "y").unwrap();
        assert_eq!(third, length("x", "y") + 0.2);
        // More than pipes hold.
        let long = "a ".repeat(50_000);
        let many = vec![(long.as_str(), long.as_str()); 20];
        assert_eq!(
            program("while read -r l; do echo 1; done").score_batch(&many).unwrap().len(),
            20
        );
    }

    #[test]
    fn a_program_that_fails_is_named() {
        let error = |reward: Program| reward.score_batch(&[("p", "r"); 3]).unwrap_err().to_string();
        let missing = Program::new(&ProgramSpec::new(vec!["/no/such/program".into()])).unwrap();
        assert!(error(missing).contains("/no/such/program"));
        let ended = error(program("read -r line; echo 1; exit 3"));
        let words = ["exit status: 3", "1 of 3", "(3 times)"];
        assert!(words.iter().all(|word| ended.contains(word)), "{ended}");
        for (wrong, word) in [
            (ProgramSpec::new(vec![]), "command"),
            (ProgramSpec { timeout: f64::NAN, ..spec("") }, "`timeout` is NaN"),
            (ProgramSpec { retries: 5000, ..spec("") }, "`retries` is 5000"),
        ] {
            let error = Program::new(&wrong).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let words = error(program("while read -r line; do echo good; done"));
        assert!(words.contains("`good`") && words.contains("text 0"), "{words}");
        let shifted = error(program("echo 0.0; while read -r line; do echo 1; done"));
        assert!(shifted.contains("a line too many"), "{shifted}");
        let banner = error(program("echo Loading; while read -r line; do echo 1; done"));
        assert!(banner.contains("`Loading`, which is no number"), "{banner}");
        let endless = Program::new(&ProgramSpec { retries: 0, ..spec("exec yes 1 | tr -d '\\n'") });
        let endless = error(endless.unwrap());
        assert!(endless.contains("more than 4096 bytes"), "{endless}");
        let closed = ProgramSpec { timeout: 0.2, retries: 0, ..spec("exec 1>&-; exec sleep 100") };
        let closed = error(Program::new(&closed).unwrap());
        assert!(closed.contains("closed its output, but went on"), "{closed}");
        assert!(error(program("while read -r line; do echo NaN; done")).contains("finite"));
    }

    #[test]
    fn a_program_that_ends_or_hangs_is_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let seen = dir.path().join("seen");
        // The first one is lost in the middle of a batch, the second one answers all.
        for lost in ["exit 1", "exec sleep 100"] {
            let _ = std::fs::remove_file(&seen);
            let script = format!(
                "if [ -e {0} ]; then while read -r l; do echo 7; done; fi; touch {0}; read -r l; echo 1; {lost}",
                seen.display()
            );
            let hasty = ProgramSpec { timeout: 0.5, ..spec(&script) };
            let reward = Program::new(&hasty).unwrap();
            // None of the scores of the lost one.
            assert_eq!(reward.score_batch(&[("p", "r"); 3]).unwrap(), [7.0; 3], "{lost}");
            assert_eq!(reward.score("p", "r").unwrap(), 7.0);
            let _ = std::fs::remove_file(&seen);
            let once = Program::new(&ProgramSpec { retries: 0, ..hasty }).unwrap();
            let error = once.score_batch(&[("p", "r"); 3]).unwrap_err().to_string();
            assert!(error.contains("1 of 3"), "{error}");
        }
    }
}
