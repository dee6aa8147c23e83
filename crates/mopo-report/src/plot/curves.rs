//! Panels of lines: over training steps, or over another quantity.

use std::collections::BTreeMap;

use super::axis::{Axis, short};
use super::svg::{Anchor, N_COLOURS, Stroke, Svg, Type};
use super::{Curves, Figure, Series, text};
use crate::Result;
use crate::metrics::{MetricsRow, Quantity};

const MARGIN: f64 = 24.0;
const PANEL: (f64, f64) = (290.0, 190.0);
/// Margins of a panel: ticks on the left, names of lines on the right.
const LEFT: f64 = 62.0;
const NAMES: f64 = 176.0;
const HEAD: f64 = 34.0;
const BELOW: f64 = 50.0;
const MAX_POINTS: usize = 300;
/// The axis of what is written down while training.
const STEP: &str = "step";

/// Draws `panels` in two columns, each line named at its right end. Lines of more than 300 points
/// are averaged in that many groups.
///
/// # Errors
/// [`crate::Error::InvalidParameter`] if no panel has a finite point.
pub fn curves_svg(panels: &[Curves]) -> Result<Figure> {
    let drawn = drawable(panels);
    if drawn.is_empty() {
        let expected = "at least one line with a finite point is needed";
        return Err(crate::Error::invalid("panels", panels.len(), expected));
    }
    let cell = (LEFT + PANEL.0 + NAMES, HEAD + PANEL.1 + BELOW);
    let n_columns = drawn.len().min(2);
    let width = 2.0 * MARGIN + n_columns as f64 * cell.0;
    let height = 2.0 * MARGIN + drawn.len().div_ceil(2) as f64 * cell.1 - 12.0;
    let mut svg = Svg::new("curves");
    for (i, Drawn { title, x_axis, series }) in drawn.iter().enumerate() {
        let left = MARGIN + (i % 2) as f64 * cell.0 + LEFT;
        let top = MARGIN + (i / 2) as f64 * cell.1 + HEAD;
        let bold = Type { size: 14.0, bold: true, ..Type::default() };
        svg.text(left, top - 12.0, &text::fit(title, 14.0, true, PANEL.0 + NAMES), bold);
        let ends = panel(&mut svg, left, top, x_axis, series);
        names(&mut svg, left + PANEL.0, top, series, ends);
    }
    let titles: Vec<&str> = drawn.iter().map(|d| d.title).collect();
    Ok(svg.finish(width, height, &titles.join("; ")))
}

/// A single panel of [`curves_svg`], for a page.
pub(crate) struct CurvePanel {
    /// The quantity.
    pub(crate) title: String,
    pub(crate) figure: Figure,
    /// A sample of each line, with its name.
    pub(crate) key: Vec<(String, String)>,
}

/// The panels of [`curves_svg`] as separate figures, each with its heading and a list of its lines.
/// `name` is the prefix of ids.
pub(crate) fn curve_panels(panels: &[Curves], name: &str) -> Vec<CurvePanel> {
    drawable(panels)
        .into_iter()
        .enumerate()
        .map(|(i, Drawn { title, x_axis, series })| {
            let mut svg = Svg::new(format!("{name}-{i}"));
            panel(&mut svg, LEFT, 8.0, x_axis, &series);
            let figure = svg.finish(LEFT + PANEL.0 + 10.0, 8.0 + PANEL.1 + BELOW - 8.0, title);
            let sample = |(i, line): (usize, Series)| {
                let mut svg = Svg::new("");
                svg.line((1.0, 7.0), (25.0, 7.0), stroke(i, 3.0));
                (svg.glyph(26.0, 14.0), line.name)
            };
            let named = |(_, line): &(usize, Series)| !line.name.is_empty();
            let key = series.into_iter().enumerate().filter(named).map(sample).collect();
            CurvePanel { title: title.to_owned(), figure, key }
        })
        .collect()
}

/// A panel that has something to draw.
struct Drawn<'a> {
    title: &'a str,
    x_axis: &'a str,
    series: Vec<Series>,
}

/// Panels and lines with finite points, thinned.
fn drawable(panels: &[Curves]) -> Vec<Drawn<'_>> {
    let thinned = |panel: &Curves| {
        let mut series: Vec<Series> = panel.series.iter().filter_map(thin).collect();
        // Next to losses of policies, one without a name is the total.
        if series.len() > 1 {
            series.iter_mut().filter(|s| s.name.is_empty()).for_each(|s| s.name = "all".into());
        }
        series
    };
    let all = panels.iter().map(|panel| {
        let Curves { title, x_axis, .. } = panel;
        Drawn { title, x_axis, series: thinned(panel) }
    });
    all.filter(|panel| !panel.series.is_empty()).collect()
}

/// Line `i` of a panel: the colours in turn, dashed on every second cycle.
fn stroke(i: usize, width: f64) -> Stroke {
    match i / N_COLOURS % 2 {
        0 => Stroke::Series(Some(i), width),
        _ => Stroke::SeriesDashed(Some(i), width),
    }
}

/// The finite points, averaged in groups if there are very many; `None` if there are none.
fn thin(series: &Series) -> Option<Series> {
    let finite: Vec<(f64, f64)> =
        series.points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
    let group = finite.len().div_ceil(MAX_POINTS).max(1);
    let mean = |g: &[(f64, f64)]| {
        let n = g.len() as f64;
        (g.iter().map(|p| p.0).sum::<f64>() / n, g.iter().map(|p| p.1).sum::<f64>() / n)
    };
    let points: Vec<(f64, f64)> = finite.chunks(group).map(mean).collect();
    (!points.is_empty()).then(|| Series { name: series.name.clone(), points })
}

/// Draws axes and lines, with a name at each line's end.
fn panel(svg: &mut Svg, left: f64, top: f64, x_axis: &str, series: &[Series]) -> Vec<(f64, usize)> {
    let (right, bottom) = (left + PANEL.0, top + PANEL.1);
    let all = || series.iter().flat_map(|s| &s.points);
    let ends = all()
        .map(|p| p.0)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |e, x| (e.0.min(x), e.1.max(x)));
    let x =
        if ends.1 > ends.0 { Axis { low: ends.0, high: ends.1 } } else { Axis::around([ends.0]) };
    let y_axis = Axis::around(all().map(|p| p.1));
    let small = Type { size: 12.0, muted: true, ..Type::default() };
    for (value, label) in x.ticks(5) {
        let at = x.place(value, left, right);
        svg.line((at, top), (at, bottom), Stroke::Grid);
        svg.text(at, bottom + 18.0, &label, Type { anchor: Anchor::Middle, ..small });
    }
    for (value, label) in y_axis.ticks(4) {
        let y = y_axis.place(value, bottom, top);
        svg.line((left, y), (right, y), Stroke::Grid);
        svg.text(left - 8.0, y + 4.0, &label, Type { anchor: Anchor::End, ..small });
    }
    if y_axis.contains(0.0) {
        let y = y_axis.place(0.0, bottom, top);
        svg.line((left, y), (right, y), Stroke::Frame);
    }
    svg.frame(left, top, PANEL.0, PANEL.1);
    svg.text((left + right) / 2.0, bottom + 36.0, x_axis, Type { anchor: Anchor::Middle, ..small });

    let mut ends: Vec<(f64, usize)> = Vec::new();
    for (i, line) in series.iter().enumerate() {
        let place = |p: &(f64, f64)| (x.place(p.0, left, right), y_axis.place(p.1, bottom, top));
        let points: Vec<(f64, f64)> = line.points.iter().map(place).collect();
        let d: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let last = line.points[line.points.len() - 1].1;
        let title = [line.name.as_str(), &format!("last {}", short(last))];
        svg.begin_mark(i, "", title.join("\n").trim_start());
        if let [(x, y)] = points[..] {
            svg.line((x - 3.0, y), (x + 3.0, y), stroke(i, 2.5));
        } else {
            svg.path(&format!("M{}", d.join("L")), stroke(i, 1.8));
        }
        svg.end_mark();
        ends.push((points[points.len() - 1].1, i));
    }
    ends
}

/// The lines' names, each next to its line's end.
fn names(svg: &mut Svg, right: f64, top: f64, series: &[Series], ends: Vec<(f64, usize)>) {
    if series.len() == 1 && series[0].name.is_empty() {
        return;
    }
    for (at, (end, i)) in spread(ends, top + 6.0, 17.0) {
        svg.path(
            &format!("M{:.1} {end:.1}L{:.1} {at:.1}h8", right + 1.0, right + 10.0),
            stroke(i, 1.8),
        );
        let name = text::fit(&series[i].name, 12.0, false, NAMES - 26.0);
        svg.text(right + 22.0, at + 4.0, &name, Type { size: 12.0, ..Type::default() });
    }
}

/// Spaces heights at least `step` apart, close to where they should be and not above `top`.
fn spread(mut wanted: Vec<(f64, usize)>, top: f64, step: f64) -> Vec<(f64, (f64, usize))> {
    wanted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let total = (wanted.len() - 1) as f64 * step;
    let lowest = (top + PANEL.1 - 12.0).max(top + total);
    let mut placed: Vec<f64> = Vec::with_capacity(wanted.len());
    for (i, w) in wanted.iter().enumerate() {
        let left_over = (wanted.len() - 1 - i) as f64 * step;
        let floor = placed.last().map_or(top, |p| p + step);
        placed.push(w.0.clamp(floor, (lowest - left_over).max(floor)));
    }
    placed.into_iter().zip(wanted).collect()
}

/// The quantities that are drawn, with the headings of their panels.
const DRAWN: [(Quantity, &str); 6] = [
    (Quantity::SCORE, "Mean z-score of the policy's own answers"),
    (Quantity::LOSS, "Loss"),
    (Quantity::LAMBDA, "Multiplier λ of each constraint"),
    (Quantity::SLACK, "Slack of each constraint (met above 0)"),
    (Quantity::CHI, "Multiplier χ of the ratio bound"),
    (Quantity::ACCURACY, "Accuracy"),
];

/// Panels from the rows of `metrics.jsonl`: one per phase and quantity (score, loss, λ, slack, χ, accuracy),
/// with a line for each policy and objective. Other quantities are omitted, and so are those that are
/// always 0.
pub fn curves_from_metrics(rows: &[MetricsRow]) -> Vec<Curves> {
    let mut phases: Vec<&str> = Vec::new();
    let mut lines: BTreeMap<(usize, usize, String), Vec<(f64, f64)>> = BTreeMap::new();
    for row in rows {
        let phase = phases.iter().position(|p| *p == row.phase).unwrap_or_else(|| {
            phases.push(&row.phase);
            phases.len() - 1
        });
        for (key, value) in row.metrics.iter() {
            let drawn = DRAWN.iter().position(|(quantity, _)| *quantity == key.quantity);
            if let Some(quantity) = drawn {
                let names = [&key.scope, &key.objective].into_iter().flatten();
                let name = names.map(String::as_str).collect::<Vec<_>>().join(": ");
                lines.entry((phase, quantity, name)).or_default().push((row.step as f64, value));
            }
        }
    }
    let mut panels: Vec<((usize, usize), Curves)> = Vec::new();
    for ((phase, quantity, name), points) in lines {
        if panels.last().is_none_or(|p| p.0 != (phase, quantity)) {
            let title = match phases[phase] {
                "" => DRAWN[quantity].1.to_owned(),
                // What `metrics.jsonl` calls SFT.
                "warm_start" => format!("{} — SFT", DRAWN[quantity].1),
                phase => format!("{} — {}", DRAWN[quantity].1, phase.replace('_', " ")),
            };
            panels.push((
                (phase, quantity),
                Curves { title, x_axis: STEP.into(), series: Vec::new() },
            ));
        }
        if let Some((_, panel)) = panels.last_mut() {
            panel.series.push(Series { name, points });
        }
    }
    let alive = |c: &Curves| c.series.iter().any(|s| s.points.iter().any(|p| p.1 != 0.0));
    panels.into_iter().map(|p| p.1).filter(alive).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metrics_become_panels_by_phase_and_quantity() {
        let rows = [
            json!({"phase": "warm_start", "step": 1, "loss": 2.0, "learning_rate": 0.1}),
            json!({"phase": "mopo", "step": 1, "a/loss": 1.0, "b/loss": 2.0, "a/lambda/b": 0.5}),
            json!({"phase": "mopo", "step": 2, "a/loss": 0.5, "a/chi/b": 0.0}),
        ]
        .map(|row| serde_json::from_value(row).unwrap());
        let panels = curves_from_metrics(&rows);
        let titles: Vec<&str> = panels.iter().map(|p| p.title.as_str()).collect();
        assert_eq!(titles, ["Loss — SFT", "Loss — mopo", "Multiplier λ of each constraint — mopo"]);
        assert_eq!(panels[1].series[0].name, "a");
        assert_eq!(panels[1].series[0].points, [(1.0, 1.0), (2.0, 0.5)]);
        assert_eq!(panels[2].series[0].name, "a: b");
        assert!(curves_from_metrics(&[]).is_empty());
    }

    #[test]
    fn names_are_spread_apart() {
        let placed = spread(vec![(50.0, 0), (50.0, 1), (52.0, 2), (500.0, 3)], 10.0, 17.0);
        let heights: Vec<f64> = placed.iter().map(|p| p.0).collect();
        assert!(heights.windows(2).all(|w| w[1] - w[0] >= 17.0 - 1e-9), "{heights:?}");
        assert!(heights[3] <= 10.0 + PANEL.1);
    }

    #[test]
    fn long_lines_are_averaged_and_gaps_left_out() {
        let mut points: Vec<(f64, f64)> = (0..3000).map(|i| (f64::from(i), 1.0)).collect();
        points[5].1 = f64::NAN;
        let thinned = thin(&Series { name: String::new(), points }).unwrap();
        assert!(thinned.points.len() <= MAX_POINTS && thinned.points.iter().all(|p| p.1 == 1.0));
        let empty = Series { name: "x".into(), points: vec![(0.0, f64::NAN)] };
        assert!(
            curves_svg(&[Curves { title: "t".into(), x_axis: STEP.into(), series: vec![empty] }])
                .is_err()
        );
    }
}
