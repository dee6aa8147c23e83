//! The training step and generation, alone or against their peers in one run: `cargo xtask bench
//! train`. The peers are Python scripts, each a process of its own, as ours is; they take turns, and
//! one that fails does not lose the others' results.

mod participants;
pub(crate) mod python;
pub(crate) mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{cargo, device_feature, root, status, target_directory};
use crate::machine::{date_and_commit, machine};
use participants::{Outcome, Run, participants};
use python::Python;

const HELP: &str = "\
cargo xtask bench train [options]

  --peers            compare with TRL, PyTorch and transformers; needs --peers-dir
  --peers-dir DIR    the folder of hh_pairs.py, phi_mini.py, torch_step.py and trl_dpo.py
  --python PATH      a Python with the packages of xtask/peers/requirements.txt
  --make-venv DIR    create a Python environment there (several GB) and use it
  --rounds N         runs of each participant [default: 3]
  --steps N, --batch N, --max-len N, --threads N
                     of every measured step [default: 6, 8, 512, 2]
  --trl-pairs N      pairs for TRL, at least 3 batches [default: 80]
  --new-tokens N     of every measured generation [default: 64]
  --only A,B         only these participants, by their names in the tables
  --model DIR        this model instead of the benchmark's own, which is made on first use
  --pairs FILE       these pairs, as JSON Lines with prompt, chosen, rejected
  --device NAME      our device [default: flex]
  --mopo PATH        this program instead of building one
  --out FILE         also write tables and raw numbers there, e.g. docs/results/train-step.md
";

/// What the command line asks for.
struct Options {
    peers: bool,
    /// Empty without `--peers`.
    peers_dir: PathBuf,
    python: Option<PathBuf>,
    make_venv: Option<PathBuf>,
    rounds: usize,
    steps: usize,
    batch: usize,
    max_len: usize,
    threads: usize,
    trl_pairs: usize,
    new_tokens: usize,
    only: Option<Vec<String>>,
    model: Option<PathBuf>,
    pairs: Option<PathBuf>,
    device: String,
    mopo: Option<PathBuf>,
    out: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            peers: false,
            peers_dir: PathBuf::new(),
            python: None,
            make_venv: None,
            rounds: 3,
            steps: 6,
            batch: 8,
            max_len: 512,
            threads: 2,
            trl_pairs: 80,
            new_tokens: 64,
            only: None,
            model: None,
            pairs: None,
            device: "flex".into(),
            mopo: None,
            out: None,
        }
    }
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut o = Self::default();
        let mut rest = args.iter();
        while let Some(flag) = rest.next() {
            let mut value = || {
                rest.next().with_context(|| format!("`{flag}` needs a value\n\n{HELP}")).cloned()
            };
            let number = |text: String| -> Result<usize> {
                let n = text.parse().ok().filter(|n| *n > 0);
                n.with_context(|| format!("`{flag} {text}`: it must be a whole number above 0"))
            };
            match flag.as_str() {
                "--peers" => o.peers = true,
                "--peers-dir" => o.peers_dir = value()?.into(),
                "--python" => o.python = Some(value()?.into()),
                "--make-venv" => o.make_venv = Some(value()?.into()),
                "--rounds" => o.rounds = number(value()?)?,
                "--steps" => o.steps = number(value()?)?,
                "--batch" => o.batch = number(value()?)?,
                "--max-len" => o.max_len = number(value()?)?,
                "--threads" => o.threads = number(value()?)?,
                "--trl-pairs" => o.trl_pairs = number(value()?)?,
                "--new-tokens" => o.new_tokens = number(value()?)?,
                "--only" => o.only = Some(value()?.split(',').map(str::to_string).collect()),
                "--model" => o.model = Some(value()?.into()),
                "--pairs" => o.pairs = Some(value()?.into()),
                "--device" => o.device = value()?,
                "--mopo" => o.mopo = Some(value()?.into()),
                "--out" => o.out = Some(value()?.into()),
                other => bail!("unknown option `{other}`\n\n{HELP}"),
            }
        }
        ensure!(
            o.python.is_none() || o.make_venv.is_none(),
            "`--python` names an interpreter that is there, `--make-venv` makes one: give one of them"
        );
        ensure!(
            o.peers || (o.python.is_none() && o.make_venv.is_none()),
            "`--python` and `--make-venv` are for the peers: add `--peers`"
        );
        // Its script leaves two steps out of the median.
        ensure!(
            o.trl_pairs >= 3 * o.batch,
            "`--trl-pairs {}` are fewer than 3 batches of {}",
            o.trl_pairs,
            o.batch
        );
        // A relative path would mean another one to a peer, which runs elsewhere.
        for path in [&mut o.python, &mut o.model, &mut o.pairs, &mut o.mopo].into_iter().flatten() {
            *path = std::path::absolute(&*path).with_context(|| path.display().to_string())?;
        }
        if o.peers {
            ensure!(
                !o.peers_dir.as_os_str().is_empty(),
                "`--peers` needs `--peers-dir DIR`: the folder of hh_pairs.py, phi_mini.py, \
                 torch_step.py and trl_dpo.py"
            );
            o.peers_dir = std::path::absolute(&o.peers_dir)?;
        }
        Ok(o)
    }
}

/// `cargo xtask bench train …`.
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse(args)?;
    let target = target_directory()?;
    let folder = target.join("train-bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;

    let python = match options.peers {
        true => Some(Python::find(&options, &folder)?),
        false => None,
    };
    let (model, pairs) = python::inputs(&options, python.as_ref(), &folder)?;
    let mopo = match &options.mopo {
        Some(path) => {
            ensure!(path.is_file(), "--mopo {}: there is no such program", path.display());
            path.clone()
        }
        None => build(&options, &target)?,
    };
    let all = participants(&options, python.as_ref(), &mopo, &model, &pairs)?;

    let started = machine();
    println!("{started}");
    let record = folder.join("runs.jsonl");
    let mut lines = String::new();
    let mut runs: Vec<Run> = Vec::new();
    for round in 1..=options.rounds {
        for participant in &all {
            eprint!("round {round} of {}: {:<24} ", options.rounds, participant.name);
            let outcome = participant.run(&runs, &folder);
            match &outcome {
                Outcome::Line(line) => eprintln!("{}", report::headline(line)),
                Outcome::Failed(why) => eprintln!("FAILED: {why}"),
            }
            let run = Run { name: participant.name, round, outcome };
            lines += &format!("{}\n", run.to_json());
            write_whole(&record, &lines)?;
            runs.push(run);
        }
    }
    let context = report::Context {
        command: format!("cargo xtask bench train {}", report::shown(args)),
        when: date_and_commit(),
        machine_before: started,
        machine_after: machine(),
        versions: python.as_ref().map(|p| p.versions.clone()),
        steps: options.steps,
        batch: options.batch,
        max_len: options.max_len,
        threads: options.threads,
        rounds: options.rounds,
        new_tokens: options.new_tokens,
        runs: &all.iter().map(|p| (p.name, p.shown.as_str())).collect::<Vec<_>>(),
    };
    let page = report::page(&context, &runs);
    println!("\n{page}");
    eprintln!("every run: {}", record.display());
    if let Some(out) = &options.out {
        write_whole(out, &page)?;
        eprintln!("wrote {}", out.display());
    }
    // What is left to look at is in the tables; a participant that never ran is a failure.
    let lost = all.iter().any(|p| !runs.iter().any(|r| r.name == p.name && r.line().is_some()));
    Ok(if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The program in release mode, with the feature that the device needs.
fn build(options: &Options, target: &Path) -> Result<PathBuf> {
    let mut build = cargo(&["build", "--release", "--package", "mopo-cli"]);
    let device = ["--device".to_string(), options.device.clone()];
    if let Some(feature) = device_feature(&device) {
        build.args(["--features", feature]);
    }
    ensure!(
        status(build.current_dir(root()))?.success(),
        "building `mopo` failed: cargo's output is above"
    );
    Ok(target.join("release/mopo"))
}

/// Writes a file whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, text).with_context(|| part.display().to_string())?;
    fs::rename(&part, path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        Options::parse(&args).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn options_are_read_and_senseless_ones_refused() {
        let o = parse(&[
            "--peers",
            "--peers-dir",
            "d",
            "--rounds",
            "5",
            "--only",
            "mopo-dpo,torch-dpo",
        ])
        .unwrap();
        assert_eq!((o.peers, o.rounds, o.steps), (true, 5, 6));
        assert_eq!(o.only.unwrap(), ["mopo-dpo", "torch-dpo"]);
        for (args, word) in [
            (&["--rounds", "0"][..], "--rounds 0"),
            (&["--rounds"], "needs a value"),
            (&["--python", "p"], "--peers"),
            (&["--peers"], "--peers-dir"),
            (&["--peers", "--python", "p", "--make-venv", "v"], "one of them"),
            (&["--trl-pairs", "8"], "3 batches"),
            (&["--fast"], "--fast"),
        ] {
            let error = parse(args).err().unwrap();
            assert!(error.contains(word), "{error}");
        }
    }
}
