//! Draws a chart of made-up numbers, to see what panels can show:
//! `cargo run -p mopo-report --example chart -- DIRECTORY` writes chart.svg and chart.png there.

use std::path::Path;

use mopo_report::plot::{AxisSpec, Chart, Guide, Line, LineStyle, Panel, chart_figure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const METHODS: [&str; 8] = [
    "MOPO",
    "scalarised DPO",
    "MODPO",
    "rewarded soups",
    "constrained DPO",
    "lexicographic",
    "SFT model",
    "random search",
];

/// Probabilities of three actions under a softmax of their scores over τ, exact and "learned".
fn probabilities(rng: &mut ChaCha8Rng) -> Panel {
    let scores = [1.0_f64, 0.8, 0.2];
    let policy = |tau: f64| {
        let weights = scores.map(|s| ((s - 1.0) / tau).exp());
        weights.map(|w| w / weights.iter().sum::<f64>())
    };
    let mut lines = Vec::new();
    for (action, name) in ["a", "b", "c"].into_iter().enumerate() {
        let exact = (0..=120).map(|i| 10_f64.powf(-2.0 + f64::from(i) / 30.0));
        let exact = exact.map(|tau| (tau, policy(tau)[action])).collect();
        lines.push(Line::new(format!("exact, action {name}"), LineStyle::Solid, action, exact));
    }
    for (action, name) in ["a", "b", "c"].into_iter().enumerate() {
        let learned = (0..=8).map(|i| 10_f64.powf(-2.0 + f64::from(i) / 2.0));
        let mut noisy = |tau: f64| (tau, policy(tau)[action] + 0.03 * (rng.random::<f64>() - 0.5));
        let learned = learned.map(&mut noisy).collect();
        let name = format!("learned, action {name}");
        lines.push(Line::new(name, LineStyle::Markers, action, learned));
    }
    Panel {
        title: "Policy over the temperature".into(),
        x: AxisSpec::log("temperature τ"),
        y: AxisSpec::linear("probability of the action").within(0.0, 1.0),
        lines,
        marks: vec![Guide::horizontal(1.0 / 3.0, "uniform"), Guide::vertical(0.2, "τ = 0.2")],
    }
}

/// Points of each method around its own arc, and the front of the first two.
fn front(rng: &mut ChaCha8Rng) -> Panel {
    let mut lines = Vec::new();
    for (m, name) in METHODS.into_iter().enumerate() {
        let radius = 0.92 - 0.06 * m as f64;
        let points: Vec<(f64, f64)> = (0..12)
            .map(|i| {
                let angle = (0.08 + 0.84 * f64::from(i) / 11.0) * std::f64::consts::FRAC_PI_2;
                let r = radius + 0.05 * (rng.random::<f64>() - 0.5);
                (r * angle.cos(), r * angle.sin())
            })
            .collect();
        if m < 2 {
            lines.insert(m, Line::new(name, LineStyle::Staircase, m, points.clone()));
        }
        lines.push(Line::new(name, LineStyle::Markers, m, points));
    }
    Panel {
        title: "Pareto front".into(),
        x: AxisSpec::linear("expected helpfulness"),
        y: AxisSpec::linear("expected harmlessness"),
        lines,
        marks: Vec::new(),
    }
}

/// Hypervolume over steps, with the standard error of some seeds, and a gap.
fn convergence() -> Panel {
    let curve = |end: f64, rate: f64| -> Vec<(f64, f64)> {
        let steps = (0..=10).map(|i| 200.0 * f64::from(i));
        steps.map(|t| (t, end * (1.0 - (-t / rate).exp()))).collect()
    };
    let errors = |scale: f64| (0..=10).map(|i| scale / (1.0 + 0.3 * f64::from(i))).collect();
    let mut broken = curve(0.52, 500.0);
    broken[5].1 = f64::NAN;
    Panel {
        title: "Hypervolume during training (mean ± standard error of 5 seeds)".into(),
        x: AxisSpec::linear("optimiser step"),
        y: AxisSpec::linear("hypervolume"),
        lines: vec![
            Line::new(METHODS[0], LineStyle::SolidMarkers, 0, curve(0.71, 300.0))
                .with_errors(errors(0.05)),
            Line::new(METHODS[1], LineStyle::DashedMarkers, 1, curve(0.62, 400.0))
                .with_errors(errors(0.08)),
            Line::new(METHODS[2], LineStyle::SolidMarkers, 2, broken),
        ],
        marks: vec![Guide::horizontal(0.74, "exact front")],
    }
}

/// The share of violated constraints over the sample size, on two logarithmic axes.
fn violations() -> Panel {
    let rate = |c: f64, floor: f64| -> Vec<(f64, f64)> {
        let sizes = (0..=8).map(|i| 100.0 * 10_f64.powf(f64::from(i) / 2.0));
        sizes.map(|n| (n, (c / n.sqrt() - floor).max(0.0))).collect()
    };
    let errors: Vec<f64> = rate(2.0, 0.0).iter().map(|p| p.1 * 0.5).collect();
    Panel {
        title: "Violation rate".into(),
        x: AxisSpec::log("preference pairs"),
        y: AxisSpec::log("violation rate"),
        lines: vec![
            Line::new(METHODS[0], LineStyle::SolidMarkers, 0, rate(2.0, 0.0)).with_errors(errors),
            Line::new(METHODS[3], LineStyle::DashedMarkers, 3, rate(5.0, 0.004)),
            Line::new(METHODS[4], LineStyle::Dashed, 4, rate(9.0, 0.0)),
        ],
        marks: vec![Guide::horizontal(0.01, "tolerance 1 %")],
    }
}

/// Many points, and a curve over values that need powers of ten on a linear axis.
fn cloud(rng: &mut ChaCha8Rng) -> Panel {
    let mut points = |m: f64| -> Vec<(f64, f64)> {
        let mut one = |_| {
            let x = rng.random::<f64>();
            (x * 2e6, m * x * 3e-5 + 2e-5 * (rng.random::<f64>() - 0.5))
        };
        (0..300).map(&mut one).collect()
    };
    let (first, second) = (points(1.0), points(0.4));
    Panel {
        title: "Single prompts".into(),
        x: AxisSpec::linear("tokens seen"),
        y: AxisSpec::linear("gradient norm"),
        lines: vec![
            Line::new(METHODS[0], LineStyle::Cloud, 0, first),
            Line::new(METHODS[5], LineStyle::Cloud, 5, second),
            Line::new("trend", LineStyle::Solid, 6, vec![(0.0, 0.0), (2e6, 3e-5)]),
        ],
        marks: Vec::new(),
    }
}

/// A short logarithmic range, and all of the colours.
fn colours() -> Panel {
    let lines = METHODS.into_iter().enumerate().map(|(m, name)| {
        let points = (0..=12).map(|i| {
            let x = 0.02 * 10_f64.powf(f64::from(i) / 7.0);
            (x, (m as f64 + 1.0) * x.powf(0.3))
        });
        Line::new(name, LineStyle::SolidMarkers, m, points.collect())
    });
    Panel {
        title: "Regret".into(),
        x: AxisSpec::log("ε"),
        y: AxisSpec::linear("regret"),
        lines: lines.collect(),
        marks: vec![Guide::vertical(0.1, "default")],
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("name a directory to write to")?;
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let panels = vec![
        probabilities(&mut rng),
        front(&mut rng),
        convergence(),
        violations(),
        cloud(&mut rng),
        colours(),
    ];
    let chart = Chart {
        title: "Made-up results".into(),
        caption:
            "Nothing was trained: all numbers come from formulas and a seeded generator. Solid \
                  lines are exact, markers are learned; error bars are standard errors. Gaps are \
                  steps at which the loss was not finite."
                .into(),
        columns: 3,
        panels,
    };
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir)?;
    let figure = chart_figure(&chart)?;
    std::fs::write(dir.join("chart.svg"), &figure.svg)?;
    std::fs::write(dir.join("chart.png"), figure.to_png(2.0)?)?;
    // The same in one column fewer, and a panel on its own, as in papers and pages.
    let two = chart_figure(&Chart { columns: 2, ..chart.clone() })?;
    std::fs::write(dir.join("chart-2-columns.png"), two.to_png(2.0)?)?;
    let one = Chart { panels: chart.panels[3..4].to_vec(), ..chart };
    std::fs::write(dir.join("chart-1-panel.png"), chart_figure(&one)?.to_png(2.0)?)?;
    println!("{}", dir.join("chart.png").display());
    Ok(())
}
