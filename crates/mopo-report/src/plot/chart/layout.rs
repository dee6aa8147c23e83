//! Layout of the parts of a chart.

use super::super::labels::Rect;
use super::super::svg::{Svg, Type};
use super::super::{Figure, text};
use super::Chart;
use super::key::Key;
use super::panel::{Prepared, TITLE_SIZE};
use crate::{Error, Result};

const MARGIN: f64 = 24.0;
const MAX_WIDTH: f64 = 1200.0;
const MAX_COLUMNS: usize = 4;
/// Space between a panel's frame and the next panel.
const GAP: f64 = 28.0;
const TITLE_STEP: f64 = 19.0;
const RATIO: f64 = 0.72;

/// Draws `chart`: the title, the caption, the panels row by row, and one legend. Lines of one name
/// share an entry, which shows one of them that has both a line and markers, or else whatever they
/// have. Lines without a visible point are not in the legend.
///
/// # Errors
/// [`Error::InvalidParameter`] if there is no panel, if a panel has no visible point, if
/// `columns` is not from 1 to 4, if a range is empty or has an end that its axis cannot show, if a
/// name has
/// two colours, or if an error bar is negative; [`Error::Length`] if there are
/// error bars but not one per point.
pub fn chart_figure(chart: &Chart) -> Result<Figure> {
    if chart.panels.is_empty() {
        return Err(Error::invalid("panels", "empty", "a chart needs at least one panel"));
    }
    if !(1..=MAX_COLUMNS).contains(&chart.columns) {
        let expected = format!("it must be from 1 to {MAX_COLUMNS}");
        return Err(Error::invalid("columns", chart.columns, expected));
    }
    let prepared = chart
        .panels
        .iter()
        .enumerate()
        .map(|(i, panel)| Prepared::new(panel, &format!("panels[{i}]")))
        .collect::<Result<Vec<_>>>()?;
    let key = Key::new(prepared.iter().flat_map(Prepared::lines))?;

    let n = chart.columns.min(prepared.len());
    // The same margin left of all frames in a column, so that they are aligned.
    let lefts: Vec<f64> = (0..n)
        .map(|c| prepared.iter().skip(c).step_by(n).map(Prepared::left).fold(0.0, f64::max))
        .collect();
    let rest = MAX_WIDTH - 2.0 * MARGIN - lefts.iter().sum::<f64>() - (n - 1) as f64 * GAP;
    let wanted = if n == 1 { 460.0 } else { 360.0 };
    let panel_w = (rest / n as f64).floor().clamp(120.0, wanted);
    let panel_h = (panel_w * RATIO).round().max(200.0);
    let inner = lefts.iter().sum::<f64>() + (n - 1) as f64 * GAP + n as f64 * panel_w;

    let mut svg = Svg::new("chart");
    let mut y = MARGIN;
    if !chart.title.is_empty() {
        let heading = Type { size: 20.0, bold: true, ..Type::default() };
        y = svg.paragraph(MARGIN, y + 16.0, inner, &chart.title, heading) - 16.0;
    }
    if !chart.caption.is_empty() {
        let small = Type { muted: true, ..Type::default() };
        y = svg.paragraph(MARGIN, y + 14.0, inner, &chart.caption, small) - 14.0;
    }
    if y > MARGIN {
        y += 14.0;
    }
    for (row, panels) in prepared.chunks(n).enumerate() {
        let titles: Vec<Vec<String>> = chart.panels[row * n..row * n + panels.len()]
            .iter()
            .enumerate()
            .map(|(c, panel)| text::wrap(&panel.title, TITLE_SIZE, true, lefts[c] + panel_w))
            .collect();
        let lines = titles.iter().map(Vec::len).max().unwrap_or(0);
        let top = y + lines as f64 * TITLE_STEP + if lines > 0 { 6.0 } else { 4.0 };
        let mut x = MARGIN;
        for (c, panel) in panels.iter().enumerate() {
            // A title centred over the frame could collide with its neighbour, so titles are flush
            // left.
            for (i, line) in titles[c].iter().enumerate() {
                let up = (titles[c].len() - 1 - i) as f64 * TITLE_STEP;
                let bold = Type { size: TITLE_SIZE, bold: true, ..Type::default() };
                svg.text(x, top - 10.0 - up, line, bold);
            }
            x += lefts[c];
            let frame = Rect { left: x, top, right: x + panel_w, bottom: top + panel_h };
            panel.draw(&mut svg, &frame);
            x += panel_w + GAP;
        }
        let labelled = chart.panels.iter().skip(row * n).take(n).any(|p| !p.x.label.is_empty());
        y = top + panel_h + if labelled { 44.0 } else { 24.0 } + 16.0;
    }
    let height = key.height(inner);
    key.draw(&mut svg, MARGIN, y - 4.0, inner);
    y += if height > 0.0 { height - 4.0 } else { -16.0 };

    let titles = chart.panels.iter().map(|p| p.title.as_str());
    let parts = [chart.title.as_str(), chart.caption.as_str()].into_iter().chain(titles);
    let said: Vec<&str> = parts.filter(|p| !p.is_empty()).collect();
    Ok(svg.finish(inner + 2.0 * MARGIN, y + MARGIN * 0.6, &said.join(". ")))
}
