//! The fronts of all methods.

use super::{SFT, Study, StudyReport};
use crate::plot::{AxisSpec, Chart, Figure, Line, LineStyle, Panel, chart_figure};
use crate::{PolicyGroup, Result};

/// Pairs of objectives that are drawn at most.
const MAX_PANELS: usize = 6;
/// Of the reference method.
const INK: usize = 6;
/// Of the SFT model.
const GREY: usize = 7;

/// A panel for each pair of objectives, in z-scores. `None` if there are none.
pub(super) fn figure(study: &Study, report: &StudyReport) -> Result<Option<Figure>> {
    let n = report.objectives.len();
    let pairs = (0..n).flat_map(|x| (x + 1..n).map(move |y| (x, y))).take(MAX_PANELS);
    let mut panels = Vec::new();
    for (x, y) in pairs {
        let mut lines = Vec::new();
        for (m, method) in report.methods.iter().enumerate() {
            let points: Vec<(f64, f64)> = (report.points.iter())
                .filter(|point| point.method == m)
                .filter_map(|point| Some((point.z[x].as_ref()?.value, point.z[y].as_ref()?.value)))
                .collect();
            if points.is_empty() {
                continue;
            }
            let colour = match &*method.name {
                SFT => GREY,
                name if name == study.reference => INK,
                // Of the palette's six and their repetitions, without ink and grey.
                _ => (m - 1) / 6 * 8 + (m - 1) % 6,
            };
            if method.name == study.reference {
                lines.push(Line::new("", LineStyle::Staircase, colour, points.clone()));
            }
            lines.push(Line::new(&method.name, LineStyle::Markers, colour, points));
        }
        if !lines.is_empty() {
            let axis = |k: usize| AxisSpec::linear(format!("{}, z-score", report.objectives[k]));
            panels.push(Panel {
                title: String::new(),
                x: axis(x),
                y: axis(y),
                lines,
                marks: vec![],
            });
        }
    }
    if panels.is_empty() {
        return Ok(None);
    }
    let n_mixtures = report.points.iter().filter(|p| p.group == PolicyGroup::Mixture).count();
    let caption = format!(
        "Mean z-scores of every policy ({} policies, {n_mixtures} of them mixtures; seeds: {}). The line is the region that \
         the policies of {} dominate.",
        report.points.len(),
        report.seeds.len(),
        study.reference
    );
    let columns = panels.len().min(2);
    chart_figure(&Chart { title: study.title.clone(), caption, columns, panels }).map(Some)
}
