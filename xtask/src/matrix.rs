//! The test suite once per backend.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::cargo::{cargo, root, status};

/// One row of the table.
enum Outcome {
    Passed,
    Failed,
    Skipped(String),
}

/// `cargo xtask matrix [backend …]`: flex, ndarray and cuda where there is a device.
pub(crate) fn run(wanted: &[String]) -> Result<ExitCode> {
    let backends = ["flex", "ndarray", "cuda"];
    let mut rows = Vec::new();
    for backend in backends {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == backend) {
            rows.push((backend, Outcome::Skipped("not asked for".into())));
            continue;
        }
        if backend == "cuda"
            && let Some(why) = no_cuda()
        {
            // Asked for by name, what can be seen without a device is: the program's first words.
            rows.push((
                backend,
                if wanted.is_empty() { Outcome::Skipped(why) } else { start(why)? },
            ));
            continue;
        }
        eprintln!("== {backend}");
        let mut command = cargo(&["test", "--workspace"]);
        command.current_dir(root());
        if backend != "flex" {
            let features = format!("mopo-testkit/{backend},mopo-cli/{backend}");
            command.args(["--features", &features]);
        }
        let passed = status(&mut command)?.success();
        rows.push((backend, if passed { Outcome::Passed } else { Outcome::Failed }));
    }
    println!("\nbackend   tests");
    let mut failed = false;
    for (backend, outcome) in &rows {
        let text = match outcome {
            Outcome::Passed => "passed".to_string(),
            Outcome::Failed => {
                failed = true;
                "FAILED".to_string()
            }
            Outcome::Skipped(why) => format!("skipped: {why}"),
        };
        println!("{backend:<9} {text}");
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Builds the program with CUDA (many minutes, no toolkit) and starts it where there is no device:
/// it must run, and refuse the device with a remedy instead of a panic.
fn start(why: String) -> Result<Outcome> {
    eprintln!("== cuda: no tests ({why}); the program is built with it and started");
    let mut build = cargo(&["build", "--package", "mopo-cli", "--features", "cuda"]);
    build.args(["--message-format", "json-render-diagnostics"]);
    let built = build.current_dir(root()).stderr(Stdio::inherit()).output()?;
    if !built.status.success() {
        return Ok(Outcome::Failed);
    }
    let mut mopo = None;
    for message in cargo_metadata::Message::parse_stream(built.stdout.as_slice()) {
        if let cargo_metadata::Message::CompilerArtifact(artifact) = message?
            && artifact.target.name == "mopo"
        {
            mopo = artifact.executable;
        }
    }
    let mopo = mopo.context("cargo built no program `mopo`")?;
    let help = Command::new(&mopo).arg("--help").output()?;
    let asked = Command::new(&mopo).args(["train", "--device", "cuda"]).output()?;
    let said = String::from_utf8_lossy(&asked.stderr);
    eprintln!("mopo train --device cuda: {}", said.trim());
    let clear = said.starts_with("error: --device cuda") && said.contains("--device flex");
    if help.status.success() && !asked.status.success() && clear {
        Ok(Outcome::Skipped(format!("{why}; the program built with it starts and says so")))
    } else {
        eprintln!("the program built with CUDA does not start, or does not say what to do");
        Ok(Outcome::Failed)
    }
}

/// Why the CUDA tests cannot run here, or None if they can.
fn no_cuda() -> Option<String> {
    let listing = Command::new("nvidia-smi").arg("-L").stderr(Stdio::null()).output();
    match listing {
        Err(_) => Some("nvidia-smi is not installed: there is no NVIDIA driver here".into()),
        Ok(out) if !out.status.success() => Some("nvidia-smi finds no working driver".into()),
        Ok(out) if out.stdout.is_empty() => Some("nvidia-smi lists no device".into()),
        Ok(_) => None,
    }
}
