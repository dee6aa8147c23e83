//! Figures 1, 7 and 8: fronts of the toy with contexts.

use std::fmt::Write;

use burn::tensor::backend::AutodiffBackend;
use mopo_core::bandit::experiments::{
    FrontMethod, FrontRow, FrontSettings, ShareRow, fronts, shares,
};
use mopo_core::bandit::{Labels, ToySet};
use mopo_report::Table;
use mopo_report::plot::{AxisSpec, Chart, Line, LineStyle, Panel};
use serde_json::{Value, json};

use super::{Experiment, Findings, cells};
use crate::Result;

/// MOPO, the exact solution and four uses of DPO on the toy sets, at one τ.
#[derive(Debug, Clone)]
pub struct Fronts {
    /// Weight of the KL term.
    pub tau: f64,
    /// Everything else; its own `taus` are ignored.
    pub settings: FrontSettings,
}

/// MOPO and the exact solution on the toy sets, over the settings' values of τ, without DPO.
#[derive(Debug, Clone)]
pub struct Tau(pub FrontSettings);

impl Experiment for Fronts {
    const NAME: &'static str = "fronts";

    fn settings(&self) -> Value {
        json!({ "toy": toy_settings(&self.settings), "tau": self.tau })
    }

    fn run<B: AutodiffBackend>(
        &self,
        device: &B::Device,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Findings> {
        let tau = self.tau;
        let settings = FrontSettings { taus: vec![tau], ..self.settings.clone() };
        let rows = fronts::<B>(&settings, device, tell)?;
        let shares = shares(&rows)?;
        let panels = ToySet::ALL.into_iter().map(|set| panel(&rows, set, tau)).collect();
        let chart = Chart {
            title: "Toy fronts: expected rewards of MOPO, the exact solution and DPO".into(),
            caption: format!(
                "11 contexts, 21 actions, {} triplets labelled with {}; τ = {tau}, DPO's β matched in \
                 KL. Each point is one policy, measured with the true rewards. The exact solution \
                 and MOPO: two sweeps of thresholds, one with each objective as the primary.",
                settings.n_pairs,
                match settings.labels {
                    Labels::Probability => "probabilities",
                    Labels::Sampled => "draws",
                },
            ),
            columns: 2,
            panels,
        };
        Ok(Findings { chart, table: table(&rows), summary: summary(&shares) })
    }
}

impl Experiment for Tau {
    const NAME: &'static str = "tau";

    fn settings(&self) -> Value {
        json!({ "toy": toy_settings(&self.0), "taus": self.0.taus })
    }

    fn run<B: AutodiffBackend>(
        &self,
        device: &B::Device,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Findings> {
        let settings = FrontSettings { dpo_weights: Vec::new(), ..self.0.clone() };
        let rows = fronts::<B>(&settings, device, tell)?;
        let shares = shares(&rows)?;
        let panels = ToySet::ALL.into_iter().map(|set| tau_panel(&rows, set, &settings.taus));
        let chart = Chart {
            title: "Toy fronts over τ".into(),
            caption: "Lines: the exact solution over two sweeps of thresholds, one with each \
                      objective as the primary. Markers: MOPO over the same sweeps."
                .into(),
            columns: 2,
            panels: panels.collect(),
        };
        Ok(Findings { chart, table: table(&rows), summary: summary(&shares) })
    }
}

fn toy_settings(settings: &FrontSettings) -> Value {
    json!({
        "n_pairs": settings.n_pairs,
        "labels": match settings.labels {
            Labels::Probability => "probability",
            Labels::Sampled => "sampled",
        },
        "thresholds": settings.n_thresholds,
        "steps": settings.steps,
    })
}

/// How a method is drawn: name and colour.
const STYLES: [(FrontMethod, &str, LineStyle, usize); 6] = [
    (FrontMethod::Exact, "exact COP", LineStyle::Solid, 6),
    (FrontMethod::Mopo, "MOPO", LineStyle::Markers, 0),
    (FrontMethod::DpoFirst, "DPO on D₁", LineStyle::Markers, 1),
    (FrontMethod::DpoSecond, "DPO on D₂", LineStyle::Markers, 2),
    (FrontMethod::DpoAgree, "DPO where labels agree", LineStyle::Markers, 3),
    (FrontMethod::DpoWeighted, "DPO on weighted rewards", LineStyle::SolidMarkers, 4),
];

/// One line per sweep: with the first objective as the primary, and with the second.
fn lines(
    rows: &[FrontRow],
    set: ToySet,
    tau: f64,
    method: FrontMethod,
    line: (String, LineStyle, usize),
) -> Vec<Line> {
    [0, 1]
        .into_iter()
        .map(|primary| {
            let mut own: Vec<&FrontRow> = rows
                .iter()
                .filter(|r| (r.set, r.tau, r.method) == (set.name(), tau, method))
                .filter(|r| r.primary == primary)
                .collect();
            own.sort_by(|a, b| a.parameter.total_cmp(&b.parameter));
            let points = own.iter().map(|r| (r.reward[0], r.reward[1])).collect();
            Line::new(line.0.clone(), line.1, line.2, points)
        })
        .collect()
}

fn rewards_panel(set: ToySet, lines: Vec<Line>) -> Panel {
    Panel {
        title: format!("set {}", set.name()),
        x: AxisSpec::linear("expected reward 1"),
        y: AxisSpec::linear("expected reward 2"),
        lines,
        marks: Vec::new(),
    }
}

fn panel(rows: &[FrontRow], set: ToySet, tau: f64) -> Panel {
    let of = |(method, name, style, colour): (FrontMethod, &str, LineStyle, usize)| {
        lines(rows, set, tau, method, (name.to_owned(), style, colour))
    };
    rewards_panel(set, STYLES.into_iter().flat_map(of).collect())
}

fn tau_panel(rows: &[FrontRow], set: ToySet, taus: &[f64]) -> Panel {
    let mut all = Vec::new();
    for (i, &tau) in taus.iter().enumerate() {
        // One name for both, so that the legend has each τ once.
        for (method, style) in
            [(FrontMethod::Exact, LineStyle::Solid), (FrontMethod::Mopo, LineStyle::Markers)]
        {
            all.extend(lines(rows, set, tau, method, (format!("τ = {tau}"), style, i)));
        }
    }
    rewards_panel(set, all)
}

fn table(rows: &[FrontRow]) -> Table {
    let mut table = Table::new([
        "set",
        "tau",
        "method",
        "primary",
        "parameter",
        "strength",
        "reward_1",
        "reward_2",
        "preference_1",
        "preference_2",
        "kl",
        "lambda",
    ]);
    // Missing values are empty.
    let number = |x: f64| if x.is_nan() { String::new() } else { x.to_string() };
    for r in rows {
        table.push(cells(&[
            &r.set,
            &r.tau,
            &r.method.name(),
            &(r.primary + 1),
            &number(r.parameter),
            &r.strength,
            &r.reward[0],
            &r.reward[1],
            &r.preference[0],
            &r.preference[1],
            &r.kl,
            &number(r.lambda),
        ]));
    }
    table
}

fn summary(shares: &[ShareRow]) -> String {
    let mut out = String::from(
        "Hypervolume of expected rewards above (0, 0), its share of the exact front's, the same \
         share above the uniform policy's rewards, and the policies' mean KL to it:\n\n",
    );
    let _ = writeln!(
        out,
        "{:<4} {:>5}  {:<14} {:>11} {:>8} {:>14} {:>7}",
        "set", "τ", "method", "hypervolume", "share", "share of gain", "KL"
    );
    for s in shares {
        let _ = writeln!(
            out,
            "{:<4} {:>5}  {:<14} {:>11.4} {:>7.2}% {:>13.2}% {:>7.3}",
            s.set,
            s.tau,
            s.method.name(),
            s.hypervolume,
            100.0 * s.share,
            100.0 * s.share_of_gain,
            s.kl
        );
    }
    out
}
