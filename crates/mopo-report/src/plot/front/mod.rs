//! The figure of a front: one panel per pair of objectives; and single panels for a page.

mod scene;

pub(super) use scene::describe;
pub(crate) use scene::signed;

use super::Figure;
use super::axis::{Axis, short};
use super::labels::Rect;
use super::legend::{Entry, Legend};
use super::svg::{Style, Svg, Type, styles_of};
use super::text;
use crate::{FrontReport, PolicyGroup, PolicyPoint, Result};
use scene::{Scene, axis_of};

const MARGIN: f64 = 24.0;
const GAP: f64 = 28.0;
/// Room for tick texts and the axis name, left of and below a panel.
const LEFT: f64 = 76.0;
const BELOW: f64 = 56.0;
/// Distance from a panel to the name of its vertical axis.
const NAME: f64 = 60.0;
/// Size of a single panel on a page, which fits a phone.
const ALONE: (f64, f64) = (264.0, 246.0);
/// Margin right of such a panel: half of the last tick's text.
const RIGHT: f64 = 20.0;

/// Draws the front: each policy's means over all prompts with error bars, its means per cluster
/// (small and faint), each run's staircase of trained policies, what dominates the SFT model, the
/// reference point, and the hypervolumes. Two objectives give one panel, more give one per pair.
///
/// # Errors
/// [`crate::Error::InvalidParameter`] if `report` has fewer than two objectives or no point.
pub fn front_figure(report: &FrontReport, title: &str) -> Result<Figure> {
    check(report)?;
    let pairs = pairs(report);
    let styles = styles_of(report);
    let axes = axes(report, &report.points, &report.cluster_points);
    let scene = scene(report, &styles, &axes);
    let outside = scene.n_clipped();

    // A single panel has the legend to its right; several fill two columns, with the legend in the
    // empty cell of an odd number, or in a separate row.
    let single = pairs.len() == 1;
    let (panel_w, panel_h) = if single { (520.0, 440.0) } else { (400.0, 340.0) };
    let cell_w = LEFT + panel_w;
    let legend_w = if single { 300.0 } else { cell_w };
    let width = MARGIN * 2.0 + cell_w + GAP + legend_w;
    let inner = width - 2.0 * MARGIN;
    let beside = pairs.len() % 2 == 1;
    let legend = legend(report, &styles, outside);
    let legend_width = if beside { legend_w - 8.0 } else { inner };
    let legend_h = legend.height(legend_width);

    let mut svg = Svg::new("front");
    let heading = Type { size: 20.0, bold: true, ..Type::default() };
    svg.text(MARGIN, MARGIN + 16.0, &text::fit(title, 20.0, true, inner), heading);
    let caption = caption(report);
    let small = Type { muted: true, ..Type::default() };
    let top = svg.paragraph(MARGIN, MARGIN + 42.0, inner, &caption, small) + 6.0;

    let row_h = panel_h + BELOW + 14.0;
    let mut bottom = top;
    for (i, &(x, y)) in pairs.iter().enumerate() {
        let left = MARGIN + LEFT + (i % 2) as f64 * (cell_w + GAP);
        let panel_top = top + (i / 2) as f64 * row_h;
        let frame =
            Rect { left, top: panel_top, right: left + panel_w, bottom: panel_top + panel_h };
        scene.panel(&mut svg, frame, x, y);
        bottom = panel_top + panel_h + BELOW;
    }
    let (legend_x, legend_y) = if beside {
        let row = (pairs.len() / 2) as f64;
        let x = if single { MARGIN + cell_w + GAP } else { MARGIN + cell_w + GAP + 8.0 };
        (x, top + row * row_h)
    } else {
        (MARGIN, bottom + 20.0)
    };
    legend.draw(&mut svg, legend_x, legend_y, legend_width);
    let height = (legend_y + legend_h).max(bottom) + MARGIN * 0.6;
    Ok(svg.finish(width, height, &format!("{title}. {caption}")))
}

/// The panels of [`front_figure`], one figure for each pair of objectives, without a legend.
pub(crate) fn front_panels(report: &FrontReport) -> Result<Vec<Figure>> {
    check(report)?;
    let styles = styles_of(report);
    let axes = axes(report, &report.points, &report.cluster_points);
    let scene = scene(report, &styles, &axes);
    let panel = |&(x, y): &(usize, usize)| alone(&scene, &format!("front-{x}-{y}"), x, y);
    Ok(pairs(report).iter().map(panel).collect())
}

/// Objectives `x` and `y` in each cluster separately, all on the same axes.
pub(crate) fn cluster_front_panels(report: &FrontReport, x: usize, y: usize) -> Vec<Figure> {
    let styles = styles_of(report);
    let axes = axes(report, &report.cluster_points, &[]);
    report
        .cluster_points
        .chunks(report.points.len())
        .enumerate()
        .map(|(c, points)| {
            let scene = Scene { points, small: &[], ..scene(report, &styles, &axes) };
            alone(&scene, &format!("cluster-{c}-{x}-{y}"), x, y)
        })
        .collect()
}

/// All pairs of objectives.
pub(crate) fn pairs(report: &FrontReport) -> Vec<(usize, usize)> {
    let n = report.objectives.len();
    (0..n).flat_map(|x| (x + 1..n).map(move |y| (x, y))).collect()
}

fn check(report: &FrontReport) -> Result<()> {
    let n = report.objectives.len();
    if n < 2 || report.points.is_empty() {
        let found = format!("{n} objectives, {} policies", report.points.len());
        let expected = "a figure needs at least two objectives and one policy";
        return Err(crate::Error::invalid("report", found, expected));
    }
    Ok(())
}

fn axes(report: &FrontReport, points: &[PolicyPoint], small: &[PolicyPoint]) -> Vec<Axis> {
    let ref_point = &report.config.ref_point;
    (0..report.objectives.len()).map(|k| axis_of(points, small, k, ref_point[k])).collect()
}

fn scene<'a>(report: &'a FrontReport, styles: &'a [Style], axes: &'a [Axis]) -> Scene<'a> {
    Scene {
        objectives: &report.objectives,
        ref_point: &report.config.ref_point,
        points: &report.points,
        // With one cluster the small points equal the large ones.
        small: if report.cluster_labels.len() > 1 { &report.cluster_points } else { &[] },
        cluster_labels: &report.cluster_labels,
        styles,
        axes,
    }
}

fn alone(scene: &Scene<'_>, name: &str, x: usize, y: usize) -> Figure {
    let mut svg = Svg::new(name);
    let frame = Rect { left: LEFT, top: 8.0, right: LEFT + ALONE.0, bottom: 8.0 + ALONE.1 };
    scene.panel(&mut svg, frame, x, y);
    let names = (&scene.objectives[x], &scene.objectives[y]);
    let description = format!("Policies by {} (to the right) and {} (up)", names.0, names.1);
    svg.finish(LEFT + ALONE.0 + RIGHT, 8.0 + ALONE.1 + BELOW, &description)
}

/// A description of the figure, with the result in numbers.
pub(super) fn caption(report: &FrontReport) -> String {
    let ref_point: Vec<String> = report.config.ref_point.iter().map(|&v| short(v)).collect();
    let volumes: Vec<String> = report
        .sets
        .iter()
        .map(|q| format!("{} {}", q.of.name(), short(q.hypervolume.value)))
        .collect();
    format!(
        "Mean scores over {} prompts; up and to the right is better. Hypervolume above the \
         reference point ({}): {}.",
        report.n_prompts,
        ref_point.join(", "),
        volumes.join("; ")
    )
}

fn legend(report: &FrontReport, styles: &[Style], outside: usize) -> Legend {
    let mut entries: Vec<Entry> = report
        .points
        .iter()
        .zip(styles)
        .map(|(point, &style)| Entry::Policy(style, legend_name(point)))
        .collect();
    entries.push(Entry::Gap);
    let notes = Notes::of(report, outside);
    entries.push(Entry::Bars(notes.bars));
    entries.extend(notes.small.map(Entry::Faint));
    entries.extend(notes.ring.map(Entry::Ring));
    entries.extend(notes.stairs.map(Entry::Line));
    entries.extend(notes.sft.map(Entry::Dashed));
    Legend { entries }
}

/// A policy's name in the legend.
pub(super) fn legend_name(point: &PolicyPoint) -> String {
    match point.group {
        PolicyGroup::Head if point.label != "head" => format!("{} (head)", point.label),
        _ => point.shown_label(),
    }
}

/// The meaning of the symbols of a front other than the policies' markers.
pub(super) struct Notes {
    pub(super) bars: String,
    pub(super) small: Option<String>,
    pub(super) ring: Option<String>,
    pub(super) stairs: Option<String>,
    pub(super) sft: Option<String>,
}

impl Notes {
    fn of(report: &FrontReport, outside: usize) -> Self {
        let n_clusters = report.cluster_labels.len();
        let hidden = match outside {
            0 => String::new(),
            n => format!(", {n} outside the frame"),
        };
        let several = !report.runs.is_empty();
        let whose = if several {
            "front of a run's trained policies"
        } else {
            "front of the trained policies"
        };
        let two = report.objectives.len() == 2;
        let only = if two { "" } else { ", for these two objectives only" };
        let any = |group| report.points.iter().any(|p| p.group == group);
        let trained = any(PolicyGroup::Head) || any(PolicyGroup::Mixture);
        Self {
            bars: "95 % interval of a mean".into(),
            small: (n_clusters > 1)
                .then(|| format!("small: one of {n_clusters} prompt clusters{hidden}")),
            ring: (!two).then(|| {
                "ringed: on the front of all objectives (nothing compared is at least as good on \
                 each and better on one)"
                    .into()
            }),
            stairs: trained.then(|| format!("{whose}{only}")),
            sft: (any(PolicyGroup::Sft) && !several)
                .then(|| "above and right of it: better than the SFT model on both".into()),
        }
    }

    /// For [`front_panels`].
    pub(crate) fn of_panels(report: &FrontReport) -> Self {
        let styles = styles_of(report);
        let axes = axes(report, &report.points, &report.cluster_points);
        Self::of(report, scene(report, &styles, &axes).n_clipped())
    }
}
