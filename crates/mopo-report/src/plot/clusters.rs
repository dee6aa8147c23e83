//! Policies cluster by cluster: one row per cluster, one column per objective.

use super::Figure;
use super::axis::Axis;
use super::legend::{Entry, Legend};
use super::svg::{Anchor, Stroke, Svg, Type, styles_of};
use super::text;
use crate::{FrontReport, PolicyGroup, Result};

const MARGIN: f64 = 24.0;
const NAMES: f64 = 230.0;
const GAP: f64 = 26.0;
const LANE: f64 = 13.0;

/// Draws each policy's mean score per cluster with its 95 % interval. With more than eight
/// policies,
/// mixtures are omitted, and the caption says so.
///
/// # Errors
/// [`crate::Error::InvalidParameter`] if there is no policy.
pub fn clusters_figure(report: &FrontReport) -> Result<Figure> {
    if report.points.is_empty() {
        return Err(crate::Error::invalid("report.points", "empty", "at least one is needed"));
    }
    let n_objectives = report.objectives.len();
    let n_policies = report.points.len();
    let all_styles = styles_of(report);
    let kept = |p: &usize| n_policies <= 8 || report.points[*p].group != PolicyGroup::Mixture;
    let mut shown: Vec<usize> = (0..n_policies).filter(kept).collect();
    if shown.is_empty() {
        shown = (0..n_policies).collect();
    }
    let column = (760.0 / n_objectives as f64).clamp(190.0, 360.0);
    let width =
        2.0 * MARGIN + NAMES + n_objectives as f64 * column + (n_objectives - 1) as f64 * GAP;
    let inner = width - 2.0 * MARGIN;
    let mut svg = Svg::new("clusters");

    let left_out = if shown.len() < n_policies { " Mixtures are not shown." } else { "" };
    let caption = format!(
        "Mean score of each policy in each prompt cluster, with the mean's 95 % interval; further \
         right is better.{left_out}"
    );
    let heading = Type { size: 18.0, bold: true, ..Type::default() };
    svg.text(MARGIN, MARGIN + 14.0, "Cluster by cluster", heading);
    let small = Type { muted: true, ..Type::default() };
    let top = svg.paragraph(MARGIN, MARGIN + 38.0, inner, &caption, small) + 4.0;
    let legend = Legend {
        entries: shown
            .iter()
            .map(|&p| Entry::Policy(all_styles[p], report.points[p].shown_label()))
            .collect(),
    };
    legend.draw(&mut svg, MARGIN, top, inner);
    let top = top + legend.height(inner) + 34.0;

    let row = shown.len() as f64 * LANE + 14.0;
    let row = row.max(46.0);
    let n_clusters = report.cluster_labels.len();
    let bottom = top + n_clusters as f64 * row;
    for k in 0..n_objectives {
        let left = MARGIN + NAMES + k as f64 * (column + GAP);
        let ends = report.cluster_points.iter().enumerate().filter_map(|(i, p)| {
            let e = p.standard_errors.as_ref().map_or(0.0, |e| 1.96 * e[k]);
            shown.contains(&(i % n_policies)).then_some([p.means[k] - e, p.means[k] + e])
        });
        let axis = Axis::around(ends.flatten());
        let name = text::fit(&report.objectives[k], 14.0, true, column - 74.0);
        let bold = Type { size: 14.0, bold: true, anchor: Anchor::Middle, ..Type::default() };
        svg.text(left + column / 2.0, top - 12.0, &format!("{name} → better"), bold);
        for (value, label) in axis.ticks(((column / 60.0) as usize).max(4)) {
            let at = axis.place(value, left, left + column);
            svg.line((at, top), (at, bottom), Stroke::Grid);
            let tick = Type { size: 12.0, muted: true, anchor: Anchor::Middle, ..Type::default() };
            svg.text(at, bottom + 18.0, &label, tick);
        }
        for c in 0..n_clusters {
            let y = top + c as f64 * row;
            svg.frame(left, y, column, row);
            let first = y + (row - shown.len() as f64 * LANE) / 2.0 + LANE / 2.0;
            for (lane, &p) in shown.iter().enumerate() {
                let point = &report.cluster_points[c * n_policies + p];
                let (x, y) =
                    (axis.place(point.means[k], left, left + column), first + lane as f64 * LANE);
                if let Some(errors) = &point.standard_errors {
                    let end = |sign: f64| {
                        axis.place(point.means[k] + sign * 1.96 * errors[k], left, left + column)
                    };
                    let stroke = Stroke::Series(all_styles[p].colour, 1.4);
                    svg.line((end(-1.0), y), (end(1.0), y), stroke);
                }
                svg.marker(x, y, 5.0, all_styles[p], false);
            }
        }
    }
    for (c, label) in report.cluster_labels.iter().enumerate() {
        let y = top + (c as f64 + 0.5) * row;
        let n = report.cluster_points[c * n_policies].n;
        let name = text::fit(label, 13.0, false, NAMES - 14.0);
        svg.text(MARGIN, y - 4.0, &name, Type::default());
        let prompts = if n == 1 { "1 prompt".into() } else { format!("{n} prompts") };
        svg.text(MARGIN, y + 14.0, &prompts, Type { size: 12.0, ..small });
    }
    Ok(svg.finish(width, bottom + 18.0 + MARGIN, &caption))
}
