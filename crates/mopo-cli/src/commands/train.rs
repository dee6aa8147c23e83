//! `mopo train`: starts or resumes a run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use burn::backend::Autodiff;
use mopo_hub::quoted;
use mopo_ops::FusedBackend;
use mopo_train::communicator::{Communicator, check_equal};
use mopo_train::config::{Replaced, preset_text, read_text};
use mopo_train::{
    LogProbCache, Progress, RunConfig, RunDir, RunRecord, RunResult, Silent, check_data_path,
};

use crate::args::{RunArgs, TrainArgs};
use crate::device::{self, Job, dispatch};
use crate::output::{errln, outln};
use crate::progress::Bars;
use crate::ranks::Ranks;

pub(crate) fn run(args: TrainArgs) -> Result<()> {
    if args.verify {
        device::check(args.run.device)?;
        return verify(&args);
    }
    let ranks = Ranks::join(Duration::from_secs(args.rank_timeout as u64))?;
    let result = train(&args, &ranks);
    ranks.end(result)
}

/// This rank's part.
fn train(args: &TrainArgs, ranks: &Ranks) -> Result<()> {
    let device = ranks.device(args.run.device);
    device::check(device)?;
    let (run, config, record) = opened(args, ranks)?;
    device::set_matmul_precision(device, config.model.matmul_precision, device::PRECISION_KEY)?;
    let path = run.path().to_path_buf();
    let is_first = ranks.is_first();
    if is_first {
        errln!("run directory: {}", path.display());
    }
    if run.is_finished() {
        run.check_policies(&record)?;
        if is_first {
            run.tidy();
            outln!("{} is already finished; nothing to do.", path.display());
            print_next(&path);
        }
        return Ok(());
    }
    if args.resume.is_some() {
        config.check_evaluation(&super::models::resolve)?;
    }
    // Held until a failure has been handled.
    let run = if is_first { run.locked()? } else { run };
    if args.run.tensorboard && is_first {
        run.want_tensorboard()?;
    }
    let cache = cache(args, &path);
    let communicator = ranks.communicator();
    let job = Train { run: run.clone(), config, record, cache, communicator };
    let result = dispatch(device, job);
    if !is_first {
        return result.map(drop);
    }
    let result = result.map_err(|e| after_failure(e, run, args.resume.is_none(), "mopo train"))?;
    outln!("{result}");
    outln!("trained in {:.0} s; wrote {}:", result.seconds, path.display());
    for (name, what) in [
        ("policy/", "adapter and heads"),
        ("warm_start/", "the base model, in the layout of Hugging Face"),
        ("metrics.jsonl", "one line per step"),
        ("result.json", "the accuracies above"),
    ] {
        outln!("  {name:<14} {what}");
    }
    print_next(&path);
    Ok(())
}

/// The run: rank 0 makes it if it is new, and the others open it then.
fn opened(args: &TrainArgs, ranks: &Ranks) -> Result<(RunDir, RunConfig, RunRecord)> {
    let communicator = ranks.communicator();
    let of_first = match (ranks.is_first(), &args.resume) {
        (false, _) => None,
        (true, Some(dir)) => Some(RunDir::open(dir)?),
        (true, None) => Some(start(args)?),
    };
    let path = ranks.path_of_first(of_first.as_ref().map(|(run, ..)| run.path().into()))?;
    let opened = match of_first {
        Some(opened) => opened,
        None => RunDir::open(&path).context(
            "the run directory must be on a file system that the machines of all ranks share",
        )?,
    };
    if args.resume.is_none() && communicator.world() > 1 {
        check_equal(communicator, "configuration", &asked(args)?.to_toml()?)?;
    }
    Ok(opened)
}

/// The log-prob cache: `--cache`, else `MOPO_CACHE`, else beside the run directory, so that runs in
/// one folder share it.
fn cache(args: &TrainArgs, run: &Path) -> Option<LogProbCache> {
    if args.no_cache {
        return None;
    }
    let named = args.cache.clone().or_else(|| {
        std::env::var_os("MOPO_CACHE").filter(|dir| !dir.is_empty()).map(PathBuf::from)
    });
    Some(named.map_or_else(|| LogProbCache::beside(run), LogProbCache::new))
}

fn print_next(path: &Path) {
    outln!("next: cargo xtask pareto -- {0}   (or: mopo pareto {0})", quoted(path));
}

/// Checks that the run at `--out` is the one that these arguments start.
fn verify(args: &TrainArgs) -> Result<()> {
    let out = args.run.out.as_deref().unwrap_or(Path::new("."));
    let config = asked(args)?;
    let (run, _, _) = RunDir::open(out)?;
    let (_, start) = new_record(&args.run, "runs", &config.name, config.seed)?;
    run.check_asked(&config, &start)?;
    outln!("{} was started with these arguments", out.display());
    Ok(())
}

fn start(args: &TrainArgs) -> Result<(RunDir, RunConfig, RunRecord)> {
    let mut config = asked(args)?;
    // Before anything is written.
    device::set_matmul_precision(
        args.run.device,
        config.model.matmul_precision,
        device::PRECISION_KEY,
    )?;
    config.fetch_models(&mut Bars::new())?;
    config.check_files(&super::models::resolve, args.run.device.memory())?;
    let (path, mut record) = new_record(&args.run, "runs", &config.name, config.seed)?;
    let run = RunDir::create(&path, &config, &mut record)?;
    Ok((run, config, record))
}

/// The configuration that the arguments make.
fn asked(args: &TrainArgs) -> Result<RunConfig> {
    let (text, origin) = match &args.config {
        Some(path) => (read_text(path)?, path.display().to_string()),
        None => (preset_text(&args.preset)?.to_string(), format!("preset `{}`", args.preset)),
    };
    // Check the whole configuration before anything is downloaded.
    let given = args.model.as_deref();
    let read = |model| {
        let parts = Replaced { model, method: args.method.as_deref() };
        RunConfig::parse_replaced(&text, &origin, &args.run.overrides(), parts)
    };
    let mut config = read(given)?;
    check_data_path(&config, args.run.data.as_ref())?;
    config.check_rewards()?;
    if let Some(model) = given {
        let replaced = ["model.hub", "model.scratch", "tokenizer"];
        let is_replaced = |set: &&String| {
            let key = set.split('=').next().unwrap_or_default().trim();
            replaced.iter().any(|name| {
                key.strip_prefix(name).is_some_and(|k| k.is_empty() || k.starts_with('.'))
            })
        };
        for set in args.run.set.iter().filter(is_replaced) {
            tracing::warn!("--set {set} has no effect: --model replaces that part");
        }
        let model = super::models::pinned(model, args.revision.as_deref())?;
        config = read(Some(&model))?;
    }
    Ok(config)
}

/// The directory of a new run, and its record.
pub(super) fn new_record(
    args: &RunArgs,
    below: &str,
    name: &str,
    seed: u64,
) -> Result<(PathBuf, RunRecord)> {
    let device = args.device.to_string();
    let record = RunRecord::new(device, seed, args.data.as_deref(), args.strict)?;
    let default = || record.default_dir(Path::new(below), name);
    Ok((args.out.clone().unwrap_or_else(default), record))
}

/// The message of a failed run. A new run whose data could not be read is removed.
pub(super) fn after_failure(
    error: anyhow::Error,
    run: RunDir,
    is_new: bool,
    command: &str,
) -> anyhow::Error {
    let path = run.path().to_path_buf();
    let is_stopped = matches!(error.downcast_ref(), Some(mopo_train::Error::NonFinite { .. }));
    if is_stopped || (is_new && run.discard_unprepared()) || !path.exists() {
        return error;
    }
    let cause = crate::message(&error);
    let resume = format!("{command} --resume {}", quoted(&path));
    // A run keeps its configuration, so that resuming helps only if something else was wrong.
    match error.downcast_ref() {
        Some(mopo_train::Error::Config { .. }) => anyhow!(
            "{cause}\nThe run is kept with its configuration. With another configuration, start a new run; once the cause is \
             gone, resume this one: {resume}"
        ),
        _ => anyhow!("{cause}\nThe run is kept; to resume it: {resume}"),
    }
}

struct Train<'a> {
    run: RunDir,
    config: RunConfig,
    record: RunRecord,
    cache: Option<LogProbCache>,
    communicator: &'a dyn Communicator,
}

impl Job for Train<'_> {
    type Output = RunResult;

    fn run<B: FusedBackend>(mut self, device: B::Device) -> Result<RunResult> {
        let mut progress: Box<dyn Progress> = match self.communicator.rank() {
            0 => Box::new(Bars::new()),
            _ => Box::new(Silent),
        };
        Ok(mopo_train::train::<Autodiff<B>>(
            &self.run,
            &self.config,
            &mut self.record,
            self.cache.as_ref(),
            self.communicator,
            &device,
            &mut *progress,
        )?)
    }
}
