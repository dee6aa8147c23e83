//! System calls of a command on its files, counted with strace, and one of them answered with an error or with SIGKILL.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::process::Run;

/// Calls whose file is an open one.
const ON_OPEN: &[&str] = &[
    "write",
    "pwrite64",
    "writev",
    "read",
    "pread64",
    "readv",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fallocate",
    "close",
    "flock",
    "copy_file_range",
    "sendfile",
    "getdents64",
    "fchmod",
];
/// Calls whose file is named.
const ON_NAMED: &[&str] = &[
    "openat",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "link",
    "linkat",
    "statx",
    "newfstatat",
    "readlink",
];
/// Those that change no file.
const ONLY_READ: &[&str] = &[
    "read",
    "pread64",
    "readv",
    "close",
    "flock",
    "getdents64",
    "statx",
    "newfstatat",
    "readlink",
];

/// A call on a file of the command's directory.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) name: String,
    /// Among the calls of this name of its thread, from 1: what strace counts.
    pub(super) nth: usize,
    pub(super) changes: bool,
    /// The file, relative to the directory.
    pub(super) file: String,
}

/// A run under strace that records calls.
pub(super) fn recorded(run: &Run, log: &Path) -> Run {
    traced(run, log, &[ON_OPEN, ON_NAMED].concat().join(","))
}

/// A run in which one call ends otherwise: `what` is in the words of strace, such as `error=EIO` or `signal=KILL`.
pub(super) fn injected(run: &Run, log: &Path, call: &Call, what: &str) -> Run {
    let mut run = traced(run, log, &call.name);
    let inject = format!("inject={}:{what}:when={}", call.name, call.nth);
    run.wrapper.extend(["-e".into(), inject]);
    run
}

fn traced(run: &Run, log: &Path, calls: &str) -> Run {
    let log = log.display().to_string();
    let trace = format!("trace={calls}");
    let words = [
        "strace",
        "-f",
        "-qq",
        "-y",
        "--seccomp-bpf",
        "-s",
        "1",
        "-e",
        "signal=none",
        "-o",
        &log,
        "-e",
        &trace,
    ];
    run.clone().wrapped(words)
}

/// The calls on files of `dir` that a log of [`recorded`] has.
pub(super) fn calls(log: &Path, dir: &Path) -> Result<Vec<Call>> {
    let text = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    Ok(parse(&String::from_utf8_lossy(&text), &dir.display().to_string()))
}

fn parse(log: &str, dir: &str) -> Vec<Call> {
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    let mut all = vec![];
    for line in log.lines() {
        let Some((pid, name, rest)) = split(line) else { continue };
        let nth = counts.entry((pid, name)).or_default();
        *nth += 1;
        if let Some(file) = file(name, rest, dir) {
            let changes = match name {
                "openat" => rest.contains("O_CREAT") || rest.contains("O_TRUNC"),
                _ => !ONLY_READ.contains(&name),
            };
            all.push(Call { name: name.into(), nth: *nth, changes, file });
        }
    }
    all
}

/// The files of `dir` whose calls were answered with an error, if nothing else was: strace counts the calls of each thread,
/// so that of another one may have been hit too, on a library or on the pipe of an error message.
pub(super) fn injected_files(log: &Path, dir: &Path) -> Option<Vec<String>> {
    let text = String::from_utf8_lossy(&fs::read(log).ok()?).into_owned();
    let dir = dir.display().to_string();
    let mut unfinished: HashMap<&str, (&str, &str)> = HashMap::new();
    let mut found = vec![];
    for line in text.lines() {
        if let Some((pid, name, rest)) = split(line) {
            unfinished.insert(pid, (name, rest));
        }
        if line.contains("(INJECTED)") {
            let (name, rest) = unfinished.get(line.split_whitespace().next()?)?;
            found.push(file(name, rest, &dir)?);
        }
    }
    (!found.is_empty()).then_some(found)
}

/// Process, call, and what follows its bracket.
fn split(line: &str) -> Option<(&str, &str, &str)> {
    let (pid, call) = line.split_once(' ')?;
    let (name, rest) = call.trim_start().split_once('(')?;
    (!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        .then_some((pid, name, rest))
}

fn file(name: &str, rest: &str, dir: &str) -> Option<String> {
    if ON_OPEN.contains(&name) {
        let path = rest.split_once('<')?.1.split_once('>')?.0;
        let below = path.strip_prefix(dir)?;
        return (below.is_empty() || below.starts_with('/'))
            .then(|| below.trim_start_matches('/').into());
    }
    let path = rest.split('"').nth(1)?;
    // Relative to a directory that is open, mostly the current one.
    let open = rest
        .split_once('<')
        .and_then(|(before, rest)| (!before.contains('"')).then(|| rest.split_once('>')).flatten());
    let whole = match (path.starts_with('/'), open) {
        (true, _) => path.to_owned(),
        (false, Some((open, _))) => format!("{open}/{path}"),
        (false, None) => format!("{dir}/{path}"),
    };
    let below = whole.strip_prefix(dir)?;
    (below.is_empty() || below.starts_with('/')).then(|| below.trim_start_matches('/').into())
}

/// The files that were opened for reading, each once.
pub(super) fn files_read(log: &Path, dir: &Path) -> Result<Vec<String>> {
    let text = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    let (text, dir) = (String::from_utf8_lossy(&text).into_owned(), dir.display().to_string());
    let opened = text.lines().filter_map(|line| {
        let (_, name, rest) = split(line)?;
        let reads = name == "openat"
            && rest.contains("O_RDONLY")
            && !rest.contains("O_DIRECTORY")
            && !rest.contains("= -1");
        reads.then(|| file(name, rest, &dir)).flatten()
    });
    let mut files: Vec<String> = opened.collect();
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"7  openat(AT_FDCWD</w/3>, "/etc/ld.so.cache", O_RDONLY|O_CLOEXEC) = 3</etc/ld.so.cache>
7  read(3</etc/ld.so.cache>, "x"..., 832) = 832
7  openat(AT_FDCWD</w/3>, "in.json", O_RDONLY|O_CLOEXEC) = 3</w/3/in.json>
7  read(3</w/3/in.json>, "x"..., 832) = 832
8  read(4</w/33/other>, "x"..., 1) = 1
7  write(2<pipe:[5]>, "w"..., 3) = 3
7  mkdir("out", 0777) = 0
8  openat(AT_FDCWD</w/3>, "out/a.part", O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC, 0666) = 5</w/3/out/a.part>
8  write(5</w/3/out/a.part>, "("..., 9 <unfinished ...>
7  fsync(6</w/3>) = 0
8  <... write resumed>) = -1 EIO (Input/output error) (INJECTED)
8  unlinkat(5</w/3/out/old>, "b", 0) = 0
8  renameat(AT_FDCWD</w/3>, "/w/3/out/a.part", AT_FDCWD</w/3>, "/w/3/out/a") = 0
7  +++ exited with 0 +++
"#;

    #[test]
    fn calls_are_counted_by_thread_and_only_those_on_own_files_are_kept() {
        let found: Vec<(String, usize, bool, String)> =
            parse(LOG, "/w/3").into_iter().map(|c| (c.name, c.nth, c.changes, c.file)).collect();
        let expected = [
            ("openat", 2, false, "in.json"),
            ("read", 2, false, "in.json"),
            ("mkdir", 1, true, "out"),
            ("openat", 1, true, "out/a.part"),
            ("write", 1, true, "out/a.part"),
            ("fsync", 1, true, ""),
            ("unlinkat", 1, true, "out/old/b"),
            ("renameat", 1, true, "out/a.part"),
        ];
        let expected =
            expected.map(|(name, nth, changes, file)| (name.into(), nth, changes, file.into()));
        assert_eq!(found, expected);
    }

    #[test]
    fn the_file_of_an_injected_error_and_the_files_read_are_found() {
        let log = std::env::temp_dir().join(format!("mopo-campaign-trace-{}", std::process::id()));
        fs::write(&log, LOG).unwrap();
        assert_eq!(injected_files(&log, Path::new("/w/3")), Some(vec!["out/a.part".into()]));
        assert_eq!(injected_files(&log, Path::new("/elsewhere")), None);
        // Another thread's was answered so, too.
        let more = "7  write(2<pipe:[5]>, \"w\"..., 3) = -1 EIO (Input/output error) (INJECTED)\n";
        fs::write(&log, format!("{LOG}{more}")).unwrap();
        assert_eq!(injected_files(&log, Path::new("/w/3")), None);
        fs::write(&log, LOG).unwrap();
        assert_eq!(files_read(&log, Path::new("/w/3")).unwrap(), ["in.json"]);
        fs::remove_file(&log).unwrap();
    }
}
