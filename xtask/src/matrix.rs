//! The test suite once per backend.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Result, bail};

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
    if let Some(unknown) = wanted.iter().find(|w| !backends.contains(&w.as_str())) {
        bail!("unknown backend `{unknown}`; the backends are: {}", backends.join(", "));
    }
    let mut rows = Vec::new();
    for backend in backends {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == backend) {
            rows.push((backend, Outcome::Skipped("not asked for".into())));
            continue;
        }
        if backend == "cuda"
            && let Some(why) = no_cuda()
        {
            rows.push((backend, Outcome::Skipped(why)));
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
