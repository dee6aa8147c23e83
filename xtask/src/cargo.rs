//! Runs cargo.

use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};

/// The workspace's root, wherever the command was started.
pub(crate) fn root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map_or(xtask.clone(), PathBuf::from)
}

/// A cargo command, as if it were called from a shell: without what `cargo run` says of this package, which build scripts
/// look at, so that what one of both compiled would be compiled again by the other.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.args(args);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_package) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether cargo sets a variable for the package whose program it runs.
fn is_of_package(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
        || ["CARGO_PRIMARY_PACKAGE", "CARGO_BIN_NAME", "CARGO_CRATE_NAME"].contains(&name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_does_not_hear_of_this_package() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "tests are run by cargo");
        let command = cargo(&["version"]);
        let removed =
            |name: &str| command.get_envs().any(|(key, value)| key == name && value.is_none());
        assert!(removed("CARGO_PKG_NAME") && removed("CARGO_MANIFEST_DIR"));
        assert!(!removed("CARGO_HOME") && !removed("PATH"));
    }
}
