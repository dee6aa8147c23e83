//! One panel of a front: two objectives, the policies, their staircases.

use mopo_pareto::{Direction, non_dominated};

use super::super::axis::{Axis, short, short_error};
use super::super::labels::{Placer, Rect};
use super::super::svg::{Anchor, Stroke, Style, Svg, Type};
use super::super::text;
use crate::{PolicyGroup, PolicyPoint};

/// Half the width of a 95 % interval in standard errors.
const Z: f64 = 1.96;
/// The radius of a marker.
const R: f64 = 7.0;

/// The contents of panels.
pub(super) struct Scene<'a> {
    pub(super) objectives: &'a [String],
    pub(super) ref_point: &'a [f64],
    /// The policies.
    pub(super) points: &'a [PolicyPoint],
    /// Drawn small and faint: the same policies cluster by cluster, or nothing.
    pub(super) small: &'a [PolicyPoint],
    pub(super) cluster_labels: &'a [String],
    pub(super) styles: &'a [Style],
    /// One per objective, the same in all panels.
    pub(super) axes: &'a [Axis],
}

/// A policy's tooltip: its scores, one line per objective.
pub(in super::super) fn describe(
    objectives: &[String],
    point: &PolicyPoint,
    cluster_labels: &[String],
) -> String {
    let mut lines = vec![point.shown_label()];
    if let Some(label) = point.cluster.and_then(|c| cluster_labels.get(c)) {
        lines.push(format!("prompts about {label}"));
    }
    for (k, name) in objectives.iter().enumerate() {
        let mean = point.means[k];
        let mut line = format!("{name} {}", short(mean));
        if let Some(errors) = &point.standard_errors {
            line += &format!(" ± {}", short_error(errors[k], mean));
        }
        if let Some(z) = point.z_scores[k] {
            line += &format!(" (z {})", signed(z));
        }
        lines.push(line);
    }
    lines.push(format!("own hypervolume {}", short(point.own_hypervolume)));
    let front = if point.non_dominated { "on the front" } else { "dominated" };
    let prompts = if point.n == 1 { "1 prompt".into() } else { format!("{} prompts", point.n) };
    lines.push(format!("{front}; {prompts}"));
    lines.join("\n")
}

/// Two decimals and always a sign.
pub(crate) fn signed(value: f64) -> String {
    let text = format!("{value:+.2}");
    if text == "-0.00" { "+0.00".into() } else { text.replace('-', "−") }
}

fn half_bar(point: &PolicyPoint, k: usize) -> f64 {
    point.standard_errors.as_ref().map_or(0.0, |e| Z * e[k])
}

/// The axis of objective `k`, the same in all panels. If small points spread much wider than the
/// policies, the axis does not cover them all, and some lie outside.
pub(super) fn axis_of(
    points: &[PolicyPoint],
    small: &[PolicyPoint],
    k: usize,
    ref_point: f64,
) -> Axis {
    let ends = |p: &PolicyPoint| [p.means[k] - half_bar(p, k), p.means[k] + half_bar(p, k)];
    let main: Vec<f64> = points.iter().flat_map(ends).collect();
    let (low, high) = extent(&main);
    let everything = main.iter().copied().chain(small.iter().map(|p| p.means[k]));
    let (all_low, all_high) = extent(&everything.collect::<Vec<_>>());
    let spread = high - low;
    let (mut low, mut high) = if spread > 0.0 && all_high - all_low > 3.0 * spread {
        (all_low.max(low - spread), all_high.min(high + spread))
    } else {
        (all_low, all_high)
    };
    // The reference point is shown unless it would squeeze everything else.
    let (with_low, with_high) = (low.min(ref_point), high.max(ref_point));
    if with_high - with_low <= 1.6 * (high - low) {
        (low, high) = (with_low, with_high);
    }
    Axis::around([low, high])
}

fn extent(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    (low, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// The staircase of one run's trained policies.
struct Stairs {
    stroke: Stroke,
    /// Non-dominated in only these two objectives, x ascending.
    steps: Vec<(f64, f64)>,
}

impl Scene<'_> {
    /// Number of small points that some panel does not show.
    pub(super) fn n_clipped(&self) -> usize {
        let hidden =
            |p: &&PolicyPoint| (0..p.means.len()).any(|k| !self.axes[k].contains(p.means[k]));
        self.small.iter().filter(hidden).count()
    }

    fn is_single_run(&self) -> bool {
        self.points.iter().all(|p| p.run.is_none())
    }

    /// Draws objective `x` against `y` inside `frame`, with axes around it.
    pub(super) fn panel(&self, svg: &mut Svg, frame: Rect, x: usize, y: usize) {
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

        let ref_point = (self.ref_point[x], self.ref_point[y]);
        let all_stairs = self.stairs(x, y);
        let floor = (px(ref_point.0).max(frame.left), py(ref_point.1).min(frame.bottom));
        if let [stairs] = all_stairs.as_slice() {
            svg.begin_clip(frame.left, frame.top, width, height);
            if let Some(steps) = path_of(&stairs.steps, &px, &py, floor) {
                svg.area(&format!("{steps}L{:.1} {:.1}z", floor.0, floor.1));
            }
            svg.end_clip();
        }
        self.axes_of_panel(svg, frame, x, y);
        svg.begin_clip(frame.left, frame.top, width, height);
        for (i, point) in self.small.iter().enumerate() {
            let at = (px(point.means[x]), py(point.means[y]));
            let key = i % self.points.len();
            svg.begin_mark(key, "", &describe(self.objectives, point, self.cluster_labels));
            svg.marker(at.0, at.1, R * 0.5, self.styles[key], true);
            svg.end_mark();
            placer.soft.push(Rect::around(at.0, at.1, R * 0.5));
        }
        for stairs in &all_stairs {
            if let Some(steps) = path_of(&stairs.steps, &px, &py, floor) {
                svg.path(&steps, stairs.stroke);
                for pair in corners(&stairs.steps, floor, &px, &py).windows(2) {
                    placer.soft.push(Rect {
                        left: pair[0].0.min(pair[1].0) - 1.0,
                        top: pair[0].1.min(pair[1].1) - 1.0,
                        right: pair[0].0.max(pair[1].0) + 1.0,
                        bottom: pair[0].1.max(pair[1].1) + 1.0,
                    });
                }
            }
        }
        if self.is_single_run() {
            self.sft_lines(svg, &mut placer, frame, x, y);
        }
        let marks: Vec<(f64, f64)> =
            self.points.iter().map(|p| (px(p.means[x]), py(p.means[y]))).collect();
        for ((point, style), &(mx, my)) in self.points.iter().zip(self.styles).zip(&marks) {
            let (bx, by) = (half_bar(point, x), half_bar(point, y));
            let (left, right) = (px(point.means[x] - bx), px(point.means[x] + bx));
            let (low, high) = (py(point.means[y] - by), py(point.means[y] + by));
            let stroke = Stroke::Series(style.colour, 1.4);
            svg.line((left, my), (right, my), stroke);
            svg.line((mx, low), (mx, high), stroke);
            placer.soft.push(Rect { left, right, top: my - 1.0, bottom: my + 1.0 });
            placer.soft.push(Rect { left: mx - 1.0, right: mx + 1.0, top: high, bottom: low });
        }
        // Mixtures below, the SFT model on top.
        let mut order: Vec<usize> = (0..marks.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(self.points[i].group));
        for &i in &order {
            let (mx, my) = marks[i];
            svg.begin_mark(
                i,
                " main",
                &describe(self.objectives, &self.points[i], self.cluster_labels),
            );
            svg.target(mx, my, R + 4.0);
            if self.axes.len() > 2 && self.points[i].non_dominated {
                svg.ring(mx, my, R + 3.5);
            }
            svg.marker(mx, my, R, self.styles[i], false);
            svg.end_mark();
        }
        svg.end_clip();

        placer.markers.clone_from(&marks);
        placer.solid.extend(marks.iter().map(|&(mx, my)| Rect::around(mx, my, R + 1.0)));
        self.reference_note(svg, &mut placer, frame, (ax, ay), ref_point);
        order.sort_by_key(|&i| (self.points[i].group, i));
        for i in order {
            let name = text::fit(&self.points[i].shown_label(), 13.0, false, 150.0);
            if let Some((tx, ty)) = placer.place(marks[i].0, marks[i].1, R, &name) {
                svg.text(tx, ty, &name, Type { halo: true, ..Type::default() });
            }
        }
    }

    fn sft_lines(&self, svg: &mut Svg, placer: &mut Placer, frame: Rect, x: usize, y: usize) {
        for point in self.points.iter().filter(|p| p.group == PolicyGroup::Sft) {
            let at = (
                self.axes[x].place(point.means[x], frame.left, frame.right),
                self.axes[y].place(point.means[y], frame.bottom, frame.top),
            );
            let (top, right) = (frame.top, frame.right);
            svg.path(&format!("M{:.1} {top:.1}V{:.1}H{right:.1}", at.0, at.1), Stroke::Dashed);
            placer.soft.push(Rect { left: at.0 - 1.0, top, right: at.0 + 1.0, bottom: at.1 });
            placer.soft.push(Rect { left: at.0, top: at.1 - 1.0, right, bottom: at.1 + 1.0 });
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
            let name = text::fit(&self.objectives[k], 14.0, true, room - 80.0);
            format!("{name} → better")
        };
        let bold = Type { size: 14.0, bold: true, anchor: Anchor::Middle, ..Type::default() };
        let middle = ((frame.left + frame.right) / 2.0, (frame.top + frame.bottom) / 2.0);
        svg.text(middle.0, frame.bottom + 42.0, &name(x, width), bold);
        let height = frame.bottom - frame.top;
        svg.text_upwards(frame.left - super::NAME, middle.1, &name(y, height), bold);
    }

    fn reference_note(
        &self,
        svg: &mut Svg,
        placer: &mut Placer,
        frame: Rect,
        (ax, ay): (&Axis, &Axis),
        ref_point: (f64, f64),
    ) {
        let look = Type { size: 12.0, muted: true, halo: true, ..Type::default() };
        let name = format!("reference point ({}, {})", short(ref_point.0), short(ref_point.1));
        if ax.contains(ref_point.0) && ay.contains(ref_point.1) {
            let (x, y) = (
                ax.place(ref_point.0, frame.left, frame.right),
                ay.place(ref_point.1, frame.bottom, frame.top),
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

    /// Each run's trained policies that are non-dominated in these two objectives.
    fn stairs(&self, x: usize, y: usize) -> Vec<Stairs> {
        let mut runs: Vec<(Option<&str>, Stroke)> = Vec::new();
        for (point, style) in self.points.iter().zip(self.styles) {
            let run = point.run.as_deref();
            if point.group != PolicyGroup::Sft && !runs.iter().any(|r| r.0 == run) {
                let stroke = run.map_or(Stroke::Ink(1.4), |_| Stroke::Series(style.colour, 1.6));
                runs.push((run, stroke));
            }
        }
        let of_run = |(run, stroke): (Option<&str>, Stroke)| {
            let trained: Vec<[f64; 2]> = self
                .points
                .iter()
                .filter(|p| p.group != PolicyGroup::Sft && p.run.as_deref() == run)
                .map(|p| [p.means[x], p.means[y]])
                .collect();
            let mut steps: Vec<(f64, f64)> = non_dominated(&trained, &[Direction::Maximize; 2])
                .into_iter()
                .map(|i| (trained[i][0], trained[i][1]))
                .collect();
            steps.sort_by(|a, b| a.0.total_cmp(&b.0));
            steps.dedup();
            Stairs { stroke, steps }
        };
        runs.into_iter().map(of_run).collect()
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
    let all = corners(stairs, floor, px, py);
    let first = all.first()?;
    // A staircase without extent: all policies are at the reference point.
    if stairs.is_empty() || all.iter().all(|c| (c.0 - first.0).hypot(c.1 - first.1) < 0.05) {
        return None;
    }
    let points: Vec<String> = all.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    Some(format!("M{}", points.join("L")))
}
