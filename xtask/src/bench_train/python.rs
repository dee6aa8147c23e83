//! Preparation of the peers: an interpreter, the benchmark's model and its pairs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::Options;
use crate::cargo::{root, status};

pub(crate) const REQUIREMENTS: &str = "xtask/peers/requirements.txt";
pub(crate) const WRITE_PAIRS: &str = "xtask/peers/write_pairs.py";

/// Files of the peers' folder that are called.
const SCRIPTS: &[&str] = &["hh_pairs.py", "phi_mini.py", "torch_step.py", "trl_dpo.py"];

/// An interpreter, and what it has.
pub(crate) struct Python {
    pub(crate) path: PathBuf,
    /// For the page: `torch 2.15.0, …`.
    pub(crate) versions: String,
}

impl Python {
    /// The one that was named, made, or left by an earlier run.
    pub(super) fn find(options: &Options, folder: &Path) -> Result<Self> {
        for script in SCRIPTS {
            let path = options.peers_dir()?.join(script);
            ensure!(
                path.is_file(),
                "--peers-dir: {} does not exist; pass the directory that contains it",
                path.display()
            );
        }
        let left = folder.join("venv/bin/python");
        let path = match (&options.python, &options.make_venv) {
            (Some(path), _) => path.clone(),
            (None, Some(dir)) => make(dir)?,
            (None, None) if left.exists() => left,
            (None, None) => bail!(
                "--peers needs a Python with the packages in {REQUIREMENTS}: {}. Create one with \
                 `--make-venv {}` (several GB; later runs find it there), or with \
                 `python3 -m venv V && V/bin/pip install -r {REQUIREMENTS}`, and pass \
                 `--python V/bin/python`",
                requirements()?.join(", "),
                folder.join("venv").display()
            ),
        };
        Self::at(path)
    }

    /// This one.
    pub(crate) fn at(path: PathBuf) -> Result<Self> {
        let versions = versions(&path)?;
        eprintln!("peers: {versions}");
        Ok(Self { path, versions })
    }

    /// A script with its arguments. Nothing is looked up on the network, and every library keeps to
    /// the threads.
    pub(crate) fn script(&self, script: &Path, threads: usize) -> Command {
        let mut command = Command::new(&self.path);
        command.arg(script).env("HF_HUB_OFFLINE", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"] {
            command.env(name, threads.to_string());
        }
        command
    }
}

/// Names of packages.
fn requirements() -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join(REQUIREMENTS)).context(REQUIREMENTS)?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    Ok(lines.map(str::to_string).collect())
}

/// A Python environment with the peers' packages.
fn make(dir: &Path) -> Result<PathBuf> {
    let python = dir.join("bin/python");
    if !python.exists() {
        eprintln!("== a Python environment in {}", dir.display());
        let made = Command::new("python3").args(["-m", "venv"]).arg(dir).status();
        match made {
            Err(e) => bail!("python3 cannot be started ({e}): install Python 3.10 or newer"),
            Ok(status) if !status.success() => bail!(
                "`python3 -m venv` failed ({status}): its output is above; Debian and Ubuntu have \
                 it in the package python3-venv"
            ),
            Ok(_) => {}
        }
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "-r"]).arg(root().join(REQUIREMENTS));
    ensure!(
        status(&mut pip)?.success(),
        "pip could not install what {REQUIREMENTS} lists: its output is above (no network, or a \
         full disk?); install it elsewhere and pass `--python PATH`"
    );
    Ok(python)
}

/// What of the packages is installed; a missing one is said, and fails the peers that need it.
fn versions(python: &Path) -> Result<String> {
    let code = "import sys\n\
                from importlib.metadata import version, PackageNotFoundError\n\
                for name in sys.argv[1:]:\n\
                \x20   try: print(name, version(name))\n\
                \x20   except PackageNotFoundError: print(name, 'MISSING')\n\
                print('Python', sys.version.split()[0])";
    let out = Command::new(python)
        .args(["-c", code])
        .args(requirements()?)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("--python {}: cannot be started", python.display()))?;
    ensure!(out.status.success(), "--python {}: it is not a working Python", python.display());
    let text = String::from_utf8_lossy(&out.stdout);
    Ok(text.lines().collect::<Vec<_>>().join(", "))
}

/// The model's folder and the pairs' file: given, left by an earlier run, or made now.
pub(super) fn inputs(
    options: &Options,
    python: Option<&Python>,
    folder: &Path,
) -> Result<(PathBuf, PathBuf)> {
    // As many as torch_step.py looks through.
    let rows = 4 * options.steps * options.batch;
    let model = options.model.clone().unwrap_or_else(|| folder.join("model"));
    let pairs = options.pairs.clone().unwrap_or_else(|| folder.join(format!("pairs-{rows}.jsonl")));
    let missing = |what: &str, flag: &str, path: &Path| {
        format!(
            "no {what} at {}: run once with `--peers`, which creates it with the peers' scripts, or pass \
             one with `{flag}`",
            path.display()
        )
    };
    if !model.join("config.json").is_file() {
        let python = python.filter(|_| options.model.is_none());
        let python = python.with_context(|| missing("model", "--model DIR", &model))?;
        eprintln!("== the benchmark's model, in {}", model.display());
        let part = folder.join("model.part");
        let _ = fs::remove_dir_all(&part); // left by a run that was cut off
        let script = options.peers_dir()?.join("phi_mini.py");
        let made = status(python.script(&script, options.threads).arg(&part))?;
        ensure!(made.success(), "phi_mini.py failed: its output is above; {}", python.versions);
        fs::rename(&part, &model).with_context(|| model.display().to_string())?;
    }
    if !pairs.is_file() {
        let python = python.filter(|_| options.pairs.is_none());
        let python = python.with_context(|| missing("pairs", "--pairs FILE", &pairs))?;
        let mut write = python.script(&root().join(WRITE_PAIRS), options.threads);
        write.arg(options.peers_dir()?).arg(&pairs).args(["--rows", &rows.to_string()]);
        ensure!(
            status(&mut write)?.success(),
            "{WRITE_PAIRS} failed: its output is above; hh_pairs.py says where it looks for data"
        );
    }
    Ok((model, pairs))
}
