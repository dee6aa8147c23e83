//! The page: one HTML file without links to other files, light or dark like the reader's system,
//! for
//! screens from phones up. It is complete without its script, which adds tooltips and
//! the filters of the examples.
//!
//! Text is escaped where it is inserted, except for the figures' own SVG, the style and the script,
//! the only one that the page's policy allows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::{ReportExtras, RunExtras, examples, tables, words};
use crate::plot::{self, Figure, short};
use crate::{Error, Evaluation, FrontReport, PolicySet, Result};

/// The style of every page.
pub(crate) const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole page.
pub(super) fn html(
    report: &FrontReport,
    evaluation: &Evaluation,
    extras: &ReportExtras,
) -> Result<String> {
    let digest = STANDARD.encode(Sha256::digest(SCRIPT.as_bytes()));
    let policy =
        format!("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'");
    let sections: [(&str, &str, Markup); 7] = [
        ("front", "The front", front(report)?),
        ("policies", "Policies and objectives", tables::policies(report)),
        ("sets", "Sets of policies", tables::sets(report)),
        ("clusters", "By prompt cluster", clusters(report)),
        ("training", "Training", training(&extras.runs)),
        ("examples", "Examples", examples::section(evaluation, extras.n_examples)),
        ("record", "Record", records(&extras.runs)?),
    ];
    let sections = || sections.iter().filter(|(_, _, body)| !body.0.is_empty());
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(policy);
                title { (extras.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (extras.title) }
                    @if let Some(summary) = &extras.summary { p.muted { (summary) } }
                    nav aria-label="Sections" {
                        @for (id, heading, _) in sections() {
                            a href={ "#" (id) } { (heading) } " "
                        }
                    }
                    (headline(report, &extras.notes))
                    @for (id, heading, body) in sections() {
                        section id=(id) { h2 { (heading) } (body) }
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

fn headline(report: &FrontReport, notes: &[String]) -> Markup {
    // With several runs, only the trained policies.
    let shown = |set| report.runs.is_empty() || set != PolicySet::Sft;
    let ref_point: Vec<String> = report.config.ref_point.iter().map(|&v| short(v)).collect();
    html! {
        @for (i, sentence) in words::verdict(report).iter().enumerate() {
            p.lead[i == 0] { (sentence) }
        }
        @if !notes.is_empty() {
            ul.notes { @for note in notes { li { (note) } } }
        }
        div.tiles {
            @for quality in report.sets.iter().filter(|q| shown(q.of.set)) {
                div.tile {
                    span {
                        @match &quality.of.run {
                            Some(run) => { "hypervolume of " (run) ": " (quality.of.set.name()) }
                            None => { "hypervolume of the " (quality.of.set.name()) }
                        }
                    }
                    b { (short(quality.hypervolume.value)) }
                    span {
                        (quality.n_policies)
                        @if quality.n_policies == 1 { " policy" } @else { " policies" }
                        @if let Some(i) = quality.hypervolume.interval {
                            "; " (words::percent(report.config.confidence)) " interval "
                            (short(i.low)) " to " (short(i.high))
                        }
                    }
                }
            }
        }
        p.muted {
            "The hypervolume is the volume of score space that at least one policy of a set reaches, \
             measured from the reference point (" (ref_point.join(", ")) ") that was fixed beforehand; \
             larger is better. A set of several policies has an advantage over a single one, so the \
             table also gives each policy's own. Intervals: " (report.config.n_resamples)
            " paired bootstrap resamples of the " (report.n_prompts) " prompts."
        }
    }
}

/// The figure's SVG inside the page: HTML needs no namespace.
pub(super) fn inline(figure: &Figure) -> Markup {
    PreEscaped(figure.svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1))
}

/// Panels side by side as far as there is room. Everything that belongs to one policy is
/// highlighted together within an element with the class `group`.
fn panels<'a>(
    two: bool,
    figures: impl IntoIterator<Item = (Option<Markup>, &'a Figure)>,
) -> Markup {
    html! {
        div.panels.two[two] {
            @for (caption, figure) in figures {
                // Panels too wide for a phone scroll inside their own frame.
                figure.panel.wide[figure.width > 420.0] {
                    @if let Some(caption) = caption { figcaption { (caption) } }
                    div.scroll { (inline(figure)) }
                }
            }
        }
    }
}

fn front(report: &FrontReport) -> Result<Markup> {
    let mut figures = plot::front_panels(report)?;
    let n_pairs = figures.len();
    if report.objectives.len() > 2 {
        figures.push(plot::parallel_panel(report));
    }
    let captions = figures.iter().enumerate().map(|(i, figure)| {
        let all = "All objectives at once, each axis on its own scale; dashed: dominated";
        ((i == n_pairs).then(|| html! { (all) }), figure)
    });
    Ok(html! {
        div.group {
            (legend(report, true))
            // Three pairs and the panel with all objectives fill two rows of two.
            (panels(n_pairs == 3, captions))
        }
    })
}

fn legend(report: &FrontReport, with_notes: bool) -> Markup {
    let key = plot::policy_key(report);
    html! {
        (key_list(&key.policies))
        @if with_notes {
            ul.legend.muted {
                @for (sign, meaning) in &key.notes { li { (PreEscaped(sign)) span { (meaning) } } }
            }
        }
    }
}

/// Symbols, which are drawn here, with names that come from outside.
fn key_list(key: &[(String, String)]) -> Markup {
    html! {
        ul.legend {
            @for (i, (sign, name)) in key.iter().enumerate() {
                li.pt data-key=(i) { (PreEscaped(sign)) span { (name) } }
            }
        }
    }
}

/// Fronts of two objectives, or all objectives at once, in each cluster; empty for a single
/// cluster.
fn clusters(report: &FrontReport) -> Markup {
    if report.cluster_labels.len() < 2 {
        return html! {};
    }
    let grid = |figures: Vec<Figure>| {
        let sizes = report.cluster_points.iter().step_by(report.points.len());
        let captions = report.cluster_labels.iter().zip(sizes).map(|(label, first)| {
            let prompts = if first.n == 1 { "prompt" } else { "prompts" };
            Some(html! { (label) " " small { (first.n) " " (prompts) } })
        });
        panels(false, captions.zip(&figures))
    };
    let names = &report.objectives;
    html! {
        p.muted {
            "Clusters of prompts, each named by its most characteristic words; all panels have the same axes."
        }
        div.group {
            (legend(report, false))
            @if names.len() == 2 {
                (grid(plot::cluster_front_panels(report, 0, 1)))
            } @else {
                (grid(plot::cluster_parallel_panels(report)))
                // With more than three objectives there are too many pairs; the figure has their
                // means.
                @for (x, y) in plot::pairs(report).into_iter().filter(|_| names.len() == 3) {
                    details {
                        summary { (names[x]) " against " (names[y]) ", cluster by cluster" }
                        (grid(plot::cluster_front_panels(report, x, y)))
                    }
                }
            }
        }
        (tables::clusters(report))
    }
}

fn training(runs: &[RunExtras]) -> Markup {
    let drawn = runs.iter().enumerate().map(|(i, run)| {
        let curves = plot::curves_from_metrics(&run.metrics);
        (run, plot::curve_panels(&curves, &format!("training-{i}")))
    });
    html! {
        @for (run, panels) in drawn.filter(|(_, panels)| !panels.is_empty()) {
            @if !run.name.is_empty() { h3 { (run.name) } }
            div.panels {
                @for plot::CurvePanel { title, figure, key } in &panels {
                    figure.panel.group {
                        figcaption { (title) }
                        (inline(figure))
                        @if !key.is_empty() { (key_list(key)) }
                    }
                }
            }
        }
    }
}

fn records(runs: &[RunExtras]) -> Result<Markup> {
    let mut shown = Vec::new();
    for run in runs.iter().filter(|run| !run.record.is_null()) {
        let record = serde_json::to_string_pretty(&run.record)
            .map_err(|source| Error::Json { what: "the run's record".into(), source })?;
        shown.push((if run.name.is_empty() { "this" } else { &run.name }, record));
    }
    Ok(html! {
        @for (whose, record) in shown {
            details {
                summary { "How " (whose) " was made: configuration, versions, machine" }
                pre { (record) }
            }
        }
    })
}
