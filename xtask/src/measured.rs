//! Processes that measure something and print it as a JSON line, ours and peers', which take turns.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use serde_json::{Value, json};

use crate::bench_train::report::number;
use crate::files::write_whole;
use crate::machine::median;

/// What is measured.
pub(crate) struct Participant {
    pub(crate) name: &'static str,
    /// Without this machine's paths.
    pub(crate) shown: String,
    pub(crate) command: Box<dyn Fn() -> Command>,
}

/// Runs all in turns. Each run has its participant's name, the round, and the line, or why it failed;
/// `record` has those so far, `folder` what failed runs printed.
pub(crate) fn take_turns(
    all: &[Participant],
    rounds: usize,
    folder: &Path,
    record: &Path,
    headline: impl Fn(&Value) -> String,
) -> Result<Vec<Value>> {
    let mut runs: Vec<Value> = vec![];
    for round in 1..=rounds {
        for participant in all {
            eprint!("round {round} of {rounds}: {:<24} ", participant.name);
            let log = folder.join(format!("{}.log", participant.name));
            let mut run = json!({ "participant": participant.name, "round": round });
            match measured_line(&mut (participant.command)(), &log) {
                Ok(line) => {
                    eprintln!("{}", headline(&line));
                    run["line"] = line;
                }
                Err(why) => {
                    eprintln!("FAILED: {why}");
                    run["failed"] = why.into();
                }
            }
            runs.push(run);
            let lines: String = runs.iter().map(|run| format!("{run}\n")).collect();
            write_whole(record, &lines)?;
        }
    }
    Ok(runs)
}

/// A figure of each of a participant's runs.
pub(crate) fn values(runs: &[Value], name: &str, key: &str) -> Vec<f64> {
    let of = runs.iter().filter(|run| run["participant"] == name);
    of.filter_map(|run| run["line"][key].as_f64()).collect()
}

/// The median of a figure over a participant's runs, if any has it.
pub(crate) fn median_of(runs: &[Value], name: &str, key: &str) -> Option<f64> {
    let values = values(runs, name, key);
    (!values.is_empty()).then(|| median(values))
}

/// The least and the largest value of a figure, as a cell of a table.
pub(crate) fn range(runs: &[Value], name: &str, key: &str) -> String {
    let values = values(runs, name, key);
    let [least, most] = [f64::min, f64::max].map(|f| values.iter().copied().reduce(f));
    let range = least.zip(most).map(|(a, b)| format!("{} … {}", number(a), number(b)));
    range.unwrap_or("–".into())
}

/// What a page says besides the figures.
pub(crate) struct About {
    pub(crate) command: String,
    /// The day and the commit.
    pub(crate) when: String,
    /// Before and after.
    pub(crate) machine: [String; 2],
}

impl About {
    /// The beginning of a part of a page; a list of what else there is to know can follow.
    pub(crate) fn head(&self, title: &str) -> String {
        let Self { command, when, machine: [before, after] } = self;
        format!(
            "## {title}\n\n```\n{command}\n```\n\n{when}.\n\n- Before: {before}.\n- After: {after}.\n"
        )
    }
}

/// Adds a part to a page, which is begun with its title if it does not exist.
pub(crate) fn append(out: &Path, title: &str, part: &str) -> Result<()> {
    let earlier = fs::read_to_string(out).unwrap_or_else(|_| format!("# {title}\n"));
    write_whole(out, &format!("{earlier}\n{part}"))?;
    eprintln!("wrote {}", out.display());
    Ok(())
}

/// A point of that list where it applies.
pub(crate) fn debug_note(runs: &[Value]) -> &'static str {
    match runs.iter().any(|run| run["line"]["profile"] == "debug") {
        true => "- **Ours is a debug build here: its times mean little.**\n",
        false => "",
    }
}

/// The last line of a process that is a JSON object; in words, why there is none, and that all of its
/// output is in `log`.
pub(crate) fn measured_line(
    command: &mut Command,
    log: &Path,
) -> std::result::Result<Value, String> {
    let out = command.stdin(Stdio::null()).output().map_err(|e| {
        format!("{} cannot be started: {e}", command.get_program().to_string_lossy())
    })?;
    let (said, complained) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let line = said.lines().rev().find_map(|l| serde_json::from_str::<Value>(l).ok());
    line.filter(|line| line.is_object() && out.status.success()).ok_or_else(|| {
        let kept = fs::write(log, format!("{said}\n{complained}")).is_ok();
        let last = complained.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("");
        let place = match kept {
            true => format!("all of its output is in {}", log.display()),
            false => "its output could not be kept".into(),
        };
        format!("{} ({}); {place}", last.trim(), out.status)
    })
}

/// A table of the participants and the commands that they ran.
pub(crate) fn command_table(all: &[Participant]) -> String {
    let rows = all.iter().map(|p| format!("| {} | `{}` |\n", p.name, p.shown));
    format!("| name | command |\n|---|---|\n{}", rows.collect::<String>())
}

/// Every run as a line of JSON in a block of code, without what would fill it.
pub(crate) fn run_block(runs: &[Value], left_out: &str) -> String {
    let mut lines = String::new();
    for run in runs {
        let mut run = run.clone();
        if let Some(line) = run["line"].as_object_mut() {
            line.remove(left_out);
        }
        lines += &format!("{run}\n");
    }
    format!("```json\n{lines}```\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_json_line_counts_and_only_of_a_process_that_succeeded() {
        let of = |script: &str| {
            measured_line(Command::new("sh").args(["-c", script]), Path::new("no such folder/log"))
        };
        let line = of("echo warning; echo '{\"a\": 1}'; echo '{\"a\": 2}'; echo").unwrap();
        assert_eq!(line["a"], 2);
        for script in ["echo '{\"a\": 1}'; echo out of memory >&2; exit 3", "echo nothing"] {
            let why = of(script).unwrap_err();
            assert!(why.contains("exit status"), "{why}");
            assert!(!script.contains("memory") || why.contains("out of memory"), "{why}");
        }
    }
}
