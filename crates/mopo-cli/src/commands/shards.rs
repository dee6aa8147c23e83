//! What the commands share whose rows can be divided among processes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mopo_hub::{RowJob, ShardChoice, ShardIndex};
use mopo_train::DirLock;
use mopo_train::config::MatmulPrecision;

use crate::device::Device;
use crate::output::outln;

/// The shard that is asked for, and the place of its result.
pub(super) fn shard_at(
    choice: Option<ShardChoice>,
    out: &Path,
) -> Result<(Option<ShardIndex>, PathBuf)> {
    let shard = choice.map(ShardChoice::resolve).transpose()?;
    let out = shard.map_or_else(|| out.to_path_buf(), |shard| shard.place(out));
    Ok((shard, out))
}

/// The kind of a device: another one may round otherwise.
fn kind(device: Device) -> &'static str {
    match device {
        Device::Flex => "flex",
        Device::NdArray => "ndarray",
        Device::Cuda(_) => "cuda",
        Device::Wgpu(_) => "wgpu",
    }
}

/// The same with the precision of products, which rounds otherwise too.
pub(super) fn kind_in(device: Device, precision: MatmulPrecision) -> String {
    format!("{}{}", kind(device), precision.note())
}

/// The folder of a job's saved rows, made and locked: two processes would remove each other's rows.
pub(super) fn locked(job: &RowJob) -> Result<DirLock> {
    let dir = job.progress_dir();
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(DirLock::acquire(&dir)?)
}

/// Says that a shard is there, and how to go on.
pub(super) fn say_written(job: &RowJob, shard: ShardIndex, what: &str) {
    outln!("wrote {} (shard {shard}, {} {what})", job.out.display(), job.rows().len());
    outln!("when all shards are done: the same command with --merge FILE… instead of --shard");
}

/// Says that a shard is there already.
pub(super) fn say_done(out: &Path) {
    outln!("{} already has this shard; nothing to do.", out.display());
}
