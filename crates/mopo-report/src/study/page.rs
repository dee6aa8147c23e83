//! The tables of a study, as a page and as Markdown.

use std::path::{Path, PathBuf};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use mopo_hub::write_atomically;
use serde_json::json;

use super::{Cost, Study, StudyMethod, StudyReport, figure};
use crate::plot::{Figure, short};
use crate::report::STYLE;
use crate::{Error, Estimate, Result};

/// What [`write_study`] has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudyFiles {
    /// The page.
    pub index_html: PathBuf,
    /// Its tables in Markdown.
    pub markdown: PathBuf,
    /// All results.
    pub json: PathBuf,
    /// The figure as SVG and PNG, if there is one.
    pub figures: Vec<PathBuf>,
}

/// A table with its heading and what is to be known of it.
struct Section {
    heading: &'static str,
    note: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Writes the page (`index.html`), its Markdown (`study.md`), all results (`results.json`) and the figure (`fronts.svg`,
/// `fronts.png`) to `dir`, which must exist. Each file is whole or absent.
///
/// # Errors
/// A figure that cannot be drawn, a file that cannot be written.
pub fn write_study(dir: &Path, study: &Study, report: &StudyReport) -> Result<StudyFiles> {
    let sections =
        [hypervolumes(study, report), scores(report), costs(study, report), tries(study)];
    let sections: Vec<&Section> = sections.iter().filter(|part| !part.rows.is_empty()).collect();
    let path = |name: &str| dir.join(name);
    let mut files = StudyFiles {
        index_html: path("index.html"),
        markdown: path("study.md"),
        json: path("results.json"),
        figures: vec![],
    };
    let figure = figure::figure(study, report)?;
    if let Some(figure) = &figure {
        files.figures = vec![path("fronts.svg"), path("fronts.png")];
        write_atomically(&files.figures[0], figure.svg.as_bytes())?;
        write_atomically(&files.figures[1], &figure.to_png(2.0)?)?;
    }
    let text = markdown(study, figure.is_some(), &sections);
    write_atomically(&files.markdown, text.as_bytes())?;
    let page = page(study, figure.as_ref(), &sections);
    write_atomically(&files.index_html, page.into_string().as_bytes())?;
    let whole = json!({ "study": study, "report": report });
    let whole = serde_json::to_string_pretty(&whole)
        .map_err(|source| Error::Json { what: "the study".into(), source })?;
    write_atomically(&files.json, (whole + "\n").as_bytes())?;
    Ok(files)
}

fn with_interval(estimate: &Estimate) -> String {
    match estimate.interval {
        Some(i) => format!("{} ({} … {})", short(estimate.value), short(i.low), short(i.high)),
        None => short(estimate.value),
    }
}

fn hypervolumes(study: &Study, report: &StudyReport) -> Section {
    let reference = &study.reference;
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let row = |method: &super::MethodResult| {
        let against = method.against.as_ref();
        vec![
            method.name.clone(),
            with_interval(&method.hypervolume),
            method.igd_plus.as_ref().map_or("–".into(), with_interval),
            against.map_or("–".into(), |a| with_interval(&a.difference)),
            against.map_or("–".into(), |a| percent(a.probability)),
            against.map_or("–", |a| if a.holds { "yes" } else { "**no**" }).into(),
        ]
    };
    Section {
        heading: "Fronts",
        note: format!(
            "Hypervolume of all policies of a method (larger is better), IGD+ to the front of all methods in standard \
             deviations (smaller is better), and how far {reference} is ahead. Means over {}; {} intervals of \
             {} resamples of seeds and, within each, of its {} prompts, the same for all methods. The last column: \
             whether the lower end of the interval of the difference is at least −1 % of the other's hypervolume.",
            match report.seeds.len() {
                1 => "one seed".to_string(),
                n => format!("{n} seeds"),
            },
            percent(report.confidence),
            report.n_resamples,
            report.n_prompts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        ),
        header: vec![
            "method".into(),
            "hypervolume".into(),
            "IGD+".into(),
            format!("{reference} ahead by"),
            format!("P({reference} ahead)"),
            "at or above".into(),
        ],
        rows: report.methods.iter().map(row).collect(),
    }
}

fn scores(report: &StudyReport) -> Section {
    let cell = |z: &Option<Estimate>| match z {
        Some(Estimate { value, interval: Some(i) }) => {
            format!("{value:+.2} ({:+.2} … {:+.2})", i.low, i.high)
        }
        Some(estimate) => format!("{:+.2}", estimate.value),
        None => "–".into(),
    };
    let rows = report.points.iter().map(|point| {
        let names = [report.methods[point.method].name.clone(), point.label.clone()];
        names.into_iter().chain(point.z.iter().map(cell)).collect()
    });
    Section {
        heading: "Policies and objectives",
        note: "Mean z-scores: the SFT model's answers of the same seed have mean 0 unless the configuration names other \
               statistics."
            .into(),
        header: ["method", "policy"]
            .map(String::from)
            .into_iter()
            .chain(report.objectives.iter().cloned())
            .collect(),
        rows: rows.collect(),
    }
}

fn costs(study: &Study, report: &StudyReport) -> Section {
    let n_seeds = report.seeds.len() as f64;
    let row = |method: &StudyMethod| {
        let costs: Vec<Cost> = method.runs.iter().filter_map(|run| run.cost).collect();
        if costs.is_empty() {
            return None;
        }
        let sum = |of: fn(&Cost) -> f64| costs.iter().map(of).sum::<f64>() / n_seeds;
        let memory = costs.iter().filter_map(|cost| cost.memory).max();
        Some(vec![
            method.name.clone(),
            format!("{:.0}", method.runs.len() as f64 / n_seeds),
            format!("{:.0}", sum(|cost| cost.seconds)),
            format!("{:.0}", sum(|cost| cost.responses as f64)),
            memory.map_or("–".into(), |bytes| format!("{:.2}", bytes as f64 / 1_073_741_824.0)),
        ])
    };
    Section {
        heading: "Cost",
        note: "Of one seed: training runs of the method's front, seconds of the commands and responses in their batches, \
               summed; the peak of memory of a run. Runs that a method only takes over are counted where they were trained."
            .into(),
        header: ["method", "runs", "seconds", "responses", "memory, GiB"].map(String::from).to_vec(),
        rows: study.methods.iter().filter_map(row).collect(),
    }
}

fn tries(study: &Study) -> Section {
    let rows = study.methods.iter().flat_map(|method| {
        method.tries.iter().map(|one| {
            let name = method.name.clone();
            let chosen = if one.chosen { "chosen" } else { "" };
            vec![name, one.settings.clone(), short(one.hypervolume), chosen.into()]
        })
    });
    Section {
        heading: "Hyper-parameters",
        note: "Every try of every method, with its hypervolume on validation prompts and the first seed.".into(),
        header: ["method", "settings", "hypervolume", ""].map(String::from).to_vec(),
        rows: rows.collect(),
    }
}

fn markdown(study: &Study, has_figure: bool, sections: &[&Section]) -> String {
    let mut text = format!("# {}\n", study.title);
    for paragraph in &study.about {
        text.push_str(&format!("\n{paragraph}\n"));
    }
    if has_figure {
        text.push_str("\n![The fronts of all methods](fronts.png)\n");
    }
    for Section { heading, note, header, rows } in sections {
        text.push_str(&format!("\n## {heading}\n\n{note}\n\n"));
        let line = |cells: &[String]| {
            let escaped: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", escaped.join(" | "))
        };
        text.push_str(&line(header));
        text.push_str(&format!("|{}\n", "---|".repeat(header.len())));
        rows.iter().for_each(|row| text.push_str(&line(row)));
    }
    text
}

fn page(study: &Study, figure: Option<&Figure>, sections: &[&Section]) -> Markup {
    // Bold in Markdown.
    let plain = |cell: &str| cell.trim_matches('*').to_owned();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { (study.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (study.title) }
                    @for paragraph in &study.about { p { (paragraph) } }
                    @if let Some(figure) = figure { figure { (PreEscaped(&figure.svg)) } }
                    @for Section { heading, note, header, rows } in sections {
                        section {
                            h2 { (heading) }
                            p.muted { (note) }
                            div.scroll {
                                table {
                                    thead { tr { @for cell in header { th { (cell) } } } }
                                    tbody {
                                        @for row in rows { tr { @for cell in row { td { (plain(cell)) } } } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
