//! A.3, Figures 2 and 9: initial thresholds against a known front.

use std::fmt::Write;

use burn::tensor::backend::AutodiffBackend;
use mopo_core::bandit::experiments::{
    Initialisation, InitialisationSettings, StartRow, VectorRow, initialisation,
};
use mopo_report::Table;
use mopo_report::plot::{AxisSpec, Chart, Guide, Line, LineStyle, Panel};
use serde_json::{Value, json};

use super::{Experiment, Findings, cells};
use crate::Result;

impl Experiment for InitialisationSettings {
    const NAME: &'static str = "initialisation";

    fn settings(&self) -> Value {
        json!({
            "set": self.set.name(),
            "tau": self.tau,
            "front_points": self.front_points,
            "beyond": self.beyond,
            "steps": self.learner.steps,
            "learning_rate": self.learner.learning_rate,
            "lambda_lr": self.lambda_lr,
            "lambda_max": self.lambda_max,
            "actions": self.n_actions,
            "grid": self.grid,
            "vectors": self.n_vectors,
        })
    }

    fn run<B: AutodiffBackend>(
        &self,
        device: &B::Device,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Findings> {
        let found = initialisation::<B>(self, device, tell)?;
        Ok(Findings { chart: chart(self, &found), table: table(&found), summary: summary(&found) })
    }
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or(String::new(), |v| v.to_string())
}

/// Initial thresholds on the toy, then threshold pairs of the bandit; what does not apply is empty.
fn table(found: &Initialisation) -> Table {
    let mut table = Table::new([
        "start",
        "threshold_2",
        "threshold_3",
        "index_2",
        "index_3",
        "each",
        "together",
        "feasible",
        "predicted_primary",
        "predicted_secondary",
        "exact_primary",
        "exact_secondary",
        "exact_lambda",
        "learned_primary",
        "learned_secondary",
        "lambda",
        "predicted_objective",
        "exact_objective",
    ]);
    for s in &found.starts {
        let landing = s.predicted.is_some();
        table.push(cells(&[
            &s.start,
            &s.threshold,
            &"",
            &s.index,
            &"",
            &(s.index < s.front_points),
            &landing,
            &s.exact.is_some(),
            &shown(s.predicted.map(|p| p.1)),
            &shown(s.predicted.map(|p| p.0)),
            &shown(s.exact.map(|p| p.1)),
            &shown(s.exact.map(|p| p.0)),
            &shown(s.exact_lambda),
            &s.learned.1,
            &s.learned.0,
            &s.lambda,
            &"",
            &"",
        ]));
    }
    for v in &found.vectors {
        table.push(cells(&[
            &"three objectives",
            &v.thresholds[0],
            &v.thresholds[1],
            &v.index[0],
            &v.index[1],
            &v.each,
            &v.together,
            &shown(v.feasible),
            &"",
            &"",
            &"",
            &"",
            &"",
            &"",
            &"",
            &"",
            &shown(v.predicted),
            &shown(v.exact),
        ]));
    }
    table
}

fn summary(found: &Initialisation) -> String {
    let mut out = format!(
        "Toy: {} front points; the best E[q] of any policy is {:.4}.\n{:<34}{:>8}{:>7}  {:<17}{:<17}\
         {:<17}{:>8}{:>8}\n",
        found.front.len(),
        found.best,
        "start",
        "v",
        "index",
        "predicted (q, p)",
        "exact",
        "learned",
        "exact λ",
        "λ",
    );
    let pair = |p: Option<(f64, f64)>| {
        p.map_or("infeasible".to_string(), |(q, p)| format!("{q:.4} {p:.4}"))
    };
    for s in &found.starts {
        let _ = writeln!(
            out,
            "{:<34}{:>8.4}{:>7}  {:<17}{:<17}{:<17}{:>8}{:>8.3}{}",
            s.start,
            s.threshold,
            s.index,
            pair(s.predicted),
            pair(s.exact),
            pair(Some(s.learned)),
            s.exact_lambda.map_or("-".to_string(), |l| format!("{l:.3}")),
            s.lambda,
            if s.at_cap { " (its cap)" } else { "" }
        );
    }
    let count = |of: &dyn Fn(&&VectorRow) -> bool| found.vectors.iter().filter(of).count();
    let _ = writeln!(
        out,
        "\nThree objectives: {} front points, {} threshold pairs.\n{:<44}{:>9}{:>12}{:>11}",
        found.grid_points,
        found.vectors.len(),
        "",
        "feasible",
        "infeasible",
        "undecided"
    );
    for (name, of) in [
        ("each index inside, a point meets both", (true, true)),
        ("each index inside, no point meets both", (true, false)),
        ("an index past the end", (false, false)),
    ] {
        let at = |feasible| count(&|v| (v.each, v.together) == of && v.feasible == feasible);
        let _ =
            writeln!(out, "{name:<44}{:>9}{:>12}{:>11}", at(Some(true)), at(Some(false)), at(None));
    }
    let gaps: Vec<f64> =
        found.vectors.iter().filter_map(|v| Some(v.exact? - v.predicted?)).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len().max(1) as f64;
    let worst = gaps.iter().cloned().fold(0.0, f64::max);
    let least = gaps.iter().cloned().fold(0.0, f64::min);
    let _ = writeln!(
        out,
        "Exact less predicted E[p] − τ KL: mean {mean:.5}, from {least:.5} to {worst:.5}."
    );
    out
}

fn chart(settings: &InitialisationSettings, found: &Initialisation) -> Chart {
    Chart {
        title: "Initial thresholds compared with a known front".into(),
        caption: format!(
            "First three panels: toy set {}, τ = {}, one constraint E[q] ≥ v. Last: a bandit of {} \
             actions with constraints on two objectives, and what the front of {} points says of {} \
             random pairs of thresholds.",
            settings.set.name(),
            settings.tau,
            settings.n_actions,
            found.grid_points,
            found.vectors.len()
        ),
        columns: 2,
        panels: vec![landings(found), indices(found), multipliers(settings, found), three(found)],
    }
}

const FEASIBLE: &str = "start predicted feasible";
const HOPELESS: &str = "start predicted infeasible";

fn starts(
    found: &Initialisation,
    hopeless: bool,
    point: impl Fn(&StartRow) -> Option<(f64, f64)>,
) -> Vec<(f64, f64)> {
    found.starts.iter().filter(|s| s.predicted.is_none() == hopeless).filter_map(point).collect()
}

fn landings(found: &Initialisation) -> Panel {
    let at = |point: fn(&StartRow) -> Option<(f64, f64)>| {
        found.starts.iter().filter_map(point).collect::<Vec<_>>()
    };
    Panel {
        title: "Front, starts and landing points".into(),
        x: AxisSpec::linear("E[q], secondary"),
        y: AxisSpec::linear("E[p], primary"),
        lines: vec![
            Line::new("known front", LineStyle::Solid, 7, found.front.clone()),
            Line::new(
                FEASIBLE,
                LineStyle::Markers,
                1,
                starts(found, false, |s| Some((s.threshold, s.start_primary?))),
            ),
            Line::new("predicted landing", LineStyle::Markers, 2, at(|s| s.predicted)),
            Line::new(
                "learned policy",
                LineStyle::Markers,
                4,
                at(|s| s.predicted.map(|_| s.learned)),
            ),
        ],
        marks: vec![Guide::vertical(found.best, "best E[q]")],
    }
}

fn indices(found: &Initialisation) -> Panel {
    let steps: Vec<(f64, f64)> = {
        let mut values: Vec<f64> = found.front.iter().map(|p| p.0).collect();
        values.sort_by(f64::total_cmp);
        values.into_iter().enumerate().map(|(i, v)| (v, i as f64)).collect()
    };
    let at = |s: &StartRow| Some((s.threshold, s.index as f64));
    Panel {
        title: "Insertion index of the start".into(),
        x: AxisSpec::linear("v, the start's E[q]"),
        y: AxisSpec::linear("index"),
        lines: vec![
            Line::new("known front", LineStyle::Solid, 7, steps),
            Line::new(FEASIBLE, LineStyle::Markers, 1, starts(found, false, at)),
            Line::new(HOPELESS, LineStyle::Markers, 0, starts(found, true, at)),
        ],
        marks: vec![Guide::horizontal(found.front.len() as f64, "past the end")],
    }
}

fn multipliers(settings: &InitialisationSettings, found: &Initialisation) -> Panel {
    let at = |s: &StartRow| Some((s.threshold, s.lambda));
    Panel {
        title: "λ at the end of learning".into(),
        x: AxisSpec::linear("v, the start's E[q]"),
        y: AxisSpec::linear("λ"),
        lines: vec![
            Line::new(FEASIBLE, LineStyle::Markers, 1, starts(found, false, at)),
            Line::new(HOPELESS, LineStyle::Markers, 0, starts(found, true, at)),
        ],
        marks: vec![
            Guide::horizontal(settings.lambda_max, "cap"),
            Guide::vertical(found.best, "best E[q]"),
        ],
    }
}

fn three(found: &Initialisation) -> Panel {
    let of = |keep: &dyn Fn(&VectorRow) -> bool| -> Vec<(f64, f64)> {
        let kept = found.vectors.iter().filter(|v| keep(v));
        kept.map(|v| (v.thresholds[0], v.thresholds[1])).collect()
    };
    let agree = |v: &VectorRow| v.feasible == Some(v.together);
    Panel {
        title: "Two constraints: random thresholds".into(),
        x: AxisSpec::linear("b₂"),
        y: AxisSpec::linear("b₃"),
        lines: vec![
            Line::new(
                "a front point meets both; feasible",
                LineStyle::Cloud,
                2,
                of(&|v| v.together && agree(v)),
            ),
            Line::new(
                "each index inside, none meets both; infeasible",
                LineStyle::Cloud,
                4,
                of(&|v| v.each && !v.together && agree(v)),
            ),
            Line::new(
                "an index past the end; infeasible",
                LineStyle::Cloud,
                7,
                of(&|v| !v.each && agree(v)),
            ),
            Line::new("front and exact solver disagree", LineStyle::Markers, 6, of(&|v| !agree(v))),
        ],
        marks: Vec::new(),
    }
}
