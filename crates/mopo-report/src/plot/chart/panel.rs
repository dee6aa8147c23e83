//! One panel: axes, guides, lines, error bars and markers.

use super::super::labels::Rect;
use super::super::svg::{Anchor, Stroke, Svg, Type};
use super::super::text;
use super::key::{self, Join, Look};
use super::scale::Scale;
use super::trace::{self, Point};
use super::{Guide, Line, Panel};
use crate::{Error, Result};

pub(super) const TICK_SIZE: f64 = 12.0;
pub(super) const TITLE_SIZE: f64 = 14.0;
const Y_TICKS: usize = 5;
const X_TICKS: usize = 6;
/// Minimum space between neighbouring ticks.
const TICK_GAP: f64 = 10.0;

/// A panel with checked data and known scales.
pub(super) struct Prepared<'a> {
    panel: &'a Panel,
    x: Scale,
    y: Scale,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(panel: &'a Panel, field: &str) -> Result<Self> {
        for (i, line) in panel.lines.iter().enumerate() {
            check_errors(line, &format!("{field}.lines[{i}].errors"))?;
        }
        let (guides_x, guides_y): (Vec<f64>, Vec<f64>) = {
            let mut values = (Vec::new(), Vec::new());
            for guide in &panel.marks {
                match guide {
                    Guide::Vertical { value, .. } => values.0.push(*value),
                    Guide::Horizontal { value, .. } => values.1.push(*value),
                }
            }
            values
        };
        // A point counts only if both of its coordinates can be shown.
        let probe = |spec: &super::AxisSpec, name: &str| {
            Scale::new(spec, &format!("{field}.{name}.range"), std::iter::empty())
        };
        let (any_x, any_y) = (probe(&panel.x, "x")?, probe(&panel.y, "y")?);
        let shown = || {
            panel.lines.iter().flat_map(|line| {
                line.points.iter().enumerate().map(move |(i, &p)| (p, line.errors.get(i).copied()))
            })
        };
        let shown = || shown().filter(|((x, y), _)| any_x.can_show(*x) && any_y.can_show(*y));
        let n = shown().count();
        if n == 0 {
            let expected = format!(
                "panel `{}` needs at least one point that is finite, and above 0 where an axis is \
                 logarithmic",
                panel.title
            );
            let found = panel.lines.iter().map(|l| l.points.len()).sum::<usize>();
            return Err(Error::invalid(
                format!("{field}.lines"),
                format!("{} lines with {found} points", panel.lines.len()),
                expected,
            ));
        }
        let xs = shown().map(|((x, _), _)| x).chain(guides_x);
        let ys = shown()
            .flat_map(|((_, y), error)| {
                let error = error.filter(|e| e.is_finite()).unwrap_or(0.0);
                [y, y - error, y + error]
            })
            .chain(guides_y);
        let x = Scale::new(&panel.x, &format!("{field}.x.range"), xs)?;
        let y = Scale::new(&panel.y, &format!("{field}.y.range"), ys)?;
        Ok(Self { panel, x, y })
    }

    /// Lines with something to draw.
    pub(super) fn lines(&self) -> impl Iterator<Item = &'a Line> {
        let can_show = |p: &Point| self.x.can_show(p.0) && self.y.can_show(p.1);
        self.panel.lines.iter().filter(move |l| l.points.iter().any(can_show))
    }

    /// The margin left of the frame: ticks and the label.
    pub(super) fn left(&self) -> f64 {
        let widths = self.y.ticks(Y_TICKS).into_iter().map(|t| text::width(&t.1, TICK_SIZE, false));
        let label = if self.panel.y.label.is_empty() { 0.0 } else { 22.0 };
        widths.fold(0.0, f64::max).ceil() + 8.0 + label
    }

    /// Draws everything but the heading.
    pub(super) fn draw(&self, svg: &mut Svg, frame: &Rect) {
        self.axes(svg, frame);
        let mut names = Vec::new();
        let mut taken: Vec<Rect> = Vec::new();
        for guide in &self.panel.marks {
            names.extend(self.guide(svg, frame, guide, &mut taken));
        }
        for line in &self.panel.lines {
            self.line(svg, frame, line, &mut taken);
        }
        svg.frame(frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top);
        // On top of the frame's lines, since a marker may be on them.
        for line in &self.panel.lines {
            self.markers(svg, frame, line, &mut taken);
        }
        let mut named = Vec::new();
        for (name, places) in names {
            name_guide(svg, frame, &name, &places, &taken, &mut named);
        }
    }

    fn axes(&self, svg: &mut Svg, frame: &Rect) {
        let Rect { left, top, right, bottom } = *frame;
        let small = Type { size: TICK_SIZE, muted: true, ..Type::default() };
        for (tick, label) in self.x_ticks(right - left) {
            let x = self.x.place_tick(tick, left, right);
            svg.line((x, top), (x, bottom), Stroke::Grid);
            svg.text(x, bottom + 18.0, &label, Type { anchor: Anchor::Middle, ..small });
        }
        for (tick, label) in self.y.ticks(Y_TICKS) {
            let y = self.y.place_tick(tick, bottom, top);
            svg.line((left, y), (right, y), Stroke::Grid);
            svg.text(left - 8.0, y + 4.0, &label, Type { anchor: Anchor::End, ..small });
        }
        let mut minor = String::new();
        for tick in self.x.minor() {
            let x = self.x.place_tick(tick, left, right);
            minor.push_str(&format!("M{x:.1} {bottom:.1}v-4"));
        }
        for tick in self.y.minor() {
            let y = self.y.place_tick(tick, bottom, top);
            minor.push_str(&format!("M{left:.1} {y:.1}h4"));
        }
        if !minor.is_empty() {
            svg.path(&minor, Stroke::Frame);
        }
        if let Some(y) = self.y.place(0.0, bottom, top).filter(|_| self.y.crosses_zero()) {
            svg.line((left, y), (right, y), Stroke::Frame);
        }
        if !self.panel.x.label.is_empty() {
            let (text, look) = label(&self.panel.x.label, right - left);
            let look = Type { anchor: Anchor::Middle, ..look };
            svg.text((left + right) / 2.0, bottom + 38.0, &text, look);
        }
        if !self.panel.y.label.is_empty() {
            let (text, look) = label(&self.panel.y.label, bottom - top);
            svg.text_upwards(left - self.left() + 10.0, (top + bottom) / 2.0, &text, look);
        }
    }

    /// As many ticks as fit.
    fn x_ticks(&self, width: f64) -> Vec<(f64, String)> {
        let fits = |ticks: &[(f64, String)]| {
            ticks.windows(2).all(|pair| {
                let half = |i: usize| text::width(&pair[i].1, TICK_SIZE, false) / 2.0;
                let at = |i: usize| self.x.place_tick(pair[i].0, 0.0, width);
                at(1) - at(0) >= half(0) + half(1) + TICK_GAP
            })
        };
        let mut n = X_TICKS;
        loop {
            let mut ticks = self.x.ticks(n);
            if n == 1 && !fits(&ticks) {
                ticks.truncate(1);
            }
            if fits(&ticks) {
                return ticks;
            }
            n -= 1;
        }
    }

    fn place(&self, frame: &Rect, point: Point) -> Option<Point> {
        let x = self.x.place(point.0, frame.left, frame.right)?;
        Some((x, self.y.place(point.1, frame.bottom, frame.top)?))
    }

    /// Draws a guide. Returns its name, and a possible position for it: (left, baseline).
    fn guide(
        &self,
        svg: &mut Svg,
        frame: &Rect,
        guide: &Guide,
        taken: &mut Vec<Rect>,
    ) -> Option<(String, Vec<Point>)> {
        let shares = [1.0, 0.0, 0.5, 0.75, 0.25];
        let (name, places): (String, Vec<Point>) = match guide {
            Guide::Horizontal { value, name } => {
                let y = self.y.place(*value, frame.bottom, frame.top)?;
                let (from, to) = trace::clip((frame.left, y), (frame.right, y), frame)?;
                svg.line(from, to, Stroke::Guide);
                taken.extend(along(from, to));
                let name = text::fit(name, TICK_SIZE, false, frame.right - frame.left - 12.0);
                let room = frame.right - frame.left - 12.0 - text::width(&name, TICK_SIZE, false);
                let beside = |share: f64| {
                    let x = frame.left + 6.0 + share * room;
                    [(x, y - 5.0), (x, y + 14.0)]
                };
                (name, shares.into_iter().flat_map(beside).collect())
            }
            Guide::Vertical { value, name } => {
                let x = self.x.place(*value, frame.left, frame.right)?;
                let (from, to) = trace::clip((x, frame.bottom), (x, frame.top), frame)?;
                svg.line(from, to, Stroke::Guide);
                taken.extend(along(from, to));
                let most = (x - frame.left).max(frame.right - x) - 12.0;
                let name = text::fit(name, TICK_SIZE, false, most);
                let width = text::width(&name, TICK_SIZE, false);
                let room = frame.bottom - frame.top - 26.0;
                let beside = |share: f64| {
                    let y = frame.bottom - 8.0 - share * room;
                    [(x + 6.0, y), (x - 6.0 - width, y)]
                };
                (name, shares.into_iter().flat_map(beside).collect())
            }
        };
        (!name.is_empty()).then_some((name, places))
    }

    /// The connection of a line's points, and their error bars.
    fn line(&self, svg: &mut Svg, frame: &Rect, line: &Line, taken: &mut Vec<Rect>) {
        let look = Look::of(line);
        if let Some(join) = look.join {
            let points: Vec<Option<Point>> = if join == Join::Stairs {
                let shown: Vec<Point> = line
                    .points
                    .iter()
                    .copied()
                    .filter(|&p| self.place(frame, p).is_some())
                    .collect();
                let steps: Vec<Point> =
                    trace::front(&shown).into_iter().filter_map(|p| self.place(frame, p)).collect();
                trace::corners(&steps, frame).into_iter().map(Some).collect()
            } else {
                line.points.iter().map(|&p| self.place(frame, p)).collect()
            };
            let pieces = trace::pieces(&points, frame);
            let mut d = String::new();
            for piece in &pieces {
                let texts: Vec<String> =
                    piece.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
                d.push_str(&format!("M{}", texts.join("L")));
                taken.extend(piece.windows(2).flat_map(|pair| along(pair[0], pair[1])));
            }
            if !d.is_empty() {
                svg.path(&d, key::stroke(join, line.colour));
            }
        }
        for (&(x, y), &error) in line.points.iter().zip(&line.errors) {
            let Some((at, _)) = self.place(frame, (x, y)) else { continue };
            if !error.is_finite() || at < frame.left || at > frame.right {
                continue;
            }
            // Values that a logarithmic axis cannot show are below all others.
            let pixel = |value: f64| {
                self.y.place(value, frame.bottom, frame.top).unwrap_or(frame.bottom + 1.0)
            };
            let (top, bottom) = (pixel(y + error), pixel(y - error));
            if let Some(((_, from), (_, to))) = trace::clip((at, top), (at, bottom), frame) {
                key::bar(svg, at, from, to, (from == top, to == bottom), line.colour);
                taken.push(Rect { left: at - 3.0, top: from, right: at + 3.0, bottom: to });
            }
        }
    }

    fn markers(&self, svg: &mut Svg, frame: &Rect, line: &Line, taken: &mut Vec<Rect>) {
        let Some(kind) = Look::of(line).marker else { return };
        for (x, y) in line.points.iter().filter_map(|&p| self.place(frame, p)) {
            let centre = Rect::around(x, y, 0.0);
            if centre.is_inside(frame) {
                key::marker(svg, x, y, kind, line.colour);
                taken.push(Rect::around(x, y, key::RADIUS));
            }
        }
    }
}

/// An axis label, smaller if it is long, and truncated if that does not suffice.
fn label(text: &str, room: f64) -> (String, Type) {
    let sizes = [13.0, 12.0, 11.0];
    let size = sizes.into_iter().find(|&size| text::width(text, size, false) <= room);
    let size = size.unwrap_or(sizes[2]);
    (text::fit(text, size, false, room), Type { size, ..Type::default() })
}

/// Small rectangles that cover a segment.
fn along(from: Point, to: Point) -> impl Iterator<Item = Rect> {
    let length = (to.0 - from.0).hypot(to.1 - from.1);
    let n = (length / 6.0).ceil().clamp(1.0, 500.0) as usize;
    (0..=n).map(move |i| {
        let t = i as f64 / n as f64;
        Rect::around(from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1), 1.0)
    })
}

/// Writes `name` at the one of `places` where it covers no other name, or few, and little else.
fn name_guide(
    svg: &mut Svg,
    frame: &Rect,
    name: &str,
    places: &[Point],
    taken: &[Rect],
    named: &mut Vec<Rect>,
) {
    let width = text::width(name, TICK_SIZE, false);
    let rect = |(x, y): Point| Rect {
        left: x - 2.0,
        top: y - 11.0,
        right: x + width + 2.0,
        bottom: y + 4.0,
    };
    let covered =
        |rects: &[Rect], place: Point| rects.iter().filter(|r| r.overlaps(&rect(place))).count();
    let inside = places.iter().copied().filter(|&place| rect(place).is_inside(frame));
    let best = inside.min_by_key(|&place| (covered(named, place), covered(taken, place)));
    if let Some((x, y)) = best {
        svg.text(x, y, name, Type { size: TICK_SIZE, halo: true, ..Type::default() });
        named.push(rect((x, y)));
    }
}

fn check_errors(line: &Line, field: &str) -> Result<()> {
    if !line.errors.is_empty() && line.errors.len() != line.points.len() {
        return Err(Error::Length {
            field: field.to_owned(),
            found: line.errors.len(),
            expected: line.points.len(),
            reason: "one per point, or none at all",
        });
    }
    match line.errors.iter().find(|e| **e < 0.0) {
        Some(error) => Err(Error::invalid(field, error, "half a height must not be below 0")),
        None => Ok(()),
    }
}
