//! A run's directory: its files, the lock of its writer, and atomic writes.
//!
//! ```text
//! config.toml            the resolved configuration
//! run.json               versions, seed, device, hashes of what the result depends on
//! tokenizer.json
//! data/{train,heldout}.jsonl, data/summary.txt
//! checkpoints/<phase>-step-000100/
//! warm_start/            the base model in the layout of Hugging Face
//! initial_log_probs.safetensors
//! metrics.jsonl          one line per step
//! eval_samples.jsonl     answers of evaluations between steps, best.json the best of these, if they are wanted
//! policy/                adapter and heads, when training is done
//! result.json            held-out accuracies, when training is done
//! tensorboard/<phase>/   event files, if they are wanted
//! .lock                  while a process trains it
//! ```

mod lock;
pub(crate) mod record;
mod unchanged;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mopo_hub::{sealed_json, sha256_hex, sweep_own_directory, write_own_file};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use lock::DirLock;
use lock::LOCK_FILE;
use record::RECORD;
pub use record::{RunRecord, Stopped};

use crate::config::ConfigFile;
use crate::fit::check_not_stopped;
use crate::result::RESULT;
use crate::{Error, Result, RunConfig, checkpoint, tokens};

/// The folder of TensorBoard's event files, one below it per phase. They are written if it exists.
pub(crate) const TENSORBOARD: &str = "tensorboard";

/// The configuration's file. A directory with this file is a run.
const CONFIG: &str = "config.toml";

/// Folders of a run, in which nothing else has a place.
const FOLDERS: [&str; 5] = ["checkpoints", "data", "policy", TENSORBOARD, "warm_start"];

/// What a file of a run should be, for errors.
pub(crate) const OURS: &str = "what `mopo` wrote there; the file was changed or damaged";

/// An existing run directory.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
    /// Held by the process that trains the run.
    lock: Option<Arc<DirLock>>,
}

/// The command that trains a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunKind {
    Policies,
    RewardModel,
}

impl RunKind {
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Policies => "mopo train",
            Self::RewardModel => "mopo reward train",
        }
    }
}

impl RunDir {
    /// Makes a new run directory with its configuration and record, and locks it.
    ///
    /// # Errors
    /// It exists and is not empty, or cannot be written.
    pub fn create(path: &Path, config: &RunConfig, record: &mut RunRecord) -> Result<Self> {
        Self::create_with(path, config.to_toml()?, record, RunKind::Policies)
    }

    /// The same for any kind of run, with its configuration as text.
    pub(crate) fn create_with(
        path: &Path,
        config: String,
        record: &mut RunRecord,
        kind: RunKind,
    ) -> Result<Self> {
        refuse_existing(path, kind)?;
        fs::create_dir_all(path).map_err(Error::io("making", path))?;
        let run = Self { path: path.into(), lock: Some(Arc::new(DirLock::acquire(path)?)) };
        // Another process may have been faster.
        refuse_existing(path, kind)?;
        sweep_own_directory(path);
        record.config = Some(config);
        run.write_record(record)?;
        // Last, since a directory with a configuration is a run.
        run.write(CONFIG, record.config.as_deref().unwrap_or_default().as_bytes())?;
        Ok(run)
    }

    /// Makes the folder that TensorBoard's events are written to.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn want_tensorboard(&self) -> Result<()> {
        let dir = self.path.join(TENSORBOARD);
        fs::create_dir_all(&dir).map_err(Error::io("making", &dir))
    }

    /// Whether a directory is a run, if perhaps a damaged one.
    pub fn is_run(path: &Path) -> bool {
        [CONFIG, RECORD].iter().any(|name| fs::symlink_metadata(path.join(name)).is_ok())
    }

    /// The run in one of whose own folders a path lies, whether or not it is there.
    pub fn owner(path: &Path) -> Option<&Path> {
        path.ancestors().skip(1).find(|dir| {
            let inside = path.strip_prefix(dir).ok().and_then(|rest| rest.components().next());
            let is_own =
                inside.is_some_and(|name| FOLDERS.iter().any(|own| name.as_os_str() == *own));
            is_own && Self::is_run(dir)
        })
    }

    /// Opens a run and reads its configuration and record.
    ///
    /// # Errors
    /// It is not a run directory, its configuration is damaged, or a key differs from the run's
    /// original
    /// configuration (`[evaluation]` may change, since nothing that is trained depends on it).
    pub fn open(path: &Path) -> Result<(Self, RunConfig, RunRecord)> {
        let run = Self::open_with(path, RunKind::Policies)?;
        let config = RunConfig::from_file(&path.join(CONFIG))?;
        let record = run.read_record(&config)?;
        Ok((run, config, record))
    }

    /// The same for any kind of run, without its configuration and record.
    pub(crate) fn open_with(path: &Path, kind: RunKind) -> Result<Self> {
        if !path.join(CONFIG).exists() {
            let message = match Self::is_run(path) {
                true => format!(
                    "its {CONFIG} is missing: if the run was cut off as it began, repeat the command that began it with \
                     the same directory; otherwise restore the file (`config` in {RECORD} has what it was)"
                ),
                false => format!(
                    "not a run directory (no {CONFIG}); give a directory written by `{}`",
                    kind.command()
                ),
            };
            return Err(Error::Run { path: path.into(), message });
        }
        let run = Self { path: path.into(), lock: None };
        match run.kind()? {
            Some(other) if other != kind => Err(Error::Run {
                path: path.into(),
                message: format!(
                    "it is a run of `{}` (by its {CONFIG}); give a run of `{}`",
                    other.command(),
                    kind.command()
                ),
            }),
            _ => Ok(run),
        }
    }

    /// The command that wrote the run, by the sections of its configuration; `None` if that is
    /// damaged.
    fn kind(&self) -> Result<Option<RunKind>> {
        let path = self.join(CONFIG);
        let text = fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
        let data = |config: toml::Table| match config.get("data")? {
            toml::Value::Table(data)
                if data.contains_key("pairs") || data.contains_key("texts") =>
            {
                Some(RunKind::RewardModel)
            }
            _ => Some(RunKind::Policies),
        };
        Ok(toml::from_str(&text).ok().and_then(data))
    }

    /// The record of a run with this configuration.
    ///
    /// # Errors
    /// The run was started with another one.
    pub(crate) fn read_record<T: ConfigFile>(&self, config: &T) -> Result<RunRecord> {
        let path = self.join(RECORD);
        if !path.try_exists().map_err(Error::io("reading", &path))? {
            return Err(Error::corrupt(
                &path,
                "it is missing, and with it what the files of this run are known by: restore it, or \
                 start a new run",
            ));
        }
        let record = RunRecord::read(&path)?;
        unchanged::check(&self.join(CONFIG), config, &record)?;
        Ok(record)
    }

    pub(crate) fn write_record(&self, record: &RunRecord) -> Result<()> {
        self.write(RECORD, sealed_json(&self.json(RECORD, record)?).as_bytes())
    }

    /// The run with its lock, which is released with the last clone of the result.
    ///
    /// # Errors
    /// Names the process that holds it.
    pub fn locked(&self) -> Result<Self> {
        let lock = match &self.lock {
            Some(lock) => lock.clone(),
            None => Arc::new(DirLock::acquire(&self.path)?),
        };
        sweep_own_directory(&self.path);
        Ok(Self { path: self.path.clone(), lock: Some(lock) })
    }

    /// The run with its lock, checked as far as it was recorded; `record` is read again if another
    /// process could have changed it. What a run of an earlier version did not record is
    /// recorded now.
    ///
    /// # Errors
    /// Another process trains it, a file was replaced or damaged, or the run ended with a step that
    /// was not
    /// finite.
    pub(crate) fn begin_training(
        &self,
        record: &mut RunRecord,
        config: impl FnOnce() -> Result<String>,
    ) -> Result<Self> {
        let run = self.locked()?;
        if self.lock.is_none() {
            *record = RunRecord::read(&run.join(RECORD))?;
        }
        check_not_stopped(&run, record)?;
        record.stopped = None;
        // That of an end before, if its result was removed.
        record.hashes.remove(RESULT);
        record.check(&run, &[""], true)?;
        // Of a finished phase all is needed.
        for (folder, last) in [(record::BASE, "config.json"), (record::POLICY, "policy.json")] {
            if run.join(folder).join(last).exists() {
                record.check(&run, &[folder], false)?;
            }
        }
        if record.config.is_none() {
            record.config = Some(config()?);
            checkpoint::adopt(&run, record)?;
            run.write_record(record)?;
        }
        Ok(run)
    }

    /// Removes the lock of a process that was killed after the run's last file, and what it had not yet renamed; nothing
    /// while another process holds the lock, or where the directory cannot be written.
    pub fn tidy(&self) {
        if fs::symlink_metadata(self.join(LOCK_FILE)).is_ok() {
            drop(self.locked());
        }
    }

    /// Refuses to continue if the directory is no longer the locked one: writing would make
    /// a partial run where the user removed one.
    ///
    /// # Errors
    /// It was removed or replaced, or cannot be looked at.
    pub(crate) fn check_there(&self) -> Result<()> {
        let Some(lock) = &self.lock else { return Ok(()) };
        match lock.is_in_place().map_err(Error::io("reading", lock.path()))? {
            true => Ok(()),
            false => Err(Error::Run {
                path: self.path.clone(),
                message: "the directory was removed or replaced during training".into(),
            }),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file or folder in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether training is done.
    pub fn is_finished(&self) -> bool {
        self.join(RESULT).exists()
    }

    /// Refuses a run whose training is not finished.
    ///
    /// # Errors
    /// Says how to resume it.
    pub fn check_finished(&self) -> Result<()> {
        match self.is_finished() {
            true => Ok(()),
            false => Err(Error::Run {
                path: self.path.clone(),
                message: format!(
                    "training is not finished; resume it with `{} --resume {}`",
                    RunKind::Policies.command(),
                    mopo_hub::quoted(&self.path)
                ),
            }),
        }
    }

    /// Checks the files of a finished run's policies against its record.
    ///
    /// # Errors
    /// Names the file that was replaced, damaged or removed.
    pub fn check_policies(&self, record: &RunRecord) -> Result<()> {
        let parts = [&[record::BASE, record::POLICY], &tokens::FILES[..]].concat();
        record.check(self, &parts, false)
    }

    /// Checks those recorded files that exist: in a finished run some may have been removed to
    /// save space. A finished run no longer needs the initial log-probs.
    ///
    /// # Errors
    /// Names the file that was replaced or damaged.
    pub fn check_present(&self, record: &RunRecord) -> Result<()> {
        let needed =
            record.hashes.keys().map(String::as_str).filter(|name| *name != record::INITIAL);
        record.check(self, &needed.collect::<Vec<_>>(), true)
    }

    /// Writes a file whole or not at all. A symbolic link in its place is refused.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.check_there()?;
        Ok(write_own_file(&self.join(name), bytes)?)
    }

    /// Writes the result, with which the run is finished; its hash is recorded before.
    pub(crate) fn finish<T: Serialize>(&self, record: &mut RunRecord, result: &T) -> Result<()> {
        let text = self.json(RESULT, result)?;
        record.hashes.insert(RESULT.into(), sha256_hex(text.as_bytes()));
        self.write_record(record)?;
        self.write(RESULT, text.as_bytes())
    }

    fn json<T: Serialize>(&self, name: &str, value: &T) -> Result<String> {
        serde_json::to_string_pretty(value)
            .map_err(|e| Error::corrupt(&self.join(name), e.to_string()))
    }

    /// Writes a value as JSON, whole or not at all.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        self.write(name, self.json(name, value)?.as_bytes())
    }

    /// Reads a JSON file of the run.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        Ok(mopo_hub::read_json(&self.join(name), OURS)?)
    }

    /// Removes a new run whose data could not be prepared, so that a start that failed at once
    /// leaves nothing. Any other file keeps the directory, and so does anything prepared or
    /// trained. Returns whether it was removed.
    pub fn discard_unprepared(self) -> bool {
        let is_unprepared =
            RunRecord::read(&self.join(RECORD)).is_ok_and(|record| record.hashes.is_empty());
        let (Ok(files), Ok(data)) =
            (names(&self.path), names(&self.join("data")).or_else(absent_is_empty))
        else {
            return false;
        };
        let is_known = files.iter().all(|name| is_of_beginning(name) || name == "data")
            && data.iter().all(|name| {
                let stem = name.strip_suffix(".jsonl");
                stem.is_some_and(|s| ["train", "validation", "heldout"].contains(&s))
                    || ["summary.txt", "mixture.json"].contains(&&**name)
            });
        if self.lock.is_none() || !is_unprepared || !is_known {
            return false;
        }
        let remove = || -> std::io::Result<()> {
            for name in &data {
                fs::remove_file(self.join("data").join(name))?;
            }
            for name in &files {
                match name == "data" {
                    true => fs::remove_dir(self.join(name))?,
                    false => fs::remove_file(self.join(name))?,
                }
            }
            fs::remove_dir(&self.path)
        };
        remove().is_ok()
    }
}

/// Whether the name belongs to a run before its data is prepared.
fn is_of_beginning(name: &str) -> bool {
    let tokenizer = ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json"];
    [CONFIG, RECORD, LOCK_FILE, "merges.txt"].contains(&name) || tokenizer.contains(&name)
}

fn names(dir: &Path) -> std::io::Result<Vec<String>> {
    fs::read_dir(dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
}

fn absent_is_empty(e: std::io::Error) -> std::io::Result<Vec<String>> {
    match e.kind() {
        std::io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(e),
    }
}

/// Refuses a directory with anything but what a start killed early leaves.
fn refuse_existing(path: &Path, kind: RunKind) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() && !path.is_dir() {
        return Err(Error::Run {
            path: path.into(),
            message: "it is no directory, but a file or a link that leads nowhere; choose another one with --out"
                .into(),
        });
    }
    if path.join(CONFIG).exists() {
        return Err(Error::Run {
            path: path.into(),
            message: format!(
                "it already has a run; resume it with `{} --resume {}`, or choose another \
                 directory with --out",
                kind.command(),
                mopo_hub::quoted(path)
            ),
        });
    }
    let found = names(path).or_else(absent_is_empty).map_err(Error::io("reading", path))?;
    let is_left_over =
        |name: &String| name == LOCK_FILE || name == RECORD || name.starts_with(".tmp");
    match found.iter().all(is_left_over) {
        true => Ok(()),
        false => Err(Error::Run {
            path: path.into(),
            message: "the directory is not empty; choose another one with --out".into(),
        }),
    }
}

/// A new run in a temporary directory, for tests.
#[cfg(test)]
pub(crate) fn test_run() -> (tempfile::TempDir, RunDir) {
    let dir = tempfile::tempdir().unwrap();
    let config = RunConfig::preset("demo").unwrap();
    let mut record = RunRecord::new("test".into(), 0, None, false).unwrap();
    let run = RunDir::create(&dir.path().join("run"), &config, &mut record).unwrap();
    (dir, run)
}

#[cfg(test)]
mod tests;
