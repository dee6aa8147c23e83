//! Flags of every command that begins a run.

use std::path::PathBuf;

use clap::Args;

use crate::device::Device;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Override one key, e.g. --set training.steps=200 (may be repeated)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// The data: a file or folder of the configuration's source, or a prepared set
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// Run directory [default: <name>-<date>-<time> below runs/, of reward models below runs/rewards/]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Seed, instead of the configuration's
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Make malformed data lines fatal
    #[arg(long)]
    pub(crate) strict: bool,
    /// flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

impl RunArgs {
    /// What replaces keys of the configuration.
    pub(crate) fn overrides(&self) -> Vec<String> {
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        self.set.iter().cloned().chain(seed).collect()
    }
}
