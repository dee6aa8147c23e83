//! Flags of every command that starts a run.

use std::path::PathBuf;

use clap::Args;

use super::numbers;
use crate::device::Device;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Override one key, e.g. --set training.steps=200 (may be repeated)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Input data: a file or folder of the configuration's source, or a prepared data set
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// Run directory [default: runs/<name>-<date>-<time>; for reward models, below runs/rewards/]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Random seed, instead of the configuration's
    #[arg(long, value_parser = numbers::seed, allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
    /// Also write the metrics as TensorBoard events, into tensorboard/ of the run; a resumed run adds a file
    #[arg(long)]
    pub(crate) tensorboard: bool,
    /// Fail on malformed data lines instead of skipping them
    #[arg(long)]
    pub(crate) strict: bool,
    /// flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

impl RunArgs {
    /// Overrides of configuration keys.
    pub(crate) fn overrides(&self) -> Vec<String> {
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        self.set.iter().cloned().chain(seed).collect()
    }
}
