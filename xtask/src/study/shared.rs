//! A study's directory that several processes share: who makes what two of them need, and what is not there yet.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::plan::{Method, folder};
use super::runs::Run;
use super::work::beside;
use super::{Split, Study};

/// How long one waits for a lock without saying so.
const SILENCE: Duration = Duration::from_secs(5);

/// Waits until nobody else holds the lock of `path`, and holds it until it is dropped or the process ends. Where a
/// file system has no locks, a warning says so.
pub(super) fn locked(path: &Path, what: &str) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    let asked = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            // Who only looks at it has it for a moment.
            Err(TryLockError::WouldBlock) if asked.elapsed() < SILENCE => {
                sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                eprintln!("== {what} is being made already; waiting for it");
                file.lock().with_context(|| format!("locking {}", path.display()))?;
                break;
            }
            Err(TryLockError::Error(e)) => {
                eprintln!("warning: {}: the file system has no locks ({e})", path.display());
                break;
            }
        }
    }
    Ok(file)
}

impl Study {
    /// The lock of what several shards need: an SFT model or a method.
    pub(super) fn locked(&self, name: &str) -> Result<File> {
        locked(&self.out.join(format!("locks/{}", folder(name))), name)
    }

    /// Refuses to put a study together of which something is not done yet, by name.
    pub(super) fn check_complete(&self, methods: &[&Method]) -> Result<()> {
        let mut missing = vec![];
        for method in methods {
            missing.extend(self.missing(method)?.map(|what| format!("{}: {what}", method.name)));
        }
        ensure!(
            missing.is_empty(),
            "--merge: not all shards are done ({}); run them again, each with its --shard",
            missing.join("; ")
        );
        Ok(())
    }

    /// The first thing of a method that is not there; `None` if all is.
    fn missing(&self, method: &Method) -> Result<Option<String>> {
        let size = &self.plan.size;
        for &seed in &size.seeds {
            let base = self.base(seed);
            if !base.join("result.json").exists() || !self.prompts(seed, Split::Test).exists() {
                return Ok(Some(format!("no SFT model of seed {seed}")));
            }
        }
        let Some(attempt) = self.chosen(method)? else {
            return Ok(Some("its hyper-parameters are not chosen".into()));
        };
        let parts = self.plan.parts(method);
        let more = self.plan.sensitivity.iter().filter(|asked| asked.method == method.name);
        let more: Vec<String> = more
            .flat_map(|asked| {
                let values = asked.of(size);
                values.into_iter().map(|value| format!("{}={value}", asked.key)).collect::<Vec<_>>()
            })
            .collect();
        let all = size.seeds.iter().map(|seed| (*seed, None));
        let changed = size
            .sensitivity_seeds
            .iter()
            .flat_map(|seed| more.iter().map(move |more| (*seed, Some(&**more))));
        for (seed, more) in all.chain(changed) {
            for part in &parts {
                let run = self.place(Run { method, seed, attempt, part, more });
                let results = beside(&run, Split::Test.name());
                if !results.join("report.json").exists() {
                    let shown = results.strip_prefix(&self.out).unwrap_or(&results).display();
                    return Ok(Some(format!("no {shown}")));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn one_waits_for_the_other() {
        let dir = std::env::temp_dir().join(format!("mopo-study-locks-{}", std::process::id()));
        let path = dir.join("locks/seed-1");
        let first = locked(&path, "seed 1").unwrap();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let lock = locked(&path, "seed 1").unwrap();
                assert!(is_done.load(Ordering::SeqCst), "both had the lock");
                drop(lock);
            });
            std::thread::sleep(Duration::from_millis(100));
            is_done.store(true, Ordering::SeqCst);
            drop(first);
            second.join().unwrap();
        });
        fs::remove_dir_all(&dir).unwrap();
    }
}
