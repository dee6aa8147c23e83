//! One directory per comparison: the figures, the tables, the samples and a page that shows them.

mod csv;
mod examples;
mod page;
mod tables;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use page::STYLE;

use std::path::{Path, PathBuf};

use mopo_hub::{sealed_json, sha256_hex, write_atomically};
use serde_json::{Value, json};

use crate::plot::{self, Figure};
use crate::{Error, Evaluation, FrontReport, MetricsRow, Result, ScoredAxis, write_statistics};

/// Parts of the page besides the front.
#[derive(Debug, Clone)]
pub struct ReportExtras {
    /// Title of the page and of the figure.
    pub title: String,
    /// One or two sentences below the heading, e.g. what was trained on what.
    pub summary: Option<String>,
    /// Notes for the reader of a comparison, e.g. settings that differ between its runs.
    pub notes: Vec<String>,
    /// The reward of each objective; a comparison with other runs is refused if theirs differ.
    /// `None` if unknown.
    pub rewards: Option<Vec<ScoredAxis>>,
    /// Training and record of each run, in the order of the page.
    pub runs: Vec<RunExtras>,
    /// Maximum number of prompts shown with all responses; taken from the clusters in turn. There
    /// are fewer if the texts are long (a megabyte in all).
    pub n_examples: usize,
}

/// The part of one run.
#[derive(Debug, Clone, Default)]
pub struct RunExtras {
    /// Its name, as in [`crate::PolicySamples::run`]; empty for a single run.
    pub name: String,
    /// Training metrics, drawn by [`plot::curves_from_metrics`]; may be empty.
    pub metrics: Vec<MetricsRow>,
    /// The run's record (configuration, versions, machine), shown unchanged. `Null` for none.
    pub record: Value,
}

impl Default for ReportExtras {
    fn default() -> Self {
        Self {
            title: "Pareto front".into(),
            summary: None,
            notes: Vec::new(),
            rewards: None,
            runs: Vec::new(),
            n_examples: 24,
        }
    }
}

/// Where a report's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFiles {
    /// The figure.
    pub front_svg: PathBuf,
    /// The figure as PNG, at twice its size.
    pub front_png: PathBuf,
    /// The other figures, SVG and PNG, if there is something to draw: `clusters` (more than one
    /// cluster), `parallel` (three objectives or more), `training` (a single run with metrics).
    pub figures: Vec<PathBuf>,
    /// One row per policy over all prompts, then one per cluster and policy.
    pub front_csv: PathBuf,
    /// One row per set of policies over all prompts, then per cluster.
    pub sets_csv: PathBuf,
    /// One row per difference of two sets' hypervolumes.
    pub differences_csv: PathBuf,
    /// One JSON object per policy and prompt: policy, group, cluster, prompt, response, scores.
    pub samples: PathBuf,
    /// Statistics for z-scores, for [`crate::read_statistics`].
    pub statistics: PathBuf,
    /// The [`FrontReport`] and the record, as JSON.
    pub report_json: PathBuf,
    /// The page; it needs no other file and no network.
    pub index_html: PathBuf,
}

/// Writes a report to `dir`, which is created if needed. Each file is written atomically; the
/// page last, so that a page that exists is complete.
///
/// # Errors
/// Those of [`Evaluation::check`]; [`Error::Length`] if `report` does not belong to this
/// `evaluation`;
/// [`Error::Files`] names the file that cannot be written.
pub fn write_report(
    dir: &Path,
    report: &FrontReport,
    evaluation: &Evaluation,
    extras: &ReportExtras,
) -> Result<ReportFiles> {
    evaluation.check()?;
    if report.points.len() != evaluation.policies.len() {
        return Err(Error::Length {
            field: "report.points".into(),
            found: report.points.len(),
            expected: evaluation.policies.len(),
            reason: "one per policy: pass the evaluation that the report was made from",
        });
    }
    std::fs::create_dir_all(dir).map_err(|source| Error::Io {
        action: "create",
        path: dir.into(),
        source,
    })?;
    let mut files = ReportFiles {
        front_svg: dir.join("front.svg"),
        front_png: dir.join("front.png"),
        figures: Vec::new(),
        front_csv: dir.join("front.csv"),
        sets_csv: dir.join("sets.csv"),
        differences_csv: dir.join("differences.csv"),
        samples: dir.join("samples.jsonl"),
        statistics: dir.join("statistics.json"),
        report_json: dir.join("report.json"),
        index_html: dir.join("index.html"),
    };
    write_figure(&files.front_svg, &files.front_png, &plot::front_figure(report, &extras.title)?)?;
    for (name, figure) in further_figures(report, extras)? {
        let paths = ["svg", "png"].map(|ending| dir.join(format!("{name}.{ending}")));
        match figure {
            Some(figure) => {
                write_figure(&paths[0], &paths[1], &figure)?;
                files.figures.extend(paths);
            }
            // A file of an earlier report would not belong to the rest.
            None => paths.iter().for_each(|path| {
                let _ = std::fs::remove_file(path);
            }),
        }
    }
    write_atomically(&files.front_csv, &csv::front(report).csv())?;
    write_atomically(&files.sets_csv, &csv::sets(report).csv())?;
    write_atomically(&files.differences_csv, &csv::differences(report).csv())?;
    write_statistics(&files.statistics, &report.statistics)?;
    let samples = samples_jsonl(evaluation);
    write_atomically(&files.samples, samples.as_bytes())?;
    let whole = json!({
        "title": extras.title,
        "front": report,
        "rewards": extras.rewards,
        "notes": extras.notes,
        "record": record(&extras.runs),
        "samples_sha256": sha256_hex(samples.as_bytes()),
    });
    let whole = serde_json::to_string_pretty(&whole)
        .map_err(|source| Error::Json { what: "the report".into(), source })?;
    write_atomically(&files.report_json, (sealed_json(&whole) + "\n").as_bytes())?;
    let page = page::html(report, evaluation, extras)?;
    write_atomically(&files.index_html, page.as_bytes())?;
    Ok(files)
}

fn write_figure(svg: &Path, png: &Path, figure: &Figure) -> Result<()> {
    write_atomically(svg, figure.svg.as_bytes())?;
    Ok(write_atomically(png, &figure.to_png(2.0)?)?)
}

/// Name and figure; `None` if there is nothing to draw.
fn further_figures(
    report: &FrontReport,
    extras: &ReportExtras,
) -> Result<[(&'static str, Option<Figure>); 3]> {
    let clusters =
        (report.cluster_labels.len() > 1).then(|| plot::clusters_figure(report)).transpose()?;
    let parallel =
        (report.objectives.len() > 2).then(|| plot::parallel_figure(report)).transpose()?;
    let training = match extras.runs.as_slice() {
        // A figure exists unless no value was finite.
        [run] => plot::curves_svg(&plot::curves_from_metrics(&run.metrics)).ok(),
        _ => None,
    };
    Ok([("clusters", clusters), ("parallel", parallel), ("training", training)])
}

/// A single run's record unchanged; those of several runs by name.
fn record(runs: &[RunExtras]) -> Value {
    match runs {
        [] => Value::Null,
        [run] if run.name.is_empty() => run.record.clone(),
        runs => runs.iter().map(|run| (run.name.clone(), run.record.clone())).collect(),
    }
}

fn samples_jsonl(evaluation: &Evaluation) -> String {
    let mut out = String::new();
    for samples in &evaluation.policies {
        for (i, prompt) in evaluation.prompts.iter().enumerate() {
            let mut line = json!({
                "policy": samples.policy,
                "group": samples.group,
                "cluster": evaluation.clusters.assignments[i],
                "prompt": prompt,
                "response": samples.responses[i],
                "scores": samples.scores[i],
            });
            if let Some(run) = &samples.run {
                line["run"] = json!(run);
            }
            out += &line.to_string();
            out.push('\n');
        }
    }
    out
}
