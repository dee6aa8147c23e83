//! The page: one HTML file without scripts, links or other files, light or dark as the reader's
//! system is, and wide tables and figures scroll on their own on a phone.

use std::fmt::Write;

use super::{ReportExtras, words};
use crate::plot::{self, Figure, escape, short, short_error};
use crate::{
    Clusters, Error, Evaluation, FrontReport, PolicyGroup, PolicyPoint, PolicySamples, Result,
};

/// The whole page.
pub(super) fn html(
    report: &FrontReport,
    evaluation: &Evaluation,
    extras: &ReportExtras,
    front: &Figure,
) -> Result<String> {
    let title = escape(&extras.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n",
        include_str!("page.css")
    );
    if let Some(summary) = &extras.summary {
        let _ = writeln!(out, "<p class=\"muted\">{}</p>", escape(summary));
    }
    headline(&mut out, report);
    out += "<h2>The front</h2>\n";
    inline(&mut out, front);
    policies(&mut out, report);
    if report.cluster_labels.len() > 1 {
        out += "<h2>By kind of prompt</h2>\n";
        inline(&mut out, &plot::clusters_figure(report)?);
        cluster_table(&mut out, report);
    }
    let curves = plot::curves_from_metrics(&extras.metrics);
    if !curves.is_empty() {
        out += "<h2>Training</h2>\n";
        // A figure exists unless no value was finite.
        if let Ok(figure) = plot::curves_svg(&curves) {
            inline(&mut out, &figure);
        }
    }
    examples(&mut out, evaluation, extras.n_examples);
    if !extras.record.is_null() {
        let record = serde_json::to_string_pretty(&extras.record)
            .map_err(|source| Error::Json { what: "the run's record".into(), source })?;
        let _ = writeln!(
            out,
            "<h2>Record</h2>\n<details><summary>How this was made: configuration, versions, \
             machine</summary>\n<pre>{}</pre></details>",
            escape(&record)
        );
    }
    out += "</main>\n</body>\n</html>\n";
    Ok(out)
}

fn headline(out: &mut String, report: &FrontReport) {
    for (i, sentence) in words::verdict(report).iter().enumerate() {
        let class = if i == 0 { " class=\"lead\"" } else { "" };
        let _ = writeln!(out, "<p{class}>{}</p>", escape(sentence));
    }
    out.push_str("<div class=\"tiles\">\n");
    for volume in &report.hypervolumes {
        let range = volume.interval.map_or_else(String::new, |i| {
            let level = words::percent(report.config.confidence);
            format!("; {level} interval {} to {}", short(i.low), short(i.high))
        });
        let n = match volume.n_policies {
            1 => "1 policy".to_owned(),
            n => format!("{n} policies"),
        };
        let _ = writeln!(
            out,
            "<div class=\"tile\"><span>hypervolume of the {}</span><b>{}</b><span>{n}{range}</span></div>",
            volume.set.name(),
            short(volume.value)
        );
    }
    let corner: Vec<String> = report.config.ref_point.iter().map(|&v| short(v)).collect();
    let _ = writeln!(
        out,
        "</div>\n<p class=\"muted\">The hypervolume is the volume of score space that at least one \
         policy of a set reaches, measured from the reference point ({}) that was fixed \
         beforehand; larger is better. A set of several policies has an advantage over a single \
         one, so the table also gives each policy's own. Intervals: {} paired bootstrap \
         resamples of the {} prompts.</p>",
        corner.join(", "),
        report.config.n_resamples,
        report.n_prompts
    );
}

/// The figure's SVG inside the page: HTML needs no namespace, and there is none to fetch.
fn inline(out: &mut String, figure: &Figure) {
    let svg = figure.svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
    let _ = writeln!(out, "<div class=\"scroll\">{svg}</div>");
}

fn policies(out: &mut String, report: &FrontReport) {
    out.push_str("<h2>Policies and objectives</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th>policy</th><th class=\"left\">kind</th>");
    for name in report.objectives.names() {
        let _ = write!(out, "<th>{}</th>", escape(name));
    }
    out.push_str("<th>own hypervolume</th><th>on the front</th></tr></thead>\n<tbody>\n");
    let best = maxima(report.points.iter().map(|p| &p.means));
    for point in &report.points {
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"left\">{}</td>",
            escape(&point.label),
            point.group.name()
        );
        means(out, point, &best);
        let on_front = if point.non_dominated { "yes" } else { "no" };
        let _ = writeln!(out, "<td>{}</td><td>{on_front}</td></tr>", short(point.own_hypervolume));
    }
    let _ = writeln!(
        out,
        "</tbody></table></div>\n<p class=\"muted\">Mean score ± standard error over {} prompts; \
         larger is better, the best of a column is bold. A policy is on the front if no other one \
         is at least as good on every objective and better on one.</p>",
        report.n_prompts
    );
}

fn means(out: &mut String, point: &PolicyPoint, best: &[f64]) {
    for (k, &mean) in point.means.iter().enumerate() {
        let class = if mean == best[k] { " class=\"best\"" } else { "" };
        let _ = write!(out, "<td{class}>{}", short(mean));
        if let Some(errors) = &point.standard_errors {
            let _ = write!(out, " <small>± {}</small>", short_error(errors[k], mean));
        }
        out.push_str("</td>");
    }
}

fn maxima<'a>(rows: impl Iterator<Item = &'a Vec<f64>>) -> Vec<f64> {
    rows.fold(Vec::new(), |best, row| {
        if best.is_empty() {
            return row.clone();
        }
        best.iter().zip(row).map(|(a, &b)| a.max(b)).collect()
    })
}

fn cluster_table(out: &mut String, report: &FrontReport) {
    out.push_str("<details><summary>The same in numbers</summary>\n<div class=\"scroll\"><table>\n<thead><tr><th>prompts about</th><th>prompts</th><th class=\"left\">policy</th>");
    for name in report.objectives.names() {
        let _ = write!(out, "<th>{}</th>", escape(name));
    }
    out.push_str("<th>own hypervolume</th></tr></thead>\n<tbody>\n");
    let n_policies = report.points.len();
    for (label, points) in
        report.cluster_labels.iter().zip(report.cluster_points.chunks(n_policies))
    {
        let best = maxima(points.iter().map(|p| &p.means));
        for (i, point) in points.iter().enumerate() {
            let (label, n) = if i == 0 {
                (escape(label), point.n.to_string())
            } else {
                (String::new(), String::new())
            };
            let name = escape(&point.label);
            let _ = write!(out, "<tr><td>{label}</td><td>{n}</td><td class=\"left\">{name}</td>");
            means(out, point, &best);
            let _ = writeln!(out, "<td>{}</td></tr>", short(point.own_hypervolume));
        }
    }
    out.push_str("</tbody></table></div></details>\n");
}

fn examples(out: &mut String, evaluation: &Evaluation, n_examples: usize) {
    let n = evaluation.prompts.len();
    let shown = n_examples.min(n);
    if shown == 0 {
        return;
    }
    let _ = writeln!(
        out,
        "<h2>Examples</h2>\n<p class=\"muted\">{shown} of {n} prompts, taken from the clusters in \
         turn; none was selected by its scores.</p>"
    );
    for i in in_turn(&evaluation.clusters).into_iter().take(shown) {
        let prompt = evaluation.prompts[i].trim();
        // The turn that is still to be written: its text stands below.
        let prompt = prompt.strip_suffix("Assistant:").unwrap_or(prompt).trim_end();
        let _ = writeln!(
            out,
            "<div class=\"example\"><p class=\"text prompt\">{}</p>\n<div class=\"answers\">",
            escape(prompt)
        );
        let (mixtures, others): (Vec<&PolicySamples>, Vec<&PolicySamples>) =
            evaluation.policies.iter().partition(|p| p.group == PolicyGroup::Mixture);
        others.iter().for_each(|samples| answer(out, evaluation, samples, i));
        out.push_str("</div>\n");
        if !mixtures.is_empty() {
            let _ = writeln!(
                out,
                "<details><summary>Mixtures ({})</summary><div class=\"answers\">",
                mixtures.len()
            );
            mixtures.iter().for_each(|samples| answer(out, evaluation, samples, i));
            out.push_str("</div></details>\n");
        }
        out.push_str("</div>\n");
    }
}

/// All prompts: the first of each cluster, then the second of each, and so on.
fn in_turn(clusters: &Clusters) -> Vec<usize> {
    let mut seen = vec![0_usize; clusters.n_clusters()];
    let mut order: Vec<(usize, usize, usize)> = Vec::with_capacity(clusters.assignments.len());
    for (i, &c) in clusters.assignments.iter().enumerate() {
        order.push((seen[c], c, i));
        seen[c] += 1;
    }
    order.sort_unstable();
    order.into_iter().map(|(_, _, i)| i).collect()
}

fn answer(out: &mut String, evaluation: &Evaluation, samples: &PolicySamples, i: usize) {
    let scores: Vec<String> = evaluation
        .objectives
        .names()
        .iter()
        .zip(&samples.scores[i])
        .map(|(name, &score)| format!("{} {}", escape(name), short(score.into())))
        .collect();
    let response = samples.responses[i].trim();
    let text = if response.is_empty() { "<i>(empty)</i>".to_owned() } else { escape(response) };
    let _ = writeln!(
        out,
        "<div class=\"answer\"><h3>{}</h3><p class=\"scores\">{}</p><p class=\"text\">{text}</p></div>",
        escape(&samples.label),
        scores.join(" · ")
    );
}
