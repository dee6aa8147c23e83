//! The legend of a figure.

use super::svg::{Shape, Stroke, Style, Svg, Type};
use super::text;

/// A line of a legend.
pub(super) enum Entry {
    Policy(Style, String),
    Bars(String),
    Faint(String),
    Ring(String),
    Line(String),
    Dashed(String),
    /// Space between two groups.
    Gap,
}

/// Entries in as many columns as fit into the width.
pub(super) struct Legend {
    pub(super) entries: Vec<Entry>,
}

const SIZE: f64 = 13.0;
const LINE: f64 = 18.0;
const STEP: f64 = 24.0;
/// From the left of an entry to its text.
const INDENT: f64 = 38.0;

impl Entry {
    fn text(&self) -> &str {
        match self {
            Self::Policy(_, t)
            | Self::Bars(t)
            | Self::Faint(t)
            | Self::Ring(t)
            | Self::Line(t)
            | Self::Dashed(t) => t,
            Self::Gap => "",
        }
    }
}

impl Legend {
    /// The columns of policies: (number, width); the widest name decides.
    fn columns(&self, width: f64) -> (usize, f64) {
        let policies = self.entries.iter().filter(|e| matches!(e, Entry::Policy(..)));
        let widest = policies.map(|e| text::width(e.text(), SIZE, false)).fold(0.0, f64::max)
            + INDENT
            + 16.0;
        let n = ((width / widest).floor() as usize).clamp(1, 4);
        (n, width / n as f64)
    }

    fn n_policies(&self) -> usize {
        self.entries.iter().filter(|e| matches!(e, Entry::Policy(..))).count()
    }

    /// The height of [`Legend::draw`].
    pub(super) fn height(&self, width: f64) -> f64 {
        self.lay_out(width, &mut |_, _, _| {})
    }

    /// Draws with the top left corner at (x, y).
    pub(super) fn draw(&self, svg: &mut Svg, x: f64, y: f64, width: f64) {
        let (_, column_width) = self.columns(width);
        self.lay_out(width, &mut |entry, dx, dy| {
            let (x, y) = (x + dx, y + dy + STEP / 2.0);
            let (start, end, middle) = ((x, y), (x + 28.0, y), x + 14.0);
            let plain = Style { shape: Shape::Circle, colour: None, hollow: false };
            let mut room = width - INDENT;
            match entry {
                Entry::Policy(style, _) => {
                    svg.marker(middle, y, 7.0, *style, false);
                    room = column_width - INDENT;
                }
                Entry::Bars(_) => {
                    svg.line((x + 4.0, y), (x + 24.0, y), Stroke::Ink(1.4));
                    svg.line((middle, y - 9.0), (middle, y + 9.0), Stroke::Ink(1.4));
                }
                Entry::Faint(_) => svg.marker(middle, y, 3.5, plain, true),
                Entry::Ring(_) => {
                    svg.marker(middle, y, 5.0, plain, false);
                    svg.ring(middle, y, 8.5);
                }
                Entry::Line(_) => {
                    svg.path(&format!("M{:.1} {:.1}h14v11h14", start.0, y - 5.5), Stroke::Ink(1.4));
                }
                Entry::Dashed(_) => svg.line(start, end, Stroke::Dashed),
                Entry::Gap => {}
            }
            if matches!(entry, Entry::Policy(..)) {
                let name = text::fit(entry.text(), SIZE, false, room);
                svg.text(x + INDENT, y + 4.5, &name, Type::default());
            } else {
                let look = Type { muted: true, ..Type::default() };
                svg.paragraph(x + INDENT, y + 4.5, room, entry.text(), look);
            }
        });
    }

    /// Calls `visit` with each entry and its position; returns the height.
    fn lay_out(&self, width: f64, visit: &mut dyn FnMut(&Entry, f64, f64)) -> f64 {
        let (n_columns, column_width) = self.columns(width);
        let rows = self.n_policies().div_ceil(n_columns);
        let mut policy = 0;
        let mut y = rows as f64 * STEP;
        for entry in &self.entries {
            match entry {
                Entry::Policy(..) => {
                    let (column, row) = (policy / rows, policy % rows);
                    visit(entry, column as f64 * column_width, row as f64 * STEP);
                    policy += 1;
                }
                Entry::Gap => y += STEP / 3.0,
                _ => {
                    visit(entry, 0.0, y);
                    let lines = text::wrap(entry.text(), SIZE, false, width - INDENT).len().max(1);
                    y += STEP + (lines - 1) as f64 * LINE;
                }
            }
        }
        y
    }
}
