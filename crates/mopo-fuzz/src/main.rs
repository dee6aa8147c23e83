//! The program: runs all targets, or repeats one input.

use std::alloc::System;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cap::Cap;
use clap::Parser;
use mopo_fuzz::{
    Amount, Campaign, MEMORY, Outcome, Report, TargetReport, Work, page, read_one, run_worker,
    target, targets,
};

/// Counts memory; a worker gets no more than [`MEMORY`].
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Gives random inputs to every reader of MOPO, in processes that are watched.
#[derive(Parser)]
#[command(name = "mopo-fuzz")]
struct Args {
    /// Run for so many seconds, the same for each target [default: 60, unless --inputs is given]
    #[arg(long, value_name = "N", conflicts_with = "inputs")]
    seconds: Option<f64>,
    /// Run so many inputs, shared out by what each target takes
    #[arg(long, value_name = "N")]
    inputs: Option<u64>,
    /// Seed of the inputs
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Only these targets, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Processes at a time [default: one per core]
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Write what came of it to a file
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Run the files of a corpus, DIR/TARGET/FILE, instead of made inputs
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Run one input again, in this process
    #[arg(long, value_name = "TARGET:SEED:NUMBER")]
    repeat: Option<String>,
    /// Run the bytes of a file, in this process
    #[arg(long, value_name = "TARGET:FILE")]
    file: Option<String>,
    /// With --repeat, write the input to a file first
    #[arg(long, value_name = "FILE", requires = "repeat")]
    write: Option<PathBuf>,
    /// List the targets
    #[arg(long)]
    list: bool,
    /// Write a page about reports
    #[arg(long, value_name = "FILE.md", requires = "reports")]
    page: Option<PathBuf>,
    /// Reports for --page
    #[arg(value_name = "FILE.json", requires = "page")]
    reports: Vec<PathBuf>,
    /// The work of a process that is watched
    #[arg(long, hide = true)]
    work: Option<String>,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn limit() {
    ALLOCATOR.set_limit(MEMORY).expect("less is in use");
}

fn run(args: Args) -> Result<ExitCode> {
    if let Some(work) = &args.work {
        let work: Work = serde_json::from_str(work).context("--work")?;
        run_worker(&work, limit)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.list {
        for target in targets() {
            println!("{:18} {}", target.name, target.reads);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &args.page {
        let read = |path: &PathBuf| -> Result<Report> {
            let text = std::fs::read(path).with_context(|| path.display().to_string())?;
            serde_json::from_slice(&text).with_context(|| path.display().to_string())
        };
        let reports = args.reports.iter().map(read).collect::<Result<Vec<_>>>()?;
        mopo_hub::write_atomically(path, page(&reports).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(what) = &args.repeat {
        let mut parts = what.split(':');
        let mut next = || parts.next().context("--repeat is TARGET:SEED:NUMBER");
        let (name, seed, number) = (next()?, next()?.parse()?, next()?.parse()?);
        let target = target(name).with_context(|| format!("no target is called {name}"))?;
        let input = target.input(&(target.seeds)(), seed, number);
        if let Some(path) = &args.write {
            std::fs::write(path, &input).with_context(|| path.display().to_string())?;
        }
        return once(name, &input);
    }
    if let Some(what) = &args.file {
        let (name, path) = what.split_once(':').context("--file is TARGET:FILE")?;
        let input = std::fs::read(path).with_context(|| path.to_owned())?;
        return once(name, &input);
    }
    let amount = match (args.seconds, args.inputs) {
        (_, Some(n)) => Amount::Inputs(n),
        (seconds, None) => Amount::Seconds(seconds.unwrap_or(60.0)),
    };
    let jobs =
        args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let campaign = Campaign { amount, seed: args.seed, only: args.only, jobs };
    let program = std::env::current_exe().context("the path of this program")?;
    let report = match &args.corpus {
        None => campaign.run(&program, &tell)?,
        Some(dir) => campaign.run_corpus(&program, dir, &tell)?,
    };
    if let Some(path) = &args.report {
        mopo_hub::write_json(path, &report)?;
    }
    let n: u64 = report.targets.iter().map(|target| target.inputs).sum();
    let n_found: usize = report.targets.iter().map(|target| target.found.len()).sum();
    println!(
        "{n} inputs of {} targets in {:.0} s: {n_found} found",
        report.targets.len(),
        report.seconds
    );
    Ok(if report.has_findings() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs one input here and says what came of it.
fn once(name: &str, input: &[u8]) -> Result<ExitCode> {
    let target = target(name).with_context(|| format!("no target is called {name}"))?;
    println!("{} bytes for {name}", input.len());
    limit();
    let outcome = read_one(&target, input)?;
    println!("{outcome:?}");
    Ok(if matches!(outcome, Outcome::Wrong(_)) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn tell(share: &TargetReport) {
    let rate = share.inputs as f64 / share.seconds.max(1e-9);
    let read = 100.0 * share.accepted as f64 / share.inputs.max(1) as f64;
    println!(
        "{:18} {:9} inputs, {rate:7.0} per second, {read:3.0} % read",
        share.name, share.inputs
    );
    for found in &share.found {
        println!("  {}:{}:{}  {}", share.name, found.seed, found.number, found.what);
    }
}
