//! Builds `mopo`, and says meanwhile how far it is and how long it will take: the first build takes minutes.

use std::collections::HashMap;
use std::io::{BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Message, TargetKind};

use crate::cargo::{cargo, code, root, status};

/// CPU seconds that the slowest crates took in a release build on 2 shared cores (docs/results/first-build.md). They are
/// weights: what is left is corrected by the pace of this build.
const SLOW: &[(&str, f64)] = &[
    ("burn-flex", 96.0),
    ("mopo-eval", 52.0),
    ("mopo-cli", 51.0),
    ("mopo-train", 47.0),
    ("mopo-data", 46.0),
    ("tokenizers", 40.0),
    ("zstd-sys", 30.0),
    ("parquet", 30.0),
    ("mopo-report", 25.0),
    ("mopo-ops", 17.0),
    ("regex-automata", 15.0),
    ("burn-backend", 13.0),
    ("mopo-core", 12.0),
    ("pulp", 11.0),
    ("burn-nn", 10.0),
    ("mopo-hub", 9.0),
    ("tiny-skia", 9.0),
    ("object", 8.0),
    ("gemm-c32", 8.0),
    ("gemm-c64", 8.0),
    ("mopo-lm", 7.0),
    ("pytorch-reader", 7.0),
    ("rustls", 7.0),
    ("regex-syntax", 7.0),
];
/// Of every other crate.
const OTHERWISE: f64 = 1.2;

/// From when on a build is talked about.
const QUIET: Duration = Duration::from_secs(1);
/// How often a log is told; a terminal is told every second.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// `mopo <name> …` in release mode. `--device` picks the features to build with.
pub(crate) fn run(name: &str, args: &[String]) -> Result<ExitCode> {
    let mopo = build(device(args))?;
    Ok(code(status(Command::new(mopo).arg(name).args(args))?))
}

/// Takes from a command what a launcher of MPI programs has told this process: it trains by itself, and is no rank.
pub(crate) fn by_itself(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let is_told = name.to_str().is_some_and(|name| {
            ["OMPI_", "PMIX_", "PMI_"].iter().any(|prefix| name.starts_with(prefix))
        });
        if is_told {
            command.env_remove(name);
        }
    }
    command
}

/// The program that a flag names, or else the one that [`build`] builds.
pub(crate) fn given(mopo: Option<&Path>, device: Option<&str>) -> Result<PathBuf> {
    let Some(mopo) = mopo else { return build(device) };
    ensure!(mopo.is_file(), "--mopo {}: no such file", mopo.display());
    Ok(mopo.into())
}

/// The program in release mode with the feature that the device needs (`mpi` is one, too), and where it is.
pub(crate) fn build(device: Option<&str>) -> Result<PathBuf> {
    build_with(feature(device))
}

/// The same with a feature.
pub(crate) fn build_with(feature: Option<&str>) -> Result<PathBuf> {
    let features = feature.map_or(vec![], |feature| vec!["--features", feature]);
    let mut progress = Progress::new(crates(&features)?);
    let mut build =
        cargo(&["build", "--quiet", "--release", "--package", "mopo-cli", "--bin", "mopo"]);
    build.args(&features).args(["--message-format", "json-render-diagnostics"]);
    let mut build = build
        .current_dir(root())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {:?}", build.get_program()))?;
    let said = BufReader::new(build.stdout.take().context("no pipe from cargo")?);
    let (sender, messages) = channel();
    std::thread::spawn(move || {
        for message in Message::parse_stream(said).map_while(Result::ok) {
            if sender.send(message).is_err() {
                break;
            }
        }
    });

    let (began, terminal) = (Instant::now(), std::io::stderr().is_terminal());
    let mut mopo = None;
    let mut last: Option<Instant> = None;
    loop {
        match messages.recv_timeout(Duration::from_secs(1)) {
            Ok(Message::CompilerArtifact(artifact)) => {
                if artifact.target.kind.contains(&TargetKind::CustomBuild) {
                    continue;
                }
                progress.finish(package_name(&artifact.package_id.repr), artifact.fresh);
                if artifact.target.name == "mopo" {
                    mopo = artifact.executable;
                }
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let elapsed = began.elapsed();
        let every = if terminal { Duration::from_secs(1) } else { LOG_EVERY };
        // A build that has nothing to do is over by then, and says nothing.
        let due = last.map_or(elapsed >= QUIET, |last| last.elapsed() >= every);
        if due {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            if last.is_none() {
                let left = words(progress.seconds_left(0.0, cores as f64));
                eprintln!(
                    "building mopo in release mode on {cores} cores: about {left}, the first time only"
                );
            }
            let line = progress.line(elapsed.as_secs_f64(), cores as f64);
            if terminal {
                eprint!("\r\x1b[K{line}")
            } else {
                eprintln!("{line}")
            }
            last = Some(Instant::now());
        }
    }
    if last.is_some() && terminal {
        eprint!("\r\x1b[K");
    }
    ensure!(build.wait()?.success(), "building `mopo` failed: cargo's output is above");
    if last.is_some() {
        eprintln!("built mopo in {}", words(began.elapsed().as_secs_f64()));
    }
    mopo.map(Into::into).context("cargo built no program `mopo`")
}

/// The value of `--device`, if it is there.
fn device(args: &[String]) -> Option<&str> {
    let mut device = None;
    for (i, arg) in args.iter().enumerate() {
        if arg == "--device" {
            device = args.get(i + 1).map(String::as_str);
        } else if let Some(value) = arg.strip_prefix("--device=") {
            device = Some(value);
        }
    }
    device
}

/// The cargo feature that a device needs beyond the default one.
fn feature(device: Option<&str>) -> Option<&'static str> {
    match device? {
        "ndarray" => Some("ndarray"),
        "mpi" => Some("mpi"),
        d if d.starts_with("cuda") => Some("cuda"),
        d if d.starts_with("wgpu") => Some("wgpu"),
        _ => None,
    }
}

/// Names of the crates that the program is made of, one for each version.
fn crates(features: &[&str]) -> Result<Vec<String>> {
    let mut tree = cargo(&["tree", "--package", "mopo-cli", "--edges", "normal,build"]);
    tree.args(["--prefix", "none", "--format", "{p}"]).args(features);
    let out = tree.current_dir(root()).stderr(Stdio::inherit()).output().context("cargo tree")?;
    if !out.status.success() {
        bail!("`cargo tree` failed: its output is above");
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let mut lines: Vec<&str> = text.lines().map(|l| l.trim_end_matches(" (*)")).collect();
    lines.sort_unstable();
    lines.dedup();
    Ok(lines.iter().filter_map(|l| Some(l.split(' ').next()?.to_owned())).collect())
}

/// The name in a package id: `registry+…#name@1.0.0`, or `path+…/name#1.0.0`.
fn package_name(id: &str) -> &str {
    let (place, version) = id.rsplit_once('#').unwrap_or(("", id));
    match version.split_once('@') {
        Some((name, _)) => name,
        None => place.rsplit('/').next().unwrap_or(place),
    }
}

/// How far a build is.
struct Progress {
    /// How often each crate is still to come: some are built in two versions.
    left: HashMap<String, usize>,
    n_crates: usize,
    /// Weights of crates that were compiled now.
    compiled: f64,
}

impl Progress {
    fn new(crates: Vec<String>) -> Self {
        let n_crates = crates.len();
        let mut left = HashMap::new();
        for name in crates {
            *left.entry(name).or_default() += 1;
        }
        Self { left, n_crates, compiled: 0.0 }
    }

    /// Counts a crate; `fresh` was compiled before.
    fn finish(&mut self, name: &str, fresh: bool) {
        if let Some(n) = self.left.get_mut(name).filter(|n| **n > 0) {
            *n -= 1;
            if !fresh {
                self.compiled += weight(name);
            }
        }
    }

    fn n_left(&self) -> usize {
        self.left.values().sum()
    }

    /// Seconds that are left: at first as on the machine that was measured, then at this build's pace.
    fn seconds_left(&self, elapsed: f64, cores: f64) -> f64 {
        let left: f64 = self.left.iter().map(|(name, n)| weight(name) * *n as f64).sum();
        // Like some compiled crates more, at the expected pace.
        let prior = 60.0;
        left * (elapsed + prior / cores) / (self.compiled + prior)
    }

    fn line(&self, elapsed: f64, cores: f64) -> String {
        let done = self.n_crates - self.n_left();
        if done == 0 && elapsed > 30.0 {
            return format!(
                "  none of {} crates after {}: is another build at work in the same folder?",
                self.n_crates,
                words(elapsed)
            );
        }
        format!(
            "  {done} of {} crates after {}; about {} left",
            self.n_crates,
            words(elapsed),
            words(self.seconds_left(elapsed, cores))
        )
    }
}

fn weight(name: &str) -> f64 {
    SLOW.iter().find(|(slow, _)| *slow == name).map_or(OTHERWISE, |(_, weight)| *weight)
}

/// A time in seconds below 90, else in minutes.
fn words(seconds: f64) -> String {
    if seconds < 90.0 {
        format!("{} s", seconds.round())
    } else {
        format!("{} min", (seconds / 60.0).round())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_picks_the_feature() {
        let of = |line: &str| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            feature(device(&args))
        };
        assert_eq!(of("train demo"), None);
        assert_eq!(of("--device flex"), None);
        assert_eq!(of("--device flex --device=cuda:1"), Some("cuda"));
        assert_eq!(of("--device ndarray"), Some("ndarray"));
        assert_eq!(of("--device wgpu"), Some("wgpu"));
    }

    #[test]
    fn names_are_read_from_both_forms_of_package_ids() {
        let registry = "registry+https://github.com/rust-lang/crates.io-index#burn-flex@0.21.0";
        assert_eq!(package_name(registry), "burn-flex");
        assert_eq!(package_name("path+file:///a/mopo-cli#0.1.0"), "mopo-cli");
        assert_eq!(package_name("path+file:///a/b#mopo-cli@0.1.0"), "mopo-cli");
    }

    #[test]
    fn the_crates_of_the_program_are_found_and_the_slow_ones_among_them() {
        let crates = crates(&[]).unwrap();
        assert!(crates.len() > 50);
        for (slow, _) in SLOW.iter().filter(|(name, _)| name.starts_with("mopo-")) {
            assert!(crates.iter().any(|name| name == slow), "{slow} is no longer built");
        }
    }

    #[test]
    fn what_is_left_follows_the_pace_and_ends_at_nothing() {
        let names = ["burn-flex", "parquet", "parquet", "anyhow"].map(str::to_owned);
        let mut progress = Progress::new(names.into());
        let whole = progress.seconds_left(0.0, 2.0);
        assert!((whole - (96.0 + 2.0 * 30.0 + 1.2) / 2.0).abs() < 1e-9);
        progress.finish("anyhow", true);
        progress.finish("parquet", false);
        progress.finish("build script of another", false);
        assert_eq!(progress.n_left(), 2);
        // A machine ten times slower than expected is found out.
        assert!(progress.seconds_left(60.0, 2.0) > progress.seconds_left(6.0, 2.0));
        progress.finish("parquet", false);
        progress.finish("burn-flex", false);
        assert_eq!(progress.seconds_left(500.0, 2.0), 0.0);
        assert_eq!(progress.line(500.0, 2.0), "  4 of 4 crates after 8 min; about 0 s left");
    }
}
