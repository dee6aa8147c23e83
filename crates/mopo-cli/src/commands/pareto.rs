//! `mopo pareto`: generates with every policy of a run, scores the answers, writes front and page.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mopo_ops::FusedBackend;
use mopo_report::write_report;
use mopo_train::evaluate::{EvaluationOptions, EvaluationPlan, newest_finished_run};
use mopo_train::{DirLock, RunDir};

use super::models::resolve;
use super::report::{check_report_place, print, print_files};
use crate::args::ParetoArgs;
use crate::device::{self, Job, dispatch};
use crate::output::{errln, outln};
use crate::progress::Bars;

pub(crate) fn run(args: ParetoArgs) -> Result<()> {
    device::check(args.device)?;
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
    check_report_place(&out)?;
    let options = EvaluationOptions {
        seed: args.seed,
        prompts: args.prompts,
        statistics: args.protocol.statistics,
    };
    let plan = EvaluationPlan::new(run, config, record, &options, &mut Bars::new())?;
    dispatch(args.device, Pareto { plan, out })
}

struct Pareto {
    plan: EvaluationPlan,
    out: PathBuf,
}

impl Job for Pareto {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let clock = std::time::Instant::now();
        let run = self.plan.run_dir().path().to_path_buf();
        // Two processes at once would mix their files.
        mopo_hub::create_dir(&self.out)?;
        let _lock = DirLock::acquire(&self.out)?;
        let evaluated = self.plan.run::<B>(&device, &resolve, &mut Bars::new())?;
        let files =
            write_report(&self.out, &evaluated.report, &evaluated.evaluation, &evaluated.extras)?;
        print(&evaluated.report);
        outln!("\nevaluated in {:.0} s; wrote", clock.elapsed().as_secs_f64());
        print_files(&files);
        outln!(
            "next: cargo run --release -p mopo-cli -- generate {} --policy {} --prompt \"…\"",
            run.display(),
            evaluated.policies[0]
        );
        Ok(())
    }
}
