//! Directories that are written whole or not at all: filled under a hidden name next to their
//! place, then renamed. An existing directory is exchanged with the new one in one call.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

use super::leftovers::{hidden_dir, sweep_earlier_exports};
use super::{Target, folder_of, keep_owner_and_mode, sync_folder};
use crate::{Error, Result, create_dir};

/// A directory being written. It is removed if dropped before [`place`](Self::place).
#[derive(Debug)]
pub struct DirWriter {
    dir: TempDir,
    /// Held while the directory has its hidden name.
    lock: File,
    target: PathBuf,
}

impl DirWriter {
    /// Begins a directory for `target`; missing parents are created. A symbolic link at `target`
    /// is kept: the directory that it points to will be replaced.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, also if it exists and is not a directory.
    pub fn new(target: &Path) -> Result<Self> {
        let target = match Target::of(target).map_err(Error::io("write", target))? {
            Target::Absent(path) => path,
            Target::Present(path, old) if old.is_dir() => path,
            Target::Present(..) | Target::Special(_) => {
                let source = io::ErrorKind::NotADirectory.into();
                return Err(Error::Io { action: "write", path: target.into(), source });
            }
        };
        let folder = folder_of(&target);
        create_dir(folder)?;
        let (dir, lock) = hidden_dir(folder).map_err(Error::io("write beside", &target))?;
        Ok(Self { dir, lock, target })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Moves the directory into place. An existing directory is replaced: at every moment one of
    /// the two
    /// is at the target, whole. Its mode is kept, and those of files with the same names.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; the existing directory is then unchanged.
    pub fn place(self) -> Result<()> {
        let Self { dir, lock, target } = self;
        let placed = place(dir.path(), &target);
        placed.map_err(Error::io("write", &target))?;
        // What has the hidden name now, if anything, is the old directory.
        drop(lock);
        let old = dir.keep();
        match fs::remove_dir_all(&old) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove what was replaced,", &old)(e));
            }
            _ => sweep_earlier_exports(&target),
        }
        Ok(())
    }
}

fn place(new: &Path, target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::rename(new, target)?,
        Err(e) => return Err(e),
        Ok(_) => {
            keep_modes(target, new)?;
            exchange(new, target)?;
        }
    }
    sync_folder(folder_of(target));
    Ok(())
}

/// Removes a directory with all that is in it. It is gone at once: killed midway, nothing is left under
/// its name, and the rest goes with other leftovers.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn remove_dir_whole(dir: &Path) -> Result<()> {
    let remove = || -> io::Result<()> {
        let (hidden, _lock) = hidden_dir(folder_of(dir))?;
        fs::rename(dir, hidden.path())?;
        hidden.close()
    };
    remove().map_err(Error::io("remove", dir))
}

/// Exchanges two directories in one call, or in two steps on file systems that cannot.
fn exchange(new: &Path, target: &Path) -> io::Result<()> {
    match renameat_with(CWD, new, CWD, target, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => exchange_in_steps(new, target),
        Err(e) => Err(e.into()),
    }
}

/// Between two of its renames neither directory is at `target`. The old one then does not have the
/// name of a leftover, so that a kill does not lose it.
fn exchange_in_steps(new: &Path, target: &Path) -> io::Result<()> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".old-{}", std::process::id()));
    let old = target.with_file_name(name);
    fs::rename(target, &old)?;
    fs::rename(new, target).inspect_err(|_| drop(fs::rename(&old, target)))?;
    fs::rename(&old, new)
}

/// Gives `new` and its contents the modes of what has the same names in `old`.
fn keep_modes(old: &Path, new: &Path) -> io::Result<()> {
    let (Ok(before), Ok(after)) = (fs::symlink_metadata(old), fs::symlink_metadata(new)) else {
        return Ok(());
    };
    if after.is_dir() && before.is_dir() {
        for entry in fs::read_dir(new)? {
            let name = entry?.file_name();
            keep_modes(&old.join(&name), &new.join(&name))?;
        }
    }
    // Last: a directory may become read-only.
    if after.file_type() == before.file_type() && !after.is_symlink() {
        keep_owner_and_mode(&File::open(new)?, &before)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(target: &Path, text: &str) -> Result<()> {
        let writer = DirWriter::new(target)?;
        fs::write(writer.path().join("a"), text).unwrap();
        writer.place()
    }

    fn n_entries(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_directory_is_placed_and_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("new/x");
        write(&target, "one").unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"one");
        fs::write(target.join("only-in-the-first"), "").unwrap();
        write(&target, "two").unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"two");
        assert_eq!((n_entries(&target), n_entries(target.parent().unwrap())), (1, 1));
    }

    #[test]
    fn a_removed_directory_is_gone_with_all_that_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        write(&target, "one").unwrap();
        fs::create_dir(target.join("below")).unwrap();
        remove_dir_whole(&target).unwrap();
        assert_eq!(n_entries(dir.path()), 0);
        let error = remove_dir_whole(&target).unwrap_err().to_string();
        assert!(error.contains("/x"), "{error}");
        // What a kill between the two steps leaves goes with the next sweep.
        let (hidden, lock) = hidden_dir(dir.path()).unwrap();
        write(&target, "one").unwrap();
        fs::rename(&target, hidden.path()).unwrap();
        let _ = hidden.keep();
        drop(lock);
        crate::sweep_leftovers(dir.path());
        assert_eq!(n_entries(dir.path()), 0);
    }

    #[test]
    fn what_is_dropped_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        write(&target, "one").unwrap();
        let writer = DirWriter::new(&target).unwrap();
        fs::write(writer.path().join("a"), "two").unwrap();
        drop(writer);
        assert_eq!(fs::read(target.join("a")).unwrap(), b"one");
        assert_eq!(n_entries(dir.path()), 1);
    }

    #[test]
    fn links_stay_links_and_modes_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("disk/real"), dir.path().join("link"));
        write(&real, "one").unwrap();
        symlink("disk/real", &link).unwrap();
        fs::set_permissions(&real, PermissionsExt::from_mode(0o700)).unwrap();
        fs::set_permissions(real.join("a"), PermissionsExt::from_mode(0o600)).unwrap();
        write(&link, "two").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(real.join("a")).unwrap(), b"two");
        assert_eq!((mode(&real), mode(&real.join("a"))), (0o700, 0o600));
        assert_eq!((n_entries(dir.path()), n_entries(&dir.path().join("disk"))), (2, 1));
    }

    #[test]
    fn a_file_is_not_replaced_by_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        fs::write(&target, "mine").unwrap();
        let error = write(&target, "one").unwrap_err().to_string();
        assert!(error.contains("/x"), "{error}");
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        assert_eq!(n_entries(dir.path()), 1);
    }

    #[test]
    fn directories_are_exchanged_in_one_call_or_in_steps() {
        for exchange in [exchange, exchange_in_steps] {
            let dir = tempfile::tempdir().unwrap();
            let (new, target) = (dir.path().join("new"), dir.path().join("x"));
            for (path, text) in [(&new, "new"), (&target, "old")] {
                fs::create_dir(path).unwrap();
                fs::write(path.join("a"), text).unwrap();
            }
            exchange(&new, &target).unwrap();
            assert_eq!(fs::read(target.join("a")).unwrap(), b"new");
            assert_eq!(fs::read(new.join("a")).unwrap(), b"old");
            assert_eq!(n_entries(dir.path()), 2);
        }
    }

    #[test]
    fn what_earlier_versions_left_of_a_directory_goes() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        // No process has this number; process 1 always exists.
        for name in [".x.new-4194999", ".x.old-4194999", ".x.new-1", ".y.new-4194999"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        write(&target, "one").unwrap();
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".x.new-1", ".y.new-4194999", "x"]);
    }
}
