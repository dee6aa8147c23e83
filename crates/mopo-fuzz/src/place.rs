//! The folder of a target's files: in memory where the system has such a place, or where `TMPDIR` says, which for a
//! worker is the folder of whoever watches it.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder that goes with this.
#[derive(Debug)]
pub struct Place(TempDir);

impl Place {
    /// Makes one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> std::io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        builder.prefix("mopo-fuzz-");
        match memory.is_dir() && std::env::var_os("TMPDIR").is_none() {
            true => builder.tempdir_in(memory),
            false => builder.tempdir(),
        }
        .map(Self)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it, with these bytes.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        let folder = path.parent().expect("a file has a folder");
        std::fs::create_dir_all(folder).expect("the folder of a target can be written");
        write(&path, bytes);
        path
    }
}

/// Writes the file of an input.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("the folder of a target can be written");
}
