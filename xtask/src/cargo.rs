//! Runs cargo, and through it the binary.

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

/// `mopo <name> …` in release mode. `--device` picks the features to build with.
pub(crate) fn mopo(name: &str, args: &[String]) -> Result<ExitCode> {
    // Not quiet: the first build takes minutes, and cargo says how far it is.
    let mut command = cargo(&["run", "--release", "--package", "mopo-cli"]);
    if let Some(feature) = device_feature(args) {
        command.args(["--features", feature]);
    }
    command.args(["--bin", "mopo", "--", name]).args(args);
    Ok(code(status(&mut command)?))
}

/// The cargo feature that the chosen device needs beyond the default one.
pub(crate) fn device_feature(args: &[String]) -> Option<&'static str> {
    let mut device = None;
    for (i, arg) in args.iter().enumerate() {
        if arg == "--device" {
            device = args.get(i + 1).map(String::as_str);
        } else if let Some(value) = arg.strip_prefix("--device=") {
            device = Some(value);
        }
    }
    match device? {
        "ndarray" => Some("ndarray"),
        d if d.starts_with("cuda") => Some("cuda"),
        _ => None,
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

/// Where cargo builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    Ok(metadata.target_directory.into_std_path_buf())
}
