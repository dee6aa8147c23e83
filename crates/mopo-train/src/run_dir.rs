//! A run's directory: what lies in it, and how files get there without ever being half-written.
//!
//! ```text
//! config.toml            the resolved configuration
//! run.json               versions, seed, device, hashes of the data
//! tokenizer.json
//! data/{train,heldout}.jsonl, data/summary.txt
//! checkpoints/<phase>-step-000100/
//! warm_start/            the base model in the hub's layout
//! initial_log_probs.safetensors
//! metrics.jsonl          one line per step
//! policy/                adapter and heads, when training is done
//! result.json            held-out accuracies, when training is done
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use mopo_data::{sha256_hex, write_atomically};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result, RunConfig};

/// An existing run directory.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

/// What a run's files came from, beside its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Version of this program.
    pub mopo_version: String,
    /// Version of burn.
    pub burn_version: String,
    /// Device that the run was started on.
    pub device: String,
    /// Seed.
    pub seed: u64,
    /// Seconds since 1970, UTC, when the run was started.
    pub started: u64,
    /// Command line that started it.
    pub command: Vec<String>,
    /// Data directory or file, where one was given.
    pub data: Option<PathBuf>,
    /// Whether malformed lines were fatal.
    pub strict: bool,
    /// SHA-256 of the files below, by their name in the run; filled once they exist.
    pub hashes: std::collections::BTreeMap<String, String>,
}

impl RunDir {
    /// Makes a new run directory with its configuration and record.
    ///
    /// # Errors
    /// If it exists and is not empty, or cannot be written.
    pub fn create(path: &Path, config: &RunConfig, record: &RunRecord) -> Result<Self> {
        Self::create_with(path, &config.to_toml()?, record, "mopo train")
    }

    /// The same for any kind of run: its configuration as text, and the command that goes on with it.
    pub(crate) fn create_with(
        path: &Path,
        config: &str,
        record: &RunRecord,
        command: &str,
    ) -> Result<Self> {
        if path.join("config.toml").exists() {
            return Err(Error::Run {
                path: path.into(),
                message: format!(
                    "there is a run already; go on with `{command} --resume {}`, or choose another \
                     directory with --out",
                    path.display()
                ),
            });
        }
        if path.exists() && fs::read_dir(path).map_err(Error::io("reading", path))?.next().is_some()
        {
            return Err(Error::Run {
                path: path.into(),
                message: "the directory is not empty; choose another with --out".into(),
            });
        }
        fs::create_dir_all(path).map_err(Error::io("making", path))?;
        let run = Self(path.into());
        run.write_json("run.json", record)?;
        // Last: a directory with a configuration is a run.
        run.write("config.toml", config.as_bytes())?;
        Ok(run)
    }

    /// Opens a run and reads its configuration and record.
    ///
    /// # Errors
    /// If it is no run directory, or its configuration was damaged.
    pub fn open(path: &Path) -> Result<(Self, RunConfig, RunRecord)> {
        let (run, record) = Self::open_with(path, "mopo train")?;
        let config = RunConfig::from_file(&path.join("config.toml"))?;
        Ok((run, config, record))
    }

    /// The same for any kind of run, its configuration aside.
    pub(crate) fn open_with(path: &Path, command: &str) -> Result<(Self, RunRecord)> {
        if !path.join("config.toml").exists() {
            return Err(Error::Run {
                path: path.into(),
                message: format!(
                    "this is no run directory (it has no config.toml); give a directory that \
                     `{command}` wrote"
                ),
            });
        }
        let run = Self(path.into());
        if let Some(other) = run.written_by()?
            && other != command
        {
            return Err(Error::Run {
                path: path.into(),
                message: format!("it is a run of `{other}`; give a directory of `{command}`"),
            });
        }
        let record = run.read_json("run.json")?;
        Ok((run, record))
    }

    /// Which command wrote the run, by the sections of its configuration; none if that is damaged.
    fn written_by(&self) -> Result<Option<&'static str>> {
        let path = self.join("config.toml");
        let text = std::fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
        let data = |config: toml::Table| match config.get("data")? {
            toml::Value::Table(data)
                if data.contains_key("pairs") || data.contains_key("texts") =>
            {
                Some("mopo reward train")
            }
            _ => Some("mopo train"),
        };
        Ok(toml::from_str(&text).ok().and_then(data))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file or folder in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Whether training is done.
    pub fn is_finished(&self) -> bool {
        self.join("result.json").exists()
    }

    /// Writes a file whole or not at all.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(write_atomically(&self.join(name), bytes)?)
    }

    /// Writes a value as JSON, whole or not at all.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::corrupt(&self.join(name), e.to_string()))?;
        self.write(name, text.as_bytes())
    }

    /// Reads a JSON file of the run.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        read_json(&self.join(name))
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(Error::io("reading", path))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::corrupt(path, format!("{e}; the file was changed or damaged")))
}

/// A rename is on the disk only once its directory is.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(Error::io("flushing", path))
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub fn file_sha256(path: &Path) -> Result<String> {
    // In pieces: a base model's file may be larger than what is free in memory.
    let mut file = File::open(path).map_err(Error::io("reading", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::io("reading", path))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// SHA-256 over names and contents of the files in a folder; folders in it do not count.
pub(crate) fn dir_sha256(dir: &Path) -> Result<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("reading", dir))? {
        let path = entry.map_err(Error::io("reading", dir))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let mut text = String::new();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("{}  {name}\n", file_sha256(&path)?));
    }
    Ok(sha256_hex(text.as_bytes()))
}

/// `metrics.jsonl`: one line per step, cut back to the checkpoint's length on resuming so that a
/// killed run leaves no line twice.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    file: File,
    path: PathBuf,
    len: u64,
}

impl MetricsFile {
    /// Opens the file and cuts it back to `len` bytes.
    pub(crate) fn open(run: &RunDir, len: u64) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("opening", &path))?;
        let found = file.metadata().map_err(Error::io("reading", &path))?.len();
        if found < len {
            return Err(Error::corrupt(
                &path,
                format!(
                    "it has {found} bytes, but the checkpoint was written at {len}; restore it, or \
                     start a new run"
                ),
            ));
        }
        file.set_len(len).map_err(Error::io("cutting", &path))?;
        Ok(Self { file, path, len })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn append<T: Serialize>(&mut self, row: &T) -> Result<()> {
        use std::io::{Seek, SeekFrom};
        let mut line =
            serde_json::to_vec(row).map_err(|e| Error::corrupt(&self.path, e.to_string()))?;
        line.push(b'\n');
        let written =
            self.file.seek(SeekFrom::Start(self.len)).and_then(|_| self.file.write_all(&line));
        if let Err(e) = written {
            // No half line stays behind.
            let _ = self.file.set_len(self.len);
            return Err(Error::io("writing", &self.path)(e));
        }
        self.len += line.len() as u64;
        Ok(())
    }

    /// Flushes to the disk: a checkpoint must not know of lines that are not there.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("flushing", &self.path))
    }
}
