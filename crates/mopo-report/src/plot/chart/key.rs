//! Styles of lines, and the legend.

use super::super::svg::{PALETTE, SHAPES, Shape, Stroke, Style, Svg, Type};
use super::super::text;
use super::{Line, LineStyle};
use crate::{Error, Result};

/// The radius of a marker on a panel and in the legend.
pub(super) const RADIUS: f64 = 4.5;
/// The radius of a [`Marker::Faint`] one.
pub(super) const SMALL: f64 = 3.0;
pub(super) const WIDTH: f64 = 1.8;
const SIZE: f64 = 13.0;
const STEP: f64 = 24.0;
/// Length of a sample of a line, and distance from its left end to the text.
const SAMPLE: f64 = 36.0;
const INDENT: f64 = 44.0;
const BETWEEN: f64 = 22.0;

/// How points are joined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Join {
    Solid,
    Dashed,
    Stairs,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Marker {
    Filled,
    Hollow,
    Faint,
}

/// Which parts of a line are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Look {
    pub(super) join: Option<Join>,
    pub(super) marker: Option<Marker>,
    pub(super) bars: bool,
}

impl Look {
    pub(super) fn of(line: &Line) -> Self {
        let (join, marker) = match line.style {
            LineStyle::Solid => (Some(Join::Solid), None),
            LineStyle::Dashed => (Some(Join::Dashed), None),
            LineStyle::Markers => (None, Some(Marker::Filled)),
            LineStyle::SolidMarkers => (Some(Join::Solid), Some(Marker::Filled)),
            LineStyle::DashedMarkers => (Some(Join::Dashed), Some(Marker::Hollow)),
            LineStyle::Cloud => (None, Some(Marker::Faint)),
            LineStyle::Staircase => (Some(Join::Stairs), None),
        };
        Self { join, marker, bars: line.errors.iter().any(|e| e.is_finite()) }
    }

    /// One sample for two styles. A line with markers shows everything; a staircase with markers
    /// and bars on top would be unreadable.
    fn and(self, other: Self) -> Self {
        let complete =
            |l: &Self| matches!(l.join, Some(Join::Solid | Join::Dashed)) && l.marker.is_some();
        let chosen = [self, other].into_iter().find(complete).unwrap_or(Self {
            join: self.join.or(other.join),
            marker: self.marker.or(other.marker),
            bars: false,
        });
        Self { bars: self.bars || other.bars, ..chosen }
    }
}

/// The index of a line's colour in svg.rs: the palette, then ink, then grey.
pub(super) fn paint(colour: usize) -> Option<usize> {
    let n = PALETTE.len();
    match colour % (n + 2) {
        ink if ink == n => None,
        grey if grey > n => Some(n),
        i => Some(i),
    }
}

/// One marker per colour, and other markers when colours repeat.
pub(super) fn style(colour: usize, hollow: bool) -> Style {
    let n = PALETTE.len() + 2;
    let shape = match (colour % n + colour / n) % n {
        6 => Shape::Star,
        7 => Shape::Cross,
        i => SHAPES[i],
    };
    Style { shape, colour: paint(colour), hollow }
}

pub(super) fn marker(svg: &mut Svg, x: f64, y: f64, marker: Marker, colour: usize) {
    let style = style(colour, marker == Marker::Hollow);
    match marker {
        Marker::Faint => svg.marker(x, y, SMALL, style, true),
        _ => svg.marker(x, y, RADIUS, style, false),
    }
}

pub(super) fn stroke(join: Join, colour: usize) -> Stroke {
    match join {
        Join::Dashed => Stroke::SeriesDashed(paint(colour), WIDTH),
        _ => Stroke::Series(paint(colour), WIDTH),
    }
}

struct Entry<'a> {
    name: &'a str,
    colour: usize,
    look: Look,
}

/// Each name once, with everything drawn under it.
pub(super) struct Key<'a> {
    entries: Vec<Entry<'a>>,
}

impl<'a> Key<'a> {
    pub(super) fn new(lines: impl Iterator<Item = &'a Line>) -> Result<Self> {
        let mut entries: Vec<Entry<'a>> = Vec::new();
        for line in lines.filter(|l| !l.name.is_empty()) {
            let look = Look::of(line);
            match entries.iter_mut().find(|e| e.name == line.name) {
                Some(entry) if entry.colour != line.colour => {
                    let field = format!("colour of line `{}`", line.name);
                    let expected = format!("it is {} elsewhere; use one per name", entry.colour);
                    return Err(Error::invalid(field, line.colour, expected));
                }
                Some(entry) => entry.look = entry.look.and(look),
                None => entries.push(Entry { name: &line.name, colour: line.colour, look }),
            }
        }
        Ok(Self { entries })
    }

    pub(super) fn height(&self, width: f64) -> f64 {
        self.lay_out(width).rows as f64 * STEP
    }

    /// Draws row by row, with the top left corner at (x, y).
    pub(super) fn draw(&self, svg: &mut Svg, x: f64, y: f64, width: f64) {
        let grid = self.lay_out(width);
        for (entry, &(column, row)) in self.entries.iter().zip(&grid.cells) {
            let dx = column as f64 * grid.column;
            let y = y + row as f64 * STEP + STEP / 2.0;
            entry.sample(svg, x + dx, y);
            let name = text::fit(entry.name, SIZE, false, width - dx - INDENT);
            svg.text(x + dx + INDENT, y + 4.5, &name, Type::default());
        }
    }

    /// The number of columns that gives the fewest rows. A long name may span several columns, so
    /// that it does not widen all.
    fn lay_out(&self, width: f64) -> Grid {
        let needs = |e: &Entry| text::width(e.name, SIZE, false) + INDENT + BETWEEN;
        let needed: Vec<f64> = self.entries.iter().map(needs).collect();
        let most = |column: f64| (((width + BETWEEN) / column).floor() as usize).max(1);
        // In a tie take wider columns: fewer names span two.
        let best = needed
            .iter()
            .map(|&column| Grid::new(&needed, column, most(column)))
            .min_by(|a, b| a.rows.cmp(&b.rows).then(b.column.total_cmp(&a.column)));
        let Some(best) = best else { return Grid::new(&[], width, 1) };
        // Rows of similar length.
        (1..)
            .map(|n| Grid::new(&needed, best.column, n))
            .find(|grid| grid.rows <= best.rows)
            .unwrap_or(best)
    }
}

struct Grid {
    /// The width of a column.
    column: f64,
    rows: usize,
    /// Column and row of each entry.
    cells: Vec<(usize, usize)>,
}

impl Grid {
    fn new(needed: &[f64], column: f64, n_columns: usize) -> Self {
        let (mut x, mut rows) = (n_columns, 0);
        let place = |need: &f64| {
            let span = ((need / column - 1e-9).ceil() as usize).clamp(1, n_columns);
            if x + span > n_columns {
                (x, rows) = (0, rows + 1);
            }
            let cell = (x, rows - 1);
            x += span;
            cell
        };
        let cells = needed.iter().map(place).collect();
        Self { column, rows, cells }
    }
}

impl Entry<'_> {
    fn sample(&self, svg: &mut Svg, x: f64, y: f64) {
        let middle = x + SAMPLE / 2.0;
        match self.look.join {
            Some(Join::Stairs) => svg.path(
                &format!("M{x:.1} {:.1}h{:.1}v10h{:.1}", y - 5.0, SAMPLE / 2.0, SAMPLE / 2.0),
                stroke(Join::Stairs, self.colour),
            ),
            Some(join) => svg.line((x, y), (x + SAMPLE, y), stroke(join, self.colour)),
            None => {}
        }
        if self.look.bars {
            bar(svg, middle, y - 9.0, y + 9.0, (true, true), self.colour);
        }
        if let Some(kind) = self.look.marker {
            marker(svg, middle, y, kind, self.colour);
        }
    }
}

/// An error bar, with caps at ends that are not cut off.
pub(super) fn bar(svg: &mut Svg, x: f64, top: f64, bottom: f64, caps: (bool, bool), colour: usize) {
    let mut d = format!("M{x:.1} {top:.1}V{bottom:.1}");
    for (y, _) in [(top, caps.0), (bottom, caps.1)].into_iter().filter(|c| c.1) {
        d.push_str(&format!("M{:.1} {y:.1}h6", x - 3.0));
    }
    svg.path(&d, Stroke::Series(paint(colour), 1.2));
}
