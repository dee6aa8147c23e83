//! Single runs of a study: trained, resumed or found finished, and what they took.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::budget;
use super::plan::Method;
use crate::cargo::root;
use crate::files::write_whole;
use crate::program::by_itself;

/// How runs are started.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) mopo: PathBuf,
    /// Threads of each run; `None`: as many as it takes.
    pub(super) threads: Option<usize>,
}

impl Program {
    /// Runs a command to its end, its output in `log`; returns its peak of resident memory in bytes, where that can be
    /// read.
    pub(super) fn run(&self, args: &[String], log: &Path) -> Result<Option<u64>> {
        let folder = log.parent().context("a log has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let out = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let mut command = Command::new(&self.mopo);
        by_itself(&mut command).args(args).current_dir(root()).stdin(Stdio::null());
        command.stdout(out.try_clone()?).stderr(out);
        if let Some(threads) = self.threads {
            command.env("RAYON_NUM_THREADS", threads.to_string());
        }
        let mut child =
            command.spawn().with_context(|| format!("starting {}", self.mopo.display()))?;
        let status = format!("/proc/{}/status", child.id());
        let mut peak = None;
        let mut pause = Duration::from_millis(5);
        let ended = loop {
            peak = peak_memory(&status).or(peak);
            pause = (2 * pause).min(Duration::from_millis(200));
            match child.try_wait()? {
                Some(ended) => break ended,
                None => sleep(pause),
            }
        };
        ensure!(
            ended.success(),
            "`mopo {}` failed ({ended}): its output is in {}",
            args.join(" "),
            log.display()
        );
        Ok(peak)
    }

    /// Trains a run unless it is finished; one that was interrupted is resumed.
    pub(super) fn train(&self, args: &[String], run: &Path) -> Result<()> {
        if run.join("result.json").exists() {
            return Ok(());
        }
        let out = run.display().to_string();
        let begun = run.join("run.json").exists();
        let whole: Vec<String> = match begun {
            true => ["train", "--resume", &out].map(String::from).to_vec(),
            false => {
                if run.exists() {
                    // It ended before there was anything to resume.
                    fs::remove_dir_all(run).with_context(|| format!("removing {out}"))?;
                }
                let begin = std::iter::once("train".to_string()).chain(args.iter().cloned());
                begin.chain(["--out".to_string(), out.clone()]).collect()
            }
        };
        let before = Cost::of(run)?.unwrap_or_default();
        Cost { begun: Some(since_1970(SystemTime::now())), ..before }.write(run)?;
        let clock = Instant::now();
        let memory = self.run(&whole, &beside(run, "log"))?.max(before.memory);
        let seconds = before.seconds + clock.elapsed().as_secs_f64();
        Cost { seconds, memory, begun: None }.write(run)
    }
}

/// What all commands that trained a run took.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Cost {
    seconds: f64,
    /// The peak, in bytes.
    memory: Option<u64>,
    /// When a command was begun that has not ended, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begun: Option<f64>,
}

impl Cost {
    /// As far as it is known: a command that was killed took as long as it wrote.
    fn of(run: &Path) -> Result<Option<Self>> {
        let path = beside(run, "cost.json");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let mut cost: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; remove it", path.display()))?;
        if let Some(begun) = cost.begun.take() {
            let written = [run.join("metrics.jsonl"), run.join("result.json"), beside(run, "log")];
            let last = written.iter().filter_map(|file| fs::metadata(file).ok()?.modified().ok());
            let last = last.map(since_1970).fold(begun, f64::max);
            cost.seconds += last - begun;
        }
        Ok(Some(cost))
    }

    fn write(&self, run: &Path) -> Result<()> {
        write_whole(&beside(run, "cost.json"), &format!("{}\n", serde_json::to_string(self)?))
    }
}

fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn peak_memory(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The file beside a folder with its name and this ending.
pub(super) fn beside(folder: &Path, ending: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!("{name}.{ending}"))
}

/// What training took, as the study's file has it; `Null` if that is not known.
pub(super) fn cost(run: &Path, method: &Method) -> Result<Value> {
    let Some(measured) = Cost::of(run)? else { return Ok(Value::Null) };
    let responses = budget::responses(&budget::config(run)?, method);
    Ok(json!({
        "seconds": measured.seconds,
        "memory": measured.memory,
        "responses": responses,
        "tokens": budget::tokens(run)?,
    }))
}

/// The distinct prompts of a prepared set, in order.
pub(super) fn prompts(set: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(set).with_context(|| format!("reading {}", set.display()))?;
    let mut found: Vec<String> = vec![];
    // After its header.
    for line in text.lines().skip(1) {
        let row: Value =
            serde_json::from_str(line).with_context(|| format!("{} is damaged", set.display()))?;
        let prompt = row["prompt"].as_str().context("a pair without a prompt")?;
        if !found.iter().any(|known| known == prompt) {
            found.push(prompt.into());
        }
    }
    Ok(found)
}

/// Prompts in the form that `mopo pareto --prompts` reads.
pub(super) fn write_prompts(path: &Path, prompts: &[&String]) -> Result<()> {
    let lines: Vec<String> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| {
            json!({ "id": format!("study:{i}"), "source": "study", "prompt": prompt }).to_string()
        })
        .collect();
    write_whole(path, &(lines.join("\n") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompts_of_a_set_are_written_once_each() {
        let dir = std::env::temp_dir().join(format!("mopo-study-prompts-{}", std::process::id()));
        let set = dir.join("set.jsonl");
        let row = |prompt: &str| json!({ "prompt": prompt, "first": "x" }).to_string();
        let text = [r#"{"format":"x"}"#.to_string(), row("a"), row("b"), row("a")].join("\n");
        write_whole(&set, &text).unwrap();
        let found = prompts(&set).unwrap();
        assert_eq!(found, ["a", "b"]);
        write_prompts(&dir.join("out.jsonl"), &found.iter().skip(1).collect::<Vec<_>>()).unwrap();
        let text = fs::read_to_string(dir.join("out.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("\"prompt\":\"b\""));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_command_that_fails_is_named_with_its_log() {
        let dir = std::env::temp_dir().join(format!("mopo-study-work-{}", std::process::id()));
        let program = Program { mopo: "sh".into(), threads: Some(1) };
        let log = dir.join("log");
        let said = |script: &str| ["-c".to_string(), script.to_string()].to_vec();
        program.run(&said("echo $RAYON_NUM_THREADS"), &log).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "1\n");
        let error = program.run(&said("exit 3"), &log).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("log"), "{error}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
