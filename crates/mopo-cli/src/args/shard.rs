//! The flags of commands whose rows can be divided among processes.

use std::path::PathBuf;

use clap::Args;
use mopo_hub::ShardChoice;

#[derive(Debug, Args)]
pub(crate) struct ShardArgs {
    /// Do only part I of N, counted from 1, e.g. 1/4, to merge later. `auto` or `auto/N`: the part that the environment of
    /// Slurm, Kubernetes or mpirun names. `{shard}` in --out becomes 1-of-4
    #[arg(long, value_name = "I/N|auto[/N]", conflicts_with = "merge")]
    pub(crate) shard: Option<ShardChoice>,
    /// Put the files of all shards together: give what the shards were given, but for --shard
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) merge: Option<Vec<PathBuf>>,
}
