//! `run.json`: the origin of a run's files, and their hashes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use mopo_hub::{file_sha256, find_files, is_intact_json, sha256_hex};
use serde::{Deserialize, Serialize};

use super::{OURS, RunDir};
use crate::communicator::Communicator;
use crate::result::RESULT;
use crate::{Error, Result, RunConfig};

/// The record's file.
pub(crate) const RECORD: &str = "run.json";
/// The version of burn that this program is built with; a test compares it with `Cargo.lock`.
const BURN_VERSION: &str = "0.21.0";

/// The origin of a run's files, besides its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Version of this program.
    pub mopo_version: String,
    /// Version of burn.
    pub burn_version: String,
    /// Device on which the run was started.
    pub device: String,
    /// Seed.
    pub seed: u64,
    /// Start of the run, in seconds since 1970, UTC.
    pub started: u64,
    /// Command line of the start.
    pub command: Vec<String>,
    /// Data directory or file, if given.
    pub data: Option<PathBuf>,
    /// Whether malformed lines were fatal.
    pub strict: bool,
    /// SHA-256 of data, tokenizer, base model, initial log-probs and policies, by their names in
    /// the run; each as soon as it exists.
    pub hashes: BTreeMap<String, String>,
    /// SHA-256 of the files of `model.hub` that weights are read from, by their names there: SFT may
    /// begin, or begin again, in another process than the one that checked them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub model: BTreeMap<String, String>,
    /// SHA-256 of each file that the data was read from, by its path; not of folders.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// One SHA-256 over the policies of each other run that this one reads, by its directory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<String, String>,
    /// SHA-256 of each checkpoint's `state.json`, by the checkpoint's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checkpoints: BTreeMap<String, String>,
    /// The run's original configuration, as TOML. Runs of earlier versions have none until they are
    /// resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The step that failed, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Only in the file.
    #[serde(default, skip_serializing)]
    pub(crate) sha256: Option<String>,
}

/// A step whose loss, gradient or weights were not finite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopped {
    /// Phase of the run.
    pub phase: String,
    /// Optimiser step, from 0.
    pub step: usize,
    /// Which quantity.
    pub what: String,
    /// Its value, as text: JSON has neither NaN nor infinity.
    pub value: String,
    /// Version of the program.
    pub mopo_version: String,
}

impl RunRecord {
    /// The record of a run that starts now.
    ///
    /// # Errors
    /// The path of the data cannot be made absolute: a relative one would name another file when
    /// the
    /// run is resumed elsewhere.
    pub fn new(device: String, seed: u64, data: Option<&Path>, strict: bool) -> Result<Self> {
        let absolute = |path| std::path::absolute(path).map_err(Error::io("finding", path));
        Ok(Self {
            mopo_version: env!("CARGO_PKG_VERSION").into(),
            burn_version: BURN_VERSION.into(),
            device,
            seed,
            started: u64::try_from(chrono::Utc::now().timestamp()).unwrap_or_default(),
            command: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            data: data.map(absolute).transpose()?,
            strict,
            hashes: BTreeMap::new(),
            model: BTreeMap::new(),
            inputs: BTreeMap::new(),
            others: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            config: None,
            stopped: None,
            sha256: None,
        })
    }

    /// Reads a record. Its last key is a hash of everything before it, unless an earlier version or a person wrote it.
    ///
    /// # Errors
    /// Names the file: it cannot be read, was changed, or is no record.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = mopo_hub::read(path)?;
        match is_intact_json(&bytes) {
            true => Ok(mopo_hub::read_json(path, OURS)?),
            false => Err(Error::corrupt(
                path,
                "its SHA-256, in its last line but one, is another: it was changed or damaged; restore it",
            )),
        }
    }

    /// The default directory of a run: `<below>/<name>-<date>`, with the date in UTC.
    pub fn default_dir(&self, below: &Path, name: &str) -> PathBuf {
        let started = i64::try_from(self.started).unwrap_or_default();
        let date = chrono::DateTime::from_timestamp(started, 0).unwrap_or_default();
        below.join(format!("{name}-{}", date.format("%Y%m%d-%H%M%S")))
    }

    /// Checks the recorded files whose names begin with one of `parts`.
    ///
    /// # Errors
    /// Names the first that is missing, unless `may_lack`, or has another hash.
    pub(crate) fn check(&self, run: &RunDir, parts: &[&str], may_lack: bool) -> Result<()> {
        for (name, expected) in &self.hashes {
            let path = run.join(name);
            if !parts.iter().any(|part| name.starts_with(part)) || (may_lack && !path.exists()) {
                continue;
            }
            let remedy = match name.as_str() {
                INITIAL => "delete it: a run that needs it computes it again when it is resumed",
                RESULT => "delete it and resume the run: it is computed again",
                _ => "restore the file, or start a new run",
            };
            let found = file_sha256(&path)
                .map_err(|e| Error::corrupt(&path, format!("{}; {remedy}", reason(&e))))?;
            if found != *expected {
                return Err(Error::corrupt(
                    &path,
                    format!(
                        "its SHA-256 is not the one in {RECORD}: it was replaced or damaged; {remedy}"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Records the files that the data is read from: that of `--data`, and those of `data.sources`.
    pub(crate) fn add_inputs(&mut self, config: &RunConfig) -> Result<()> {
        let mixed = config.data.source.sources.iter().map(|source| source.path.clone());
        let paths: Vec<PathBuf> = self.data.iter().cloned().chain(mixed).collect();
        for path in paths.into_iter().filter(|path| path.is_file()) {
            let sha256 = file_sha256(&path)?;
            self.inputs.insert(path.display().to_string(), sha256);
        }
        Ok(())
    }

    /// Records the model that training begins with.
    pub(crate) fn add_model(&mut self, dir: &Path) -> Result<()> {
        self.model = model_hashes(dir)?;
        Ok(())
    }

    /// Checks that model before it is read again; one that was not recorded is any.
    ///
    /// # Errors
    /// Names the first file that differs.
    pub(crate) fn check_model(&self, dir: &Path) -> Result<()> {
        if self.model.is_empty() {
            return Ok(());
        }
        let found = model_hashes(dir)?;
        let mut names = self.model.keys().chain(found.keys());
        match names.find(|name| self.model.get(*name) != found.get(*name)) {
            None => Ok(()),
            Some(name) => Err(Error::corrupt(
                &dir.join(name),
                "the model is not the one that the run began with: restore the file, or start a new \
                 run",
            )),
        }
    }

    /// Records the files of a folder of the run.
    pub(crate) fn add_folder(&mut self, run: &RunDir, folder: &str) -> Result<()> {
        let (mut folders, mut found) = (vec![folder.to_string()], Vec::new());
        while let Some(below) = folders.pop() {
            let dir = run.join(&below);
            for entry in std::fs::read_dir(&dir).map_err(Error::io("reading", &dir))? {
                let entry = entry.map_err(Error::io("reading", &dir))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                match entry.path() {
                    _ if name.starts_with('.') => {}
                    path if path.is_dir() => folders.push(format!("{below}{name}/")),
                    _ => found.push(format!("{below}{name}")),
                }
            }
        }
        self.hashes.retain(|name, _| !name.starts_with(folder));
        found.into_iter().try_for_each(|name| self.add_file(run, &name))
    }

    /// Records one file of the run.
    pub(crate) fn add_file(&mut self, run: &RunDir, name: &str) -> Result<()> {
        self.hashes.insert(name.into(), file_sha256(&run.join(name))?);
        Ok(())
    }

    /// Changes the record on rank 0, which writes it; every rank has the changed one then.
    pub(crate) fn change_together(
        &mut self,
        run: &RunDir,
        communicator: &dyn Communicator,
        change: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        *self = communicator.by_first(|| {
            let mut changed = self.clone();
            change(&mut changed)?;
            run.write_record(&changed)?;
            Ok(changed)
        })?;
        Ok(())
    }

    /// Whether a file of the folder was recorded.
    pub(crate) fn has(&self, part: &str) -> bool {
        self.hashes.keys().any(|name| name.starts_with(part))
    }

    /// One hash over the recorded files of a folder, their names included.
    pub(crate) fn folder_sha256(&self, folder: &str) -> String {
        let mut text = String::new();
        for (name, sha256) in &self.hashes {
            if let Some(name) = name.strip_prefix(folder) {
                text.push_str(&format!("{sha256}  {name}\n"));
            }
        }
        sha256_hex(text.as_bytes())
    }
}

/// Hashes of the files that a model's weights and shape are read from.
fn model_hashes(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    if let Some(file) = mopo_lm::gguf_file(dir) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        hashes.insert(name, file_sha256(&file)?);
        return Ok(hashes);
    }
    let (index, weights) = find_files(dir)?;
    for path in [dir.join("config.json"), index].into_iter().chain(weights) {
        let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
        if let Entry::Vacant(entry) = hashes.entry(name) {
            entry.insert(file_sha256(&path)?);
        }
    }
    Ok(hashes)
}

/// Why a file of a run could not be read, without its name.
fn reason(error: &mopo_hub::Error) -> String {
    match error {
        mopo_hub::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            "it is missing".into()
        }
        mopo_hub::Error::Io { source, .. } => format!("it cannot be read ({source})"),
        other => other.to_string(),
    }
}

/// The folder of the base model, in a run of any method.
pub(crate) const BASE: &str = "warm_start/";
/// The folder of the trained policies.
pub(crate) const POLICY: &str = "policy/";
/// log π_0 of the training pairs.
pub(crate) const INITIAL: &str = "initial_log_probs.safetensors";
/// The prepared data.
pub(crate) const DATA: &[&str] =
    &["data/", "tokenizer.json", "tokenizer_config.json", "generation_config.json"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_of_a_record_that_changes_is_noticed() {
        let (_dir, run) = crate::run_dir::test_run();
        let path = run.join(RECORD);
        let whole = std::fs::read(&path).unwrap();
        let record = RunRecord::read(&path).unwrap();
        assert!(is_intact_json(&whole) && record.config.is_some());
        for at in (0..whole.len()).step_by(7) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            match RunRecord::read(&path) {
                Err(e) => assert!(e.to_string().contains(RECORD), "{e}"),
                // White space at the end.
                Ok(found) => assert_eq!(
                    RunRecord { sha256: None, ..found },
                    RunRecord { sha256: None, ..record.clone() },
                    "{at}"
                ),
            }
        }
        // Of an earlier version.
        let text = std::str::from_utf8(&whole).unwrap();
        let (body, _) = text.rsplit_once(",\n  \"sha256\": ").unwrap();
        std::fs::write(&path, format!("{body}\n}}")).unwrap();
        assert_eq!(RunRecord::read(&path).unwrap(), RunRecord { sha256: None, ..record });
    }

    #[test]
    fn the_recorded_version_of_burn_is_the_one_in_the_lock_file() {
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
        let lock: toml::Table = std::fs::read_to_string(lock).unwrap().parse().unwrap();
        let packages = lock["package"].as_array().unwrap();
        let burn = packages.iter().find(|p| p["name"].as_str() == Some("burn")).unwrap();
        assert_eq!(burn["version"].as_str(), Some(BURN_VERSION));
    }

    #[test]
    fn a_model_that_was_changed_is_named_by_its_file() {
        let tmp = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(tmp.path().join(name), text).unwrap();
        write("config.json", "{}");
        write("model.safetensors", "weights");
        write("README.md", "about it");
        let mut record = RunRecord::new("flex".into(), 0, None, false).unwrap();
        record.check_model(tmp.path()).unwrap();
        record.add_model(tmp.path()).unwrap();
        write("README.md", "more about it");
        record.check_model(tmp.path()).unwrap();
        for (name, text) in [("config.json", "{ }"), ("model.safetensors", "other weights")] {
            let before = std::fs::read_to_string(tmp.path().join(name)).unwrap();
            write(name, text);
            let error = record.check_model(tmp.path()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("restore"), "{error}");
            write(name, &before);
        }
        // Weights in another form instead of those.
        std::fs::remove_file(tmp.path().join("model.safetensors")).unwrap();
        write("pytorch_model.bin", "weights");
        assert!(record.check_model(tmp.path()).is_err());
    }

    #[test]
    fn directories_are_named_by_calendar_dates() {
        let mut record = RunRecord::new("flex".into(), 0, None, false).unwrap();
        for (started, date) in [
            (0, "19700101-000000"),
            (951_827_696, "20000229-123456"),
            (1_795_462_245, "20261123-193045"),
        ] {
            record.started = started;
            let expected = PathBuf::from(format!("runs/demo-{date}"));
            assert_eq!(record.default_dir(Path::new("runs"), "demo"), expected);
        }
    }

    #[test]
    fn records_of_earlier_versions_are_read_and_a_path_is_absolute() {
        let old = r#"{"mopo_version": "0.1.0", "burn_version": "0.21.0", "device": "flex", "seed": 1,
            "started": 2, "command": ["mopo"], "data": null, "strict": false, "hashes": {"a": "b"}}"#;
        let record: RunRecord = serde_json::from_str(old).unwrap();
        assert_eq!((record.config, record.stopped), (None, None));
        let record =
            RunRecord::new("flex".into(), 0, Some(Path::new("rows.jsonl")), false).unwrap();
        assert!(record.data.unwrap().is_absolute());
    }
}
