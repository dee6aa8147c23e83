//! `mopo pareto`: generates with every policy of a run, scores the answers, writes front and page.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mopo_hub::{ShardChoice, ShardIndex, quoted};
use mopo_ops::FusedBackend;
use mopo_report::write_report;
use mopo_train::evaluate::{EvaluationOptions, EvaluationPlan, ShardPlan, newest_finished_run};
use mopo_train::{DirLock, RunDir};

use super::models::resolve;
use super::report::{check_report_place, print, print_files};
use super::shards::{kind_in, say_done};
use crate::args::ParetoArgs;
use crate::device::{self, Job, dispatch};
use crate::output::{errln, outln};
use crate::progress::Bars;

pub(crate) fn run(args: ParetoArgs) -> Result<()> {
    device::check(args.device)?;
    let precision = args.precision.matmul;
    device::set_matmul_precision(args.device, precision, device::PRECISION_FLAG)?;
    let path = match &args.run {
        Some(path) => path.clone(),
        None => newest_finished_run(Path::new("runs"))?,
    };
    let (run, mut config, record) = RunDir::open(&path)?;
    let e = &mut config.evaluation;
    e.n_prompts = args.n_prompts.unwrap_or(e.n_prompts);
    e.temperature = args.temperature.unwrap_or(e.temperature);
    e.mixture_steps = args.mixture_steps.unwrap_or(e.mixture_steps);
    e.embedding = args.protocol.embedding.map_or(e.embedding, Into::into);
    errln!("run directory: {}", path.display());
    let out = args.out.clone().unwrap_or_else(|| run.join("pareto"));
    check_report_place(&out, "pareto")?;
    let options = EvaluationOptions {
        seed: args.seed,
        prompts: args.prompts.clone(),
        statistics: args.protocol.statistics.clone(),
        matmul_precision: precision,
    };
    let plan = EvaluationPlan::new(run, config, record, &options, &mut Bars::new())?;
    let device_name = kind_in(args.device, precision);
    let shard = args.shard.map(ShardChoice::resolve).transpose()?;
    if let Some(shard) = shard {
        let place = shards_dir(&out).join(format!("{}.jsonl", shard.in_a_name()));
        let is_forced = args.force;
        return dispatch(args.device, Shard { plan, shard, place, is_forced, device_name });
    }
    let shards = match args.merge {
        None => None,
        Some(files) if files.is_empty() => Some(found(&shards_dir(&out))?),
        Some(files) => Some(files),
    };
    dispatch(args.device, Pareto { plan, out, shards, device_name })
}

/// The folder of the shards of an evaluation.
fn shards_dir(out: &Path) -> PathBuf {
    out.join("shards")
}

/// The files of shards in a folder.
fn found(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| {
        format!(
            "--merge: no shards in {}; make them with --shard, or give their files",
            dir.display()
        )
    })?;
    let mut files = vec![];
    for entry in entries {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("jsonl") => files.push(path),
            // What a shard has done; that it is not finished is said where its file is opened.
            Some("progress") => files.push(path.with_extension("")),
            _ => {}
        }
    }
    files.sort();
    files.dedup();
    ensure!(!files.is_empty(), "--merge: there are no shards in {}", dir.display());
    Ok(files)
}

/// A part of the answers.
struct Shard {
    plan: EvaluationPlan,
    shard: ShardIndex,
    place: PathBuf,
    is_forced: bool,
    device_name: String,
}

impl Job for Shard {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let Self { plan, shard, place, is_forced, device_name } = self;
        let shard_plan =
            ShardPlan { index: shard, out: &place, is_forced, device_name: &device_name };
        if plan.run_shard::<B>(shard_plan, &device, &resolve, &mut Bars::new())? {
            say_done(&place);
            return Ok(());
        }
        outln!("wrote {} (shard {shard})", place.display());
        outln!("when all shards are done: the same command with --merge instead of --shard");
        Ok(())
    }
}

struct Pareto {
    plan: EvaluationPlan,
    out: PathBuf,
    /// The files with the answers, if they are there already.
    shards: Option<Vec<PathBuf>>,
    device_name: String,
}

impl Job for Pareto {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let clock = std::time::Instant::now();
        let run = self.plan.run_dir().path().to_path_buf();
        // Two processes at once would mix their files.
        mopo_hub::create_dir(&self.out)?;
        let _lock = DirLock::acquire(&self.out)?;
        let bars = &mut Bars::new();
        let evaluated = match &self.shards {
            Some(files) => {
                self.plan.merge::<B>(files, &self.device_name, &device, &resolve, bars)?
            }
            None => self.plan.run::<B>(&device, &resolve, bars)?,
        };
        let files =
            write_report(&self.out, &evaluated.report, &evaluated.evaluation, &evaluated.extras)?;
        print(&evaluated.report);
        for (i, constraint) in evaluated.constraints.iter().enumerate() {
            let before = if i == 0 { "\n" } else { "" };
            outln!("{before}{constraint}");
        }
        outln!("\nevaluated in {:.0} s; wrote", clock.elapsed().as_secs_f64());
        print_files(&files);
        outln!(
            "next: mopo generate {} --policy {} --prompt \"…\"   (or: cargo run --release -p mopo-cli -- generate …)",
            quoted(&run),
            evaluated.policies[0]
        );
        Ok(())
    }
}
