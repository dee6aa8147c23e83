//! One writer per directory: a lock that ends with its process and names its holder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The locked file of a directory. It contains the [`Holder`], for processes that find it locked.
pub(super) const LOCK_FILE: &str = ".lock";

/// The right to write to a directory, until it is dropped or its process ends.
#[derive(Debug)]
pub struct DirLock {
    file: File,
    path: PathBuf,
}

/// The holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    /// Versions before had none.
    #[serde(default)]
    host: String,
    command: String,
    since: String,
}

impl Holder {
    fn current() -> Self {
        let command: Vec<String> =
            std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
        Self {
            pid: std::process::id(),
            host: fs::read_to_string("/proc/sys/kernel/hostname")
                .map_or_else(|_| String::new(), |name| name.trim().to_string()),
            command: command.join(" "),
            since: chrono::Utc::now().format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        }
    }
}

impl DirLock {
    /// Locks an existing directory.
    ///
    /// # Errors
    /// [`Error::Run`] names the process that holds the lock. On a file system without locks this
    /// succeeds, and
    /// nothing keeps two processes apart.
    pub fn acquire(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK_FILE);
        loop {
            // Through a link the holder's name would be written to somebody else's file.
            if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
                return Err(Error::corrupt(&path, "it is not a regular file; move it away"));
            }
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(Error::io("opening", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(held(dir, &file)),
                Err(TryLockError::Error(e)) => {
                    tracing::warn!("{}: the file system has no locks ({e})", path.display());
                }
            }
            let mut lock = Self { file, path: path.clone() };
            if !lock.is_in_place().map_err(Error::io("reading", &path))? {
                // The last holder removed it between the two calls.
                continue;
            }
            lock.sign();
            return Ok(lock);
        }
    }

    /// Whether the locked file is still the one in the directory, which may have been removed.
    ///
    /// # Errors
    /// That cannot be found out.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let id = |m: fs::Metadata| (m.dev(), m.ino());
        let here = self.file.metadata().map(id)?;
        match fs::symlink_metadata(&self.path) {
            Ok(found) => Ok(id(found) == here),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// The path of the locked file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the holder's name, for information: on a full disk the lock holds without it.
    fn sign(&mut self) {
        let text = serde_json::to_vec(&Holder::current()).unwrap_or_default();
        let _ = self.file.set_len(0).and_then(|()| self.file.write_all(&text));
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // While it is still locked, so that nobody else's is removed.
        if self.is_in_place().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn held(dir: &Path, mut file: &File) -> Error {
    let mut text = String::new();
    let read = file.read_to_string(&mut text).and_then(|_| {
        serde_json::from_str::<Holder>(&text).map_err(|e| io::Error::other(e.to_string()))
    });
    let who = match read {
        Ok(Holder { pid, host, command, since }) => {
            let on = if host.is_empty() { String::new() } else { format!(" on {host}") };
            format!("process {pid}{on} (since {since}: `{command}`)")
        }
        Err(_) => "another process".into(),
    };
    Error::Run {
        path: dir.into(),
        message: format!("{who} is writing to it; wait until it has finished, or stop it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_holds_it_and_others_learn_which() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path()).unwrap();
        let error = DirLock::acquire(dir.path()).unwrap_err().to_string();
        let Holder { pid, host, command, since } = Holder::current();
        assert!(!host.is_empty() && error.contains(&format!("{pid} on {host}")), "{error}");
        assert!(error.contains(&format!("process {pid}")) && error.contains(&command), "{error}");
        assert!(since.ends_with(" UTC") && error.contains(&since[..11]), "{error}");
        drop(lock);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves nothing behind");
        DirLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn what_a_killed_holder_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        for left in [&b""[..], b"{\"pid\": 1, ", b"{\"pid\":1,\"command\":\"x\",\"since\":\"y\"}"] {
            fs::write(dir.path().join(LOCK_FILE), left).unwrap();
            let lock = DirLock::acquire(dir.path()).unwrap();
            let error = DirLock::acquire(dir.path()).unwrap_err().to_string();
            assert!(error.contains(&std::process::id().to_string()), "{error}");
            drop(lock);
        }
    }

    #[test]
    fn a_link_in_its_place_is_refused_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let mine = dir.path().join("mine");
        fs::write(&mine, "mine").unwrap();
        std::os::unix::fs::symlink(&mine, dir.path().join(LOCK_FILE)).unwrap();
        let error = DirLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.contains(LOCK_FILE), "{error}");
        assert_eq!(fs::read(&mine).unwrap(), b"mine");
    }

    #[test]
    fn a_lock_whose_directory_was_replaced_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        let lock = DirLock::acquire(&run).unwrap();
        assert!(lock.is_in_place().unwrap());
        fs::rename(&run, dir.path().join("moved")).unwrap();
        fs::create_dir(&run).unwrap();
        let other = DirLock::acquire(&run).unwrap();
        assert!(!lock.is_in_place().unwrap());
        drop(lock);
        assert!(other.is_in_place().unwrap(), "the lock of another directory was removed");
    }
}
