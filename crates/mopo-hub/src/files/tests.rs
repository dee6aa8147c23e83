//! What a write does to existing files of every kind.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;

fn folder() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    (dir, move |name: &str| path.join(name))
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn n_entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn writes_into_new_folders_and_replaces() {
    let (_dir, at) = folder();
    let path = at("a/b/c.txt");
    write_atomically(&path, b"one").unwrap();
    write_atomically(&path, b"two").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    assert_eq!(n_entries(path.parent().unwrap()), 1);
    let error = write_atomically(&path.join("below-a-file"), b"x").unwrap_err().to_string();
    assert!(error.contains("c.txt"), "{error}");
    let error = write_atomically(&at("a/b"), b"x").unwrap_err().to_string();
    assert!(error.contains("a/b"), "{error}");
    assert_eq!(n_entries(&at("a")), 1);
}

#[test]
fn a_write_that_fails_midway_changes_nothing() {
    let (dir, at) = folder();
    let path = at("c.txt");
    write_atomically(&path, b"whole").unwrap();
    let failing = |file: &mut dyn Write| {
        file.write_all(b"half")?;
        Err(io::Error::other("the disk is full"))
    };
    let error = write_atomically_with(&path, failing).unwrap_err().to_string();
    assert!(error.contains("c.txt") && error.contains("full"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    assert_eq!(n_entries(dir.path()), 1);
}

#[test]
fn a_mode_stays_and_a_new_file_has_an_ordinary_one() {
    let (_dir, at) = folder();
    std::fs::write(at("plain"), "").unwrap();
    write_atomically(&at("new"), b"x").unwrap();
    assert_eq!(mode(&at("new")), mode(&at("plain")));
    for kept in [0o600, 0o640, 0o444, 0o755] {
        std::fs::set_permissions(at("new"), PermissionsExt::from_mode(kept)).unwrap();
        write_atomically(&at("new"), b"again").unwrap();
        assert_eq!((mode(&at("new")), read(&at("new")).unwrap()), (kept, b"again".to_vec()));
        write_own_file(&at("new"), b"own").unwrap();
        assert_eq!((mode(&at("new")), read(&at("new")).unwrap()), (kept, b"own".to_vec()));
    }
}

#[test]
fn links_are_followed_to_their_end_and_stay() {
    let (dir, at) = folder();
    std::fs::create_dir(at("disk")).unwrap();
    std::fs::write(at("disk/real"), "old").unwrap();
    std::fs::set_permissions(at("disk/real"), PermissionsExt::from_mode(0o600)).unwrap();
    symlink("disk/real", at("relative")).unwrap();
    symlink(at("disk/real"), at("absolute")).unwrap();
    symlink("relative", at("of-a-link")).unwrap();
    symlink("disk/absent", at("dangling")).unwrap();
    for (i, link) in ["relative", "absolute", "of-a-link"].into_iter().enumerate() {
        write_atomically(&at(link), &[i as u8]).unwrap();
        assert!(at(link).is_symlink());
        assert_eq!(
            (read(&at("disk/real")).unwrap(), mode(&at("disk/real"))),
            (vec![i as u8], 0o600)
        );
    }
    write_atomically(&at("dangling"), b"new").unwrap();
    assert!(at("dangling").is_symlink());
    assert_eq!(read(&at("disk/absent")).unwrap(), b"new");
    symlink("circle", at("circle")).unwrap();
    let error = write_atomically(&at("circle"), b"x").unwrap_err().to_string();
    assert!(error.contains("circle"), "{error}");
    assert_eq!((n_entries(&at("disk")), n_entries(dir.path())), (2, 6));
}

#[test]
fn pipes_and_devices_are_written_through() {
    let (dir, at) = folder();
    let pipe = at("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    symlink("pipe", at("link")).unwrap();
    for path in ["pipe", "link"] {
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read(pipe).unwrap()
        });
        write_atomically(&at(path), b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(!pipe.metadata().unwrap().is_file() && at("link").is_symlink());
    }
    write_atomically(Path::new("/dev/null"), b"away").unwrap();
    assert!(!Path::new("/dev/null").metadata().unwrap().is_file());

    // A descriptor of a regular file: appended after what its owner has written.
    let file = at("redirected");
    std::fs::write(&file, "before,").unwrap();
    let open = OpenOptions::new().append(true).open(&file).unwrap();
    use std::os::fd::AsRawFd;
    for name in
        [format!("/proc/self/fd/{}", open.as_raw_fd()), format!("/dev/fd/{}", open.as_raw_fd())]
    {
        write_atomically(Path::new(&name), b"after.").unwrap();
    }
    assert_eq!(read(&file).unwrap(), b"before,after.after.");
    assert_eq!(n_entries(dir.path()), 3);
}

#[test]
fn pipes_devices_and_endless_files_are_not_read() {
    let (_dir, at) = folder();
    let pipe = at("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    symlink("/dev/zero", at("zeros")).unwrap();
    File::create(at("long")).unwrap().set_len(1 << 40).unwrap();
    for (name, words) in
        [("pipe", "not a regular file"), ("zeros", "not a regular file"), ("long", "256 MiB")]
    {
        let error = read(&at(name)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(words), "{error}");
        assert!(read_json::<serde_json::Value>(&at(name), "x").is_err());
    }
}

#[test]
fn what_a_link_in_ones_own_directory_points_to_is_not_written() {
    let (_dir, at) = folder();
    std::fs::write(at("theirs"), "theirs").unwrap();
    symlink("theirs", at("mine")).unwrap();
    let error = write_own_file(&at("mine"), b"x").unwrap_err().to_string();
    assert!(error.contains("mine") && error.contains("symbolic link"), "{error}");
    assert_eq!(read(&at("theirs")).unwrap(), b"theirs");
    let error = write_own_file(Path::new("/dev/null"), b"x").unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
    write_own_file(&at("new"), b"new").unwrap();
    assert_eq!(read(&at("new")).unwrap(), b"new");
}

#[test]
fn json_that_does_not_parse_names_the_file_and_the_line() {
    let (_dir, at) = folder();
    let path = at("config.json");
    write_json(&path, &serde_json::json!({ "a": 1 })).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n  \"a\": 1\n}\n");
    std::fs::write(&path, "{\n  \"a\": ").unwrap();
    let message =
        || read_json::<serde_json::Value>(&path, "a test's file").unwrap_err().to_string();
    for words in ["config.json", "line 2", "expected a test's file"] {
        assert!(message().contains(words), "{}", message());
    }
    // Deeply nested, and long as a sparse file: neither exhausts stack or memory.
    std::fs::write(&path, "[".repeat(100_000)).unwrap();
    assert!(message().contains("recursion limit"), "{}", message());
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(message().contains("more than 64 MiB"), "{}", message());
}
