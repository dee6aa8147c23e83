//! Training over MPI: a small run of one process, and what the same run of several ranks must end with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::inputs::{Inputs, check_same, deploy};
use super::processes::{check_loopback, output, processes, signal, wait_for};
use super::slurm::Slurm;
use crate::tiny;

const PATIENCE: Duration = Duration::from_secs(300);
/// On [`tiny::WORLD`], four micro-batches of a pair in each step and many checkpoints.
const SETS: [&str; 10] = [
    "sft.steps=6",
    "sft.batch_size=4",
    "training.steps=400",
    "training.batch_size=1",
    "training.gradient_accumulation_steps=4",
    "mopo.reference_lag=4",
    "mopo.thresholds=adaptive",
    "checkpoints.save_steps=4",
    "evaluation.n_prompts=6",
    "evaluation.max_new_tokens=8",
];
/// What must be the same.
const WEIGHTS: [&str; 4] = [
    "warm_start/model.safetensors",
    "initial_log_probs.safetensors",
    "policy/adapter_model.safetensors",
    "policy/heads.safetensors",
];
/// OpenMPI on loopback, with more ranks than cores.
pub(crate) const MPI: [(&str, &str); 6] = [
    ("OMPI_MCA_mpi_yield_when_idle", "1"),
    ("OMPI_MCA_btl", "vader,self"),
    ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
    ("OMPI_MCA_btl_base_warn_component_unused", "0"),
    ("PMIX_MCA_ptl_tcp_if_include", "lo"),
    ("PMIX_MCA_gds", "hash"),
];

/// Why a program cannot train over MPI; `None` if it can.
pub(crate) fn lacks_mpi(mopo: &Path) -> Option<String> {
    let libraries = output(Command::new("ldd").arg(mopo)).unwrap_or_default();
    (!libraries.contains("libmpi")).then(|| {
        "mopo is built without the feature `mpi` (cargo build --release -p mopo-cli --features mpi; then pass --mopo)"
            .into()
    })
}

/// A run of one process, and others to compare with it.
pub(super) struct Runs {
    alone: PathBuf,
}

impl Runs {
    /// Trains by one process.
    pub(super) fn new(inputs: &Inputs, dir: &Path) -> Result<Self> {
        let alone = dir.join("train-alone");
        let mut command = Command::new(&inputs.mopo);
        output(command.arg("train").args(words()).arg("--out").arg(&alone))?;
        Ok(Self { alone })
    }

    /// Refuses a run that did not end with the bits of one process.
    pub(super) fn check(&self, run: &Path) -> Result<()> {
        WEIGHTS.iter().try_for_each(|name| check_same(&self.alone.join(name), &run.join(name)))
    }
}

/// The words of `mopo train`, without a place.
pub(super) fn words() -> Vec<String> {
    let sets =
        tiny::WORLD.iter().chain(&SETS).flat_map(|set| ["--set".to_string(), (*set).to_string()]);
    std::iter::once("demo".to_string()).chain(sets).collect()
}

/// The step of a run's newest checkpoint.
pub(super) fn newest(run: &Path) -> usize {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    let step = |name: &str| name.strip_prefix("mopo-step-")?.parse().ok();
    entries.filter_map(|entry| step(entry.file_name().to_str()?)).max().unwrap_or(0)
}

/// Waits for a checkpoint some steps on; fails if the run has ended before.
pub(super) fn wait_for_step(run: &Path, step: usize) -> Result<()> {
    wait_for(&format!("step {step}"), PATIENCE, || {
        ensure!(!run.join("result.json").exists(), "the run was faster than whoever kills it");
        Ok((newest(run) >= step).then_some(()))
    })
}

/// The processes that train a run.
pub(super) fn ranks(mopo: &Path, run: &Path) -> Vec<u32> {
    let [mopo, run] = [mopo, run].map(|path| path.display().to_string());
    processes(|words| words.first() == Some(&mopo) && words.contains(&run))
}

/// `srun --mpi=pmix mopo train` by two ranks: one is killed, then the job is put back into the queue.
pub(super) fn slurm(inputs: &Inputs, slurm: &Slurm, dir: &Path) -> Result<String> {
    let runs = Runs::new(inputs, dir)?;
    let run = dir.join("train");
    let mut sbatch = slurm.client("sbatch");
    sbatch.args(["--parsable", "--ntasks=2", "--cpus-per-task=1"]);
    sbatch.arg(deploy("slurm/train.sh")).arg(&run).args(words());
    sbatch.env("MOPO", &inputs.mopo).env("WAIT", "1").envs(MPI);
    let job = output(&mut sbatch)?.trim().to_owned();
    let log = dir.join(format!("mopo-train-{job}.log"));
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let at_work = |step| wait_for_step(&run, step).with_context(said);
    at_work(40)?;
    let pids = ranks(&inputs.mopo, &run);
    ensure!(pids.len() == 2, "there are {} ranks, not 2", pids.len());
    check_loopback("a rank", &pids)?;
    signal("-KILL", pids[1])?;
    at_work(newest(&run) + 40)?;
    let again = ranks(&inputs.mopo, &run);
    ensure!(!again.iter().any(|pid| pids.contains(pid)), "a rank lived on without the other");
    output(slurm.client("scontrol").args(["requeue", &job]))?;
    slurm.wait(PATIENCE).with_context(said)?;
    let text = said();
    ensure!(text.contains("once more"), "the step was not started again:\n{text}");
    // Slurm itself says so when it stops the tasks.
    ensure!(text.contains("REQUEUE"), "the job was not put back into the queue:\n{text}");
    runs.check(&run)?;
    Ok("training by two ranks, one killed, then requeued, ends with the bits of one process".into())
}
