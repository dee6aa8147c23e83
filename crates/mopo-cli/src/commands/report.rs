//! `mopo report`: what `mopo pareto` found in one run or in several, on one page. Nothing is generated
//! again, so no model is needed.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use mopo_report::{ComparisonOptions, FrontReport, ReportFiles, ResultsDir, compare, write_report};
use mopo_train::{DirLock, RunDir};
use serde_json::Value;

use crate::args::ReportArgs;

pub(crate) fn run(args: ReportArgs) -> Result<()> {
    if !args.names.is_empty() && args.names.len() != args.runs.len() {
        bail!(
            "--names gives {} names for {} runs; give one each, in the same order",
            args.names.len(),
            args.runs.len()
        );
    }
    let mut runs: Vec<(String, ResultsDir)> = Vec::new();
    for (i, path) in args.runs.iter().enumerate() {
        let results = ResultsDir::find(path)?;
        let name = args.names.get(i).cloned().unwrap_or_else(|| results.name());
        ensure!(
            !runs.iter().any(|(other, _)| *other == name),
            "two runs are called `{name}`; tell them apart with --names a,b,…"
        );
        runs.push((name, results));
    }
    let options = ComparisonOptions {
        statistics: args.statistics,
        title: args.title,
        n_examples: args.examples,
    };
    let comparison = compare(&runs, options)?;
    for ((_, results), recorded) in runs.iter().zip(&comparison.extras.runs) {
        if let Some(run) = &results.run {
            check_run(run, &recorded.record)?;
        }
    }
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let lock = DirLock::acquire(&args.out)?;
    let files =
        write_report(&args.out, &comparison.report, &comparison.evaluation, &comparison.extras)?;
    drop(lock);
    for note in comparison.notes.iter().chain(&comparison.extras.notes) {
        eprintln!("note: {note}");
    }
    print(&comparison.report);
    println!("\nwrote");
    print_files(&files);
    Ok(())
}

/// Refuses results of another training than the one that lies there now.
fn check_run(dir: &Path, evaluated: &Value) -> Result<()> {
    let (run, _, record) = RunDir::open(dir)?;
    run.check_present(&record)?;
    let hash_of = |name: &String| evaluated.get("run")?.get("hashes")?.get(name)?.as_str();
    let is_other = |name: &String| hash_of(name).is_some_and(|hash| hash != record.hashes[name]);
    match record.hashes.keys().find(|name| is_other(name)) {
        None => Ok(()),
        Some(name) => bail!(
            "{}: what `mopo pareto` found there is of another `{name}` than the run has; evaluate the \
             run again with `mopo pareto {}`",
            dir.display(),
            dir.display()
        ),
    }
}

/// The result in numbers.
pub(crate) fn print(report: &FrontReport) {
    print!("{}\n{}", report.table(), report.summary());
}

/// What was written, and what for.
pub(crate) fn print_files(files: &ReportFiles) {
    for (path, what) in [
        (&files.index_html, "the page: open it in a browser"),
        (&files.front_svg, "the figure"),
        (&files.front_png, "the figure as pixels"),
        (&files.front_csv, "every point"),
        (&files.sets_csv, "what sets of policies are worth"),
        (&files.differences_csv, "whose hypervolume is larger"),
        (&files.samples, "every response with its scores"),
        (&files.statistics, "what z-scores are counted in"),
        (&files.report_json, "the same for programs"),
    ] {
        println!("  {}  ({what})", path.display());
    }
    for path in &files.figures {
        println!("  {}", path.display());
    }
}
