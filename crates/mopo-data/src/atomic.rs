//! Writing files so that a reader sees the old content or the new, never half of it; and hashes
//! in hexadecimal.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Writes `bytes` to `path`: a temporary file in the same folder, synced, then renamed. Missing
/// folders are made. An interrupted write leaves whatever was there before.
///
/// # Errors
/// [`Error::Io`] with the path; nothing is changed then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; this one becomes an ordinary file (umask applies).
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temp = builder.tempfile_in(folder).map_err(Error::io("write", path))?;
    let mut writer = BufWriter::new(temp);
    writer.write_all(bytes).map_err(Error::io("write", path))?;
    let temp = writer.into_inner().map_err(|e| Error::io("write", path)(e.into_error()))?;
    temp.as_file().sync_all().map_err(Error::io("write", path))?;
    temp.persist(path).map_err(|e| Error::io("write", path)(e.error))?;
    // The rename itself lives in the folder: without this it can be lost with the power. Some
    // file systems refuse to sync a folder, which is no reason to fail a finished write.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// The SHA-256 of `bytes` as 64 lower-case hexadecimal digits, as `sha256sum` prints it.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The SHA-256 of a file, read in pieces: it may be larger than what is free in memory.
///
/// # Errors
/// [`Error::Io`] if it cannot be read.
pub fn file_sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A 64-bit hash of several parts; their lengths are hashed too, so ("ab", "c") ≠ ("a", "bc").
/// Stable over versions and machines, which the standard hashers do not promise.
pub(crate) fn stable_hash(seed: u64, parts: &[&str]) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let digest = hasher.finalize();
    u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
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
    fn hash_is_the_published_one() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_hex(b""), empty);
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(file_sha256(file.path()).unwrap(), empty);
        assert_ne!(stable_hash(0, &["ab", "c"]), stable_hash(0, &["a", "bc"]));
        assert_ne!(stable_hash(0, &["ab"]), stable_hash(1, &["ab"]));
    }
}
