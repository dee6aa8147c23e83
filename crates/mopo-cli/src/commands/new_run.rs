//! New runs, of policies or of a reward model: where they go, what is recorded of them, and what is left
//! of one that failed.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use mopo_train::RunRecord;

use crate::args::RunArgs;

/// Directory and record of a run that a configuration called `name` begins.
pub(super) fn begin(
    args: &RunArgs,
    below: &str,
    name: &str,
    seed: u64,
) -> Result<(PathBuf, RunRecord)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let path = match &args.out {
        Some(path) => path.clone(),
        None => Path::new(below).join(format!("{name}-{}", stamp(now))),
    };
    // A relative path would mean another file to a resumed run elsewhere.
    let data = args
        .data
        .as_ref()
        .map(|d| std::path::absolute(d).with_context(|| format!("the path {}", d.display())))
        .transpose()?;
    let record = RunRecord {
        mopo_version: env!("CARGO_PKG_VERSION").into(),
        burn_version: "0.21.0".into(),
        device: args.device.to_string(),
        seed,
        started: now,
        command: std::env::args().collect(),
        data,
        strict: args.strict,
        hashes: Default::default(),
    };
    Ok((path, record))
}

/// A new run whose data could not even be read leaves nothing behind; every other one can go on.
pub(super) fn after_failure(
    error: anyhow::Error,
    path: &Path,
    is_new: bool,
    is_prepared: bool,
    command: &str,
) -> anyhow::Error {
    if is_new && !is_prepared && std::fs::remove_dir_all(path).is_ok() {
        return error;
    }
    error.context(format!("training stopped; to go on: {command} --resume {}", path.display()))
}

/// UTC as 20261123-194501.
fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days since 1970-01-01, in 400-year eras that begin on 1 March.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}-{h:02}{m:02}{s:02}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn stamps_are_calendar_dates() {
        assert_eq!(super::stamp(0), "19700101-000000");
        assert_eq!(super::stamp(951_827_696), "20000229-123456");
        assert_eq!(super::stamp(1_795_462_245), "20261123-193045");
    }
}
