//! All methods that have a form on a table, against the exact front; and rules for thresholds.

use std::fmt::Write;

use burn::tensor::backend::AutodiffBackend;
use mopo_core::bandit::Labels;
use mopo_core::bandit::experiments::{
    METHODS, Mean, MethodResults, MethodRow, MethodSettings, MethodShare, ThresholdRow, methods,
};
use mopo_report::Table;
use mopo_report::plot::{AxisSpec, Chart, Line, LineStyle, Panel};
use serde_json::{Value, json};

use super::{Experiment, Findings, cells};
use crate::Result;

impl Experiment for MethodSettings {
    const NAME: &'static str = "methods";

    fn settings(&self) -> Value {
        json!({
            "structures": self.structures.iter().map(|s| s.name()).collect::<Vec<_>>(),
            "sets": self.sets.iter().map(|s| s.name()).collect::<Vec<_>>(),
            "tau": self.tau,
            "n_pairs": self.n_pairs,
            "labels": match self.labels {
                Labels::Probability => "probability",
                Labels::Sampled => "sampled",
            },
            "points": self.n_points,
            "seeds": self.seeds.len(),
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "reference_lag": self.reference_lag,
            "threshold_taus": self.threshold_taus,
            "threshold_steps": self.threshold_steps,
            "threshold_lag": self.threshold_lag,
        })
    }

    fn run<B: AutodiffBackend>(
        &self,
        device: &B::Device,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Findings> {
        let results = methods::<B>(self, device, tell)?;
        Ok(Findings {
            chart: chart(self, &results.rows),
            table: table(&results),
            summary: summary(&results),
        })
    }
}

/// A missing value is empty.
fn number(x: f64) -> String {
    if x.is_nan() { String::new() } else { x.to_string() }
}

/// The policies of the fronts, then those of the rules for thresholds.
fn table(results: &MethodResults) -> Table {
    let mut table = Table::new([
        "part",
        "problem",
        "method",
        "seed",
        "parameter",
        "strength",
        "reward_1",
        "reward_2",
        "preference_1",
        "preference_2",
        "kl",
        "radius",
        "threshold",
        "lambda",
        "largest_lambda",
    ]);
    let seed = |seed: Option<u64>| seed.map_or(String::new(), |s| s.to_string());
    for r in &results.rows {
        table.push(cells(&[
            &"fronts",
            &r.problem,
            &r.method,
            &seed(r.seed),
            &number(r.parameter),
            &r.strength,
            &r.reward[0],
            &r.reward[1],
            &r.preference[0],
            &r.preference[1],
            &r.kl,
            &"",
            &"",
            &"",
            &"",
        ]));
    }
    for r in &results.thresholds {
        table.push(cells(&[
            &"thresholds",
            &r.problem,
            &r.rule,
            &seed(r.seed),
            &"",
            &r.tau,
            &r.reward[0],
            &r.reward[1],
            &r.primary,
            &r.secondary,
            &r.kl,
            &r.radius,
            &r.threshold,
            &r.lambda,
            &r.largest_lambda,
        ]));
    }
    table
}

/// In per cent with its interval; a dash where there is none.
fn share(of: Mean) -> String {
    match of {
        Mean { value, .. } if value.is_nan() => "–".into(),
        Mean { value, half_width: None } => format!("{:.2}", 100.0 * value),
        Mean { value, half_width: Some(half) } => {
            format!("{:.2} ± {:.2}", 100.0 * value, 100.0 * half)
        }
    }
}

fn summary(results: &MethodResults) -> String {
    let mut out = String::from(
        "Hypervolume of each front as a percentage of the exact COP front's. share: of mean rewards above (0, 0); \
         gain: above the uniform policy's rewards; gain at KL: over the exact front that is as far from uniform; \
         preference: as gain, of preferences. ±: 95 % over seeds.\n",
    );
    let mut problems: Vec<&str> = results.shares.iter().map(|s| s.problem).collect();
    problems.dedup();
    for problem in &problems {
        let _ = writeln!(
            out,
            "\n{problem}\n{:<32} {:>3} {:>15} {:>15} {:>15} {:>15} {:>7}",
            "method", "n", "share", "gain", "gain at KL", "preference", "KL"
        );
        for s in results.shares.iter().filter(|s| s.problem == *problem) {
            let MethodShare { method, n_policies, kl, .. } = s;
            let _ = writeln!(
                out,
                "{method:<32} {n_policies:>3} {:>15} {:>15} {:>15} {:>15} {:>7.3}",
                share(s.share),
                share(s.share_of_gain),
                share(s.share_at_kl),
                share(s.share_of_preference),
                kl.value
            );
        }
    }
    out += "\nRules for thresholds, first objective primary, at the end, means over seeds (λ: mean, largest ever; \
            cap: data sets in which λ was at its cap):\n";
    let _ = writeln!(
        out,
        "{:<13} {:>5} {:<20} {:>4} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7} {:>7} {:>5} {:>6}",
        "problem", "τ", "rule", "ball", "r1", "r2", "p", "q", "b", "λ", "max λ", "cap", "KL"
    );
    for rows in groups(&results.thresholds) {
        let mean = |of: fn(&ThresholdRow) -> f64| {
            rows.iter().map(|r| of(r)).sum::<f64>() / rows.len() as f64
        };
        let ThresholdRow { problem, tau, rule, radius, .. } = rows[0];
        let largest = rows.iter().map(|r| r.largest_lambda).fold(0.0, f64::max);
        let at_cap = rows.iter().filter(|r| r.at_cap).count();
        let _ = writeln!(
            out,
            "{problem:<13} {tau:>5} {rule:<20} {radius:>4} {:>6.3} {:>6.3} {:>6.3} {:>6.3} {:>6.3} {:>7.3} {largest:>7.3} {:>5} \
             {:>6.3}",
            mean(|r| r.reward[0]),
            mean(|r| r.reward[1]),
            mean(|r| r.primary),
            mean(|r| r.secondary),
            mean(|r| r.threshold),
            mean(|r| r.lambda),
            format!("{at_cap}/{}", rows.len()),
            mean(|r| r.kl),
        );
    }
    out += "\nHow each front is made:\n";
    for (method, how) in METHODS {
        let _ = writeln!(out, "{method:<32} {how}");
    }
    out
}

/// The rows of each problem, τ, rule and ball, in the order of their first.
fn groups(rows: &[ThresholdRow]) -> Vec<Vec<&ThresholdRow>> {
    let mut groups: Vec<Vec<&ThresholdRow>> = Vec::new();
    for row in rows {
        let is_same = |of: &&mut Vec<&ThresholdRow>| {
            let key = |r: &ThresholdRow| (r.problem, r.rule, r.tau, r.radius);
            key(of[0]) == key(row)
        };
        match groups.iter_mut().find(is_same) {
            Some(of) => of.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// A line of a panel: the method, its name there, style and colour.
type PanelLine = (&'static str, &'static str, LineStyle, usize);

/// What is drawn, by panel. The exact front is in each.
const PANELS: [(&str, &[PanelLine]); 3] = [
    (
        "MOPO",
        &[
            ("mopo_fixed", "MOPO, fixed thresholds", LineStyle::Markers, 0),
            ("mopo_pairwise", "MOPO, fixed, pairwise", LineStyle::Markers, 1),
            ("mopo_adaptive_plain", "MOPO, adaptive", LineStyle::SolidMarkers, 2),
            (
                "mopo_adaptive_lower_bound",
                "MOPO, adaptive, lower bound",
                LineStyle::SolidMarkers,
                3,
            ),
            ("mopo_reference_no_ball", "MOPO, reference, no ball", LineStyle::SolidMarkers, 4),
        ],
    ),
    (
        "losses on pairs",
        &[
            ("dpo_weighted_loss", "DPO, weighted loss", LineStyle::SolidMarkers, 0),
            ("dpo_weighted_labels", "DPO, weighted labels", LineStyle::Markers, 1),
            ("dpo_agree", "DPO where labels agree", LineStyle::Markers, 3),
            ("ipo", "IPO", LineStyle::SolidMarkers, 4),
            ("modpo", "MODPO", LineStyle::SolidMarkers, 2),
        ],
    ),
    (
        "mixtures and rewards",
        &[
            ("soups", "soups", LineStyle::SolidMarkers, 0),
            ("mod_forward_kl", "MOD, forward KL", LineStyle::SolidMarkers, 1),
            ("can", "CAN", LineStyle::Markers, 2),
            ("ham", "HaM", LineStyle::Markers, 3),
            ("morlhf", "MORLHF", LineStyle::SolidMarkers, 4),
        ],
    ),
];

fn chart(settings: &MethodSettings, rows: &[MethodRow]) -> Chart {
    let seed = settings.seeds.first().copied();
    let mut names: Vec<&str> = rows.iter().map(|r| r.problem).collect();
    names.dedup();
    // Only where objectives conflict there is a front to draw.
    let drawn = |name: &&str| matches!(*name, "antichain" | "A" | "B");
    let line = |problem: &str, method: &str, name: &str, style, colour| {
        let own = rows.iter().filter(|r| (r.problem, r.method) == (problem, method));
        let first = own.filter(|r| r.seed.is_none() || r.seed == seed);
        let mut points: Vec<(f64, f64)> = first.map(|r| (r.reward[0], r.reward[1])).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Line::new(name.to_owned(), style, colour, points)
    };
    let mut panels = Vec::new();
    for problem in names.into_iter().filter(drawn) {
        for (title, methods) in PANELS {
            let exact = line(problem, "exact", "exact COP", LineStyle::Solid, 6);
            let others = methods
                .iter()
                .map(|&(method, name, style, colour)| line(problem, method, name, style, colour));
            panels.push(Panel {
                title: format!("{problem}: {title}"),
                x: AxisSpec::linear("objective 1"),
                y: AxisSpec::linear("objective 2"),
                lines: std::iter::once(exact).chain(others).collect(),
                marks: Vec::new(),
            });
        }
    }
    if panels.is_empty() {
        // Problems without a conflict have one best policy.
        let (problem, exact) = (rows[0].problem, LineStyle::Markers);
        panels.push(Panel {
            title: problem.into(),
            x: AxisSpec::linear("objective 1"),
            y: AxisSpec::linear("objective 2"),
            lines: vec![line(problem, "exact", "exact COP", exact, 6)],
            marks: Vec::new(),
        });
    }
    Chart {
        title: "All methods against the exact front".into(),
        caption: format!(
            "Expected rewards (sets A, B) or preferences (antichain) on the first data set; τ = {}, other strengths \
             matched to the same KL on the first objective.",
            settings.tau
        ),
        columns: 3,
        panels,
    }
}
