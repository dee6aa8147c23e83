//! Whether a file or directory can be written at a place, asked before the work whose result it will hold.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Target;
use crate::{Error, Result};

/// Refuses a place where a file cannot be written, or where writing it would destroy what is read:
/// `inputs` are files, and folders whose files are read. Files and folders that do not exist are no
/// obstacle.
///
/// # Errors
/// [`Error::Output`]: a directory, a file among the folders above it, one of the inputs by whatever name
/// (links included), or a place in one of the folders. [`Error::Io`] for links that lead in a circle.
pub fn check_output_file<'a>(
    path: &Path,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<()> {
    let refuse = |reason: String| Err(Error::Output { path: path.into(), reason });
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return refuse("a directory's name ends with `/`; name a file".into());
    }
    check_folders(path).or_else(refuse)?;
    let (target, found) = match Target::of(path).map_err(Error::io("write", path))? {
        Target::Special(_) => return Ok(()),
        Target::Present(_, found) if found.is_dir() => {
            return refuse("it is a directory; name a file".into());
        }
        Target::Present(target, found) => (target, Some(found)),
        Target::Absent(target) => (target, None),
    };
    check_folders(&target).or_else(refuse)?;
    let folder = existing_folder(&target);
    for input in inputs {
        let Ok(read) = input.metadata() else { continue };
        if found.as_ref().is_some_and(|found| is_same(found, &read)) {
            return refuse(format!(
                "it is the same file as {}, which is read; choose another file",
                input.display()
            ));
        }
        let inside = || Some(folder.canonicalize().ok()?.starts_with(input.canonicalize().ok()?));
        if read.is_dir() && inside() == Some(true) {
            return refuse(format!(
                "it lies in {}, whose files are read; choose a place outside of it",
                input.display()
            ));
        }
    }
    Ok(())
}

/// Refuses a place where no directory can be: something else is there, or among the folders above it.
///
/// # Errors
/// [`Error::Output`].
pub fn check_output_dir(path: &Path) -> Result<()> {
    let refuse = |reason: String| Err(Error::Output { path: path.into(), reason });
    match path.symlink_metadata() {
        // A link that leads nowhere is something else too.
        Ok(_) if !path.is_dir() => {
            refuse("it exists and is not a directory; choose another directory".into())
        }
        Ok(_) => Ok(()),
        Err(_) => check_folders(path).or_else(refuse),
    }
}

/// The nearest folder above a path that exists.
fn existing_folder(path: &Path) -> &Path {
    let above = path.ancestors().skip(1).find(|folder| folder.symlink_metadata().is_ok());
    above.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether folders could be made above `path`; if not, why.
fn check_folders(path: &Path) -> std::result::Result<(), String> {
    let above = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    for folder in above {
        match folder.metadata() {
            Ok(found) if found.is_dir() => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !folder.is_symlink() => {}
            // Below a file: the file itself is named one folder further up.
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {}
            _ => {
                let folder = folder.display();
                return Err(format!("{folder} is not a directory; choose another place"));
            }
        }
    }
    Ok(())
}

/// Whether both are one file under whatever names. A device may well be read and written.
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn places_that_hold_no_file_are_refused_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("file"), "mine").unwrap();
        symlink("folder", at("to-folder")).unwrap();
        symlink("absent", at("dangling")).unwrap();
        symlink("circle", at("circle")).unwrap();
        symlink("/dev/null", at("to-device")).unwrap();
        for (name, words) in [
            ("folder", "it is a directory"),
            ("to-folder", "it is a directory"),
            ("new/", "ends with `/`"),
            ("file/below", "/file is not a directory"),
            ("file/far/below", "/file is not a directory"),
            ("dangling/below", "/dangling is not a directory"),
            ("circle", "circle"),
            ("circle/below", "/circle is not a directory"),
        ] {
            let error = check_output_file(&at(name), []).unwrap_err().to_string();
            assert!(error.contains(words), "{name}: {error}");
        }
        for name in ["file", "new", "new/folders/file", "dangling", "to-device", "folder/new"] {
            check_output_file(&at(name), []).unwrap();
        }
        for name in ["file", "dangling", "file/below", "circle", "to-device"] {
            let error = check_output_dir(&at(name)).unwrap_err().to_string();
            assert!(error.contains("not a directory"), "{name}: {error}");
        }
        for name in ["folder", "to-folder", "new", "new/folder/"] {
            check_output_dir(&at(name)).unwrap();
        }
        assert_eq!(fs::read(at("file")).unwrap(), b"mine");
    }

    #[test]
    fn what_is_read_is_not_overwritten_by_any_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("data/deep")).unwrap();
        fs::write(at("data/in"), "mine").unwrap();
        fs::write(at("other"), "other").unwrap();
        fs::hard_link(at("data/in"), at("hard")).unwrap();
        symlink("data/in", at("soft")).unwrap();
        symlink("data", at("folder")).unwrap();
        let input = at("data/in");
        for name in ["data/in", "data/../data/in", "hard", "soft", "folder/in"] {
            let error = check_output_file(&at(name), [&*at("other"), &*input]).unwrap_err();
            assert!(error.to_string().contains("the same file as"), "{name}: {error}");
        }
        for name in ["data/in", "data/new", "data/deep/new", "data/new/new", "folder/new"] {
            let error = check_output_file(&at(name), [&*at("data")]).unwrap_err().to_string();
            assert!(error.contains("whose files are read") || name == "data/in", "{name}: {error}");
        }
        for name in ["new", "other", "database"] {
            check_output_file(&at(name), [&*at("data"), &*input, &*at("absent")]).unwrap();
        }
        check_output_file(Path::new("/dev/null"), [Path::new("/dev/null")]).unwrap();
    }
}
