//! Runs cargo.

use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};

/// The workspace's root, wherever the command was started.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A cargo command.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.args(args);
    command
}

/// Runs it, its output going to ours.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("starting {:?}", command.get_program()))
}

/// The exit code of a finished command as ours.
pub(crate) fn code(status: ExitStatus) -> ExitCode {
    match status.code() {
        Some(code) => ExitCode::from(code.clamp(0, 255) as u8),
        None => ExitCode::FAILURE, // killed by a signal
    }
}

/// The criterion benchmarks of some crates.
pub(crate) fn bench(packages: &[&str], args: &[String]) -> Result<ExitCode> {
    let mut command = cargo(&["bench"]);
    for package in packages {
        command.args(["--package", package]);
    }
    command.current_dir(root()).args(args);
    Ok(code(status(&mut command)?))
}

/// What cargo says of the workspace, without its dependencies.
pub(crate) fn metadata() -> Result<cargo_metadata::Metadata> {
    let mut command = cargo_metadata::MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).no_deps().exec().context("cargo metadata")
}

/// Where cargo builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    Ok(metadata()?.target_directory.into_std_path_buf())
}
