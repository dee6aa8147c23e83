//! Hidden files and directories of writers, and the leftovers of killed ones. A writer holds a lock
//! on its own, which ends with its process, however that ends: a hidden file without a lock is a
//! leftover.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use tempfile::{NamedTempFile, TempDir};

/// Prefix of the names of everything being written.
const PREFIX: &str = ".tmp-";
/// Random characters at the end of a name.
const RANDOM: usize = 8;
/// Prefix of unfinished directories of versions before 0.2: checkpoints and models of a run.
const EARLIER: &str = ".partial-";

/// The folders that this process has swept.
static SWEPT: LazyLock<Mutex<BTreeSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// A new hidden file in `folder` with this mode (the umask applies), locked.
pub(super) fn hidden_file(folder: &Path, mode: u32) -> io::Result<NamedTempFile> {
    sweep_once(folder);
    loop {
        let prefix = prefix();
        let mut builder = builder(&prefix);
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
        let temp = builder.tempfile_in(folder)?;
        lock(temp.as_file());
        if is_at(&temp.as_file().metadata()?, temp.path()) {
            return Ok(temp);
        }
    }
}

/// A new hidden directory in `folder`, and its lock.
pub(super) fn hidden_dir(folder: &Path) -> io::Result<(TempDir, File)> {
    sweep_once(folder);
    loop {
        let prefix = prefix();
        let mut builder = builder(&prefix);
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let dir = builder.tempdir_in(folder)?;
        let handle = match File::open(dir.path()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            handle => handle?,
        };
        lock(&handle);
        if is_at(&handle.metadata()?, dir.path()) {
            return Ok((dir, handle));
        }
    }
}

/// The process id is for people who find such a file; the lock is what matters.
fn prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

fn builder<'a>(prefix: &'a str) -> tempfile::Builder<'a, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).rand_bytes(RANDOM);
    builder
}

/// On file systems without locks leftovers stay, and writing works.
fn lock(file: &File) {
    let _ = file.try_lock();
}

/// Whether the file is still the one at `path`: it may have been swept before it was locked.
fn is_at(file: &Metadata, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (file.dev(), file.ino()))
}

/// Removes leftovers of killed writers of this program from `folder`. What another process is still
/// writing stays, and so do files of other programs.
pub fn sweep_leftovers(folder: &Path) {
    sweep_where(folder, is_ours);
}

/// The same for a directory to which only this process may write now, such as a run whose lock is
/// held: leftovers of earlier versions, which held no locks, are removed too, also in the folders
/// below.
pub fn sweep_own_directory(dir: &Path) {
    sweep_where(dir, |name| is_ours(name) || is_earlier(name));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep_own_directory(&entry.path());
        }
    }
}

/// Calls [`sweep_leftovers`] once per folder and process: a folder may have many files.
fn sweep_once(folder: &Path) {
    let real = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let is_first = SWEPT.lock().is_ok_and(|mut swept| swept.insert(real));
    if is_first {
        sweep_leftovers(folder);
    }
}

/// Ignores errors: nothing depends on a leftover being gone.
fn sweep_where(folder: &Path, is_named_so: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(&is_named_so) {
            let _ = remove_if_dead(&entry.path());
        }
    }
}

/// Removes a hidden file or directory unless its writer is alive.
fn remove_if_dead(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Ok(());
    }
    let file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    // If it was renamed into place between the two calls, it is not a leftover.
    if !is_at(&file.metadata()?, path) {
        return Ok(());
    }
    match kind.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// Removes leftovers of versions without locks that were killed while writing the directory
/// `target`, which must exist: `.<name>.new-<process>` and `.<name>.old-<process>`.
pub(super) fn sweep_earlier_exports(target: &Path) {
    let Some(name) = target.file_name().and_then(|name| name.to_str()) else { return };
    let prefixes = ["new", "old"].map(|kind| format!(".{name}.{kind}-"));
    sweep_where(super::folder_of(target), |name| {
        let process = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix.as_str()));
        process.is_some_and(|process| {
            let is_number = !process.is_empty() && process.bytes().all(|b| b.is_ascii_digit());
            is_number
                && Path::new("/proc/self").exists()
                && !Path::new("/proc").join(process).exists()
        })
    });
}

/// `.tmp-<process>-<random>`.
fn is_ours(name: &str) -> bool {
    let parts = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(process, random)| {
        !process.is_empty()
            && process.bytes().all(|b| b.is_ascii_digit())
            && random.len() == RANDOM
            && random.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

/// `.tmp<random>` and `.partial-<random>`, of versions without locks.
fn is_earlier(name: &str) -> bool {
    let random = name.strip_prefix(EARLIER).or_else(|| name.strip_prefix(".tmp"));
    random.is_some_and(|r| !r.is_empty() && r.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_dead_writer_left_goes_and_all_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // As left by killed processes: without locks.
        fs::write(at(".tmp-123-abcdEF01"), "half").unwrap();
        fs::create_dir(at(".tmp-1-abcdEF01")).unwrap();
        fs::write(at(".tmp-1-abcdEF01/part"), "half").unwrap();
        // Files of other programs or of the user.
        let others = [
            ".tmp-123-abc",
            ".tmp-12x-abcdEF01",
            ".tmp-abcdEF01",
            ".tmpabcdEF",
            "tmp-123-abcdEF01",
        ];
        for name in others {
            fs::write(at(name), "mine").unwrap();
        }
        std::os::unix::fs::symlink("elsewhere", at(".tmp-5-abcdEF01")).unwrap();
        let written = hidden_file(dir.path(), 0o600).unwrap();
        let (writing, _lock) = hidden_dir(dir.path()).unwrap();
        // Called again, since the writers themselves sweep only once.
        sweep_leftovers(dir.path());
        let mut expected: Vec<String> = others.iter().map(|name| name.to_string()).collect();
        expected.push(".tmp-5-abcdEF01".into());
        for path in [written.path(), writing.path()] {
            expected.push(path.file_name().unwrap().to_str().unwrap().into());
        }
        expected.sort();
        assert_eq!(names(dir.path()), expected);
    }

    #[test]
    fn the_first_write_into_a_folder_sweeps_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".tmp-77-abcdEF01"), "half").unwrap();
        crate::write_atomically(&dir.path().join("a"), b"whole").unwrap();
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_directory_of_ones_own_is_swept_to_the_bottom() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("checkpoints/step");
        fs::create_dir_all(below.join(".partial-AbCdEf")).unwrap();
        for name in [".tmpAbCdEf", ".tmp-9-abcdEF01", ".hidden", "whole"] {
            fs::write(below.join(name), "x").unwrap();
        }
        sweep_own_directory(dir.path());
        assert_eq!(names(&below), [".hidden", "whole"]);
    }

    #[test]
    fn what_another_process_is_writing_stays_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".tmp-4000000-abcdEF01");
        fs::write(&path, "half").unwrap();
        let other = File::open(&path).unwrap();
        other.lock().unwrap();
        sweep_leftovers(dir.path());
        assert!(path.exists());
        drop(other);
        sweep_leftovers(dir.path());
        assert!(!path.exists());
    }
}
