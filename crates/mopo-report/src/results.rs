//! Results of runs on disk: where they are, their training metrics, and one report of several.

use std::path::{Path, PathBuf};

use crate::{
    Error, Evaluation, FrontReport, MetricsLog, MetricsRow, RecordedRun, ReportExtras, Result,
    RunExtras, combine, read_statistics,
};

/// The directory of a report, and its run if known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultsDir {
    /// The directory with `report.json` and `samples.jsonl`.
    pub results: PathBuf,
    /// The run's own directory.
    pub run: Option<PathBuf>,
}

impl ResultsDir {
    /// `path` is a run directory with results in `pareto/`, or a directory with results.
    ///
    /// # Errors
    /// [`Error::File`] for a run that has not been evaluated, or for any other directory; [`Error::Io`] for one that cannot be
    /// looked into.
    pub fn find(path: &Path) -> Result<Self> {
        let is_run = |dir: &Path| dir.join("config.toml").exists();
        let is_there = |file: PathBuf| {
            file.try_exists().map_err(|source| Error::Io { action: "read", path: file, source })
        };
        if is_there(path.join("report.json"))? {
            let run = path.canonicalize().ok().and_then(|p| p.parent().map(Path::to_path_buf));
            return Ok(Self { results: path.into(), run: run.filter(|run| is_run(run)) });
        }
        let results = path.join("pareto");
        if is_there(results.join("report.json"))? {
            return Ok(Self { results, run: Some(path.into()) });
        }
        let message = match is_run(path) {
            true => {
                format!(
                    "it has not been evaluated yet; do so with `mopo pareto {}`",
                    path.display()
                )
            }
            false => {
                "this is not a run and has no report.json; give run directories that `mopo pareto` \
                 has evaluated, or the directories that it wrote"
                    .into()
            }
        };
        Err(Error::File { path: path.into(), message })
    }

    /// The directory's name: the run's, if the results are in it.
    pub fn name(&self) -> String {
        let dir = self.run.as_ref().unwrap_or(&self.results);
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        dir.file_name().map_or_else(|| "run".into(), |n| n.to_string_lossy().into_owned())
    }
}

/// The rows of a metrics.jsonl, and notes on what could not be read, which only affects curves.
pub fn read_metrics(path: &Path) -> (Vec<MetricsRow>, Vec<String>) {
    match MetricsLog::read(path) {
        Err(e) => (Vec::new(), vec![format!("no training curves: {e}")]),
        Ok(MetricsLog { rows, n_unreadable: 0 }) => (rows, Vec::new()),
        Ok(MetricsLog { rows, n_unreadable: n }) => {
            (rows, vec![format!("{n} lines of {} are damaged and were skipped", path.display())])
        }
    }
}

/// Settings of [`compare`] besides the results.
#[derive(Debug, Clone)]
pub struct ComparisonOptions {
    /// A file with statistics for z-scores, instead of the first run's.
    pub statistics: Option<PathBuf>,
    /// Title of the page, instead of one made from the runs' names.
    pub title: Option<String>,
    /// Maximum number of prompts shown with all responses.
    pub n_examples: usize,
}

/// Recorded results for [`crate::write_report`].
#[derive(Debug, Clone)]
pub struct Comparison {
    /// All policies of all runs.
    pub evaluation: Evaluation,
    /// Their front.
    pub report: FrontReport,
    /// The other parts of the page; its notes are also for the terminal.
    pub extras: ReportExtras,
    /// Notes on training metrics that could not be read.
    pub notes: Vec<String>,
}

/// Reads the results of one or several named runs, and computes one report of them. No
/// model is needed.
///
/// # Errors
/// Those of [`RecordedRun::read`], [`combine`], [`read_statistics`] and [`FrontReport::new`].
pub fn compare(runs: &[(String, ResultsDir)], options: ComparisonOptions) -> Result<Comparison> {
    let several = runs.len() > 1;
    let (mut recorded, mut extras, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    for (name, dir) in runs {
        let run = RecordedRun::read(&dir.results, name)?;
        let (metrics, notes) = match &dir.run {
            Some(run) => read_metrics(&run.join("metrics.jsonl")),
            None => Default::default(),
        };
        unread.extend(notes);
        let name = if several { name.clone() } else { String::new() };
        extras.push(RunExtras { name, metrics, record: run.record.clone() });
        recorded.push(run);
    }
    let combined = combine(recorded)?;
    let evaluation = combined.evaluation;
    let mut config = combined.config;
    let mut notes = combined.notes;
    if let Some(file) = &options.statistics {
        config.statistics = read_statistics(file, &evaluation.objectives)?;
        notes.retain(|note| !note.starts_with("z-scores"));
    }
    let report = FrontReport::new(&evaluation, &config)?;
    let names: Vec<&str> = runs.iter().map(|(name, _)| name.as_str()).collect();
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
        title: options.title.unwrap_or(title),
        summary,
        notes,
        rewards: combined.rewards,
        runs: extras,
        n_examples: options.n_examples,
    };
    Ok(Comparison { evaluation, report, extras, notes: unread })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_from_the_run_and_by_themselves() {
        let temp = tempfile::tempdir().unwrap();
        let run = temp.path().join("demo");
        let results = run.join("pareto");
        std::fs::create_dir_all(&results).unwrap();
        let says = |path: &Path| ResultsDir::find(path).unwrap_err().to_string();
        assert!(says(&run).contains("no report.json"), "{}", says(&run));
        std::fs::write(run.join("config.toml"), "").unwrap();
        assert!(says(&run).contains("mopo pareto"), "{}", says(&run));
        std::fs::write(results.join("report.json"), "{}").unwrap();
        for path in [&run, &results] {
            let found = ResultsDir::find(path).unwrap();
            assert_eq!(found.results, results);
            assert_eq!(found.name(), "demo");
        }
        let elsewhere = temp.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("report.json"), "{}").unwrap();
        let found = ResultsDir::find(&elsewhere).unwrap();
        assert_eq!((found.run.clone(), found.name()), (None, "elsewhere".into()));
    }

    #[test]
    fn damaged_metrics_cost_only_their_own_lines() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("metrics.jsonl");
        let (rows, notes) = read_metrics(&path);
        assert!(rows.is_empty() && notes[0].contains("no training curves"), "{notes:?}");
        std::fs::write(&path, b"{\"step\":1}\n\n{\"st\n\xff\xfe\n{\"step\":2}\n").unwrap();
        let (rows, notes) = read_metrics(&path);
        assert_eq!(rows.len(), 2);
        assert!(notes[0].starts_with("2 lines of"), "{notes:?}");
    }
}
