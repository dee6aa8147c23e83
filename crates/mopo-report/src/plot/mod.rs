//! Figures: SVG written here, and PNG rendered from it with an embedded font.

mod axis;
mod chart;
mod clusters;
mod curves;
mod front;
mod key;
mod labels;
mod legend;
mod parallel;
mod svg;
mod text;

pub use chart::{AxisSpec, Chart, Guide, Line, LineStyle, Panel, chart_figure};
pub use clusters::clusters_figure;
pub use curves::{curves_from_metrics, curves_svg};
pub use front::front_figure;
pub use parallel::parallel_figure;

pub(crate) use axis::{short, short_error};
pub(crate) use curves::{CurvePanel, curve_panels};
pub(crate) use front::{cluster_front_panels, front_panels, pairs, signed};
pub(crate) use key::policy_key;
pub(crate) use parallel::{cluster_parallel_panels, parallel_panel};

use serde::{Deserialize, Serialize};

use crate::Result;

/// A finished figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// A complete SVG document, without external resources.
    pub svg: String,
    /// Width in CSS pixels.
    pub width: f64,
    /// Height in CSS pixels.
    pub height: f64,
}

impl Figure {
    /// The figure as PNG, with `scale` pixels per CSS pixel, drawn with DejaVu Sans, whatever fonts
    /// the
    /// machine has.
    ///
    /// # Errors
    /// [`crate::Error::Render`] if `scale` is not positive or the picture would be too large.
    pub fn to_png(&self, scale: f32) -> Result<Vec<u8>> {
        text::render(&self.svg, scale)
    }
}

/// A line of a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// (x, value), x ascending; a value that is not finite leaves a gap.
    pub points: Vec<(f64, f64)>,
}

/// A panel of lines that share an axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    /// Heading of the panel.
    pub title: String,
    /// What x is, such as training steps.
    pub x_axis: String,
    /// The lines; panels without lines are omitted.
    pub series: Vec<Series>,
}
