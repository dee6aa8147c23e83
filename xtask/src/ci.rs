//! What the checks run, step by step, so that it can be run by hand.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::cargo::{cargo, code, root, status};

const STEPS: &[(&str, &[&str])] = &[
    ("format", &["fmt", "--all", "--check"]),
    ("clippy", &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    ("tests", &["test", "--workspace"]),
];

/// `cargo xtask ci [step …]`.
pub(crate) fn run(wanted: &[String]) -> Result<ExitCode> {
    for (name, args) in STEPS {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
            continue;
        }
        eprintln!("== {name}: cargo {}", args.join(" "));
        let clock = Instant::now();
        let done = status(cargo(args).current_dir(root()))?;
        eprintln!("== {name}: {:.0} s", clock.elapsed().as_secs_f64());
        if !done.success() {
            return Ok(code(done));
        }
    }
    Ok(ExitCode::SUCCESS)
}
