//! The figure of a front: one panel per pair of objectives.

use super::Figure;
use super::axis::{Axis, short};
use super::labels::{Placer, Rect};
use super::legend::{Entry, Legend};
use super::svg::{Anchor, Stroke, Style, Svg, Type, styles};
use super::text;
use crate::{FrontReport, PolicyGroup, PolicyPoint, Result};

const MARGIN: f64 = 24.0;
const GAP: f64 = 28.0;
/// Room for tick texts and the axis name, left of and below a panel.
const LEFT: f64 = 76.0;
const BELOW: f64 = 56.0;
/// Half the width of a 95 % interval in standard errors.
const Z: f64 = 1.96;
/// The radius of a marker.
const R: f64 = 7.0;

/// Draws the front: each policy's means over all prompts with error bars, its means per cluster
/// (small and faint), the staircase of the trained policies, what dominates the warm start, the
/// reference point, and the hypervolumes. Two objectives give one panel, more give one per pair.
///
/// # Errors
/// [`crate::Error::InvalidParameter`] if `report` has fewer than two objectives or no point.
pub fn front_figure(report: &FrontReport, title: &str) -> Result<Figure> {
    let n = report.objectives.len();
    if n < 2 || report.points.is_empty() {
        let found = format!("{n} objectives, {} policies", report.points.len());
        let expected = "a figure needs at least two objectives and one policy";
        return Err(crate::Error::invalid("report", found, expected));
    }
    let mut pairs = Vec::new();
    for x in 0..n {
        pairs.extend((x + 1..n).map(|y| (x, y)));
    }
    let styles = styles(report.points.iter().map(|p| p.group));
    let axes: Vec<Axis> = (0..n).map(|k| axis_of(report, k)).collect();
    let plot = Plot { report, styles: &styles, axes: &axes };
    let outside = plot.n_clipped();

    // One panel has the legend to its right; several fill two columns, with the legend in the cell
    // that an odd number leaves, or in a row of its own.
    let single = pairs.len() == 1;
    let (panel_w, panel_h) = if single { (520.0, 440.0) } else { (400.0, 340.0) };
    let cell_w = LEFT + panel_w;
    let legend_w = if single { 300.0 } else { cell_w };
    let width = MARGIN * 2.0 + cell_w + GAP + legend_w;
    let inner = width - 2.0 * MARGIN;
    let beside = pairs.len() % 2 == 1;
    let legend = plot.legend(outside);
    let legend_width = if beside { legend_w - 8.0 } else { inner };
    let legend_h = legend.height(legend_width);

    let mut svg = Svg::new();
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
        plot.panel(&mut svg, frame, x, y);
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

/// What is plotted, and the result in numbers.
pub(super) fn caption(report: &FrontReport) -> String {
    let corner: Vec<String> = report.config.ref_point.iter().map(|&v| short(v)).collect();
    let volumes: Vec<String> = report
        .hypervolumes
        .iter()
        .map(|h| format!("{} {}", h.set.name(), short(h.value)))
        .collect();
    format!(
        "Mean scores over {} prompts; up and to the right is better. Hypervolume above the \
         reference point ({}): {}.",
        report.n_prompts,
        corner.join(", "),
        volumes.join("; ")
    )
}

fn half_bar(point: &PolicyPoint, k: usize) -> f64 {
    point.standard_errors.as_ref().map_or(0.0, |e| Z * e[k])
}

/// The axis of an objective, the same in all panels. Clusters may spread much wider than policies
/// differ: then they do not decide alone, and some lie outside.
fn axis_of(report: &FrontReport, k: usize) -> Axis {
    let ends = |p: &PolicyPoint| [p.means[k] - half_bar(p, k), p.means[k] + half_bar(p, k)];
    let main: Vec<f64> = report.points.iter().flat_map(ends).collect();
    let (low, high) = extent(&main);
    let everything = main.iter().copied().chain(report.cluster_points.iter().map(|p| p.means[k]));
    let (all_low, all_high) = extent(&everything.collect::<Vec<_>>());
    let spread = high - low;
    let (mut low, mut high) = if spread > 0.0 && all_high - all_low > 3.0 * spread {
        (all_low.max(low - spread), all_high.min(high + spread))
    } else {
        (all_low, all_high)
    };
    // The reference point belongs into the picture if it does not squeeze everything else.
    let corner = report.config.ref_point[k];
    let (with_low, with_high) = (low.min(corner), high.max(corner));
    if with_high - with_low <= 1.6 * (high - low) {
        (low, high) = (with_low, with_high);
    }
    Axis::around([low, high])
}

fn extent(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    (low, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

struct Plot<'a> {
    report: &'a FrontReport,
    styles: &'a [Style],
    axes: &'a [Axis],
}

impl Plot<'_> {
    /// How many cluster points some panel does not show.
    fn n_clipped(&self) -> usize {
        let hidden =
            |p: &&PolicyPoint| (0..p.means.len()).any(|k| !self.axes[k].contains(p.means[k]));
        self.report.cluster_points.iter().filter(hidden).count()
    }

    fn legend(&self, outside: usize) -> Legend {
        let mut entries: Vec<Entry> = self
            .report
            .points
            .iter()
            .zip(self.styles)
            .map(|(point, &style)| {
                let group = match point.group {
                    PolicyGroup::Head if point.label != "head" => " (head)",
                    _ => "",
                };
                Entry::Policy(style, format!("{}{group}", point.label))
            })
            .collect();
        entries.push(Entry::Gap);
        entries.push(Entry::Bars("95 % interval of a mean".into()));
        if self.report.cluster_labels.len() > 1 {
            let n = self.report.cluster_labels.len();
            let hidden = match outside {
                0 => String::new(),
                n => format!(", {n} outside of the frame"),
            };
            entries.push(Entry::Faint(format!("small: one of {n} prompt clusters{hidden}")));
        }
        if self.report.points.iter().any(|p| p.group != PolicyGroup::WarmStart) {
            let what = if self.axes.len() == 2 {
                "front of the trained policies"
            } else {
                "front of the trained policies, for these two objectives alone"
            };
            entries.push(Entry::Line(what.into()));
        }
        if self.report.points.iter().any(|p| p.group == PolicyGroup::WarmStart) {
            let what = "above and right of it: better than the warm start on both";
            entries.push(Entry::Dashed(what.into()));
        }
        Legend { entries }
    }

    fn panel(&self, svg: &mut Svg, frame: Rect, x: usize, y: usize) {
        let (ax, ay) = (&self.axes[x], &self.axes[y]);
        let px = |v: f64| ax.place(v, frame.left, frame.right);
        let py = |v: f64| ay.place(v, frame.bottom, frame.top);
        let (width, height) = (frame.right - frame.left, frame.bottom - frame.top);
        let mut placer = Placer::new(Rect {
            left: frame.left + 3.0,
            top: frame.top + 3.0,
            right: frame.right - 3.0,
            bottom: frame.bottom - 3.0,
        });

        let corner = (self.report.config.ref_point[x], self.report.config.ref_point[y]);
        let stairs = self.staircase(x, y);
        let floor = (px(corner.0).max(frame.left), py(corner.1).min(frame.bottom));
        svg.begin_clip("front", frame.left, frame.top, width, height);
        if let Some(steps) = path_of(&stairs, &px, &py, floor) {
            svg.area(&format!("{steps}L{:.1} {:.1}z", floor.0, floor.1));
        }
        svg.end_clip();
        self.axes_of_panel(svg, frame, x, y);
        svg.begin_clip("front", frame.left, frame.top, width, height);
        for (point, style) in self.report.cluster_points.iter().zip(self.styles.iter().cycle()) {
            let at = (px(point.means[x]), py(point.means[y]));
            svg.marker(at.0, at.1, R * 0.5, *style, true);
            placer.soft.push(Rect::around(at.0, at.1, R * 0.5));
        }
        if let Some(steps) = path_of(&stairs, &px, &py, floor) {
            svg.path(&steps, Stroke::Ink(1.4));
            for pair in corners(&stairs, floor, &px, &py).windows(2) {
                placer.soft.push(Rect {
                    left: pair[0].0.min(pair[1].0) - 1.0,
                    top: pair[0].1.min(pair[1].1) - 1.0,
                    right: pair[0].0.max(pair[1].0) + 1.0,
                    bottom: pair[0].1.max(pair[1].1) + 1.0,
                });
            }
        }
        for point in self.report.points.iter().filter(|p| p.group == PolicyGroup::WarmStart) {
            let at = (px(point.means[x]), py(point.means[y]));
            let (top, right) = (frame.top, frame.right);
            svg.path(&format!("M{:.1} {top:.1}V{:.1}H{right:.1}", at.0, at.1), Stroke::Dashed);
            placer.soft.push(Rect { left: at.0 - 1.0, top, right: at.0 + 1.0, bottom: at.1 });
            placer.soft.push(Rect { left: at.0, top: at.1 - 1.0, right, bottom: at.1 + 1.0 });
        }
        let marks: Vec<(f64, f64)> =
            self.report.points.iter().map(|p| (px(p.means[x]), py(p.means[y]))).collect();
        for ((point, style), &(mx, my)) in self.report.points.iter().zip(self.styles).zip(&marks) {
            let (bx, by) = (half_bar(point, x), half_bar(point, y));
            let (left, right) = (px(point.means[x] - bx), px(point.means[x] + bx));
            let (low, high) = (py(point.means[y] - by), py(point.means[y] + by));
            let stroke = Stroke::Series(style.colour, 1.4);
            svg.line((left, my), (right, my), stroke);
            svg.line((mx, low), (mx, high), stroke);
            placer.soft.push(Rect { left, right, top: my - 1.0, bottom: my + 1.0 });
            placer.soft.push(Rect { left: mx - 1.0, right: mx + 1.0, top: high, bottom: low });
        }
        // Mixtures below, the warm start on top.
        let mut order: Vec<usize> = (0..marks.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(self.report.points[i].group));
        for &i in &order {
            svg.marker(marks[i].0, marks[i].1, R, self.styles[i], false);
        }
        svg.end_clip();

        placer.markers.clone_from(&marks);
        placer.solid.extend(marks.iter().map(|&(mx, my)| Rect::around(mx, my, R + 1.0)));
        self.reference_note(svg, &mut placer, frame, (ax, ay), corner);
        order.sort_by_key(|&i| (self.report.points[i].group, i));
        for i in order {
            let name = text::fit(&self.report.points[i].label, 13.0, false, 150.0);
            if let Some((tx, ty)) = placer.place(marks[i].0, marks[i].1, R, &name) {
                svg.text(tx, ty, &name, Type { halo: true, ..Type::default() });
            }
        }
    }

    fn axes_of_panel(&self, svg: &mut Svg, frame: Rect, x: usize, y: usize) {
        let small = Type { size: 12.0, muted: true, ..Type::default() };
        let width = frame.right - frame.left;
        for (value, label) in self.axes[x].ticks((width / 65.0) as usize) {
            let at = self.axes[x].place(value, frame.left, frame.right);
            svg.line((at, frame.top), (at, frame.bottom), Stroke::Grid);
            let look = Type { anchor: Anchor::Middle, ..small };
            svg.text(at, frame.bottom + 18.0, &label, look);
        }
        for (value, label) in self.axes[y].ticks(((frame.bottom - frame.top) / 55.0) as usize) {
            let at = self.axes[y].place(value, frame.bottom, frame.top);
            svg.line((frame.left, at), (frame.right, at), Stroke::Grid);
            let look = Type { anchor: Anchor::End, ..small };
            svg.text(frame.left - 8.0, at + 4.0, &label, look);
        }
        svg.frame(frame.left, frame.top, width, frame.bottom - frame.top);
        let name = |k: usize, room: f64| {
            let name = text::fit(self.report.objectives.name(k), 14.0, true, room - 80.0);
            format!("{name} → better")
        };
        let bold = Type { size: 14.0, bold: true, anchor: Anchor::Middle, ..Type::default() };
        let middle = ((frame.left + frame.right) / 2.0, (frame.top + frame.bottom) / 2.0);
        svg.text(middle.0, frame.bottom + 42.0, &name(x, width), bold);
        let height = frame.bottom - frame.top;
        svg.text_upwards(frame.left - 58.0, middle.1, &name(y, height), bold);
    }

    fn reference_note(
        &self,
        svg: &mut Svg,
        placer: &mut Placer,
        frame: Rect,
        (ax, ay): (&Axis, &Axis),
        corner: (f64, f64),
    ) {
        let look = Type { size: 12.0, muted: true, halo: true, ..Type::default() };
        let name = format!("reference point ({}, {})", short(corner.0), short(corner.1));
        if ax.contains(corner.0) && ay.contains(corner.1) {
            let (x, y) = (
                ax.place(corner.0, frame.left, frame.right),
                ay.place(corner.1, frame.bottom, frame.top),
            );
            svg.line((x - 6.0, y), (x + 6.0, y), Stroke::Ink(1.6));
            svg.line((x, y - 6.0), (x, y + 6.0), Stroke::Ink(1.6));
            placer.solid.push(Rect::around(x, y, 6.0));
            if let Some((tx, ty)) = placer.place(x, y, 6.0, &name) {
                svg.text(tx, ty, &name, look);
            }
            return;
        }
        let name = format!("{name}: outside");
        let width = text::width(&name, 12.0, false);
        for (left, bottom) in [
            (frame.left + 8.0, frame.bottom - 8.0),
            (frame.right - width - 8.0, frame.bottom - 8.0),
            (frame.left + 8.0, frame.top + 18.0),
            (frame.right - width - 8.0, frame.top + 18.0),
        ] {
            let rect = Rect {
                left: left - 4.0,
                top: bottom - 13.0,
                right: left + width + 4.0,
                bottom: bottom + 5.0,
            };
            if !placer.solid.iter().any(|s| s.overlaps(&rect)) {
                placer.solid.push(rect);
                svg.text(left, bottom, &name, look);
                return;
            }
        }
    }

    /// The trained policies that are non-dominated in these two objectives, x ascending.
    fn staircase(&self, x: usize, y: usize) -> Vec<(f64, f64)> {
        let trained: Vec<[f64; 2]> = self
            .report
            .points
            .iter()
            .filter(|p| p.group != PolicyGroup::WarmStart)
            .map(|p| [p.means[x], p.means[y]])
            .collect();
        let directions = [mopo_core::pareto::Direction::Maximize; 2];
        let mut stairs: Vec<(f64, f64)> = mopo_core::pareto::non_dominated(&trained, &directions)
            .into_iter()
            .map(|i| (trained[i][0], trained[i][1]))
            .collect();
        stairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        stairs.dedup();
        stairs
    }
}

/// The corners of the staircase in pixels, from the left end to the floor.
fn corners(
    stairs: &[(f64, f64)],
    floor: (f64, f64),
    px: &dyn Fn(f64) -> f64,
    py: &dyn Fn(f64) -> f64,
) -> Vec<(f64, f64)> {
    let mut out = Vec::with_capacity(2 * stairs.len() + 1);
    let mut from = floor.0;
    for &(x, y) in stairs {
        out.push((from, py(y)));
        out.push((px(x), py(y)));
        from = px(x);
    }
    out.push((from, floor.1));
    out
}

fn path_of(
    stairs: &[(f64, f64)],
    px: &dyn Fn(f64) -> f64,
    py: &dyn Fn(f64) -> f64,
    floor: (f64, f64),
) -> Option<String> {
    if stairs.is_empty() {
        return None;
    }
    let points: Vec<String> =
        corners(stairs, floor, px, py).iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    Some(format!("M{}", points.join("L")))
}
