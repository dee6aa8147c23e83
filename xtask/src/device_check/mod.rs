//! `cargo xtask device-check`: one command for a machine with a device that the checks of every day do not have. Tests on the
//! device, parity with the CPU, training steps and generation of published sizes, next to PyTorch where it is there; in a
//! given time, with one JSON file at the end.
//!
//! Where nothing can be built, everything is carried there: `--pack` builds it elsewhere.

mod models;
mod pack;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::args::{absolute, minutes};
use crate::cargo::target_directory;
use crate::cluster_test::last_lines;
use crate::files::write_whole;
use crate::machine::machine;
use models::{PHI, SMOLLM2, Size, TINY};

/// How far the first loss may be from the CPU's, relative to it, and those after steps, which rounding moves.
const TOLERANCES: [f64; 2] = [1e-4, 2e-3];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The device to check: cuda, cuda:N, wgpu, wgpu:N, or flex to try the checks themselves
    #[arg(long, default_value = "cuda")]
    device: String,
    /// Only build, and pack what is needed into target/device-check.tar.xz
    #[arg(long, conflicts_with = "from")]
    pack: bool,
    /// The unpacked folder, instead of building
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    from: Option<PathBuf>,
    /// Python with torch and transformers, and trl for steps [default: python3, if it has them]
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Time for all; what does not fit is left out, and said to be
    #[arg(long, default_value = "8", value_name = "N", value_parser = minutes, allow_negative_numbers = true)]
    minutes: f64,
    /// Sizes of models besides the tiny ones
    #[arg(long, value_delimiter = ',', default_values = ["smollm2-135m", "phi-1.5"])]
    sizes: Vec<String>,
    /// The file with all results
    #[arg(long, default_value = "device-check.json", value_name = "FILE", value_parser = absolute)]
    out: PathBuf,
}

/// `cargo xtask device-check …`.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let known = [SMOLLM2, PHI];
    for name in &options.sizes {
        ensure!(
            known.iter().any(|size| size.name == name),
            "--sizes {name}: known are {}",
            known.map(|size| size.name).join(", ")
        );
    }
    let dir = match &options.from {
        Some(dir) => dir.clone(),
        None => {
            let dir = target_directory()?.join("device-check");
            pack::build(&options.device, &dir)?;
            dir
        }
    };
    if options.pack {
        pack::archive(&dir)?;
        println!(
            "there: tar xf device-check.tar.xz && device-check/xtask device-check --from device-check"
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mopo = dir.join("mopo");
    ensure!(mopo.is_file(), "--from {}: there is no program `mopo` in it", dir.display());
    let work = std::env::temp_dir().join(format!("mopo-device-check-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
    let built = pack::built(&dir);
    let mut check = Check {
        dir,
        work: work.clone(),
        device: options.device.clone(),
        out: options.out.clone(),
        end: Instant::now() + Duration::from_secs_f64(60.0 * options.minutes),
        record: json!({
            "version": env!("CARGO_PKG_VERSION"),
            "built": built,
            "device": options.device,
            "machine": machine(),
            "nvidia_smi": said(Command::new("nvidia-smi").args([
                "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader",
            ])),
            "checks": [],
        }),
        failed: 0,
    };
    let result = check.all(options, &known);
    let _ = fs::remove_dir_all(&work);
    result?;
    println!("{}: {} of {} checks failed", check.out.display(), check.failed, check.n_checks());
    Ok(if check.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What a program prints, if it is there and succeeds.
fn said(command: &mut Command) -> Option<String> {
    let out = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
}

struct Check {
    dir: PathBuf,
    /// Models, pairs and logs.
    work: PathBuf,
    device: String,
    out: PathBuf,
    end: Instant,
    record: Value,
    failed: usize,
}

impl Check {
    /// The checks, the ones that say most first.
    fn all(&mut self, options: &Options, known: &[Size]) -> Result<()> {
        let pairs = self.work.join("pairs.jsonl");
        fs::write(&pairs, models::pairs()).with_context(|| pairs.display().to_string())?;
        for size in TINY {
            let model = self.work.join(size.name);
            size.write(&model)?;
            for method in ["dpo", "mopo"] {
                for base in ["f32", "nf4"] {
                    let name = format!("parity: {method}, {}, {base}", size.name);
                    self.check(&name, |this| this.same_loss(&model, method, base))?;
                }
            }
            let name = format!("parity: generation, {}", size.name);
            self.check(&name, |this| this.same_tokens(&model))?;
        }
        for tests in ["mopo_ops", "mopo_lm"] {
            self.check(&format!("tests: {tests}"), |this| this.tests(tests))?;
        }
        for size in known.iter().filter(|size| options.sizes.iter().any(|name| name == size.name)) {
            let model = self.work.join(size.name);
            self.check(&format!("write {}", size.name), |_| {
                size.write(&model)?;
                Ok(json!({}))
            })?;
            for base in ["checkpoint", "nf4", "f32"] {
                for method in ["dpo", "mopo"] {
                    let name = format!("step: {method}, {}, {base}", size.name);
                    self.check(&name, |this| this.bench_train(&model, method, base, 8, 6))?;
                }
            }
            for batch in [1, 8] {
                let name = format!("generation: {}, batch {batch}", size.name);
                self.check(&name, |this| {
                    let device = this.device.clone();
                    let line = this.bench_generate(&model, &device, batch, 3)?;
                    Ok(without_ids(line))
                })?;
            }
            let python = options.python.clone().unwrap_or_else(|| "python3".into());
            for (script, more) in [("generate.py", &["--batch", "8"][..]), ("dpo.py", &[])] {
                let name = format!("PyTorch: {script}, {}", size.name);
                self.check(&name, |this| this.peer(&python, script, &model, more))?;
            }
            let _ = fs::remove_dir_all(&model);
        }
        Ok(())
    }

    fn n_checks(&self) -> usize {
        self.record["checks"].as_array().map_or(0, Vec::len)
    }

    /// Runs a check if there is time, and writes all results so far.
    fn check(&mut self, name: &str, run: impl FnOnce(&Self) -> Result<Value>) -> Result<()> {
        eprint!("{name}: ");
        let clock = Instant::now();
        let mut line = json!({ "name": name });
        if self.left().is_zero() {
            line["left_out"] = "no time left".into();
            eprintln!("no time left");
        } else {
            match run(self) {
                Ok(figures) => {
                    line["passed"] = true.into();
                    eprintln!("{:.1} s {figures}", clock.elapsed().as_secs_f64());
                    line["figures"] = figures;
                }
                Err(e) if e.is::<LeftOut>() => {
                    line["left_out"] = e.to_string().into();
                    eprintln!("{e}");
                }
                Err(e) => {
                    self.failed += 1;
                    line["passed"] = false.into();
                    line["why"] = format!("{e:#}").into();
                    eprintln!("FAILED: {e:#}");
                }
            }
        }
        line["seconds"] = clock.elapsed().as_secs_f64().into();
        self.record["checks"].as_array_mut().expect("a list").push(line);
        write_whole(&self.out, &format!("{:#}\n", self.record))
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// What a program prints; it is ended with the time.
    fn output(&self, command: &mut Command) -> Result<String> {
        let program = command.get_program().display().to_string();
        let [out, err] = ["out", "err"].map(|name| self.work.join(name));
        let create =
            |path: &Path| fs::File::create(path).with_context(|| path.display().to_string());
        command.stdin(Stdio::null()).stdout(create(&out)?).stderr(create(&err)?);
        let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if self.left().is_zero() {
                child.kill()?;
                child.wait()?;
                return Err(LeftOut("not finished in time".into()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let [out, err] = [out, err]
            .map(|path| fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()));
        let (out, err) = (out?, err?);
        if !status.success() {
            bail!("{program}: {status}:\n{}", last_lines(&format!("{out}{err}"), 12));
        }
        Ok(out)
    }

    /// The JSON line that a benchmark prints.
    fn line(&self, command: &mut Command) -> Result<Value> {
        let out = self.output(command)?;
        let last = out.lines().last().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("no JSON line but {last:?}"))
    }

    fn bench(&self, what: &str, model: &Path, device: &str, words: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.dir.join("mopo"));
        command.args(["bench", what, "--device", device, "--model"]).arg(model);
        self.line(command.arg("--pairs").arg(self.work.join("pairs.jsonl")).args(words))
    }

    fn bench_train(
        &self,
        model: &Path,
        method: &str,
        base: &str,
        batch: usize,
        steps: usize,
    ) -> Result<Value> {
        let [batch, steps] = [batch, steps].map(|n| n.to_string());
        let words = ["--method", method, "--base", base, "--batch", &batch, "--steps", &steps];
        self.bench("train", model, &self.device, &words)
    }

    fn bench_generate(
        &self,
        model: &Path,
        device: &str,
        n: usize,
        repeats: usize,
    ) -> Result<Value> {
        let [n, repeats] = [n, repeats].map(|n| n.to_string());
        let words = ["--batch", &n, "--new-tokens", "64", "--repeats", &repeats];
        self.bench("generate", model, device, &words)
    }

    /// The losses of a few steps on the device and on the CPU. DPO's first is log 2 everywhere, its others are not.
    fn same_loss(&self, model: &Path, method: &str, base: &str) -> Result<Value> {
        let words = ["--method", method, "--base", base, "--batch", "4", "--steps", "3"];
        let losses = |device: &str| -> Result<Vec<f64>> {
            let line = self.bench("train", model, device, &words)?;
            let losses = serde_json::from_value(line["losses"].clone());
            losses.with_context(|| format!("no losses in {line}"))
        };
        let (found, expected) = (losses(&self.device)?, losses("flex")?);
        ensure!(found.len() == expected.len(), "{found:?}, and on the CPU {expected:?}");
        let differences: Vec<f64> =
            found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / b.abs().max(1e-12)).collect();
        let figures = json!({ "losses": found, "on_cpu": expected, "differences": differences });
        let is_close = |(i, d): (usize, &f64)| *d <= TOLERANCES[usize::from(i > 0)];
        ensure!(differences.iter().enumerate().all(is_close), "not the CPU's losses: {figures}");
        Ok(figures)
    }

    /// Greedy tokens on the device and on the CPU.
    fn same_tokens(&self, model: &Path) -> Result<Value> {
        let ids = |device: &str| -> Result<Value> {
            let line = self.bench_generate(model, device, 4, 1)?;
            ensure!(line["ids"].is_array(), "no ids in {line}");
            Ok(line["ids"].clone())
        };
        let (found, expected) = (ids(&self.device)?, ids("flex")?);
        ensure!(found == expected, "other tokens than the CPU's: {found}, not {expected}");
        Ok(json!({ "rows": found.as_array().map(Vec::len) }))
    }

    /// The unit tests of a crate, built for the device.
    fn tests(&self, name: &str) -> Result<Value> {
        let out = self.output(&mut Command::new(self.dir.join("tests").join(name)))?;
        let result = out.lines().rev().find(|line| line.starts_with("test result: "));
        let skipped = out.lines().filter(|line| line.contains("skipped: ")).count();
        Ok(json!({ "result": result.context("no result of tests")?, "skipped": skipped }))
    }

    /// A script of PyTorch's side, if there is a Python with it.
    fn peer(&self, python: &Path, script: &str, model: &Path, more: &[&str]) -> Result<Value> {
        let modules = if script == "dpo.py" {
            "import torch, trl, peft"
        } else {
            "import torch, transformers"
        };
        if self.device.starts_with("wgpu") {
            return Err(LeftOut("PyTorch has no wgpu".into()).into());
        }
        if said(Command::new(python).args(["-c", modules])).is_none() {
            let why = format!("{} cannot {modules}", python.display());
            return Err(LeftOut(why).into());
        }
        let mut command = Command::new(python);
        command.arg(self.dir.join("peers").join(script)).arg(model);
        let device = if self.device == "flex" { "cpu" } else { &self.device };
        command.arg(self.work.join("pairs.jsonl")).args(["--device", device]).args(more);
        self.line(&mut command).map(without_ids)
    }
}

fn without_ids(mut line: Value) -> Value {
    if let Some(line) = line.as_object_mut() {
        line.remove("ids");
    }
    line
}

/// Why a check did not run to its end, which is no failure.
#[derive(Debug)]
struct LeftOut(String);

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LeftOut {}
