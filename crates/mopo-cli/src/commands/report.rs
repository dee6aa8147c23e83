//! `mopo report`: what `mopo pareto` found in one run or in several, on one page. Nothing is generated
//! again, so no model is needed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use mopo_report::{
    FrontReport, RecordedRun, ReportExtras, ReportFiles, RunExtras, combine, read_statistics,
    write_report,
};
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
    let several = args.runs.len() > 1;
    let mut runs = Vec::new();
    let mut extras = Vec::new();
    for (i, path) in args.runs.iter().enumerate() {
        let place = Place::find(path)?;
        let name = args.names.get(i).cloned().unwrap_or_else(|| place.name());
        ensure!(
            !runs.iter().any(|run: &RecordedRun| run.name == name),
            "two runs are called `{name}`; tell them apart with --names a,b,…"
        );
        let recorded = RecordedRun::read(&place.results, name.clone())?;
        let metrics = match &place.run {
            Some(run) => read_metrics(&run.join("metrics.jsonl")),
            None => Vec::new(),
        };
        let name = if several { name } else { String::new() };
        extras.push(RunExtras { name, metrics, record: recorded.record.clone() });
        runs.push(recorded);
    }
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    let combined = combine(runs)?;
    let evaluation = &combined.evaluation;
    let mut config = combined.config;
    let mut notes = combined.notes;
    if let Some(file) = &args.statistics {
        config.statistics = read_statistics(file, &evaluation.objectives)?;
        notes.retain(|note| !note.starts_with("z-scores"));
    }
    let report = FrontReport::new(evaluation, &config)?;
    let title = match several {
        true => format!("{}: their Pareto fronts compared", names.join(", ")),
        false => format!("{}: the Pareto front of its policies", names[0]),
    };
    let summary = several.then(|| {
        format!(
            "{} runs, whose policies answered the same {} prompts and were scored by the same rewards.",
            names.len(),
            evaluation.prompts.len()
        )
    });
    let extras = ReportExtras {
        title: args.title.unwrap_or(title),
        summary,
        notes,
        rewards: combined.rewards,
        runs: extras,
        n_examples: args.examples,
    };
    let files = write_report(&args.out, &report, evaluation, &extras)?;
    for note in &extras.notes {
        eprintln!("note: {note}");
    }
    print(&report);
    println!("\nwrote");
    print_files(&files);
    Ok(())
}

/// Where a run's results are, and the run itself if it is known.
struct Place {
    results: PathBuf,
    run: Option<PathBuf>,
}

impl Place {
    fn find(path: &Path) -> Result<Self> {
        let is_run = |dir: &Path| dir.join("config.toml").exists();
        if path.join("report.json").exists() {
            let run = path.canonicalize().ok().and_then(|p| p.parent().map(Path::to_path_buf));
            return Ok(Self { results: path.into(), run: run.filter(|run| is_run(run)) });
        }
        let results = path.join("pareto");
        if results.join("report.json").exists() {
            return Ok(Self { results, run: Some(path.into()) });
        }
        if is_run(path) {
            bail!(
                "{} has not been evaluated yet; do so with `mopo pareto {}`",
                path.display(),
                path.display()
            );
        }
        bail!(
            "{} is no run and has no report.json; give run directories that `mopo pareto` has \
             evaluated, or the directories that it wrote",
            path.display()
        )
    }

    /// The directory's name: the run's, where the results lie in it.
    fn name(&self) -> String {
        let dir = self.run.as_ref().unwrap_or(&self.results);
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        dir.file_name().map_or_else(|| "run".into(), |n| n.to_string_lossy().into_owned())
    }
}

/// The rows of a metrics.jsonl. What cannot be read is left out and said: curves are no reason to lose
/// everything else.
pub(crate) fn read_metrics(path: &Path) -> Vec<Value> {
    let text = match std::fs::read_to_string(path).with_context(|| path.display().to_string()) {
        Ok(text) => text,
        Err(e) => {
            eprintln!("note: no training curves: {e:#}");
            return Vec::new();
        }
    };
    let rows: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    match text.lines().count() - rows.len() {
        0 => {}
        n => eprintln!("note: {n} lines of {} are no JSON and were left out", path.display()),
    }
    rows
}

/// The result in numbers.
pub(crate) fn print(report: &FrontReport) {
    println!("{}", report.table());
    let width = report.sets.iter().map(|q| q.of.name().chars().count()).max().unwrap_or(0);
    println!("{:width$}  hypervolume ↑   IGD+ ↓  additive ε ↓", "set");
    for quality in &report.sets {
        let distance = |e: Option<mopo_report::Estimate>| {
            e.map_or_else(|| "–".to_owned(), |e| format!("{:.4}", e.value))
        };
        println!(
            "{:width$}  {:>13.4}  {:>7}  {:>12}",
            quality.of.name(),
            quality.hypervolume.value,
            distance(quality.igd_plus),
            distance(quality.epsilon)
        );
    }
    println!("  (corner {:?}; IGD+ and ε in standard deviations)", report.config.ref_point);
    for d in &report.differences {
        println!(
            "{} − {}: {:+.4} ({:+.4} to {:+.4}), P(larger) {:.3}",
            d.of.name(),
            d.minus.name(),
            d.value,
            d.interval.low,
            d.interval.high,
            d.probability_positive
        );
    }
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
