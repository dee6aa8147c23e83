//! Flags of `mopo reward`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::device::Device;

#[derive(Debug, Args)]
pub(crate) struct RewardArgs {
    #[command(subcommand)]
    pub(crate) command: RewardCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RewardCommand {
    /// Train a reward model on pairs or labelled texts
    Train(RewardTrainArgs),
    /// Print a preset: a complete configuration to start from
    Config(RewardConfigArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RewardTrainArgs {
    /// Preset: helpful, harmless, humor, toxicity or preference
    #[arg(
        required_unless_present_any = ["config", "resume"],
        conflicts_with = "config"
    )]
    pub(crate) preset: Option<String>,
    /// A complete configuration file instead of a preset
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Override one key, e.g. --set training.steps=200 (may be repeated)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Data directory or file
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// Run directory; the model is <DIR>/model [default: runs/rewards/<name>-<date>-<time>]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Seed, instead of the configuration's
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Make malformed data lines fatal
    #[arg(long)]
    pub(crate) strict: bool,
    /// Go on with a training that was cut off
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["preset", "config", "set", "data", "out", "seed", "strict"]
    )]
    pub(crate) resume: Option<PathBuf>,
    /// flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct RewardConfigArgs {
    /// Preset: helpful, harmless, humor, toxicity or preference
    pub(crate) preset: String,
}
