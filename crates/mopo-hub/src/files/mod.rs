//! Files and JSON: errors name the path, and readers see either the old content or the new. Tensor
//! files are in `tensors`.

mod directory;
mod hash;
mod leftovers;
mod output;
mod seal;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use directory::{DirWriter, remove_dir_whole};
pub use hash::{file_sha256, fnv1a, hex, sha256_hex};
pub use leftovers::{sweep_leftovers, sweep_own_directory};
pub use output::{check_output_dir, check_output_file};
pub use seal::{is_intact_json, sealed_json};

use crate::{Error, Result};

/// Maximum size of a JSON file. In memory its values may take twenty times as much.
const MAX_JSON: u64 = 64 << 20;
/// Maximum size of a file that is read as a whole: several times the largest tokenizer.
const MAX_FILE: u64 = 256 << 20;

/// Reads a file.
///
/// # Errors
/// [`Error::Io`] with the path, also for a pipe, a device, or more than 256 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let file = open_file(path)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_FILE {
        let source = io::Error::other(format!("it has more than {} MiB", MAX_FILE >> 20));
        return Err(Error::io("read", path)(source));
    }
    Ok(bytes)
}

/// Opens a file to be read. A pipe without a writer would block the reader for ever, and a device may
/// have no end; only descriptors that the process was given (`/dev/stdin`, `<(…)` of a shell) may be
/// such.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    let io = |source| Error::io("read", path)(source);
    let found = path.metadata().map_err(io)?;
    let is_given = ["/proc", "/dev/fd", "/dev/stdin"].iter().any(|dir| path.starts_with(dir));
    if !found.is_file() && !found.is_dir() && !is_given {
        return Err(io(io::Error::other("it is not a regular file")));
    }
    File::open(path).map_err(io)
}

/// Whether a file that was just opened is what cloning a repository without git-lfs leaves in place
/// of a large file. Its beginning is the position again afterwards.
#[cfg(any(feature = "tensors", feature = "gguf"))]
pub(crate) fn is_lfs_pointer(file: &mut File) -> io::Result<bool> {
    const START: &[u8] = b"version https://git-lfs";
    let mut start = vec![];
    Read::by_ref(file).take(START.len() as u64).read_to_end(&mut start)?;
    io::Seek::rewind(file)?;
    Ok(start == START)
}

/// Reads JSON; `expected` describes the file and completes "expected …" in the error.
///
/// # Errors
/// [`Error::Io`]; [`Error::Json`] with the parser's message, which names the key or the line, and
/// for a
/// file of more than 64 MiB.
pub fn read_json<T: DeserializeOwned>(path: &Path, expected: &'static str) -> Result<T> {
    let refuse = |reason: String| Error::Json { path: path.into(), reason, expected };
    let mut bytes = vec![];
    let file = open_file(path)?;
    file.take(MAX_JSON + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_JSON {
        return Err(refuse(format!("it has more than {} MiB", MAX_JSON >> 20)));
    }
    serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))
}

/// Creates a directory and its parents.
///
/// # Errors
/// [`Error::Output`] where something else is in the way; [`Error::Io`] with the path.
pub fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)
        .map_err(|error| check_output_dir(dir).err().unwrap_or(Error::io("create", dir)(error)))
}

/// Writes `bytes` to `path`: to a temporary file in the same folder, which is synced, then renamed.
/// Missing
/// folders are created. An interrupted write leaves the old content.
///
/// An existing file keeps its mode. A symbolic link is kept: its target is written. Writes to
/// pipes and devices, `/dev/stdout` among them, are direct.
///
/// ```
/// let dir = tempfile::tempdir().unwrap();
/// let path = dir.path().join("new/folder/notes.txt");
/// mopo_hub::write_atomically(&path, b"whole or absent")?;
/// assert_eq!(std::fs::read(&path).unwrap(), b"whole or absent");
/// # Ok::<(), mopo_hub::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] with the path; nothing has changed then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically_with(path, |file| file.write_all(bytes))
}

/// Like [`write_atomically`], for content that is generated while it is written.
///
/// # Errors
/// Those of [`write_atomically`]; `fill` returns I/O errors.
pub fn write_atomically_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let io = |e| Error::io("write", path)(e);
    match Target::of(path).map_err(io)? {
        Target::Absent(path) => replace(&path, None, fill),
        Target::Present(path, old) => replace(&path, Some(&old), fill),
        Target::Special(path) => {
            // Append, since a descriptor may be in the middle of a file.
            let file = OpenOptions::new().append(true).open(&path).map_err(io)?;
            let mut writer = BufWriter::new(file);
            fill(&mut writer).and_then(|()| writer.flush()).map_err(io)
        }
    }
}

/// Like [`write_atomically`], for a file in a directory of this program, such as a run: a
/// symbolic link is refused, since its target may belong to somebody else.
///
/// # Errors
/// Those of [`write_atomically`], and [`Error::Io`] for anything at `path` that is not a regular
/// file.
pub fn write_own_file(path: &Path, bytes: &[u8]) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            let what = if found.is_symlink() { "a symbolic link" } else { "not a regular file" };
            let source = io::Error::other(format!("it is {what}; move it away"));
            Err(Error::Io { action: "write", path: path.into(), source })
        }
        Ok(found) => replace(path, Some(&found), |file| file.write_all(bytes)),
        Err(_) => replace(path, None, |file| file.write_all(bytes)),
    }
}

/// What a write to a path writes to: the end of its symbolic links.
enum Target {
    /// Nothing exists there yet.
    Absent(PathBuf),
    /// A file or a directory.
    Present(PathBuf, Metadata),
    /// A pipe, a device, or a descriptor of a process: it cannot be replaced.
    Special(PathBuf),
}

impl Target {
    fn of(path: &Path) -> io::Result<Self> {
        // The system's own limit.
        const MAX_LINKS: usize = 40;
        let mut path = path.to_path_buf();
        for _ in 0..MAX_LINKS {
            // What a descriptor's link contains is not always a path.
            let absolute = std::path::absolute(&path)?;
            if ["/proc", "/dev/fd"].iter().any(|dir| absolute.starts_with(dir)) {
                return Ok(Self::Special(path));
            }
            let found = match std::fs::symlink_metadata(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::Absent(path)),
                found => found?,
            };
            if !found.is_symlink() {
                return Ok(match found.is_file() || found.is_dir() {
                    true => Self::Present(path, found),
                    false => Self::Special(path),
                });
            }
            path = folder_of(&path).join(std::fs::read_link(&path)?);
        }
        Err(rustix::io::Errno::LOOP.into())
    }
}

/// The folder that contains a path.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes a file next to `path` and renames it.
fn replace(
    path: &Path,
    old: Option<&Metadata>,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let folder = folder_of(path);
    create_dir(folder)?;
    let write = || -> io::Result<()> {
        // The replacement of a private file is private from the start.
        let mode = if old.is_some() { 0o600 } else { 0o666 };
        let mut writer = BufWriter::new(leftovers::hidden_file(folder, mode)?);
        fill(&mut writer)?;
        let temp = writer.into_inner().map_err(|e| e.into_error())?;
        if let Some(old) = old {
            keep_owner_and_mode(temp.as_file(), old)?;
        }
        temp.as_file().sync_all()?;
        temp.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(Error::io("write", path))?;
    sync_folder(folder);
    Ok(())
}

/// Gives a new file the mode of the one that it replaces and, if permitted, the owner.
fn keep_owner_and_mode(file: &File, old: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        let _ = std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()));
    }
    file.set_permissions(old.permissions())
}

/// A rename is an entry in the folder: without this it can be lost in a power failure. Some file
/// systems refuse to sync a folder, which does not fail a finished write.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Writes JSON, indented, with a final newline, atomically.
///
/// # Errors
/// [`Error::Io`] with the path.
///
/// # Panics
/// If the value has no JSON form (a map with keys that are not text), which no input can cause.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("plain data");
    write_atomically(path, format!("{text}\n").as_bytes())
}

#[cfg(test)]
mod tests;
