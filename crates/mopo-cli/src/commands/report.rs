//! `mopo report`: the results of `mopo pareto` for one run or several, on one page. Nothing is
//! generated again, so no model is needed.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use mopo_hub::counted;
use mopo_report::{ComparisonOptions, FrontReport, ReportFiles, ResultsDir, compare, write_report};
use mopo_train::evaluate::check_up_to_date;
use mopo_train::{DirLock, RunDir};

use crate::args::ReportArgs;
use crate::output::{errln, out, outln};

pub(crate) fn run(args: ReportArgs) -> Result<()> {
    if !args.names.is_empty() && args.names.len() != args.runs.len() {
        bail!(
            "--names: {} for {}; give one per run, in the same order",
            counted(args.names.len(), "name"),
            counted(args.runs.len(), "run")
        );
    }
    ensure!(
        !args.names.iter().any(|name| name.trim().is_empty()),
        "--names has an empty name; give one per run"
    );
    check_report_place(&args.out, "report")?;
    let mut runs: Vec<(String, ResultsDir)> = Vec::new();
    for (i, path) in args.runs.iter().enumerate() {
        let results = ResultsDir::find(path)?;
        let name = args.names.get(i).cloned().unwrap_or_else(|| results.name());
        ensure!(
            !runs.iter().any(|(other, _)| *other == name),
            "two runs are called `{name}`; name them with --names a,b,…"
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
            check_up_to_date(run, &recorded.record)?;
        }
        // What was read would be replaced.
        let place = |path: &Path| path.canonicalize().ok();
        ensure!(
            place(&args.out).is_none() || place(&args.out) != place(&results.results),
            "--out {} has the results of one of the runs; choose another directory",
            args.out.display()
        );
    }
    mopo_hub::create_dir(&args.out)?;
    let lock = DirLock::acquire(&args.out)?;
    let files =
        write_report(&args.out, &comparison.report, &comparison.evaluation, &comparison.extras)?;
    drop(lock);
    for note in comparison.notes.iter().chain(&comparison.extras.notes) {
        errln!("note: {note}");
    }
    print(&comparison.report);
    outln!("\nwrote");
    print_files(&files);
    Ok(())
}

/// Refuses to put a report among the files of a run. `example`: the name of a folder for it.
pub(crate) fn check_report_place(out: &Path, example: &str) -> Result<()> {
    ensure!(
        !RunDir::is_run(out),
        "--out {} is a run's own directory; choose another one, for example {}",
        out.display(),
        out.join(example).display()
    );
    if let Some(run) = RunDir::owner(out) {
        bail!(
            "--out {} belongs to the run {}; choose another one, for example {}",
            out.display(),
            run.display(),
            run.join(example).display()
        );
    }
    Ok(())
}

/// Prints the table and the summary.
pub(crate) fn print(report: &FrontReport) {
    out!("{}\n{}", report.table(), report.summary());
}

/// Lists the written files.
pub(crate) fn print_files(files: &ReportFiles) {
    for (path, what) in [
        (&files.index_html, "the page: open it in a browser"),
        (&files.front_svg, "the figure"),
        (&files.front_png, "the figure as PNG"),
        (&files.front_csv, "every point"),
        (&files.sets_csv, "hypervolume and other indicators of policy sets"),
        (&files.differences_csv, "differences of hypervolume"),
        (&files.samples, "every response with its scores"),
        (&files.statistics, "mean and standard deviation for z-scores"),
        (&files.report_json, "all results as JSON"),
    ] {
        outln!("  {}  ({what})", path.display());
    }
    for path in &files.figures {
        outln!("  {}", path.display());
    }
}
