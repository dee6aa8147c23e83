//! The figures of a study: the fronts of all methods, on all prompts and by cluster, and the influence of parameters.

use super::{SFT, SensitivityResult, Study, StudyReport};
use crate::plot::{AxisSpec, Chart, Figure, Line, LineStyle, Panel, chart_figure};
use crate::{Interval, PolicyGroup, Result};

/// Pairs of objectives that are drawn at most.
const MAX_PANELS: usize = 6;
/// The same for each cluster.
const MAX_PAIRS: usize = 3;
/// Of the reference method.
const INK: usize = 6;
/// Of the SFT model.
const GREY: usize = 7;

/// A panel for each pair of objectives, in z-scores. `None` if there are none.
pub(super) fn fronts(study: &Study, report: &StudyReport) -> Result<Option<Figure>> {
    let z = |p: usize, k: usize| report.points[p].z[k].as_ref().map(|estimate| estimate.value);
    let panels = pairs(report, MAX_PANELS)
        .filter_map(|(x, y)| panel(study, report, String::new(), (x, y), &z))
        .collect();
    let n_mixtures = report.points.iter().filter(|p| p.group == PolicyGroup::Mixture).count();
    let caption = format!(
        "Mean z-scores of every policy ({} policies, {n_mixtures} of them mixtures; seeds: {}). The line bounds the region \
         that the policies of {} dominate.",
        report.points.len(),
        report.seeds.len(),
        study.reference
    );
    drawn(study.title.clone(), caption, 2, panels)
}

/// The same for each cluster of prompts: a row for each, a column for each pair of objectives.
pub(super) fn clusters(study: &Study, report: &StudyReport) -> Result<Option<Figure>> {
    let mut panels = Vec::new();
    for cluster in &report.clusters {
        let z = |p: usize, k: usize| cluster.z[p][k];
        for pair in pairs(report, MAX_PAIRS) {
            let n = cluster.n_prompts.iter().sum::<usize>();
            let title = format!("{} ({n})", cluster.label);
            panels.extend(panel(study, report, title, pair, &z));
        }
    }
    let columns = match pairs(report, MAX_PAIRS).count() {
        1 => 2,
        n => n,
    };
    let caption = format!(
        "Mean z-scores of every policy on each cluster of prompts, named by words that tell it from the others (prompts of \
         all seeds in brackets). The line bounds the region that the policies of {} dominate.",
        study.reference
    );
    drawn("By cluster of prompts".into(), caption, columns, panels)
}

/// A panel for each parameter. `None` if the study has none.
pub(super) fn sensitivity(report: &StudyReport) -> Result<Option<Figure>> {
    let panels = report.sensitivity.iter().map(of_parameter).collect();
    let caption = "Hypervolume by the value of one parameter, everything else as chosen on validation prompts. Bars are as \
                   long as the intervals over seeds and prompts."
        .to_string();
    drawn("Sensitivity".into(), caption, 3, panels)
}

fn of_parameter(of: &SensitivityResult) -> Panel {
    let points = of.points.iter().map(|(x, volume)| (*x, volume.value)).collect();
    let errors = of.points.iter().map(|(_, volume)| {
        volume.interval.map_or(f64::NAN, |Interval { low, high }| (high - low) / 2.0)
    });
    let line = Line::new(&of.method, LineStyle::SolidMarkers, 1, points);
    let [low, high] = [0, of.points.len() - 1].map(|i| of.points[i].0);
    let x = match low > 0.0 && high / low >= 4.0 {
        true => AxisSpec::log(of.parameter.clone()),
        false => AxisSpec::linear(of.parameter.clone()),
    };
    Panel {
        title: of.parameter.clone(),
        x,
        y: AxisSpec::linear("hypervolume"),
        lines: vec![line.with_errors(errors.collect())],
        marks: vec![],
    }
}

fn pairs(report: &StudyReport, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let n = report.objectives.len();
    (0..n).flat_map(move |x| (x + 1..n).map(move |y| (x, y))).take(most)
}

/// All policies in two objectives; `z`: by policy and objective. `None` if no policy has both.
fn panel(
    study: &Study,
    report: &StudyReport,
    title: String,
    (x, y): (usize, usize),
    z: &dyn Fn(usize, usize) -> Option<f64>,
) -> Option<Panel> {
    let mut lines = Vec::new();
    for (m, method) in report.methods.iter().enumerate() {
        let points: Vec<(f64, f64)> = (0..report.points.len())
            .filter(|&p| report.points[p].method == m)
            .filter_map(|p| z(p, x).zip(z(p, y)))
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
    let axis = |k: usize| AxisSpec::linear(format!("{}, z-score", report.objectives[k]));
    (!lines.is_empty()).then(|| Panel { title, x: axis(x), y: axis(y), lines, marks: vec![] })
}

fn drawn(
    title: String,
    caption: String,
    columns: usize,
    panels: Vec<Panel>,
) -> Result<Option<Figure>> {
    if panels.is_empty() {
        return Ok(None);
    }
    let columns = panels.len().min(columns);
    chart_figure(&Chart { title, caption, columns, panels }).map(Some)
}
