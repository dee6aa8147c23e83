//! Ranks as processes of MPI: `mpirun -n 4 mopo train …`, or `srun --mpi=pmix`.
//!
//! A rank that ends in any way but [`Job::finish`] ends the whole job: MPI waits for it otherwise, and rsmpi's own
//! clean-up waits even while a panic unwinds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives, Root};
use mpi::{Count, Threading};

use super::{Communicator, failed};
use crate::Result;

/// What launchers of MPI programs set for each process.
const LAUNCHERS: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "MPI_LOCALNRANKS"];
/// How often the time limit is looked at.
const WATCH: Duration = Duration::from_millis(200);

/// Membership of an MPI job, kept by the thread that joined it.
///
/// Dropped without [`finish`](Self::finish) it ends the whole job: something went wrong, and the others would wait.
pub struct Job {
    universe: Option<Universe>,
    mpi: Mpi,
}

/// The exchange between the ranks of a job, from any thread, one at a time.
#[derive(Clone)]
pub struct Mpi {
    watch: Arc<Watch>,
}

/// When the exchange that is under way began, for the thread that watches it.
struct Watch {
    began: Instant,
    /// Milliseconds after `began`, and 1; 0: none is under way.
    since: AtomicU64,
    is_over: AtomicBool,
}

/// Whether a launcher started this process.
pub fn is_launched() -> bool {
    LAUNCHERS.iter().any(|name| std::env::var_os(name).is_some())
}

fn world() -> SimpleCommunicator {
    SimpleCommunicator::world()
}

/// Ends the whole job, from any thread.
pub fn abort(code: i32) -> ! {
    world().abort(code)
}

impl Job {
    /// Joins the job. From now on a panic anywhere ends all of it, and so does an exchange that takes longer than
    /// `time_limit`: another rank has stopped answering.
    ///
    /// # Errors
    /// MPI was started before, or its library allows no call from other threads than the first.
    pub fn join(time_limit: Duration) -> Result<Self> {
        let (universe, threading) = mpi::initialize_with_threading(Threading::Multiple)
            .ok_or_else(|| failed("MPI was started twice"))?;
        if threading < Threading::Serialized {
            return Err(failed(
                "this MPI library allows no threads: use one that was built with them",
            ));
        }
        let (rank, print) = (world().rank(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            print(panic);
            eprintln!("error: rank {rank} panicked, so the job ends");
            abort(101)
        }));
        let watch = Arc::new(Watch {
            began: Instant::now(),
            since: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let watched = watch.clone();
        std::thread::Builder::new()
            .name("mpi time limit".into())
            .spawn(move || watched.run(rank, time_limit))
            .map_err(|e| failed(format!("no thread for the time limit: {e}")))?;
        Ok(Self { universe: Some(universe), mpi: Mpi { watch } })
    }

    /// The exchange with the other ranks.
    pub fn communicator(&self) -> &Mpi {
        &self.mpi
    }

    /// Leaves the job after all exchanges.
    pub fn finish(mut self) {
        // The others may still be busy, and are watched themselves.
        drop(self.universe.take());
        self.mpi.watch.is_over.store(true, Ordering::SeqCst);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.universe.is_some() {
            abort(1)
        }
    }
}

impl Watch {
    /// An exchange, watched by the time limit.
    fn watched<T>(&self, exchange: impl FnOnce() -> T) -> T {
        let now = self.began.elapsed().as_millis() as u64;
        self.since.store(now + 1, Ordering::SeqCst);
        let found = exchange();
        self.since.store(0, Ordering::SeqCst);
        found
    }

    fn run(&self, rank: i32, time_limit: Duration) {
        while !self.is_over.load(Ordering::SeqCst) {
            std::thread::sleep(WATCH);
            let since = self.since.load(Ordering::SeqCst);
            let now = self.began.elapsed().as_millis() as u64;
            if since > 0 && u128::from(now.saturating_sub(since - 1)) > time_limit.as_millis() {
                eprintln!(
                    "error: rank {rank} has waited {} s for another rank, so the job ends; resume the run from its last \
                     checkpoint (--rank-timeout sets this limit)",
                    time_limit.as_secs()
                );
                // Not by MPI, which another thread is inside of: the launcher sees the process die.
                std::process::abort();
            }
        }
    }
}

fn counts(lengths: &[usize]) -> Result<(Vec<Count>, Vec<Count>, usize)> {
    let (mut counts, mut starts, mut total) = (vec![], vec![], 0usize);
    for &n in lengths {
        starts.push(Count::try_from(total).map_err(|_| too_long())?);
        counts.push(Count::try_from(n).map_err(|_| too_long())?);
        total += n;
    }
    Count::try_from(total).map_err(|_| too_long())?;
    Ok((counts, starts, total))
}

fn too_long() -> crate::Error {
    failed("more than 2^31 values in one exchange, which MPI cannot count: use more ranks")
}

/// The same with an address in memory: that of an empty list may be 1, which is MPI_IN_PLACE.
fn in_memory<'a, T>(own: &'a [T], spare: &'a [T; 1]) -> &'a [T] {
    if own.is_empty() { &spare[..0] } else { own }
}

fn split<T: Clone>(all: Vec<T>, lengths: &[usize]) -> Vec<Vec<T>> {
    let mut rest = &all[..];
    let part = |n: &usize| {
        let (own, others) = rest.split_at(*n);
        rest = others;
        own.to_vec()
    };
    lengths.iter().map(part).collect()
}

impl Mpi {
    /// The length of every rank's part.
    fn lengths(&self, own: usize) -> Vec<usize> {
        let mut all = vec![0u64; self.world()];
        self.watch.watched(|| world().all_gather_into(&(own as u64), &mut all[..]));
        all.into_iter().map(|n| n as usize).collect()
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        world().rank() as usize
    }

    fn world(&self) -> usize {
        world().size() as usize
    }

    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let lengths = self.lengths(own.len());
        let (counts, starts, total) = counts(&lengths)?;
        let mut all = vec![0u8; total.max(1)];
        let mut parts = PartitionMut::new(&mut all[..], counts, starts);
        self.watch.watched(|| world().all_gather_varcount_into(in_memory(own, &[0]), &mut parts));
        drop(parts);
        Ok(split(all, &lengths))
    }

    fn all_gather_f32(&self, own: &[f32]) -> Result<Vec<f32>> {
        let (counts, starts, total) = counts(&self.lengths(own.len()))?;
        let mut all = vec![0f32; total.max(1)];
        let mut parts = PartitionMut::new(&mut all[..], counts, starts);
        self.watch.watched(|| world().all_gather_varcount_into(in_memory(own, &[0.0]), &mut parts));
        drop(parts);
        all.truncate(total);
        Ok(all)
    }

    fn all_to_all(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>> {
        let own: Vec<u64> = parts.iter().map(|part| part.len() as u64).collect();
        let mut theirs = vec![0u64; own.len()];
        self.watch.watched(|| world().all_to_all_into(&own[..], &mut theirs[..]));
        let own: Vec<usize> = own.into_iter().map(|n| n as usize).collect();
        let theirs: Vec<usize> = theirs.into_iter().map(|n| n as usize).collect();
        let (send_counts, send_starts, _) = counts(&own)?;
        let (counts, starts, total) = counts(&theirs)?;
        let sent = parts.concat();
        drop(parts);
        let mut all = vec![0f32; total.max(1)];
        let send = Partition::new(in_memory(&sent, &[0.0]), send_counts, send_starts);
        let mut receive = PartitionMut::new(&mut all[..], counts, starts);
        self.watch.watched(|| world().all_to_all_varcount_into(&send, &mut receive));
        drop(receive);
        Ok(split(all, &theirs))
    }

    fn broadcast(&self, mut own: Vec<u8>) -> Result<Vec<u8>> {
        let mut length = own.len() as u64;
        let world = world();
        let root = world.process_at_rank(0);
        self.watch.watched(|| root.broadcast_into(&mut length));
        if length > Count::MAX as u64 {
            return Err(too_long());
        }
        own.resize(length as usize, 0);
        if own.is_empty() {
            return Ok(own);
        }
        self.watch.watched(|| root.broadcast_into(&mut own[..]));
        Ok(own)
    }

    fn barrier(&self) -> Result<()> {
        self.watch.watched(|| world().barrier());
        Ok(())
    }
}
