//! Figure 4: the canonical structures.

use std::fmt::Write;

use burn::tensor::backend::AutodiffBackend;
use mopo_core::bandit::Structure;
use mopo_core::bandit::experiments::{StructureRow, StructureSettings, structures};
use mopo_report::Table;
use mopo_report::plot::{AxisSpec, Chart, Line, LineStyle, Panel};
use serde_json::{Value, json};

use super::{Experiment, Findings, cells};
use crate::Result;

impl Experiment for StructureSettings {
    const NAME: &'static str = "structures";

    fn settings(&self) -> Value {
        json!({ "seeds": self.seeds.len(), "steps": self.learner.steps, "taus": self.taus })
    }

    fn run<B: AutodiffBackend>(
        &self,
        device: &B::Device,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Findings> {
        let steps = self.learner.steps;
        let rows = structures::<B>(self, device, &mut |done| tell(done, steps))?;
        Ok(Findings { chart: chart(&rows), table: table(&rows), summary: summary(&rows) })
    }
}

/// The three kinds of run, as rows distinguish them.
const KINDS: [(&str, &str, bool); 3] = [
    ("action", "estimator `action`, fixed reference", false),
    ("pair", "estimator `pair` (equation 11 literally), fixed reference", false),
    ("action", "estimator `action`, lagged reference", true),
];

fn of_kind<'a>(
    rows: &'a [StructureRow],
    structure: &'a str,
    kind: (&'a str, &str, bool),
) -> impl Iterator<Item = &'a StructureRow> {
    rows.iter().filter(move |r| {
        r.structure == structure && r.estimator == kind.0 && r.reference_lag.is_some() == kind.2
    })
}

fn table(rows: &[StructureRow]) -> Table {
    let mut table = Table::new([
        "structure",
        "tau",
        "estimator",
        "reference_lag",
        "seed",
        "learned_a",
        "learned_b",
        "learned_c",
        "exact_a",
        "exact_b",
        "exact_c",
        "total_variation",
        "lambda",
        "exact_lambda",
    ]);
    for r in rows {
        let lag = r.reference_lag.map_or(String::new(), |l| l.to_string());
        let (l, e) = (&r.learned, &r.exact);
        table.push(cells(&[
            &r.structure,
            &r.tau,
            &r.estimator,
            &lag,
            &r.seed,
            &l[0],
            &l[1],
            &l[2],
            &e[0],
            &e[1],
            &e[2],
            &r.total_variation,
            &r.lambda,
            &r.exact_lambda,
        ]));
    }
    table
}

fn summary(rows: &[StructureRow]) -> String {
    let mut out = String::from(
        "Largest total variation between the learned and the exact policy, over seeds:\n\n",
    );
    let mut taus: Vec<f64> = rows.iter().map(|r| r.tau).collect();
    taus.sort_by(f64::total_cmp);
    taus.dedup();
    for kind in KINDS {
        let _ = write!(out, "{}\n{:<14}", kind.1, "τ");
        for tau in &taus {
            let _ = write!(out, "{tau:>8}");
        }
        out.push('\n');
        for structure in Structure::ALL {
            let _ = write!(out, "{:<14}", structure.name());
            for tau in &taus {
                let worst = of_kind(rows, structure.name(), kind)
                    .filter(|r| r.tau == *tau)
                    .map(|r| r.total_variation)
                    .fold(0.0, f64::max);
                let _ = write!(out, "{worst:>8.4}");
            }
            out.push('\n');
        }
        out.push('\n');
    }
    out += "At the smallest τ, mean over seeds, fixed reference, estimator `action`:\n";
    for structure in Structure::ALL {
        let policies: Vec<&[f64]> = of_kind(rows, structure.name(), KINDS[0])
            .filter(|r| Some(&r.tau) == taus.first())
            .map(|r| r.learned.as_slice())
            .collect();
        let mean = |y: usize| policies.iter().map(|p| p[y]).sum::<f64>() / policies.len() as f64;
        let _ = writeln!(
            out,
            "{:<14} a {:.3}  b {:.3}  c {:.3}   published: {}",
            structure.name(),
            mean(0),
            mean(1),
            mean(2),
            structure.published()
        );
    }
    out
}

fn chart(rows: &[StructureRow]) -> Chart {
    let mut panels = Vec::new();
    for structure in Structure::ALL {
        for (kind, title) in
            KINDS.into_iter().zip(["estimator action", "estimator pair", "lagged reference"])
        {
            let mut lines = Vec::new();
            for (y, action) in ["a", "b", "c"].into_iter().enumerate() {
                let own = || of_kind(rows, structure.name(), kind);
                let mut exact: Vec<(f64, f64)> = own().map(|r| (r.tau, r.exact[y])).collect();
                exact.sort_by(|a, b| a.0.total_cmp(&b.0));
                exact.dedup();
                let learned = own().map(|r| (r.tau, r.learned[y])).collect();
                lines.push(Line::new(format!("π({action}) exact"), LineStyle::Solid, y, exact));
                let name = format!("π({action}) learned, each seed");
                lines.push(Line::new(name, LineStyle::Markers, y, learned));
            }
            panels.push(Panel {
                title: format!("{structure}: {title}"),
                x: AxisSpec::log("τ"),
                y: AxisSpec::linear("probability").within(-0.03, 1.03),
                lines,
                marks: Vec::new(),
            });
        }
    }
    Chart {
        title: "Five preference structures: learned and exact policies over τ".into(),
        caption: "Rows: structures. Left: each action's occurrences share their mean indicator. Middle: \
                  every occurrence has its own, the literal equation. Right: the reference is replaced \
                  by the policy every 500 steps; exact means the exact solution iterated as often."
            .into(),
        columns: 3,
        panels,
    }
}
