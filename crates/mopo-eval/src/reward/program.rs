//! A reward that another program computes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::json;

use super::Reward;
use crate::{Error, Result};

/// A program that reads an object with `prompt` and `response` per line from its standard input, as JSON, and writes
/// a number per line to its standard output. It is started with the first text and ended with this value;
/// what it writes to its standard error is shown.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: Vec<String>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(command: &[String]) -> std::io::Result<Self> {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Ok(Self { child, input, output })
    }

    /// The lines that answer those of `asked`, `n` of them. They are written while answers are read, since
    /// neither side can hold them all.
    fn answers(&mut self, asked: &[u8], n: usize) -> std::io::Result<Vec<String>> {
        let Self { input, output, .. } = self;
        std::thread::scope(|scope| {
            let write = scope.spawn(move || input.write_all(asked).and_then(|()| input.flush()));
            let mut lines = Vec::with_capacity(n);
            while lines.len() < n {
                let mut line = String::new();
                if output.read_line(&mut line)? == 0 {
                    break;
                }
                lines.push(line.trim().to_owned());
            }
            // A program that ended has closed its input as well; that it ended says more.
            let written = write.join().expect("writing does not panic");
            if lines.len() == n {
                written?;
            }
            Ok(lines)
        })
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
    /// The reward of this program and its arguments.
    ///
    /// # Errors
    /// An empty command.
    pub fn new(name: impl Into<String>, command: Vec<String>) -> Result<Self> {
        match command.first() {
            Some(program) if !program.is_empty() => {
                Ok(Self { name: name.into(), command, running: Mutex::new(None) })
            }
            _ => {
                let expected = "it must be a list: the program, and its arguments";
                Err(Error::invalid("command", format!("{command:?}"), expected))
            }
        }
    }

    fn failed(&self, message: String) -> Error {
        Error::Program { command: self.command.join(" "), message }
    }
}

impl Reward for Program {
    fn name(&self) -> &str {
        &self.name
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
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let running = match &mut *running {
            Some(running) => running,
            none => {
                let started = Running::start(&self.command).map_err(|e| {
                    self.failed(format!("cannot start it: {e}; give the path of a program"))
                })?;
                none.insert(started)
            }
        };
        let answers = running.answers(&asked, items.len());
        let answers = answers.map_err(|e| self.failed(format!("lost it: {e}")))?;
        if answers.len() < items.len() {
            let ended = running.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
            let (n, most) = (answers.len(), items.len());
            return Err(self.failed(format!(
                "it ended ({ended}) after {n} of {most} scores: it must write a number for each line \
                 that it reads"
            )));
        }
        let score = |(index, line): (usize, &String)| match line.parse::<f32>() {
            Ok(score) if score.is_finite() => Ok(score),
            _ => Err(Error::Text {
                reward: self.name.clone(),
                index,
                why: format!("got the score `{line}`, which is not a finite number"),
            }),
        };
        answers.iter().enumerate().map(score).collect()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn program(script: &str) -> Program {
        Program::new("p", ["sh", "-c", script].map(str::to_owned).into()).unwrap()
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
        let missing = Program::new("p", vec!["/no/such/program".into()]).unwrap();
        assert!(error(missing).contains("/no/such/program") && Program::new("p", vec![]).is_err());
        let ended = error(program("read -r line; echo 1; exit 3"));
        assert!(ended.contains("exit status: 3") && ended.contains("1 of 3"), "{ended}");
        let words = error(program("while read -r line; do echo good; done"));
        assert!(words.contains("`good`") && words.contains("text 0"), "{words}");
        assert!(error(program("while read -r line; do echo NaN; done")).contains("finite"));
    }
}
