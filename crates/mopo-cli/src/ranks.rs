//! The processes that train a run together: one by itself, or the ranks of an MPI job.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use mopo_train::communicator::{Communicator, Solo};

use crate::device::Device;

/// Which process this is.
pub(crate) struct Ranks {
    #[cfg(feature = "mpi")]
    job: Option<mopo_train::communicator::mpi::Job>,
}

/// What a rank waits after an error: one that all have is printed by rank 0, which then ends the job.
#[cfg(feature = "mpi")]
const AFTER_YOU: Duration = Duration::from_secs(2);

impl Ranks {
    /// Joins the job if a launcher started this process, with its share of the processors.
    ///
    /// # Errors
    /// A launcher has started several, and this program was built without MPI.
    #[cfg_attr(not(feature = "mpi"), allow(unused_variables))]
    pub(crate) fn join(time_limit: Duration) -> Result<Self> {
        #[cfg(feature = "mpi")]
        {
            use mopo_train::communicator::mpi::{Job, is_launched};
            if !is_launched() {
                return Ok(Self { job: None });
            }
            let job = Some(Job::join(time_limit)?);
            share_processors()?;
            Ok(Self { job })
        }
        #[cfg(not(feature = "mpi"))]
        {
            if launched().is_some_and(|n| n > 1) {
                anyhow::bail!(
                    "a launcher of MPI programs has started this one as several, but it was built without MPI; build it \
                     with `cargo build --release -p mopo-cli --features mpi`"
                );
            }
            Ok(Self {})
        }
    }

    pub(crate) fn communicator(&self) -> &dyn Communicator {
        #[cfg(feature = "mpi")]
        if let Some(job) = &self.job {
            return job.communicator();
        }
        &Solo
    }

    /// Whether this process prints and writes.
    pub(crate) fn is_first(&self) -> bool {
        self.communicator().rank() == 0
    }

    /// The device of this rank: `cuda` and `wgpu` are the GPU of its number on its machine.
    pub(crate) fn device(&self, device: Device) -> Device {
        match (device, local_rank()) {
            (Device::Cuda(0), Some(local)) if self.communicator().world() > 1 => {
                Device::Cuda(local)
            }
            (Device::Wgpu(0), Some(local)) if self.communicator().world() > 1 => {
                Device::Wgpu(local)
            }
            _ => device,
        }
    }

    /// A path that rank 0 has chosen.
    ///
    /// # Errors
    /// The exchange failed.
    pub(crate) fn path_of_first(&self, path: Option<PathBuf>) -> Result<PathBuf> {
        let text = path.unwrap_or_default().into_os_string().into_encoded_bytes();
        let text = self.communicator().broadcast(text)?;
        Ok(PathBuf::from(String::from_utf8(text)?))
    }

    /// Ends this process's part. An error ends the job, whose other ranks would wait for this one.
    ///
    /// # Errors
    /// Those of the result, of a process by itself.
    pub(crate) fn end(self, result: Result<()>) -> Result<()> {
        #[cfg(feature = "mpi")]
        if let Some(job) = self.job {
            let (rank, world) = (job.communicator().rank(), job.communicator().world());
            match result {
                Ok(()) => job.finish(),
                Err(e) => {
                    if rank > 0 {
                        std::thread::sleep(AFTER_YOU);
                    }
                    let of = if world > 1 { format!("rank {rank}: ") } else { String::new() };
                    crate::output::errln!("error: {of}{}", crate::message(&e));
                    mopo_train::communicator::mpi::abort(1)
                }
            }
            return Ok(());
        }
        result
    }
}

/// Refuses to be started as several by a launcher of MPI programs.
///
/// # Errors
/// It was; `command` says what works in one process.
pub(crate) fn refuse_several(command: &str) -> Result<()> {
    match launched() {
        Some(n) if n > 1 => anyhow::bail!(
            "a launcher of MPI programs has started {n} of this process, but `{command}` works in one: start it without \
             the launcher"
        ),
        _ => Ok(()),
    }
}

/// How many processes a launcher has started, where it says so.
fn launched() -> Option<usize> {
    let n = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"].iter().find_map(|name| number(name));
    n.or_else(|| number("PMIX_RANK").and_then(|_| number("SLURM_NTASKS")))
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// This process's number among those on its machine.
fn local_rank() -> Option<usize> {
    ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"]
        .iter()
        .find_map(|name| number(name))
}

/// Ranks on one machine that may all use all of its processors share them out, unless RAYON_NUM_THREADS says otherwise.
#[cfg(feature = "mpi")]
fn share_processors() -> Result<()> {
    let local = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"];
    let Some(local) = local.iter().find_map(|name| number(name)).filter(|n| *n > 1) else {
        return Ok(());
    };
    if std::env::var_os("RAYON_NUM_THREADS").is_some() {
        return Ok(());
    }
    let own = std::thread::available_parallelism()?.get();
    // A launcher that binds ranks to processors has shared them out already.
    let all = std::fs::read_to_string("/proc/cpuinfo")
        .map_or(own, |text| text.lines().filter(|line| line.starts_with("processor")).count());
    let threads = if own < all { own } else { (own / local).max(1) };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    Ok(())
}
