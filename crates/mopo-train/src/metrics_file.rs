//! Writing `metrics.jsonl`: one line per step, truncated on resuming, so that no step occurs twice.
//!
//! It is a log: nothing that is trained depends on it. If it is missing, damaged or not a regular
//! file, rows are lost with a warning, but never the run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mopo_report::MetricsRow;

use crate::{Error, Result, RunDir};

/// The file's name in a run.
pub(crate) const METRICS: &str = "metrics.jsonl";

/// Where the rows to keep end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keep<'a> {
    /// At the length recorded in a checkpoint.
    Bytes(u64),
    /// Before the first row of this phase, which starts again.
    Before(&'a str),
}

/// The open file.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    file: File,
    path: PathBuf,
    len: u64,
}

impl MetricsFile {
    /// Opens the file and truncates it. Also returns warnings.
    ///
    /// # Errors
    /// Neither the existing file nor a new one can be written.
    pub(crate) fn open(run: &RunDir, keep: Keep<'_>) -> Result<(Self, Vec<String>)> {
        let path = run.join(METRICS);
        let mut warnings = Vec::new();
        let (file, rows) = match open_plain(&path) {
            Ok(found) => found,
            Err(reason) => {
                let aside = move_aside(&path)?;
                warnings.push(format!(
                    "warning: {}: {reason}; it was moved to {}, and a new log starts",
                    path.display(),
                    aside.display()
                ));
                open_plain(&path).map_err(Error::io("opening", &path))?
            }
        };
        let whole_lines = rows.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let len = match keep {
            Keep::Bytes(len) if ends_a_line(&rows, len) => len,
            Keep::Bytes(len) if len <= rows.len() as u64 => {
                let rows = &rows[..len as usize];
                warnings.push(format!(
                    "warning: {} was changed since the checkpoint: no line ends at its byte {len}; the \
                     line there is cut off, and the policy is not affected",
                    path.display()
                ));
                rows.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1)
            }
            Keep::Bytes(len) => {
                warnings.push(format!(
                    "warning: {} has {} bytes, but the checkpoint was written at {len}: rows are \
                     missing from curves and constraints; the policy is not affected",
                    path.display(),
                    rows.len()
                ));
                whole_lines as u64
            }
            Keep::Before(phase) => first_of(&rows[..whole_lines], phase) as u64,
        };
        file.set_len(len).map_err(Error::io("cutting", &path))?;
        Ok((Self { file, path, len }, warnings))
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn append(&mut self, row: &MetricsRow) -> Result<()> {
        let mut line =
            serde_json::to_vec(row).map_err(|e| Error::corrupt(&self.path, e.to_string()))?;
        line.push(b'\n');
        let written =
            self.file.seek(SeekFrom::Start(self.len)).and_then(|_| self.file.write_all(&line));
        if let Err(e) = written {
            // Remove a partial line.
            let _ = self.file.set_len(self.len);
            return Err(Error::io("writing", &self.path)(e));
        }
        self.len += line.len() as u64;
        Ok(())
    }

    /// Flushes to disk: a checkpoint must not refer to lines that are not there.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("flushing", &self.path))
    }
}

/// The file and its content, or a new file. Only a regular file of this run is opened, no links.
fn open_plain(path: &Path) -> io::Result<(File, Vec<u8>)> {
    use std::os::unix::fs::MetadataExt;
    let rows = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e),
        Ok(found) if found.is_symlink() => return Err(io::Error::other("it is a symbolic link")),
        Ok(found) if !found.is_file() => return Err(io::Error::other("it is not a regular file")),
        Ok(found) => {
            let rows = fs::read(path)?;
            if found.nlink() > 1 {
                // A hard link, from a copy of the run: the other run's file must not be truncated.
                let dir = path.parent().unwrap_or(Path::new("."));
                let mut copy = tempfile::Builder::new().prefix(".tmp").tempfile_in(dir)?;
                copy.write_all(&rows)?;
                copy.as_file().set_permissions(found.permissions())?;
                copy.persist(path).map_err(|e| e.error)?;
            }
            rows
        }
    };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    Ok((file, rows))
}

/// Whether rows end after so many bytes, as they do where a checkpoint was written.
fn ends_a_line(rows: &[u8], len: u64) -> bool {
    let before = len.checked_sub(1).and_then(|at| usize::try_from(at).ok());
    before.is_none_or(|at| rows.get(at) == Some(&b'\n'))
}

/// Renames what is in the way.
fn move_aside(path: &Path) -> Result<PathBuf> {
    let name = |n: usize| path.with_extension(format!("jsonl.aside-{n}"));
    let is_free = |path: &PathBuf| fs::symlink_metadata(path).is_err();
    let aside = (1..).map(name).find(is_free).expect("there are many numbers");
    fs::rename(path, &aside).map_err(Error::io("moving aside", path))?;
    Ok(aside)
}

/// Where the first row of a phase begins, or the end of the file.
fn first_of(rows: &[u8], phase: &str) -> usize {
    let mut at = 0;
    for line in rows.split_inclusive(|byte| *byte == b'\n') {
        let row = serde_json::from_slice::<MetricsRow>(line);
        if row.is_ok_and(|row| row.phase == phase) {
            return at;
        }
        at += line.len();
    }
    at
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use mopo_report::{Metrics, MetricsLog, Quantity};

    use super::*;
    use crate::run_dir::test_run;

    fn row(phase: &str, step: usize) -> MetricsRow {
        let metrics = Metrics::from([(Quantity::LOSS, step as f64)]);
        MetricsRow { phase: phase.into(), step, metrics }
    }

    /// A file with two rows of SFT and two of MOPO; the lengths after each row.
    fn four_rows(run: &RunDir) -> Vec<u64> {
        let (mut file, warnings) = MetricsFile::open(run, Keep::Before("warm_start")).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let rows = [row("warm_start", 0), row("warm_start", 1), row("mopo", 0), row("mopo", 1)];
        rows.map(|row| {
            file.append(&row).unwrap();
            file.len()
        })
        .to_vec()
    }

    fn steps(run: &RunDir) -> Vec<(String, usize)> {
        let rows = MetricsLog::read(&run.join(METRICS)).unwrap().rows;
        rows.into_iter().map(|row| (row.phase, row.step)).collect()
    }

    #[test]
    fn it_is_cut_at_a_checkpoint_or_before_a_phase() {
        let (_tmp, run) = test_run();
        let lens = four_rows(&run);
        MetricsFile::open(&run, Keep::Bytes(lens[2])).unwrap();
        assert_eq!(steps(&run).len(), 3);
        let (mut file, _) = MetricsFile::open(&run, Keep::Before("mopo")).unwrap();
        assert_eq!(file.len(), lens[1]);
        file.append(&row("mopo", 0)).unwrap();
        assert_eq!(steps(&run).last(), Some(&("mopo".to_string(), 0)));
        MetricsFile::open(&run, Keep::Before("warm_start")).unwrap();
        assert!(steps(&run).is_empty());
    }

    #[test]
    fn a_missing_short_or_damaged_file_is_a_warning_and_whole_lines_are_kept() {
        let (_tmp, run) = test_run();
        let lens = four_rows(&run);
        let whole = fs::read(run.join(METRICS)).unwrap();
        let half = &whole[..lens[1] as usize + 7];
        for (content, left) in [(None, 0), (Some(half), 2), (Some(&b"no rows"[..]), 0)] {
            match content {
                None => fs::remove_file(run.join(METRICS)).unwrap(),
                Some(bytes) => fs::write(run.join(METRICS), bytes).unwrap(),
            }
            let (mut file, warnings) = MetricsFile::open(&run, Keep::Bytes(lens[3])).unwrap();
            assert!(warnings.len() == 1 && warnings[0].contains(METRICS), "{warnings:?}");
            file.append(&row("mopo", 2)).unwrap();
            assert_eq!(steps(&run).len(), left + 1);
        }
        // Longer than it was, but with other lines.
        fs::write(run.join(METRICS), [b"{}\n", &whole[..]].concat()).unwrap();
        let (mut file, warnings) = MetricsFile::open(&run, Keep::Bytes(lens[2])).unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("no line ends"), "{warnings:?}");
        file.append(&row("mopo", 1)).unwrap();
        assert_eq!(steps(&run).last(), Some(&("mopo".to_string(), 1)));
        assert_eq!(steps(&run).len(), 3);
        // Bytes that are not UTF-8 stay where they are.
        let mut damaged = whole.clone();
        damaged[30] = 0xff;
        fs::write(run.join(METRICS), &damaged).unwrap();
        let (_, warnings) = MetricsFile::open(&run, Keep::Before("mopo")).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(fs::read(run.join(METRICS)).unwrap(), damaged[..lens[1] as usize]);
    }

    #[test]
    fn files_that_are_not_only_the_runs_own_are_left_unchanged() {
        let (tmp, run) = test_run();
        let (path, mine) = (run.join(METRICS), tmp.path().join("mine"));
        let check_new = |n_warnings: usize| {
            let (mut file, warnings) = MetricsFile::open(&run, Keep::Bytes(0)).unwrap();
            file.append(&row("mopo", 0)).unwrap();
            assert_eq!(warnings.len(), n_warnings, "{warnings:?}");
            assert_eq!(steps(&run), [("mopo".to_string(), 0)]);
            fs::remove_file(&path).unwrap();
        };
        fs::write(&mine, "mine").unwrap();
        symlink(&mine, &path).unwrap();
        check_new(1);
        // A dangling link, a circular link, a folder.
        symlink(tmp.path().join("nothing"), &path).unwrap();
        check_new(1);
        symlink(&path, &path).unwrap();
        check_new(1);
        fs::create_dir(&path).unwrap();
        check_new(1);
        assert!(!tmp.path().join("nothing").exists());
        // A hard link: the file under the other name is unchanged.
        fs::hard_link(&mine, &path).unwrap();
        check_new(0);
        assert_eq!(fs::read(&mine).unwrap(), b"mine");
        let mut aside: Vec<_> = fs::read_dir(run.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("aside"))
            .collect();
        aside.sort();
        assert_eq!(aside.len(), 4, "{aside:?}");
        assert_eq!(fs::read_link(run.join(&aside[0])).unwrap(), mine);
    }
}
