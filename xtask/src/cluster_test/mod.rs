//! `cargo xtask cluster-test`: the engines of clusters, started on this machine, and what they end with compared, byte for
//! byte, with what one process writes.

mod inputs;
mod netns;
mod packages;
mod processes;
mod ray;
mod slurm;
mod slurm_jobs;
mod train;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::args::absolute;
use crate::program;
use inputs::Inputs;
pub(crate) use processes::{has_program, last_lines, processes};
pub(crate) use train::{MPI, lacks_mpi};

/// Starts a real Slurm and a Ray of two nodes on this machine, submits work in shards, kills parts of it, and compares the
/// results with those of one process, byte for byte.
///
/// Everything is started in a temporary directory, listens on loopback only, and is stopped and removed at the end, with
/// the packages that were installed for it. Programs that are missing are installed with apt-get, as root, and Ray into an
/// environment of its own.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these steps
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    only: Vec<Step>,
    /// Use this mopo program instead of building one
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Python with Ray [default: an environment that is made for this]
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    python: Option<PathBuf>,
    /// Install nothing; a step whose programs are missing is not run
    #[arg(long)]
    no_install: bool,
    /// Keep the directory with all logs
    #[arg(long)]
    keep: bool,
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// Slurm: labels and a study in arrays, training over MPI
    Slurm,
    /// Tasks of Ray: labels
    Ray,
    /// Two hosts as network namespaces: training over MPI, the link cut
    Netns,
}

/// How a step ended, if it did not fail.
enum Outcome {
    /// What was shown.
    Passed(String),
    /// What was shown, and why the rest was not tried.
    Partly(String, String),
    /// Why it was not tried.
    Skipped(String),
}

const ALL: [Step; 3] = [Step::Slurm, Step::Ray, Step::Netns];

/// `cargo xtask cluster-test`.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    // With MPI where it can be built.
    let device = has_program("mpicc").then_some("mpi");
    let mopo = program::given(options.mopo.as_deref(), device)?;
    let dir = std::env::temp_dir().join(format!("mopo-cluster-test-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let steps: Vec<Step> = match options.only.is_empty() {
        true => ALL.to_vec(),
        false => ALL.into_iter().filter(|step| options.only.contains(step)).collect(),
    };
    let result = all(&steps, options, &mopo, &dir);
    match options.keep {
        true => eprintln!("everything is kept in {}", dir.display()),
        false => fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?,
    }
    result
}

fn all(steps: &[Step], options: &Options, mopo: &Path, dir: &Path) -> Result<ExitCode> {
    eprintln!("== inputs, and what one process makes of them");
    let inputs = Inputs::new(mopo, dir)?;
    let mut failed = 0;
    for step in steps {
        let name = format!("{step:?}").to_lowercase();
        eprintln!("== {name}");
        let clock = Instant::now();
        let result = match step {
            Step::Slurm => slurm_jobs::run(&inputs, options.no_install, dir),
            Step::Ray => ray::run(&inputs, options.python.as_deref(), options.no_install, dir),
            Step::Netns => netns::run(&inputs, dir),
        };
        let seconds = clock.elapsed().as_secs();
        match result {
            Ok(Outcome::Passed(what)) => println!("{name}: passed after {seconds} s: {what}"),
            Ok(Outcome::Partly(what, why)) => {
                println!("{name}: passed after {seconds} s: {what}");
                println!("skipped in part: cluster-test {name}: {why}");
            }
            Ok(Outcome::Skipped(why)) => println!("skipped: cluster-test {name}: {why}"),
            Err(e) => {
                failed += 1;
                println!("{name}: FAILED after {seconds} s: {e:#}");
            }
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
