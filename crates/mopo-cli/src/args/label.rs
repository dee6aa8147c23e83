//! Flags of `mopo label`.

use std::path::PathBuf;

use clap::Args;
use mopo_eval::label::ShardIndex;

use crate::device::Device;

#[derive(Debug, Args)]
#[command(after_help = "\
The file of rewards has one entry per objective:

    [[objectives]]
    name = \"brief\"
    tie_threshold = 2.0          # hard labels; or temperature = 1.0 for soft ones
    reward = { kind = \"length\", prefer = \"shorter\" }

docs/labels.md has every kind of reward and what is written.")]
pub(crate) struct LabelArgs {
    /// The prepared set to label (`mopo prepare` writes one)
    #[arg(
        value_name = "SET",
        conflicts_with_all = ["preset", "config"],
        required_unless_present_any = ["preset", "config", "merge"]
    )]
    pub(crate) set: Option<PathBuf>,
    /// Instead of a set: the source in this preset's [data] section, e.g. demo or hh-small
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub(crate) preset: Option<String>,
    /// Instead of a set: the source in this configuration's [data] section
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The source's files
    #[arg(long, value_name = "PATH", conflicts_with = "set")]
    pub(crate) data: Option<PathBuf>,
    /// The source's seed
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Make malformed lines of the source fatal
    #[arg(long)]
    pub(crate) strict: bool,
    /// Objectives with their rewards and thresholds: a TOML file, or a preset, paper-hh or paper-tldr
    #[arg(long, value_name = "FILE|PRESET", required_unless_present = "merge")]
    pub(crate) rewards: Option<PathBuf>,
    /// The labelled set to write; with --shard the shard. Work is saved in <FILE>.progress/
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Keep labels that are there and fill missing ones alone
    #[arg(long)]
    pub(crate) keep: bool,
    /// Label the i-th of n parts, e.g. 1/4, to be merged later
    #[arg(long, value_name = "I/N")]
    pub(crate) shard: Option<ShardIndex>,
    /// Put the shards of one labelling together
    #[arg(
        long,
        value_name = "FILE",
        num_args = 1..,
        conflicts_with_all = [
            "set", "preset", "config", "data", "seed", "strict", "rewards", "keep", "shard"
        ]
    )]
    pub(crate) merge: Option<Vec<PathBuf>>,
    /// Replace another file at --out
    #[arg(long)]
    pub(crate) force: bool,
    /// Where reward models compute: flex (the CPU), ndarray, cuda or cuda:N
    #[arg(long, default_value = "flex")]
    pub(crate) device: Device,
}
