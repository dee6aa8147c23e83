//! The page's tables. On a phone each row becomes a block of lines, by the cells' labels.

use maud::{Markup, html};

use super::words::{self, percent};
use crate::plot::{short, short_error, signed};
use crate::{Estimate, FrontReport, PolicyPoint};

/// Mean scores with standard errors, then average z-scores: the table of the paper.
pub(super) fn policies(report: &FrontReport) -> Markup {
    let best = maxima(report.points.iter().map(|p| &p.means));
    html! {
        table.rows {
            thead { tr {
                th { "policy" }
                th.left { "kind" }
                @for name in &report.objectives { th { (name) } }
                th { "own hypervolume" }
                th { "on the front" }
            } }
            tbody {
                @for point in &report.points {
                    tr {
                        td { (point.shown_label()) }
                        td.left data-label="kind" { (point.group.name()) }
                        (means(report, point, &best))
                        td data-label="own hypervolume" { (short(point.own_hypervolume)) }
                        td data-label="on the front" { @if point.non_dominated { "yes" } @else { "no" } }
                    }
                }
            }
        }
        p.muted {
            "Mean score ± standard error over " (report.n_prompts) " prompts; larger is better, the best \
             of a column is bold. A policy is on the front if no other one is at least as good on every \
             objective and better on one."
        }
        (z_scores(report))
    }
}

fn z_scores(report: &FrontReport) -> Markup {
    let rows: Vec<Vec<Option<f64>>> = report
        .points
        .iter()
        .map(|point| {
            let known: Option<Vec<f64>> = point.z_scores.iter().copied().collect();
            let mean = known.map(|z| z.iter().sum::<f64>() / z.len() as f64);
            point.z_scores.iter().copied().chain([mean]).collect()
        })
        .collect();
    let n_columns = report.objectives.len() + 1;
    let best: Vec<f64> = (0..n_columns)
        .map(|c| rows.iter().filter_map(|r| r[c]).fold(f64::NEG_INFINITY, f64::max))
        .collect();
    let label = |c: usize| report.objectives.get(c).map_or("mean", String::as_str);
    html! {
        h3 { "Average z-scores" }
        table.rows {
            thead { tr {
                th { "policy" }
                @for name in &report.objectives { th { (name) } }
                th { "mean" }
            } }
            tbody {
                @for (point, row) in report.points.iter().zip(&rows) {
                    tr {
                        td { (point.shown_label()) }
                        @for (c, z) in row.iter().enumerate() {
                            td.best[*z == Some(best[c])] data-label=(label(c)) {
                                (z.map_or_else(|| "–".into(), signed))
                            }
                        }
                    }
                }
            }
        }
        p.muted { "(mean score − mean) / standard deviation, with:" }
        ul.muted {
            @for s in &report.statistics {
                li {
                    (s.objective) ": mean " (short(s.mean)) ", deviation " (short(s.std))
                    @if let Some(n) = s.n { " of " (n) " scores" }
                    ": " (s.source)
                    @if s.std > 0.0 {} @else {
                        ". All these scores are equal, so there are no z-scores; give other statistics"
                    }
                    "."
                }
            }
        }
    }
}

fn means(report: &FrontReport, point: &PolicyPoint, best: &[f64]) -> Markup {
    html! {
        @for (k, &mean) in point.means.iter().enumerate() {
            td.best[mean == best[k]] data-label=(report.objectives[k]) {
                (short(mean))
                @if let Some(errors) = &point.standard_errors {
                    " " small { "± " (short_error(errors[k], mean)) }
                }
            }
        }
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

/// Hypervolume, IGD+ and additive epsilon of each set, and the differences of hypervolumes.
pub(super) fn sets(report: &FrontReport) -> Markup {
    let distances = if report.sets.iter().any(|q| q.igd_plus.is_some()) {
        "IGD+ is the mean distance by which a set stays behind the front of all policies compared \
         here, the additive ε the largest such distance, both in standard deviations of the scores \
         (those of the z-scores); smaller is better, and 0 means that the set has the whole front. \
         They depend on what is compared, and hold on this page only."
    } else {
        "IGD+ and additive ε combine distances in all objectives, so they need z-scores for each; some \
         objective has none."
    };
    html! {
        table.rows {
            thead { tr {
                th { "set" } th { "policies" } th { "hypervolume ↑" } th { "IGD+ ↓" }
                th { "additive ε ↓" }
            } }
            tbody {
                @for quality in &report.sets {
                    tr {
                        td { (quality.of.name()) }
                        td data-label="policies" { (quality.n_policies) }
                        td data-label="hypervolume ↑" { (estimated(Some(quality.hypervolume))) }
                        td data-label="IGD+ ↓" { (estimated(quality.igd_plus)) }
                        td data-label="additive ε ↓" { (estimated(quality.epsilon)) }
                    }
                }
            }
        }
        p.muted {
            "In brackets: " (percent(report.config.confidence))
            " interval of the paired bootstrap over prompts. " (distances)
        }
        @if !report.differences.is_empty() { (differences(report)) }
    }
}

fn estimated(estimate: Option<Estimate>) -> Markup {
    html! {
        @match estimate {
            None => "–",
            Some(Estimate { value, interval }) => {
                (short(value))
                @if let Some(i) = interval {
                    " " small { "(" (short(i.low)) " to " (short(i.high)) ")" }
                }
            }
        }
    }
}

fn differences(report: &FrontReport) -> Markup {
    html! {
        h3 { "Differences of hypervolumes" }
        table.rows {
            thead { tr {
                th { "first" } th.left { "second" } th { "first − second" }
                th { "P(first is larger)" } th { "P(second is larger)" }
            } }
            tbody {
                @for d in &report.differences {
                    tr {
                        td { (d.of.name()) }
                        td.left data-label="against" { (d.minus.name()) }
                        td data-label="first − second" {
                            (estimated(Some(Estimate { value: d.value, interval: Some(d.interval) })))
                        }
                        td data-label="P(first is larger)" {
                            (words::probability(d.probability_positive))
                        }
                        td data-label="P(second is larger)" {
                            (words::probability(d.probability_negative))
                        }
                    }
                }
            }
        }
        p.muted {
            "P: dominance probability, the share of " (report.config.n_resamples) " resamples of the \
             prompts in which that set's front has the larger hypervolume. It covers the choice of \
             prompts and the sampled responses, not another training run."
        }
    }
}

/// Every mean of every cluster.
pub(super) fn clusters(report: &FrontReport) -> Markup {
    let n_policies = report.points.len();
    let clusters = report.cluster_labels.iter().zip(report.cluster_points.chunks(n_policies));
    html! {
        details {
            summary { "As a table" }
            table.rows {
                thead { tr {
                    th { "policy" } th.left { "prompts about" } th { "prompts" }
                    @for name in &report.objectives { th { (name) } }
                    th { "own hypervolume" }
                } }
                tbody {
                    @for (label, points) in clusters {
                        @let best = maxima(points.iter().map(|p| &p.means));
                        @for point in points {
                            tr {
                                td { (point.shown_label()) }
                                td.left data-label="prompts about" { (label) }
                                td data-label="prompts" { (point.n) }
                                (means(report, point, &best))
                                td data-label="own hypervolume" { (short(point.own_hypervolume)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
