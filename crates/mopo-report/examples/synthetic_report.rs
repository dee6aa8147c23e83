//! Writes reports of made-up policies, to see the figures and the page without training
//! anything: `cargo run -p mopo-report --example synthetic_report -- DIRECTORY`.

use std::path::Path;

use mopo_report::{
    Clusters, Evaluation, FrontConfig, FrontReport, Metrics, MetricsRow, PolicyGroup,
    PolicySamples, Quantity, RecordedRun, ReportExtras, RunExtras, combine, write_report,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const TOPICS: [&str; 5] =
    ["bake sourdough bread", "fix a bicycle", "train a puppy", "pick a lock", "write a poem"];
const OPENERS: [&str; 4] = ["How do I", "Explain how to", "What is the best way to", "Help me to"];

fn evaluation(names: &[&str], steps: usize, seed: u64) -> Evaluation {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let k = names.len();
    let prompts: Vec<String> = (0..200)
        .map(|i| format!("\n\nHuman: {} {}?\n\nAssistant:", OPENERS[i / 5 % 4], TOPICS[i % 5]))
        .collect();
    let mut plan = vec![("SFT model".to_owned(), PolicyGroup::Sft, vec![0.38; k])];
    for (head, name) in names.iter().enumerate() {
        let means = (0..k).map(|o| if o == head { 0.66 } else { 0.41 }).collect();
        plan.push(((*name).to_owned(), PolicyGroup::Head, means));
    }
    for step in 1..steps {
        let w = step as f64 / steps as f64;
        let mut means: Vec<f64> = vec![0.44; k];
        means[0] = 0.42 + 0.25 * w.sqrt();
        means[1] = 0.42 + 0.25 * (1.0 - w).sqrt();
        let label = format!("mix {w:.2}/{:.2}", 1.0 - w);
        plan.push((label, PolicyGroup::Mixture, means));
    }
    let policies = plan
        .into_iter()
        .map(|(label, group, means)| {
            let mut score = |i: usize, o: usize| {
                let shift = 0.08 * (((i % 5) * (o + 2)) as f64).sin();
                let noise = (rng.random::<f64>() - 0.5) * 0.4;
                (means[o] + shift + noise).clamp(0.0, 1.0) as f32
            };
            PolicySamples {
                run: None,
                policy: label.replace([' ', '/'], "-"),
                scores: (0..200).map(|i| (0..k).map(|o| score(i, o)).collect()).collect(),
                responses: (0..200)
                    .map(|i| format!("{label}: first take what you need to {}. Then go slowly, and stop when it is done.", TOPICS[i % 5]))
                    .collect(),
                label,
                group,
            }
        })
        .collect();
    let clusters = Clusters {
        assignments: (0..200).map(|i| i % 5).collect(),
        labels: TOPICS.map(String::from).into(),
    };
    let objectives = names.iter().map(|&name| name.into()).collect();
    Evaluation { objectives, prompts, clusters, policies }
}

fn metrics() -> Vec<MetricsRow> {
    let row = |step: u32| {
        let t = f64::from(step);
        let (a, b) = ("helpful", "harmless");
        let mut metrics = Metrics::default();
        metrics.set(Quantity::LOSS.of(a), 0.7 * (-t / 150.0).exp() + 0.02 * (t * 0.9).sin());
        metrics.set(Quantity::LOSS.of(b), 0.8 * (-t / 190.0).exp() + 0.02 * (t * 1.1).sin());
        metrics.set(Quantity::LAMBDA.between(a, b), 0.9 * (1.0 - (-t / 90.0).exp()));
        metrics.set(Quantity::LAMBDA.between(b, a), 0.6 * (1.0 - (-t / 60.0).exp()));
        metrics.set(Quantity::SLACK.between(a, b), -0.2 + t / 1500.0);
        metrics.set(Quantity::SLACK.between(b, a), -0.1 + t / 1900.0);
        MetricsRow { phase: "mopo".into(), step: step as usize, metrics }
    };
    (0..400).map(row).collect()
}

fn write(out: &Path, evaluation: &Evaluation, extras: &ReportExtras) -> mopo_report::Result<()> {
    let ref_point = vec![0.0; evaluation.objectives.len()];
    let report = FrontReport::new(evaluation, &FrontConfig::new(ref_point))?;
    let files = write_report(out, &report, evaluation, extras)?;
    println!("{}\n{}", report.table(), files.index_html.display());
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("name a directory to write to")?;
    let dir = Path::new(&dir);
    let extras = |runs| ReportExtras {
        title: "Made-up policies: the Pareto front".into(),
        summary: Some("Nothing was trained; scores and responses are made up.".into()),
        runs,
        ..Default::default()
    };
    let run = |name: &str| RunExtras {
        name: name.into(),
        metrics: metrics(),
        record: json!({ "made_up": true }),
    };
    for (names, steps) in [
        (&["helpful", "harmless"][..], 4),
        (&["helpful", "harmless", "humor"], 0),
        (&["helpful", "harmless", "humor"], 8),
        (&["helpful", "harmless", "humor", "brief"], 0),
        (&["coherent", "consistent", "fluent", "relevant", "brief", "kind", "apt"], 0),
    ] {
        let out = dir.join(format!("{}-objectives-{steps}", names.len()));
        write(&out, &evaluation(names, steps, 7), &extras(vec![run("")]))?;
    }
    // Three runs on the same prompts, as `mopo report` compares them.
    for names in [&["helpful", "harmless"][..], &["helpful", "harmless", "humor"]] {
        let mut runs = Vec::new();
        for (name, steps, seed) in [("mopo", 4, 7), ("mopo again", 4, 8), ("dpo", 0, 9)] {
            let out = dir.join(format!("{}-objectives-{}", names.len(), name.replace(' ', "-")));
            write(&out, &evaluation(names, steps, seed), &extras(vec![run("")]))?;
            runs.push(RecordedRun::read(&out, name)?);
        }
        let combined = combine(runs)?;
        let report = FrontReport::new(&combined.evaluation, &combined.config)?;
        let out = dir.join(format!("{}-objectives-compared", names.len()));
        let extras = ReportExtras {
            notes: combined.notes,
            ..extras(["mopo", "mopo again", "dpo"].map(run).into())
        };
        let files = write_report(&out, &report, &combined.evaluation, &extras)?;
        println!("{}\n{}", report.table(), files.index_html.display());
    }
    Ok(())
}
