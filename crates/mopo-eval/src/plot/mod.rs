//! Figures: SVG written here, and PNG from it with an embedded font.

mod text;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{FrontReport, Result};

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
    /// The figure as PNG, `scale` pixels per CSS pixel, drawn with DejaVu Sans whatever fonts the
    /// machine has.
    ///
    /// # Errors
    /// [`crate::Error::Render`] if `scale` is not positive or the picture would be too large.
    pub fn to_png(&self, scale: f32) -> Result<Vec<u8>> {
        text::render(&self.svg, scale)
    }
}

/// A line of a chart over training steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What the legend says.
    pub name: String,
    /// (step, value), steps ascending; a value that is not finite leaves a gap.
    pub points: Vec<(f64, f64)>,
}

/// A panel of lines that share an axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    /// Heading of the panel.
    pub title: String,
    /// The lines; panels without a line are left out.
    pub series: Vec<Series>,
}

/// The front.
///
/// # Errors
/// None so far.
pub fn front_figure(_report: &FrontReport, _title: &str) -> Result<Figure> {
    Ok(Figure {
        svg: "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"8\" height=\"8\"/>".into(),
        width: 8.0,
        height: 8.0,
    })
}

/// Panels from metrics.
pub fn curves_from_metrics(_rows: &[Value]) -> Vec<Curves> {
    Vec::new()
}
