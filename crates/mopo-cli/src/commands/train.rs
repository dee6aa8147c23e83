//! `mopo train`: a new run, or one that goes on.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use burn::backend::Autodiff;
use mopo_ops::FusedBackend;
use mopo_train::config::{ModelSource, TokenizerConfig, preset_text};
use mopo_train::{LogProbCache, RunConfig, RunDir, RunRecord, RunResult, check_data_path};

use crate::args::TrainArgs;
use crate::device::{self, Job, dispatch};
use crate::progress::{Bars, DownloadBar};

pub(crate) fn run(args: TrainArgs) -> Result<()> {
    device::check(args.device)?;
    let (run, config, record) = match &args.resume {
        Some(dir) => RunDir::open(dir)?,
        None => start(&args)?,
    };
    eprintln!("run directory: {}", run.path().display());
    if run.is_finished() {
        println!("{} is finished already; nothing to do.", run.path().display());
        print_next(run.path());
        return Ok(());
    }
    let path = run.path().to_path_buf();
    let fresh = args.resume.is_none();
    let cache = cache(&args, &path);
    let result = dispatch(args.device, Train { run, config, record, cache })
        .map_err(|e| after_failure(e, &path, fresh))?;
    println!("{result}");
    println!("trained in {:.0} s; wrote {}:", result.seconds, path.display());
    for (name, what) in [
        ("policy/", "adapter and heads"),
        ("warm_start/", "the base model, in the hub's layout"),
        ("metrics.jsonl", "one line per step"),
        ("result.json", "the accuracies above"),
    ] {
        println!("  {name:<14} {what}");
    }
    print_next(&path);
    Ok(())
}

/// A new run whose data could not even be read leaves nothing behind; every other one can go on.
fn after_failure(error: anyhow::Error, path: &Path, fresh: bool) -> anyhow::Error {
    let prepared = RunDir::open(path).is_ok_and(|(_, _, record)| !record.hashes.is_empty());
    if fresh && !prepared && std::fs::remove_dir_all(path).is_ok() {
        return error;
    }
    error.context(format!("training stopped; to go on: mopo train --resume {}", path.display()))
}

/// The cache of log-probs: the flag's, else the environment's, else beside the run directory, so
/// that runs in one folder share it.
fn cache(args: &TrainArgs, run: &Path) -> Option<LogProbCache> {
    if args.no_cache {
        return None;
    }
    let named = args.cache.clone().or_else(|| {
        std::env::var_os("MOPO_CACHE").filter(|dir| !dir.is_empty()).map(PathBuf::from)
    });
    Some(LogProbCache::new(named.unwrap_or_else(|| {
        // Absolute: the folder above `.` has a name only then.
        let run = std::path::absolute(run).unwrap_or_else(|_| run.to_path_buf());
        run.parent().unwrap_or(&run).join(".cache").join("log_probs")
    })))
}

fn print_next(path: &Path) {
    println!("next: cargo xtask pareto -- {0}   (or: mopo pareto {0})", path.display());
}

fn start(args: &TrainArgs) -> Result<(RunDir, RunConfig, RunRecord)> {
    let (text, origin) = match &args.config {
        Some(path) => (
            std::fs::read_to_string(path)
                .with_context(|| format!("reading the configuration {}", path.display()))?,
            path.display().to_string(),
        ),
        None => (preset_text(&args.preset)?.to_string(), format!("preset `{}`", args.preset)),
    };
    let mut overrides = args.set.clone();
    overrides.extend(args.seed.map(|seed| format!("seed={seed}")));
    let mut config = RunConfig::parse_with(&text, &origin, &overrides)?;
    check_data_path(&config, args.data.as_ref())?;
    if let Some(model) = &args.model {
        let model = super::models::pinned(model, args.revision.as_deref())?;
        config.tokenizer = TokenizerConfig::File(model.clone());
        config.model.source = ModelSource::Hub(model);
    }
    config.fetch_models(&mut DownloadBar::default())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let path = match &args.out {
        Some(path) => path.clone(),
        None => PathBuf::from("runs").join(format!("{}-{}", config.name, stamp(now))),
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
        seed: config.seed,
        started: now,
        command: std::env::args().collect(),
        data,
        strict: args.strict,
        hashes: Default::default(),
    };
    let run = RunDir::create(&path, &config, &record)?;
    Ok((run, config, record))
}

/// UTC as 20261123-194501.
pub(super) fn stamp(seconds: u64) -> String {
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

struct Train {
    run: RunDir,
    config: RunConfig,
    record: RunRecord,
    cache: Option<LogProbCache>,
}

impl Job for Train {
    type Output = RunResult;

    fn run<B: FusedBackend>(mut self, device: B::Device) -> Result<RunResult> {
        Ok(mopo_train::train::<Autodiff<B>>(
            &self.run,
            &self.config,
            &mut self.record,
            self.cache.as_ref(),
            &device,
            &mut Bars::new(),
        )?)
    }
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
