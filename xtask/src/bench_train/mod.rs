//! The training step and generation, alone or against their peers in one run: `cargo xtask bench
//! train`. The peers are Python scripts, each a process of its own, as ours is; they take turns, and
//! one that fails does not lose the others' results.

mod participants;
pub(crate) mod python;
pub(crate) mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::args::{absolute, positive};
use crate::cargo::target_directory;
use crate::files::write_whole;
use crate::machine::{date_and_commit, ensure_committed, machine};
use crate::program;
use participants::{Outcome, Run, participants};
use python::Python;

/// What the command line asks for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Compare with TRL, PyTorch and transformers
    #[arg(long, requires = "peers_dir")]
    peers: bool,
    /// Directory with hh_pairs.py, phi_mini.py, torch_step.py and trl_dpo.py
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    peers_dir: Option<PathBuf>,
    /// Python with the packages in xtask/peers/requirements.txt
    #[arg(long, value_name = "PATH", value_parser = absolute, requires = "peers")]
    python: Option<PathBuf>,
    /// Create a Python environment there (several GB) and use it
    #[arg(long, value_name = "DIR", value_parser = absolute, requires = "peers", conflicts_with = "python")]
    make_venv: Option<PathBuf>,
    /// Runs of each participant
    #[arg(long, value_name = "N", default_value = "3", value_parser = positive)]
    rounds: usize,
    /// Steps per run; the first is left out of the median
    #[arg(long, value_name = "N", default_value = "6", value_parser = positive)]
    steps: usize,
    /// Pairs per step
    #[arg(long, value_name = "N", default_value = "8", value_parser = positive)]
    batch: usize,
    /// Use pairs with fewer tokens than this in prompt and response
    #[arg(long, value_name = "N", default_value = "512", value_parser = positive)]
    max_len: usize,
    /// Threads per process
    #[arg(long, value_name = "N", default_value = "2", value_parser = positive)]
    threads: usize,
    /// Pairs for TRL, at least 3 batches
    #[arg(long, value_name = "N", default_value = "80", value_parser = positive)]
    trl_pairs: usize,
    /// Tokens to generate after each prompt
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive)]
    new_tokens: usize,
    /// Only these participants, named as in the tables
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    only: Option<Vec<String>>,
    /// Model directory [default: the benchmark's own model, created on first use]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    model: Option<PathBuf>,
    /// Pairs: JSON Lines with prompt, chosen, rejected [default: HH-RLHF, by hh_pairs.py]
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    pairs: Option<PathBuf>,
    /// Device of mopo
    #[arg(long, value_name = "NAME", default_value = "flex")]
    device: String,
    /// Use this mopo program instead of building one
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Also write the tables and raw figures to this file, e.g. docs/results/train-step.md
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    out: Option<PathBuf>,
}

impl Options {
    /// What no flag alone shows to be wrong.
    pub(crate) fn checked(self) -> Result<Self> {
        // Its script leaves two steps out of the median.
        ensure!(
            self.trl_pairs >= 3 * self.batch,
            "`--trl-pairs {}` is too small: with `--batch {}` it must be at least {} (3 batches)",
            self.trl_pairs,
            self.batch,
            3 * self.batch
        );
        Ok(self)
    }

    /// The folder of the peers' scripts.
    fn peers_dir(&self) -> Result<&Path> {
        self.peers_dir.as_deref().context("--peers needs --peers-dir DIR")
    }
}

/// `cargo xtask bench train …`.
pub(crate) fn run(options: Options, args: &[String]) -> Result<ExitCode> {
    if options.out.is_some() {
        ensure_committed()?;
    }
    let when = date_and_commit();
    let target = target_directory()?;
    let folder = target.join("train-bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;

    let python = match options.peers {
        true => Some(Python::find(&options, &folder)?),
        false => None,
    };
    let (model, pairs) = python::inputs(&options, python.as_ref(), &folder)?;
    let mopo = program::given(options.mopo.as_deref(), Some(&options.device))?;
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
        when,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{BenchCommand, bench};

    fn parse(args: &[&str]) -> Result<Options, String> {
        match bench("train", args)? {
            BenchCommand::Train(options) => options.checked().map_err(|e| format!("{e:#}")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_read_and_senseless_ones_refused() {
        let o = parse(&[
            "--peers",
            "--peers-dir",
            "p",
            "--rounds",
            "5",
            "--only",
            "mopo-dpo,torch-dpo",
        ])
        .unwrap();
        assert_eq!((o.peers, o.rounds, o.steps), (true, 5, 6));
        assert_eq!(o.only.unwrap(), ["mopo-dpo", "torch-dpo"]);
        for (args, word) in [
            (&["--rounds", "0"][..], "above 0"),
            (&["--rounds"], "a value is required"),
            (&["--python", "p"], "--peers"),
            (&["--peers"], "--peers-dir"),
            (
                &["--peers", "--peers-dir", "d", "--python", "p", "--make-venv", "v"],
                "cannot be used with",
            ),
            (&["--trl-pairs", "8"], "3 batches"),
            (&["--fast"], "--fast"),
        ] {
            let error = parse(args).err().unwrap();
            assert!(error.contains(word), "{error}");
        }
    }
}
