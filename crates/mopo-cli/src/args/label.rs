//! Flags of `mopo label`.

use std::path::PathBuf;

use clap::Args;
use mopo_hub::ShardChoice;

use super::{PrecisionArgs, numbers};
use crate::device::Device;

#[derive(Debug, Args)]
#[command(after_help = "\
The rewards file has one entry per objective:

    [[objectives]]
    name = \"brief\"
    tie_threshold = 2.0          # hard labels; or temperature = 1.0 for soft ones
    reward = { kind = \"length\", prefer = \"shorter\" }

Kinds of reward: model, length, word_list, regex, program, http, ensemble, length_corrected, demo.
docs/reward-models.md describes their keys, docs/labels.md the output.")]
pub(crate) struct LabelArgs {
    /// Prepared data set to label (see `mopo prepare`)
    #[arg(
        value_name = "SET",
        conflicts_with_all = ["preset", "config"],
        required_unless_present_any = ["preset", "config", "merge"]
    )]
    pub(crate) set: Option<PathBuf>,
    /// Label the source in a preset's [data] section instead, e.g. demo or hh-small
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub(crate) preset: Option<String>,
    /// Label the source in a configuration's [data] section instead
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Input file or folder of the source
    #[arg(long, value_name = "PATH", conflicts_with = "set")]
    pub(crate) data: Option<PathBuf>,
    /// Random seed of the source
    #[arg(
        long,
        default_value_t = 0,
        value_parser = numbers::seed,
        allow_negative_numbers = true,
        conflicts_with = "set"
    )]
    pub(crate) seed: u64,
    /// Fail on malformed data lines of the source instead of skipping them
    #[arg(long, conflicts_with = "set")]
    pub(crate) strict: bool,
    /// Objectives with their rewards and thresholds: a TOML file, or the preset paper-hh or paper-tldr
    #[arg(long, value_name = "FILE|PRESET", required_unless_present = "merge")]
    pub(crate) rewards: Option<PathBuf>,
    /// Labelled data set (or shard) to write. Progress is saved in <FILE>.progress/
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Keep existing labels and fill only missing ones
    #[arg(long)]
    pub(crate) keep: bool,
    /// Label only part I of N, counted from 1, e.g. 1/4, to merge later. `auto` or `auto/N`: the part that the environment
    /// of Slurm, Kubernetes or mpirun names. `{shard}` in --out becomes 1-of-4
    #[arg(long, value_name = "I/N|auto[/N]")]
    pub(crate) shard: Option<ShardChoice>,
    /// Merge shards into one labelled data set
    #[arg(
        long,
        value_name = "FILE",
        num_args = 1..,
        conflicts_with_all = [
            "set", "preset", "config", "data", "seed", "strict", "rewards", "keep", "shard"
        ]
    )]
    pub(crate) merge: Option<Vec<PathBuf>>,
    /// Replace an existing file at --out
    #[arg(long)]
    pub(crate) force: bool,
    /// Device of reward models: flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
}
