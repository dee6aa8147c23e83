//! The checks that a change must pass, as CI runs them.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::cargo::{code, root, status};

/// `cargo xtask ci`: one script holds the steps, so that people and CI run the same ones.
pub(crate) fn run() -> Result<ExitCode> {
    Ok(code(status(Command::new("bash").arg(root().join(".ci/run")))?))
}
