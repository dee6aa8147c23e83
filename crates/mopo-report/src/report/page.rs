//! The page: one HTML file without links or other files, light or dark as the reader's system is, for
//! screens from a phone's on. It is complete without its script, which adds what a pointer asks for and
//! the filters of the examples.
//!
//! It is well-formed XML too, so that a strict parser can check it. Whatever comes from outside is
//! escaped, and the page's policy names the one script that may run.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::{ReportExtras, RunExtras, examples, tables, words};
use crate::plot::{self, Figure, escape, short};
use crate::{Error, Evaluation, FrontReport, PolicySet, Result};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole page.
pub(super) fn html(
    report: &FrontReport,
    evaluation: &Evaluation,
    extras: &ReportExtras,
) -> Result<String> {
    let title = escape(&extras.title);
    let digest = STANDARD.encode(Sha256::digest(SCRIPT.as_bytes()));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
         'unsafe-inline'; script-src 'sha256-{digest}'\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n",
    );
    if let Some(summary) = &extras.summary {
        let _ = writeln!(out, "<p class=\"muted\">{}</p>", escape(summary));
    }
    let sections: [(&str, &str, String); 7] = [
        ("front", "The front", front(report)?),
        ("policies", "Policies and objectives", tables::policies(report)),
        ("sets", "Sets of policies", tables::sets(report)),
        ("clusters", "By kind of prompt", clusters(report)),
        ("training", "Training", training(&extras.runs)),
        ("examples", "Examples", examples::section(evaluation, extras.n_examples)),
        ("record", "Record", records(&extras.runs)?),
    ];
    out.push_str("<nav aria-label=\"Sections\">");
    for (id, heading, body) in &sections {
        if !body.is_empty() {
            let _ = write!(out, "<a href=\"#{id}\">{heading}</a> ");
        }
    }
    out.push_str("</nav>\n");
    headline(&mut out, report, &extras.notes);
    for (id, heading, body) in &sections {
        if !body.is_empty() {
            let _ = writeln!(out, "<section id=\"{id}\">\n<h2>{heading}</h2>\n{body}</section>");
        }
    }
    let _ = write!(out, "</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n");
    Ok(out)
}

fn headline(out: &mut String, report: &FrontReport, notes: &[String]) {
    for (i, sentence) in words::verdict(report).iter().enumerate() {
        let class = if i == 0 { " class=\"lead\"" } else { "" };
        let _ = writeln!(out, "<p{class}>{}</p>", escape(sentence));
    }
    if !notes.is_empty() {
        out.push_str("<ul class=\"notes\">\n");
        for note in notes {
            let _ = writeln!(out, "<li>{}</li>", escape(note));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("<div class=\"tiles\">\n");
    // Of several runs the trained policies alone.
    let shown = |set| report.runs.is_empty() || set != PolicySet::WarmStart;
    for quality in report.sets.iter().filter(|q| shown(q.of.set)) {
        let range = quality.hypervolume.interval.map_or_else(String::new, |i| {
            let level = words::percent(report.config.confidence);
            format!("; {level} interval {} to {}", short(i.low), short(i.high))
        });
        let n = match quality.n_policies {
            1 => "1 policy".to_owned(),
            n => format!("{n} policies"),
        };
        let name = match &quality.of.run {
            Some(run) => format!("hypervolume of {run}: {}", quality.of.set.name()),
            None => format!("hypervolume of the {}", quality.of.set.name()),
        };
        let _ = writeln!(
            out,
            "<div class=\"tile\"><span>{}</span><b>{}</b><span>{n}{range}</span></div>",
            escape(&name),
            short(quality.hypervolume.value)
        );
    }
    let ref_point: Vec<String> = report.config.ref_point.iter().map(|&v| short(v)).collect();
    let _ = writeln!(
        out,
        "</div>\n<p class=\"muted\">The hypervolume is the volume of score space that at least one \
         policy of a set reaches, measured from the reference point ({}) that was fixed \
         beforehand; larger is better. A set of several policies has an advantage over a single \
         one, so the table also gives each policy's own. Intervals: {} paired bootstrap \
         resamples of the {} prompts.</p>",
        ref_point.join(", "),
        report.config.n_resamples,
        report.n_prompts
    );
}

/// The figure's SVG inside the page: HTML needs no namespace, and there is none to fetch.
pub(super) fn inline(figure: &Figure) -> String {
    figure.svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1)
}

/// Panels side by side as far as there is room. What belongs to one policy lights up together within
/// an element with the class `group`.
fn panels<'a>(
    out: &mut String,
    class: &str,
    figures: impl IntoIterator<Item = (String, &'a Figure)>,
) {
    let _ = writeln!(out, "<div class=\"panels{class}\">");
    for (caption, figure) in figures {
        // More objectives than fit a phone scroll inside their own frame.
        let class = if figure.width > 420.0 { "panel wide" } else { "panel" };
        let _ = write!(out, "<figure class=\"{class}\">");
        if !caption.is_empty() {
            let _ = write!(out, "<figcaption>{caption}</figcaption>");
        }
        let _ = writeln!(out, "<div class=\"scroll\">{}</div></figure>", inline(figure));
    }
    out.push_str("</div>\n");
}

fn front(report: &FrontReport) -> Result<String> {
    let mut out = String::from("<div class=\"group\">\n");
    legend(&mut out, report, true);
    let mut figures = plot::front_panels(report)?;
    let three = report.objectives.len() > 2;
    if three {
        figures.push(plot::parallel_panel(report));
    }
    let n_pairs = figures.len() - usize::from(three);
    let captions = figures.iter().enumerate().map(|(i, figure)| {
        let caption = match i {
            i if three && i == n_pairs => {
                "All objectives at once, each axis on its own scale; dashed: dominated".to_owned()
            }
            _ => String::new(),
        };
        (caption, figure)
    });
    // Three pairs and all at once fill two rows of two.
    panels(&mut out, if n_pairs == 3 { " two" } else { "" }, captions);
    out.push_str("</div>\n");
    Ok(out)
}

fn legend(out: &mut String, report: &FrontReport, with_notes: bool) {
    let key = plot::policy_key(report);
    out.push_str("<ul class=\"legend\">\n");
    for (i, (sign, name)) in key.policies.iter().enumerate() {
        let _ = writeln!(
            out,
            "<li class=\"pt\" data-key=\"{i}\">{sign}<span>{}</span></li>",
            escape(name)
        );
    }
    out.push_str("</ul>\n");
    if with_notes {
        out.push_str("<ul class=\"legend muted\">\n");
        for (sign, meaning) in &key.notes {
            let _ = writeln!(out, "<li>{sign}<span>{}</span></li>", escape(meaning));
        }
        out.push_str("</ul>\n");
    }
}

/// Fronts of two objectives, or all at once, in each cluster; empty for a single one.
fn clusters(report: &FrontReport) -> String {
    if report.cluster_labels.len() < 2 {
        return String::new();
    }
    let sizes = report.cluster_points.iter().step_by(report.points.len());
    let captions: Vec<String> = report
        .cluster_labels
        .iter()
        .zip(sizes)
        .map(|(label, first)| {
            let prompts = if first.n == 1 { "prompt" } else { "prompts" };
            format!("{} <small>{} {prompts}</small>", escape(label), first.n)
        })
        .collect();
    let grid = |out: &mut String, figures: Vec<Figure>| {
        panels(out, "", captions.iter().cloned().zip(&figures));
    };
    let mut out = String::from(
        "<p class=\"muted\">The prompts in groups, each named by its heaviest words; all panels have \
         the same axes.</p>\n<div class=\"group\">\n",
    );
    legend(&mut out, report, false);
    let names = &report.objectives;
    if names.len() == 2 {
        grid(&mut out, plot::cluster_front_panels(report, 0, 1));
    } else {
        grid(&mut out, plot::cluster_parallel_panels(report));
        // Beyond three there are more pairs than anybody looks at; the figure has their means.
        for (x, y) in plot::pairs(report).into_iter().filter(|_| names.len() == 3) {
            let _ = writeln!(
                out,
                "<details><summary>{} against {}, cluster by cluster</summary>",
                escape(&names[x]),
                escape(&names[y])
            );
            grid(&mut out, plot::cluster_front_panels(report, x, y));
            out.push_str("</details>\n");
        }
    }
    out.push_str("</div>\n");
    tables::clusters(&mut out, report);
    out
}

fn training(runs: &[RunExtras]) -> String {
    let mut out = String::new();
    for (i, run) in runs.iter().enumerate() {
        let curves = plot::curves_from_metrics(&run.metrics);
        let drawn = plot::curve_panels(&curves, &format!("training-{i}"));
        if drawn.is_empty() {
            continue;
        }
        if !run.name.is_empty() {
            let _ = writeln!(out, "<h3>{}</h3>", escape(&run.name));
        }
        out.push_str("<div class=\"panels\">\n");
        for plot::CurvePanel { title, figure, key } in drawn {
            let _ = writeln!(
                out,
                "<figure class=\"panel group\"><figcaption>{}</figcaption>\n{}",
                escape(&title),
                inline(&figure)
            );
            if !key.is_empty() {
                out.push_str("<ul class=\"legend\">");
                for (k, (sign, name)) in key.iter().enumerate() {
                    let name = escape(name);
                    let _ = write!(
                        out,
                        "<li class=\"pt\" data-key=\"{k}\">{sign}<span>{name}</span></li>"
                    );
                }
                out.push_str("</ul>\n");
            }
            out.push_str("</figure>\n");
        }
        out.push_str("</div>\n");
    }
    out
}

fn records(runs: &[RunExtras]) -> Result<String> {
    let mut out = String::new();
    for run in runs.iter().filter(|run| !run.record.is_null()) {
        let record = serde_json::to_string_pretty(&run.record)
            .map_err(|source| Error::Json { what: "the run's record".into(), source })?;
        let whose = if run.name.is_empty() { "this".into() } else { escape(&run.name) };
        let _ = writeln!(
            out,
            "<details><summary>How {whose} was made: configuration, versions, machine</summary>\n\
             <pre>{}</pre></details>",
            escape(&record)
        );
    }
    Ok(out)
}
