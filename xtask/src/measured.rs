//! One run of a process that measures something and prints it as a JSON line, ours or a peer's.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The last line of a process that is a JSON object; in words, why there is none, and that all of its
/// output is in `log`.
pub(crate) fn measured_line(command: &mut Command, log: &Path) -> Result<Value, String> {
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
