//! Processes that train one run together: what they exchange.
//!
//! Every process (rank) runs the same program on the same run directory, and comes to the same decisions, since all that
//! decides is known to all. Rank 0 alone writes. The passes over a step's micro-batches are dealt out over the ranks,
//! micro-batch `v` to rank `v` mod world; what passes find is exchanged, and gradients are summed in the order of `v`
//! (`optim`), so that a run has the same bits whatever the number of ranks.

#[cfg(feature = "mpi")]
pub mod mpi;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// The exchange between the ranks of a run. All ranks call the same methods in the same order.
pub trait Communicator: Sync {
    /// This process's number, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn world(&self) -> usize;

    /// The bytes of every rank, in the order of ranks.
    ///
    /// # Errors
    /// The exchange failed.
    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// The numbers of every rank, one after the other in the order of ranks.
    ///
    /// # Errors
    /// The exchange failed.
    fn all_gather_f32(&self, own: &[f32]) -> Result<Vec<f32>>;

    /// `parts[r]` goes to rank `r`; what comes back at `r` is from rank `r`.
    ///
    /// # Errors
    /// The exchange failed.
    fn all_to_all(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>>;

    /// Rank 0's bytes.
    ///
    /// # Errors
    /// The exchange failed.
    fn broadcast(&self, own: Vec<u8>) -> Result<Vec<u8>>;

    /// Returns once every rank has called it.
    ///
    /// # Errors
    /// The exchange failed.
    fn barrier(&self) -> Result<()>;
}

/// One process by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Solo;

impl Communicator for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![own.to_vec()])
    }

    fn all_gather_f32(&self, own: &[f32]) -> Result<Vec<f32>> {
        Ok(own.to_vec())
    }

    fn all_to_all(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>> {
        Ok(parts)
    }

    fn broadcast(&self, own: Vec<u8>) -> Result<Vec<u8>> {
        Ok(own)
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }
}

/// An exchange that failed.
pub(crate) fn failed(message: impl std::fmt::Display) -> Error {
    Error::Communication(message.to_string())
}

fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    // With the names of fields, since some are left out where they are empty.
    rmp_serde::to_vec_named(value).map_err(failed)
}

fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes).map_err(failed)
}

/// What ranks do together, made of the exchanges.
impl dyn Communicator + '_ {
    /// Whether this is the rank that writes.
    pub(crate) fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there are no others.
    pub(crate) fn is_solo(&self) -> bool {
        self.world() == 1
    }

    /// The values of every rank, in the order of ranks.
    pub(crate) fn gather<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        if self.is_solo() {
            return Ok(vec![own]);
        }
        self.all_gather(&to_bytes(&own)?)?.iter().map(|bytes| from_bytes(bytes)).collect()
    }

    /// What rank 0 makes; the others make nothing.
    pub(crate) fn by_first<T: Serialize + DeserializeOwned>(
        &self,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if self.is_solo() {
            return make();
        }
        let own = if self.is_first() { to_bytes(&make()?)? } else { Vec::new() };
        from_bytes(&self.broadcast(own)?)
    }

    /// Does something on rank 0 only, such as writing; the others wait for it.
    pub(crate) fn once(&self, act: impl FnOnce() -> Result<()>) -> Result<()> {
        self.by_first(act)
    }

    /// Results `0..n`, each made by one rank, known to all.
    pub(crate) fn deal<T: Serialize + DeserializeOwned>(
        &self,
        n: usize,
        mut make: impl FnMut(usize) -> Result<T>,
    ) -> Result<Vec<T>> {
        let own = (self.rank()..n).step_by(self.world()).map(&mut make).collect::<Result<_>>()?;
        self.interleaved(n, own)
    }

    /// Results `0..n` of all ranks in order, from those that this one has made.
    pub(crate) fn interleaved<T: Serialize + DeserializeOwned>(
        &self,
        n: usize,
        own: Vec<T>,
    ) -> Result<Vec<T>> {
        let mut all: Vec<_> = self.gather(own)?.into_iter().map(Vec::into_iter).collect();
        let world = self.world();
        (0..n)
            .map(|i| all[i % world].next().ok_or_else(|| failed("a rank has made too little")))
            .collect()
    }
}

/// Refuses to go on if the ranks do not have the same text; `what` says what it is.
///
/// # Errors
/// Names the first rank with another text, and the first line that differs.
pub fn check_equal(communicator: &dyn Communicator, what: &str, own: &str) -> Result<()> {
    let all = communicator.gather(own.to_string())?;
    let Some(rank) = all.iter().position(|of| *of != all[0]) else { return Ok(()) };
    let (mut first, mut other) = (all[0].lines(), all[rank].lines());
    let (here, there) = loop {
        match (first.next(), other.next()) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => break (a.unwrap_or("nothing"), b.unwrap_or("nothing")),
        }
    };
    Err(failed(format!(
        "rank {rank} has another {what} than rank 0 (`{there}` and `{here}`): start all ranks with the same program, \
         arguments and files"
    )))
}

#[cfg(test)]
pub(crate) mod threads {
    //! Ranks as threads of one process, for tests.

    use std::sync::{Arc, Barrier, Mutex};

    use super::*;

    /// One of several threads.
    pub(crate) struct Thread {
        rank: usize,
        all: Arc<Shared>,
    }

    struct Shared {
        barrier: Barrier,
        slots: Mutex<Vec<Vec<Vec<f32>>>>,
        bytes: Mutex<Vec<Vec<u8>>>,
    }

    impl Thread {
        fn both<T: Clone>(&self, slots: &Mutex<Vec<T>>, own: T) -> Vec<T> {
            slots.lock().unwrap()[self.rank] = own;
            self.all.barrier.wait();
            let all = slots.lock().unwrap().clone();
            self.all.barrier.wait();
            all
        }
    }

    impl Communicator for Thread {
        fn rank(&self) -> usize {
            self.rank
        }

        fn world(&self) -> usize {
            self.all.bytes.lock().unwrap().len()
        }

        fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
            Ok(self.both(&self.all.bytes, own.to_vec()))
        }

        fn all_gather_f32(&self, own: &[f32]) -> Result<Vec<f32>> {
            Ok(self.both(&self.all.slots, vec![own.to_vec()]).concat().concat())
        }

        fn all_to_all(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>> {
            let all = self.both(&self.all.slots, parts);
            Ok(all.iter().map(|of| of[self.rank].clone()).collect())
        }

        fn broadcast(&self, own: Vec<u8>) -> Result<Vec<u8>> {
            Ok(self.both(&self.all.bytes, own).swap_remove(0))
        }

        fn barrier(&self) -> Result<()> {
            self.all.barrier.wait();
            Ok(())
        }
    }

    /// What each of `n` ranks returns.
    pub(crate) fn run<T: Send>(n: usize, rank: impl Fn(&dyn Communicator) -> T + Sync) -> Vec<T> {
        let all = Arc::new(Shared {
            barrier: Barrier::new(n),
            slots: Mutex::new(vec![Vec::new(); n]),
            bytes: Mutex::new(vec![Vec::new(); n]),
        });
        std::thread::scope(|scope| {
            let start = |i| {
                let own = Thread { rank: i, all: all.clone() };
                let rank = &rank;
                scope.spawn(move || rank(&own))
            };
            let threads: Vec<_> = (0..n).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dealt_results_come_back_in_order_on_every_rank() {
        for world in [1, 2, 3] {
            for n in [0, 1, 3, 7] {
                let made = threads::run(world, |c| {
                    let mut own = 0;
                    let all = c.deal(n, |i| {
                        own += 1;
                        Ok((i, -0.0f32, f64::NAN.to_bits()))
                    });
                    (own, all.unwrap())
                });
                let expected: Vec<_> = (0..n).map(|i| (i, -0.0, f64::NAN.to_bits())).collect();
                assert!(made.iter().all(|(_, all)| *all == expected), "{world} ranks, {n}");
                assert_eq!(made.iter().map(|(own, _)| own).sum::<usize>(), n);
            }
        }
    }

    #[test]
    fn only_the_first_rank_acts() {
        let made = threads::run(3, |c| c.by_first(|| Ok(c.rank() + 10)).unwrap());
        assert_eq!(made, [10, 10, 10]);
    }

    #[test]
    fn ranks_that_differ_are_named() {
        let found = threads::run(3, |c| {
            let own = if c.rank() == 1 { "a = 1\nb = 2" } else { "a = 1\nb = 3" };
            check_equal(c, "configuration", own).map_err(|e| e.to_string())
        });
        for e in found.into_iter().map(std::result::Result::unwrap_err) {
            assert!(e.contains("rank 1 has another configuration"), "{e}");
            assert!(e.contains("`b = 2` and `b = 3`"), "{e}");
        }
        assert!(threads::run(2, |c| check_equal(c, "x", "same").is_ok()).iter().all(|ok| *ok));
    }
}
