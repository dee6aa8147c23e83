//! One directory per comparison: the figure, the tables, the samples and a page that shows them.

mod csv;
mod page;
#[cfg(test)]
mod tests;
mod words;

use std::path::{Path, PathBuf};

use mopo_data::write_atomically;
use serde_json::{Value, json};

use crate::{Error, Evaluation, FrontReport, Result, plot};

/// What the page shows beside the front.
#[derive(Debug, Clone)]
pub struct ReportExtras {
    /// Heading of the page and of the figure.
    pub title: String,
    /// One or two sentences below the heading, e.g. what was trained on what.
    pub summary: Option<String>,
    /// Training metrics, one JSON object per logged step with a `step`; drawn by
    /// [`plot::curves_from_metrics`]. Empty for none.
    pub metrics: Vec<Value>,
    /// How many prompts are shown with all responses; taken from the clusters in turn.
    pub n_examples: usize,
    /// The run's record (configuration, versions, machine), shown as it is. `Null` for none.
    pub record: Value,
}

impl Default for ReportExtras {
    fn default() -> Self {
        Self {
            title: "Pareto front".into(),
            summary: None,
            metrics: Vec::new(),
            n_examples: 8,
            record: Value::Null,
        }
    }
}

/// Where a report's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFiles {
    /// The figure.
    pub front_svg: PathBuf,
    /// The figure as pixels, at twice its size.
    pub front_png: PathBuf,
    /// One row per policy over all prompts, then one per cluster and policy.
    pub front_csv: PathBuf,
    /// One JSON object per policy and prompt: policy, group, cluster, prompt, response, scores.
    pub samples: PathBuf,
    /// The [`FrontReport`] and the record, as JSON.
    pub report_json: PathBuf,
    /// The page; it needs no other file and no network.
    pub index_html: PathBuf,
}

/// Writes a report into `dir`, which is created if need be. Each file is written atomically; the
/// page last, so that a page that exists is complete.
///
/// # Errors
/// As [`Evaluation::check`]; [`Error::Length`] if `report` is not of this `evaluation`;
/// [`Error::Data`] names the file that could not be written.
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
    let files = ReportFiles {
        front_svg: dir.join("front.svg"),
        front_png: dir.join("front.png"),
        front_csv: dir.join("front.csv"),
        samples: dir.join("samples.jsonl"),
        report_json: dir.join("report.json"),
        index_html: dir.join("index.html"),
    };
    let figure = plot::front_figure(report, &extras.title)?;
    let json_error = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Json { what, source }
    };
    let whole = json!({ "title": extras.title, "front": report, "record": extras.record });
    let whole = serde_json::to_string_pretty(&whole).map_err(json_error("the report"))?;
    write_atomically(&files.front_svg, figure.svg.as_bytes())?;
    write_atomically(&files.front_png, &figure.to_png(2.0)?)?;
    write_atomically(&files.front_csv, csv::front_csv(report).as_bytes())?;
    write_atomically(&files.samples, samples_jsonl(evaluation).as_bytes())?;
    write_atomically(&files.report_json, (whole + "\n").as_bytes())?;
    let page = page::html(report, evaluation, extras, &figure)?;
    write_atomically(&files.index_html, page.as_bytes())?;
    Ok(files)
}

fn samples_jsonl(evaluation: &Evaluation) -> String {
    let mut out = String::new();
    for samples in &evaluation.policies {
        for (i, prompt) in evaluation.prompts.iter().enumerate() {
            let line = json!({
                "policy": samples.policy,
                "group": samples.group,
                "cluster": evaluation.clusters.assignments[i],
                "prompt": prompt,
                "response": samples.responses[i],
                "scores": samples.scores[i],
            });
            out += &line.to_string();
            out.push('\n');
        }
    }
    out
}
