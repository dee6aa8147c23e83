//! Files and JSON: errors name the path, and a reader sees the old content or the new, never half of
//! it. Tensor files are in `tensors`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Reads a file.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::io("read", path))
}

/// Reads JSON; `expected` says what the file should be and completes "expected …" in the error.
///
/// # Errors
/// [`Error::Io`]; [`Error::Json`] with the parser's message, which names the key or the line.
pub fn read_json<T: DeserializeOwned>(path: &Path, expected: &'static str) -> Result<T> {
    serde_json::from_slice(&read(path)?).map_err(|e| Error::Json {
        path: path.into(),
        reason: e.to_string(),
        expected,
    })
}

/// Creates a directory and its parents.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))
}

/// Writes `bytes` to `path`: a temporary file in the same folder, synced, then renamed. Missing
/// folders are made. An interrupted write leaves whatever was there before.
///
/// # Errors
/// [`Error::Io`] with the path; nothing is changed then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically_with(path, |file| file.write_all(bytes))
}

/// As [`write_atomically`], for content that is made while it is written.
///
/// # Errors
/// As there; what `fill` returns is one of the system's reasons.
pub fn write_atomically_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_dir(folder)?;
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        // Temporary files are private by default; this one becomes an ordinary file (umask applies).
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut writer = BufWriter::new(builder.tempfile_in(folder)?);
        fill(&mut writer)?;
        let temp = writer.into_inner().map_err(|e| e.into_error())?;
        temp.as_file().sync_all()?;
        temp.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(Error::io("write", path))?;
    // The rename itself lives in the folder: without this it can be lost with the power. Some
    // file systems refuse to sync a folder, which is no reason to fail a finished write.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Writes JSON, indented, with a final newline, atomically.
///
/// # Errors
/// [`Error::Io`] with the path.
///
/// # Panics
/// If the value has no JSON form (a map whose keys are no text), which no input can cause.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("plain data");
    write_atomically(path, format!("{text}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_into_new_folders_and_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c.txt");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let error = write_atomically(&path.join("below-a-file"), b"x").unwrap_err().to_string();
        assert!(error.contains("c.txt"), "{error}");
    }

    #[test]
    fn a_write_that_fails_midway_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.txt");
        write_atomically(&path, b"whole").unwrap();
        let failing = |file: &mut dyn Write| {
            file.write_all(b"half")?;
            Err(std::io::Error::other("the disk is full"))
        };
        let error = write_atomically_with(&path, failing).unwrap_err().to_string();
        assert!(error.contains("c.txt") && error.contains("full"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn json_that_does_not_parse_names_the_file_and_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        write_json(&path, &serde_json::json!({ "a": 1 })).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n  \"a\": 1\n}\n");
        std::fs::write(&path, "{\n  \"a\": ").unwrap();
        let error = read_json::<serde_json::Value>(&path, "a test's file").unwrap_err().to_string();
        for words in ["config.json", "line 2", "expected a test's file"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
