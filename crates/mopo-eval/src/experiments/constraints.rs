//! Figure 3: naive against lower-bounded constraints as data grow.

use std::fmt::Write;

use burn::tensor::backend::AutodiffBackend;
use mopo_core::bandit::experiments::{ConstraintRow, ConstraintSettings, constraints};
use mopo_report::Table;
use mopo_report::plot::{AxisSpec, Chart, Guide, Line, LineStyle, Panel};
use serde_json::{Value, json};

use super::{Experiment, Findings, cells};
use crate::Result;

impl Experiment for ConstraintSettings {
    const NAME: &'static str = "constraints";

    fn settings(&self) -> Value {
        json!({
            "actions": self.n_actions,
            "objectives": self.n_objectives,
            "tau": self.tau,
            "fraction": self.fraction,
            "terms": self.n_responses,
            "balls": self.balls,
            "repetitions": self.repetitions,
            "lambda_max": self.lambda_max,
        })
    }

    fn run<B: AutodiffBackend>(
        &self,
        _device: &B::Device,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Findings> {
        let rows = constraints(self, &mut |done| tell(done, self.repetitions))?;
        Ok(Findings {
            chart: chart(self, &rows),
            table: table(&rows),
            summary: summary(self, &rows),
        })
    }
}

fn table(rows: &[ConstraintRow]) -> Table {
    let mut table = Table::new([
        "n_terms",
        "method",
        "radius",
        "violation_rate",
        "standard_error",
        "unattainable_rate",
        "violation_rate_attainable",
        "mean_slack",
        "mean_primary",
        "exact_primary",
        "binding_rate",
        "discarded",
    ]);
    for r in rows {
        table.push(cells(&[
            &r.n_responses,
            &r.method,
            &r.radius,
            &r.violation_rate,
            &r.standard_error,
            &r.unattainable_rate,
            &r.violation_rate_attainable,
            &r.mean_slack,
            &r.mean_primary,
            &r.exact_primary,
            &r.binding_rate,
            &r.discarded,
        ]));
    }
    table
}

/// The methods, in the order of the first N.
fn methods(rows: &[ConstraintRow]) -> Vec<&str> {
    rows.iter()
        .filter(|r| r.n_responses == rows[0].n_responses)
        .map(|r| r.method.as_str())
        .collect()
}

type Figures = [(&'static str, usize, fn(&ConstraintRow) -> f64); 5];

/// Reported per method and N: name, decimals, and value.
const FIGURES: Figures = [
    ("True constraint violated, share", 3, |r| r.violation_rate),
    ("λ at its cap (unattainable), share", 3, |r| r.unattainable_rate),
    ("Mean true slack E[q] − b", 4, |r| r.mean_slack),
    ("Mean true E[p], the primary's", 4, |r| r.mean_primary),
    ("Violated among runs without λ at its cap, share", 3, |r| r.violation_rate_attainable),
];

fn summary(settings: &ConstraintSettings, rows: &[ConstraintRow]) -> String {
    let mut out = String::new();
    for (name, decimals, value) in FIGURES {
        let _ = write!(out, "{name}:\n{:<18}", "N");
        for n in &settings.n_responses {
            let _ = write!(out, "{n:>9}");
        }
        out.push('\n');
        for method in methods(rows) {
            let _ = write!(out, "{method:<18}");
            for r in rows.iter().filter(|r| r.method == method) {
                let _ = match value(r) {
                    x if x.is_finite() => write!(out, "{x:>9.decimals$}"),
                    _ => write!(out, "{:>9}", "–"),
                };
            }
            out.push('\n');
        }
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "{} repetitions; standard error of a share at most {:.3}. The exact solution has \
         E[p] = {:.4}; a threshold binds in {:.1} % of the bandits; {} bandits were discarded.",
        settings.repetitions,
        0.5 / (settings.repetitions as f64).sqrt(),
        rows[0].exact_primary,
        100.0 * rows[0].binding_rate,
        rows[0].discarded,
    );
    out
}

fn chart(settings: &ConstraintSettings, rows: &[ConstraintRow]) -> Chart {
    // The last share hardly differs from the first: it is only in the table.
    let panels = FIGURES[..4]
        .iter()
        .enumerate()
        .map(|(i, (title, _, value))| {
            let lines = methods(rows)
                .into_iter()
                .enumerate()
                .map(|(colour, method)| {
                    let own = || rows.iter().filter(|r| r.method == method);
                    let points = own().map(|r| (r.n_responses as f64, value(r))).collect();
                    let line = Line::new(method, LineStyle::SolidMarkers, colour, points);
                    if i == 0 {
                        line.with_errors(own().map(|r| r.standard_error).collect())
                    } else {
                        line
                    }
                })
                .collect();
            Panel {
                title: (*title).into(),
                x: AxisSpec::log("responses N"),
                y: if i < 2 {
                    AxisSpec::linear("").within(-0.03, 1.03)
                } else {
                    AxisSpec::linear("")
                },
                lines,
                marks: match i {
                    0 => vec![Guide::horizontal(0.05, "5 %")],
                    2 => vec![Guide::horizontal(0.0, "threshold")],
                    3 => vec![Guide::horizontal(rows[0].exact_primary, "exact")],
                    _ => Vec::new(),
                },
            }
        })
        .collect();
    Chart {
        title: "Naive and lower-bounded constraints as data grow".into(),
        caption: format!(
            "{} random Bradley–Terry bandits of {} actions and {} objectives, τ = {}; the threshold \
             lies {} of the way from the reference's value to the best action's. Bars: one binomial \
             standard error.",
            settings.repetitions,
            settings.n_actions,
            settings.n_objectives,
            settings.tau,
            settings.fraction
        ),
        columns: 2,
        panels,
    }
}
