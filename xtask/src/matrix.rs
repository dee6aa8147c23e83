//! The test suite once per backend.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::cargo::{cargo, root, status};
use crate::tiny;

/// One row of the table.
enum Outcome {
    Passed,
    Failed,
    Skipped(String),
}

impl Outcome {
    fn of(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }
}

/// Both at once: another set of packages would have other features, and so compile most of burn again.
const WITH_WGPU: [&str; 6] = [
    "--package",
    "mopo-ops",
    "--package",
    "mopo-cli",
    "--features",
    "mopo-testkit/wgpu,mopo-cli/wgpu",
];

/// On [`tiny::WORLD`], a run that also devices in software end soon.
const TINY: [&str; 10] = [
    "sft.steps=4",
    "sft.batch_size=4",
    "training.steps=6",
    "training.batch_size=4",
    "mopo.reference_lag=2",
    "checkpoints.save_steps=2",
    "evaluation.n_prompts=6",
    "evaluation.n_clusters=2",
    "evaluation.max_new_tokens=8",
    "evaluation.mixture_steps=2",
];

/// `cargo xtask matrix [backend …]`: flex, ndarray, and cuda and wgpu where there is a device.
pub(crate) fn run(wanted: &[String]) -> Result<ExitCode> {
    let backends = ["flex", "ndarray", "cuda", "wgpu"];
    let mut rows = Vec::new();
    for backend in backends {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == backend) {
            rows.push((backend, Outcome::Skipped("not asked for".into())));
            continue;
        }
        let missing = match backend {
            "cuda" => no_cuda(),
            "wgpu" => no_wgpu(),
            _ => None,
        };
        let outcome = match missing {
            // Asked for by name, what can be seen without a device is: the program's first words.
            Some(why) if !wanted.is_empty() => start(backend, why)?,
            Some(why) => Outcome::Skipped(why),
            None if backend == "wgpu" => wgpu()?,
            None => tests(backend)?,
        };
        rows.push((backend, outcome));
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

/// All tests of the workspace.
fn tests(backend: &str) -> Result<Outcome> {
    eprintln!("== {backend}");
    let mut command = cargo(&["test", "--workspace"]);
    command.current_dir(root());
    if backend != "flex" {
        let features = format!("mopo-testkit/{backend},mopo-cli/{backend}");
        command.args(["--features", &features]);
    }
    Ok(Outcome::of(status(&mut command)?.success()))
}

/// What burn compiles for GPUs, on any that there is, also on one in software, which is slow: the tests of mopo-ops, where
/// all operations are, and a tiny run, once whole and once resumed.
fn wgpu() -> Result<Outcome> {
    eprintln!("== wgpu: the tests of mopo-ops, and a tiny run");
    let mut test = cargo(&["test"]);
    test.args(WITH_WGPU).args(["--lib", "--test", "quant"]).current_dir(root());
    if !status(&mut test)?.success() {
        return Ok(Outcome::Failed);
    }
    let Some(mopo) = program(&WITH_WGPU)? else { return Ok(Outcome::Failed) };
    let work = std::env::temp_dir().join(format!("mopo-matrix-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
    let passed = tiny_run(&mopo, "wgpu", &work);
    let _ = fs::remove_dir_all(&work);
    Ok(Outcome::of(passed?))
}

/// Trains, and again from the checkpoint before the last one: both must end with the same bits.
fn tiny_run(mopo: &Path, device: &str, work: &Path) -> Result<bool> {
    let (run, again) = (work.join("run"), work.join("again"));
    let mut train = Command::new(mopo);
    train.args(["train", "demo", "--device", device, "--out"]).arg(&run);
    for key in tiny::WORLD.iter().chain(&TINY) {
        train.args(["--set", key]);
    }
    if !status(&mut train)?.success() {
        return Ok(false);
    }
    let mut copy = Command::new("cp");
    if !status(copy.arg("-r").args([&run, &again]))?.success() {
        return Ok(false);
    }
    fs::remove_file(again.join("result.json"))?;
    for dir in ["policy", "checkpoints/mopo-step-000006"] {
        fs::remove_dir_all(again.join(dir)).with_context(|| format!("{dir} of the tiny run"))?;
    }
    let mut resume = Command::new(mopo);
    resume.args(["train", "--device", device, "--resume"]).arg(&again);
    if !status(&mut resume)?.success() {
        return Ok(false);
    }
    for file in ["policy/adapter_model.safetensors", "policy/heads.safetensors"] {
        let [a, b] = [&run, &again].map(|dir| fs::read(dir.join(file)));
        if a.context(file)? != b.context(file)? {
            eprintln!("the resumed run's {file} differs");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Builds the program; None if it does not compile.
fn program(options: &[&str]) -> Result<Option<PathBuf>> {
    let mut build = cargo(&["build", "--bin", "mopo"]);
    build.args(options).args(["--message-format", "json-render-diagnostics"]);
    let built = build.current_dir(root()).stderr(Stdio::inherit()).output()?;
    if !built.status.success() {
        return Ok(None);
    }
    let mut mopo = None;
    for message in cargo_metadata::Message::parse_stream(built.stdout.as_slice()) {
        if let cargo_metadata::Message::CompilerArtifact(artifact) = message?
            && artifact.target.name == "mopo"
        {
            mopo = artifact.executable;
        }
    }
    Ok(Some(mopo.context("cargo built no program `mopo`")?.into_std_path_buf()))
}

/// Builds the program with a device's feature and starts it where there is none of its devices: it must run, and refuse
/// the device with a remedy instead of a panic. With CUDA that takes many minutes, and no toolkit.
fn start(device: &str, why: String) -> Result<Outcome> {
    eprintln!("== {device}: no tests ({why}); the program is built with it and started");
    let alone = ["--package", "mopo-cli", "--features", device];
    let options: &[&str] = if device == "wgpu" { &WITH_WGPU } else { &alone };
    let Some(mopo) = program(options)? else { return Ok(Outcome::Failed) };
    let help = Command::new(&mopo).arg("--help").output()?;
    let asked = Command::new(&mopo).args(["train", "--device", device]).output()?;
    let said = String::from_utf8_lossy(&asked.stderr);
    eprintln!("mopo train --device {device}: {}", said.trim());
    let refused = format!("error: --device {device}");
    let clear =
        said.lines().any(|line| line.starts_with(&refused)) && said.contains("--device flex");
    if help.status.success() && !asked.status.success() && clear {
        Ok(Outcome::Skipped(format!("{why}; the program built with it starts and says so")))
    } else {
        eprintln!("the program built with {device} does not start, or does not say what to do");
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

/// Why the wgpu tests cannot run here, or None if it seems that they can: Vulkan's loader finds drivers by their manifests.
fn no_wgpu() -> Option<String> {
    if cfg!(any(target_os = "macos", windows)) {
        return None;
    }
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].into_iter().find_map(std::env::var_os);
    let found = match named {
        Some(files) => std::env::split_paths(&files).any(|file| file.is_file()),
        None => ["/usr/share", "/etc", "/usr/local/share", "/usr/local/etc"].iter().any(|place| {
            fs::read_dir(Path::new(place).join("vulkan/icd.d"))
                .is_ok_and(|mut dir| dir.next().is_some())
        }),
    };
    (!found).then(|| {
        "no Vulkan driver here (`apt-get install mesa-vulkan-drivers` has one in software)".into()
    })
}
