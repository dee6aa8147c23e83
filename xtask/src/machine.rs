//! Describes the machine on a results page, and computes medians.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Processor, cores, memory and load, as far as Linux tells.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok())
        .map_or("unknown memory".into(), |kib| format!("{:.0} GiB of memory", kib / 1048576.0));
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("unknown");
    format!("{model}, {cores} cores, {memory}; load average {load}")
}

/// The day in UTC, and the commit with `-dirty` where files differ from it.
pub(crate) fn date_and_commit() -> String {
    let date = said("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(|| "unknown day".into());
    let commit = commit().unwrap_or_else(|| "unknown".into());
    format!("{date}, commit {commit}")
}

/// Refuses to measure for a page where the commit that it would name is not what is measured.
pub(crate) fn ensure_committed() -> Result<()> {
    let commit = commit().context("--out: the page names a commit, and git finds none here")?;
    ensure!(
        !commit.ends_with("-dirty"),
        "--out: there are uncommitted changes, and the page would name a commit without them; commit them, \
         or leave out --out"
    );
    Ok(())
}

fn commit() -> Option<String> {
    said("git", &["describe", "--always", "--dirty", "--exclude=*"])
}

/// Whether the repository has a commit; None where that cannot be said, as without its history.
pub(crate) fn has_commit(commit: &str) -> Option<bool> {
    // Its own, and not one that the files were unpacked in
    said("git", &["ls-files", "--error-unmatch", "Cargo.toml"])?;
    if said("git", &["rev-parse", "--is-shallow-repository"])? != "false" {
        return None;
    }
    Some(said("git", &["cat-file", "-t", commit]).as_deref() == Some("commit"))
}

/// What a program prints in the repository, if it succeeds and prints something.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).current_dir(crate::cargo::root()).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    (out.status.success() && !text.is_empty()).then_some(text)
}

/// The middle value of at least one; of an even number the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_median() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0, 10.0]), 2.5);
    }
}
