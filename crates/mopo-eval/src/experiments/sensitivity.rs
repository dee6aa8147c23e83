//! Figure 6: sensitivity to the relaxation β and the reference's lag t₀.

use std::fmt::Write;

use burn::tensor::backend::AutodiffBackend;
use mopo_core::bandit::experiments::{SensitivityRow, SensitivitySettings, sensitivity};
use mopo_report::Table;
use mopo_report::plot::{AxisSpec, Chart, Line, LineStyle, Panel};
use serde_json::{Value, json};

use super::{Experiment, Findings, cells};
use crate::Result;

impl Experiment for SensitivitySettings {
    const NAME: &'static str = "sensitivity";

    fn settings(&self) -> Value {
        json!({
            "set": self.set.name(),
            "tau": self.tau,
            "relaxations": self.relaxations,
            "lags": self.lags,
            "rules": self.rules,
            "triplets": self.n_triplets,
            "steps": self.learner.steps,
            "learning_rate": self.learner.learning_rate,
            "lambda_max": self.lambda_max,
        })
    }

    fn run<B: AutodiffBackend>(
        &self,
        device: &B::Device,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Findings> {
        let steps = self.learner.steps;
        let rows = sensitivity::<B>(self, device, &mut |done| tell(done, steps))?;
        Ok(Findings {
            chart: chart(self, &rows),
            table: table(&rows),
            summary: summary(self, &rows),
        })
    }
}

fn table(rows: &[SensitivityRow]) -> Table {
    let mut table = Table::new([
        "statistic",
        "ball",
        "relaxation",
        "reference_lag",
        "reward_1",
        "reward_2",
        "primary",
        "secondary",
        "first_threshold",
        "threshold",
        "lambda",
        "largest_lambda",
        "kl",
    ]);
    for r in rows {
        table.push(cells(&[
            &r.statistic,
            &r.ball,
            &r.relaxation,
            &r.reference_lag,
            &r.reward_1,
            &r.reward_2,
            &r.primary,
            &r.secondary,
            &r.first_threshold,
            &r.threshold,
            &r.lambda,
            &r.largest_lambda,
            &r.kl,
        ]));
    }
    table
}

/// The rules in their order: what thresholds follow, and the ball.
fn rules(rows: &[SensitivityRow]) -> Vec<(&str, &str)> {
    let mut rules: Vec<(&str, &str)> = rows.iter().map(|r| (r.statistic, &*r.ball)).collect();
    rules.dedup();
    rules
}

fn of_rule<'a>(
    rows: &'a [SensitivityRow],
    rule: (&'a str, &'a str),
) -> impl Iterator<Item = &'a SensitivityRow> {
    rows.iter().filter(move |r| (r.statistic, &*r.ball) == rule)
}

/// A statistic's name in a figure.
fn in_words(rule: (&str, &str)) -> String {
    format!("{}, {}", rule.0.replace('_', " "), rule.1)
}

fn summary(settings: &SensitivitySettings, rows: &[SensitivityRow]) -> String {
    let mut out = String::new();
    type Value = fn(&SensitivityRow) -> f64;
    let figures: [(&str, usize, Value); 5] = [
        ("E[r1], the primary's", 3, |r| r.reward_1),
        ("E[r2]", 3, |r| r.reward_2),
        ("threshold at the end", 3, |r| r.threshold),
        ("λ at the end", 2, |r| r.lambda),
        ("largest λ", 2, |r| r.largest_lambda),
    ];
    for rule in rules(rows) {
        let _ = writeln!(out, "Thresholds follow {}; rows t0, columns β:", in_words(rule));
        for (name, decimals, value) in figures {
            let _ = write!(out, "{name:<22}");
            for beta in &settings.relaxations {
                let _ = write!(out, "{beta:>9}");
            }
            out.push('\n');
            for lag in &settings.lags {
                let _ = write!(out, "{lag:>22}");
                for r in of_rule(rows, rule).filter(|r| r.reference_lag == *lag) {
                    let _ = write!(out, "{:>9.decimals$}", value(r));
                }
                out.push('\n');
            }
        }
        out.push('\n');
    }
    let _ =
        writeln!(out, "First threshold: {:.4}, the reference's value.", rows[0].first_threshold);
    out
}

/// Where a logarithmic axis shows λ = 0.
const FOOT: f64 = 0.05;

fn chart(settings: &SensitivitySettings, rows: &[SensitivityRow]) -> Chart {
    // β = 1 and 0.9995 differ visibly only on a scale of 1 − β, which has no place for 1: use β's
    // rank.
    let place = |r: &SensitivityRow| {
        settings.relaxations.iter().position(|b| *b == r.relaxation).unwrap_or(0) as f64 + 1.0
    };
    let betas: Vec<String> = settings.relaxations.iter().map(f64::to_string).collect();
    let axis = || AxisSpec::linear("β, by rank").within(0.7, betas.len() as f64 + 0.3);
    type Value = fn(&SensitivityRow) -> f64;
    let figures: [(&str, Value); 3] = [
        ("E[r₁]", |r| r.reward_1),
        ("E[r₂]", |r| r.reward_2),
        ("λ at the end", |r| r.lambda.max(FOOT)),
    ];
    let mut panels = Vec::new();
    for rule in rules(rows) {
        for (i, (name, value)) in figures.into_iter().enumerate() {
            let lines = settings
                .lags
                .iter()
                .enumerate()
                .map(|(colour, lag)| {
                    let own = of_rule(rows, rule).filter(|r| r.reference_lag == *lag);
                    let points = own.map(|r| (place(r), value(r))).collect();
                    Line::new(format!("t₀ = {lag}"), LineStyle::SolidMarkers, colour, points)
                })
                .collect();
            let all = rows.iter().map(value);
            let (low, high) = all.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
            let room = 0.05 * (high - low).max(1e-3);
            panels.push(Panel {
                title: format!("{}: {name}", in_words(rule)),
                x: axis(),
                y: match i {
                    2 => AxisSpec::log("").within(0.8 * FOOT, 1.5 * high.max(1.0)),
                    _ => AxisSpec::linear("").within(low - room, high + room),
                },
                lines,
                marks: Vec::new(),
            });
        }
    }
    Chart {
        title: "Adaptive thresholds: relaxation β and lag t₀ of the reference".into(),
        caption: format!(
            "Toy set {}, τ = {}, {} steps; r₁ is the primary's reward. Along each axis β = {}. Rows: \
             what the thresholds follow, and the ball of the constraint. A λ below {FOOT} is drawn \
             there.",
            settings.set.name(),
            settings.tau,
            settings.learner.steps,
            betas.join(", ")
        ),
        columns: 3,
        panels,
    }
}
