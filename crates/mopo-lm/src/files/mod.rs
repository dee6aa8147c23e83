//! Reading and writing of JSON and tensor files, atomically. What the tensors mean is known to
//! `weights` and `adapter`.

mod read;
mod write;

use std::io::Write;
use std::path::Path;

use crate::{Error, Result};

pub(crate) use read::TensorFiles;
pub(crate) use write::TensorWriter;

/// Reads a file, or says which.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })
}

/// Reads JSON; `expected` completes "expected …".
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<T> {
    serde_json::from_slice(&read(path)?).map_err(|e| Error::Json {
        path: path.into(),
        reason: e.to_string(),
        expected,
    })
}

/// Creates a directory and its parents.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|source| Error::Io {
        action: "create",
        path: dir.into(),
        source,
    })
}

/// Writes a whole file or nothing: a temporary file beside it, synced, then renamed. `fill` gets the
/// temporary file.
pub(crate) fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut tempfile::NamedTempFile) -> std::io::Result<()>,
) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        // Temporary files are private by default; this one becomes an ordinary file (umask applies).
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(parent)?;
        fill(&mut file)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        // The rename itself is durable once the directory is.
        std::fs::File::open(parent)?.sync_all()
    };
    write().map_err(|source| Error::Io { action: "write", path: path.into(), source })
}

/// Writes JSON, indented, with a final newline.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("plain data");
    write_atomically(path, |file| file.write_all(format!("{text}\n").as_bytes()))
}
