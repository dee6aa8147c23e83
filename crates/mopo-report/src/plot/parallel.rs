//! Parallel coordinates: one axis per objective, one line per policy. For three or more objectives,
//! which no single panel can show.

use super::axis::Axis;
use super::front::describe;
use super::labels::Rect;
use super::legend::{Entry, Legend};
use super::svg::{Anchor, Stroke, Style, Svg, Type, styles_of};
use super::{Figure, text};
use crate::{FrontReport, PolicyPoint, Result};

const MARGIN: f64 = 24.0;
/// Space for the names of the objectives.
const HEAD: f64 = 30.0;
/// Size of a panel on a page: width for up to four objectives, extra width for each further one,
/// height.
const ALONE: f64 = 360.0;
const EACH: f64 = 92.0;
const HEIGHT: f64 = 250.0;

/// Draws each policy's mean scores over all prompts as a line across all objectives, each axis on
/// its own
/// scale; up is better. Lines of policies that no other dominates are solid, the others dashed.
///
/// # Errors
/// [`crate::Error::InvalidParameter`] if there is no policy.
pub fn parallel_figure(report: &FrontReport) -> Result<Figure> {
    if report.points.is_empty() {
        return Err(crate::Error::invalid("report.points", "empty", "at least one is needed"));
    }
    let styles = styles_of(report);
    let axes = axes(report, &report.points);
    let n = report.objectives.len();
    let width = (n as f64 * 190.0).clamp(620.0, 1200.0);
    let inner = width - 2.0 * MARGIN;
    let mut svg = Svg::new("parallel");
    let heading = Type { size: 18.0, bold: true, ..Type::default() };
    svg.text(MARGIN, MARGIN + 14.0, "All objectives at once", heading);
    let caption = format!(
        "Mean scores over {} prompts, each axis on its own scale; up is better. Dashed: dominated by \
         another policy.",
        report.n_prompts
    );
    let small = Type { muted: true, ..Type::default() };
    let top = svg.paragraph(MARGIN, MARGIN + 38.0, inner, &caption, small) + 20.0;
    let frame = Rect { left: MARGIN, top, right: width - MARGIN, bottom: top + HEAD + 340.0 };
    draw(&mut svg, frame, report, &report.points, &styles, &axes);
    let entries = report.points.iter().zip(styles);
    let entries = entries.map(|(p, style)| Entry::Policy(style, p.shown_label())).collect();
    let legend = Legend { entries };
    let at = frame.bottom + 24.0;
    legend.draw(&mut svg, MARGIN, at, inner);
    Ok(svg.finish(width, at + legend.height(inner) + MARGIN * 0.6, &caption))
}

/// The lines over all prompts, without a legend.
pub(crate) fn parallel_panel(report: &FrontReport) -> Figure {
    panel(report, "parallel", &report.points, &axes(report, &report.points))
}

/// The same cluster by cluster, all on the same axes.
pub(crate) fn cluster_parallel_panels(report: &FrontReport) -> Vec<Figure> {
    let axes = axes(report, &report.cluster_points);
    let clusters = report.cluster_points.chunks(report.points.len()).enumerate();
    clusters.map(|(c, points)| panel(report, &format!("parallel-{c}"), points, &axes)).collect()
}

fn axes(report: &FrontReport, points: &[PolicyPoint]) -> Vec<Axis> {
    let n = report.objectives.len();
    (0..n).map(|k| Axis::around(points.iter().map(|p| p.means[k]))).collect()
}

fn panel(report: &FrontReport, name: &str, points: &[PolicyPoint], axes: &[Axis]) -> Figure {
    let width = ALONE + axes.len().saturating_sub(4) as f64 * EACH;
    let mut svg = Svg::new(name);
    let frame = Rect { left: 4.0, top: 6.0, right: width - 4.0, bottom: 6.0 + HEAD + HEIGHT };
    draw(&mut svg, frame, report, points, &styles_of(report), axes);
    let names = report.objectives.join(", ");
    svg.finish(width, frame.bottom + 10.0, &format!("Policies on each of {names}; up is better"))
}

fn draw(
    svg: &mut Svg,
    frame: Rect,
    report: &FrontReport,
    points: &[PolicyPoint],
    styles: &[Style],
    axes: &[Axis],
) {
    let (first, last) = (frame.left + 52.0, frame.right - 22.0);
    let step = (last - first) / (axes.len() - 1).max(1) as f64;
    let (top, bottom) = (frame.top + HEAD, frame.bottom);
    let x = |k: usize| first + k as f64 * step;
    for k in 0..axes.len() {
        svg.line((x(k), top), (x(k), bottom), Stroke::Frame);
        let (anchor, at) = match k {
            0 => (Anchor::Start, frame.left),
            k if k + 1 == axes.len() => (Anchor::End, frame.right),
            k => (Anchor::Middle, x(k)),
        };
        let name = text::fit(&report.objectives[k], 13.0, true, step * 0.94);
        let bold = Type { bold: true, anchor, ..Type::default() };
        svg.text(at, top - 14.0, &name, bold);
    }
    // Dominated ones at the bottom.
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by_key(|&i| (points[i].non_dominated, std::cmp::Reverse(points[i].group)));
    for i in order {
        let (point, style) = (&points[i], styles[i]);
        let at = |k: usize| (x(k), axes[k].place(point.means[k], bottom, top));
        let corners: Vec<String> =
            (0..axes.len()).map(at).map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let d = format!("M{}", corners.join("L"));
        svg.begin_mark(i, " main", &describe(&report.objectives, point, &report.cluster_labels));
        svg.target_along(&d);
        let stroke = match point.non_dominated {
            true => Stroke::Series(style.colour, 2.0),
            false => Stroke::SeriesDashed(style.colour, 1.4),
        };
        svg.path(&d, stroke);
        for (x, y) in (0..axes.len()).map(at) {
            svg.marker(x, y, 5.0, style, false);
        }
        svg.end_mark();
    }
    for (k, axis) in axes.iter().enumerate() {
        for (value, label) in axis.ticks(4) {
            let y = axis.place(value, bottom, top);
            svg.line((x(k) - 4.0, y), (x(k), y), Stroke::Frame);
            let look = Type {
                size: 12.0,
                muted: true,
                halo: true,
                anchor: Anchor::End,
                ..Type::default()
            };
            svg.text(x(k) - 8.0, y + 4.0, &label, look);
        }
    }
}
