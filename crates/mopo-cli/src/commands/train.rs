//! `mopo train`: a new run, or one that goes on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::backend::Autodiff;
use mopo_ops::FusedBackend;
use mopo_train::config::preset_text;
use mopo_train::{LogProbCache, RunConfig, RunDir, RunRecord, RunResult, check_data_path};

use super::new_run;
use crate::args::TrainArgs;
use crate::device::{self, Job, dispatch};
use crate::progress::{Bars, DownloadBar};

pub(crate) fn run(args: TrainArgs) -> Result<()> {
    device::check(args.run.device)?;
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
    let result = dispatch(args.run.device, Train { run, config, record, cache }).map_err(|e| {
        let prepared = RunDir::open(&path).is_ok_and(|(_, _, record)| !record.hashes.is_empty());
        new_run::after_failure(e, &path, fresh, prepared, "mopo train")
    })?;
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
    // All of the configuration is checked before anything is fetched.
    let given = args.model.as_deref();
    let read = |model| RunConfig::parse_with_model(&text, &origin, &args.run.overrides(), model);
    let mut config = read(given)?;
    check_data_path(&config, args.run.data.as_ref())?;
    if let Some(model) = given {
        let model = super::models::pinned(model, args.revision.as_deref())?;
        config = read(Some(&model))?;
    }
    config.fetch_models(&mut DownloadBar::default())?;
    config.check_files(&super::models::resolve, args.run.device.memory())?;
    let (path, record) = new_run::begin(&args.run, "runs", &config.name, config.seed)?;
    let run = RunDir::create(&path, &config, &record)?;
    Ok((run, config, record))
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
