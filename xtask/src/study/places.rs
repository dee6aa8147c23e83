//! Who of a study's methods may use the machine: as many runs at once as there are places, those of earlier methods first.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard};

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::Study;
use super::plan::Method;

/// Places at the machine.
pub(super) struct Places {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    free: usize,
    /// Who waits, the first of them first.
    waiting: BTreeSet<(usize, usize)>,
    has_failed: bool,
}

/// A place, until it is dropped.
pub(super) struct Place<'a>(&'a Places);

/// Something else has failed: what is not begun yet is left.
#[derive(Debug)]
pub(super) struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not begun, since another run failed")
    }
}

impl std::error::Error for Stopped {}

/// All results, or the failure that stopped the others.
pub(super) fn all_or_failure<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    match failed.into_iter().filter_map(Result::err).min_by_key(|e| e.is::<Stopped>()) {
        Some(failure) => Err(failure),
        None => done.into_iter().collect(),
    }
}

impl Places {
    pub(super) fn new(n: usize) -> Self {
        let state = State { free: n, waiting: BTreeSet::new(), has_failed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }

    /// Waits for a place; who is first by `order` gets the next.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(super) fn take(&self, order: (usize, usize)) -> Result<Place<'_>> {
        let mut state = self.state();
        state.waiting.insert(order);
        while !state.has_failed && (state.free == 0 || state.waiting.first() != Some(&order)) {
            state = self.changed.wait(state).expect("no thread panics with it");
        }
        state.waiting.remove(&order);
        // The next one may have a place, too.
        self.changed.notify_all();
        if state.has_failed {
            return Err(Stopped.into());
        }
        state.free -= 1;
        Ok(Place(self))
    }

    /// Nothing is begun any more.
    pub(super) fn stop(&self) {
        self.state().has_failed = true;
        self.changed.notify_all();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.state().free += 1;
        self.0.changed.notify_all();
    }
}

impl Study {
    /// Trains and evaluates methods, each after those whose runs it needs; as the study's file has them. With several jobs
    /// a method need not wait for the last run of the one before.
    ///
    /// # Errors
    /// The first failure, once what runs has ended.
    pub(super) fn methods(&self, chosen: &[&Method]) -> Result<Vec<Value>> {
        self.begin_all()?;
        let work = |method: &Method| {
            // Two shards may need the runs of one method.
            let _lock = self.locked(&method.name)?;
            self.method(method)
        };
        if self.jobs == 1 {
            return chosen.iter().map(|method| work(method)).collect();
        }
        let done: Mutex<Vec<Option<Result<Value>>>> =
            Mutex::new(chosen.iter().map(|_| None).collect());
        let changed = Condvar::new();
        // Whether the methods that this one needs are done; false if they never will be.
        let is_ready = |method: &Method| {
            let needed: Vec<usize> = (chosen.iter().enumerate())
                .filter(|(_, other)| method.depends_on().contains(&&*other.name))
                .map(|(i, _)| i)
                .collect();
            let mut done = done.lock().expect("no thread panics with it");
            loop {
                if needed.iter().any(|&i| matches!(done[i], Some(Err(_)))) {
                    return false;
                }
                if needed.iter().all(|&i| done[i].is_some()) {
                    return true;
                }
                done = changed.wait(done).expect("no thread panics with it");
            }
        };
        std::thread::scope(|scope| {
            for (i, method) in chosen.iter().enumerate() {
                let (is_ready, work, done, changed) = (&is_ready, &work, &done, &changed);
                scope.spawn(move || {
                    let result = match is_ready(method) {
                        true => work(method),
                        false => Err(Stopped.into()),
                    };
                    if result.is_err() {
                        self.places.stop();
                    }
                    done.lock().expect("no thread panics with it")[i] = Some(result);
                    changed.notify_all();
                });
            }
        });
        let done = done.into_inner().map_err(|_| anyhow!("a thread panicked"))?;
        all_or_failure(done.into_iter().flatten().collect())
    }

    /// Trains the SFT models of all seeds.
    fn begin_all(&self) -> Result<()> {
        self.side_by_side(0, &self.plan.size.seeds, |program, seed| self.begin(program, *seed))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_more_run_at_once_than_there_are_places_and_the_first_come_first() {
        let places = Places::new(1);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let order = Mutex::new(vec![]);
        let held = places.take((0, 0)).unwrap();
        std::thread::scope(|scope| {
            for asked in [(2, 0), (1, 1), (1, 0), (3, 5)] {
                let (places, now, most, order) = (&places, &now, &most, &order);
                scope.spawn(move || {
                    let _place = places.take(asked).unwrap();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    order.lock().unwrap().push(asked);
                    std::thread::sleep(Duration::from_millis(2));
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
            while places.state().waiting.len() < 4 {
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(held);
        });
        assert_eq!(most.into_inner(), 1);
        assert_eq!(order.into_inner().unwrap(), [(1, 0), (1, 1), (2, 0), (3, 5)]);
    }

    #[test]
    fn after_a_failure_nothing_is_begun() {
        let places = Places::new(1);
        let held = places.take((0, 0)).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| places.take((0, 1)).err().unwrap().is::<Stopped>());
            while places.state().waiting.is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            places.stop();
            assert!(waiting.join().unwrap());
        });
        drop(held);
        assert!(places.take((0, 0)).is_err());
    }
}
