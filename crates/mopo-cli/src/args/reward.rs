//! Flags of `mopo reward`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::RunArgs;

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
    /// Preset: helpful, harmless, humor, toxicity, preference, helpful-lora or harmless-lora
    #[arg(
        required_unless_present_any = ["config", "resume"],
        conflicts_with = "config"
    )]
    pub(crate) preset: Option<String>,
    /// A complete configuration file instead of a preset
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Resume a run from its latest checkpoint
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["preset", "config", "set", "data", "out", "seed", "strict"]
    )]
    pub(crate) resume: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RewardConfigArgs {
    /// Preset: helpful, harmless, humor, toxicity, preference, helpful-lora or harmless-lora
    pub(crate) preset: String,
}
