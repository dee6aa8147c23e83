//! A general chart: panels of lines, points and fronts on linear or logarithmic axes, with one
//! legend.
//!
//! Not for the front of a report, which [`super::front_figure`] draws from its policies, and not for
//! metrics over training steps, which [`super::curves_svg`] draws with a name at each line's end.

mod key;
mod layout;
mod panel;
mod scale;
mod trace;

#[cfg(test)]
mod tests;

pub use layout::chart_figure;

/// Panels in a grid, with one legend below them. Drawn by [`chart_figure`].
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// The heading; may be empty.
    pub title: String,
    /// Text below the heading, wrapped; may be empty.
    pub caption: String,
    /// Panels per row, from 1 to 4.
    pub columns: usize,
    /// The panels, row by row; at least one.
    pub panels: Vec<Panel>,
}

/// One pair of axes with what is drawn on them.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// The heading; may be empty.
    pub title: String,
    /// The horizontal axis.
    pub x: AxisSpec,
    /// The vertical axis.
    pub y: AxisSpec,
    /// Drawn in this order, later ones above; at least one with a point.
    pub lines: Vec<Line>,
    /// Levels to compare with, below the lines.
    pub marks: Vec<Guide>,
}

/// An axis of a panel.
#[derive(Debug, Clone, PartialEq)]
pub struct AxisSpec {
    /// The quantity and its unit; may be empty. Cut if it is longer than the axis even in small print:
    /// about 35 letters for three columns.
    pub label: String,
    /// Whether equal ratios, rather than equal differences, are equally far apart.
    pub log: bool,
    /// The ends, low and high; `None` fits all points, error bars and guides, with some room. What
    /// lies outside is cut off.
    pub range: Option<(f64, f64)>,
}

/// A line, or a set of points, on a panel.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What the legend says, once for all lines of that name; empty: not in the legend.
    pub name: String,
    /// (x, y), in the order in which the line runs. A value that is not finite, or not above 0 on a
    /// logarithmic axis, leaves a gap.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub style: LineStyle,
    /// Which colour and marker: 0 to 5 are the palette's orange-red, blue, green, pink, orange and
    /// light blue, 6 is ink (black, or white on dark pages), 7 is grey. Larger ones repeat the
    /// colours with other markers. Lines of one name have one colour.
    pub colour: usize,
    /// Half the height of each point's error bar, or empty for none; a value that is not finite is
    /// not drawn.
    pub errors: Vec<f64>,
}

/// How a [`Line`] is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LineStyle {
    /// A solid line.
    Solid,
    /// A dashed line.
    Dashed,
    /// Filled markers without a line.
    Markers,
    /// A solid line with filled markers.
    SolidMarkers,
    /// A dashed line with hollow markers.
    DashedMarkers,
    /// Small see-through markers without a line: for many points.
    Cloud,
    /// The boundary of what the points dominate, larger being better in both; points that another
    /// one dominates do not matter, nor does the order.
    Staircase,
}

/// A straight dotted line across a panel, with its name beside it.
#[derive(Debug, Clone, PartialEq)]
pub enum Guide {
    /// At a height.
    Horizontal {
        /// The y.
        value: f64,
        /// What is written beside it; may be empty.
        name: String,
    },
    /// From the bottom to the top.
    Vertical {
        /// The x.
        value: f64,
        /// What is written beside it; may be empty.
        name: String,
    },
}

impl AxisSpec {
    /// A linear axis that fits its values.
    pub fn linear(label: impl Into<String>) -> Self {
        Self { label: label.into(), log: false, range: None }
    }

    /// A logarithmic axis that fits its values.
    pub fn log(label: impl Into<String>) -> Self {
        Self { label: label.into(), log: true, range: None }
    }

    /// The same axis with these ends.
    #[must_use]
    pub fn within(self, low: f64, high: f64) -> Self {
        Self { range: Some((low, high)), ..self }
    }
}

impl Line {
    /// A line without error bars.
    pub fn new(
        name: impl Into<String>,
        style: LineStyle,
        colour: usize,
        points: Vec<(f64, f64)>,
    ) -> Self {
        Self { name: name.into(), points, style, colour, errors: Vec::new() }
    }

    /// The same line with error bars, one half height per point.
    #[must_use]
    pub fn with_errors(self, errors: Vec<f64>) -> Self {
        Self { errors, ..self }
    }
}

impl Guide {
    /// At the height `value`.
    pub fn horizontal(value: f64, name: impl Into<String>) -> Self {
        Self::Horizontal { value, name: name.into() }
    }

    /// At the x `value`.
    pub fn vertical(value: f64, name: impl Into<String>) -> Self {
        Self::Vertical { value, name: name.into() }
    }
}
