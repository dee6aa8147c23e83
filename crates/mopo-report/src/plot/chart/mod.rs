//! A general chart: panels of lines, points and fronts on linear or logarithmic axes, with one
//! legend.
//!
//! The front of a report is drawn by [`super::front_figure`] instead, and
//! metrics over training steps by [`super::curves_svg`], with a name at each line's end.

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

/// A pair of axes with what is drawn on them.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// The heading; may be empty.
    pub title: String,
    /// The horizontal axis.
    pub x: AxisSpec,
    /// The vertical axis.
    pub y: AxisSpec,
    /// Drawn in this order; at least one with a point.
    pub lines: Vec<Line>,
    /// Reference levels, drawn below the lines.
    pub marks: Vec<Guide>,
}

/// An axis of a panel.
#[derive(Debug, Clone, PartialEq)]
pub struct AxisSpec {
    /// The quantity and its unit; may be empty. Truncated if it is longer than the axis even in
    /// small print: about 35 letters for three columns.
    pub label: String,
    /// Whether the scale is logarithmic.
    pub log: bool,
    /// The ends, low and high; `None` fits all points, error bars and guides, with some margin.
    /// What lies outside is cut off.
    pub range: Option<(f64, f64)>,
}

/// A line, or a set of points, on a panel.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The name in the legend, shown once for all lines with it; not shown if empty.
    pub name: String,
    /// (x, y), in the order of the line. A value that is not finite, or not above 0 on a
    /// logarithmic axis, leaves a gap.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub style: LineStyle,
    /// Colour and marker: 0 to 5 are the palette's orange-red, blue, green, pink, orange and light
    /// blue, 6 is ink (black, or white on dark pages), 7 is grey. Larger numbers repeat the colours
    /// with other markers. Lines of one name have one colour.
    pub colour: usize,
    /// Half the height of each point's error bar, or empty for none; values that are not finite are
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
    /// Small translucent markers without a line, for many points.
    Cloud,
    /// The boundary of the region that the points dominate, larger being better in both; dominated
    /// points and the order are irrelevant.
    Staircase,
}

/// A straight dotted line across a panel, with a name.
#[derive(Debug, Clone, PartialEq)]
pub enum Guide {
    /// At a height.
    Horizontal {
        /// The y.
        value: f64,
        /// Its name; may be empty.
        name: String,
    },
    /// From the bottom to the top.
    Vertical {
        /// The x.
        value: f64,
        /// Its name; may be empty.
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
