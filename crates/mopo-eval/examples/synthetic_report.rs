//! Writes reports of made-up policies, to look at the figures and the page without training
//! anything: `cargo run -p mopo-eval --example synthetic_report -- DIRECTORY`.

use std::path::Path;

use mopo_core::Objectives;
use mopo_eval::{
    ClusterConfig, Evaluation, FrontConfig, FrontReport, PolicyGroup, PolicySamples, ReportExtras,
    cluster_prompts, write_report,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const TOPICS: [&str; 5] =
    ["bake sourdough bread", "fix a bicycle", "train a puppy", "pick a lock", "write a poem"];
const OPENERS: [&str; 4] = ["How do I", "Explain how to", "What is the best way to", "Help me to"];

fn evaluation(names: &[&str], steps: usize, seed: u64) -> mopo_eval::Result<Evaluation> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let k = names.len();
    let prompts: Vec<String> = (0..200)
        .map(|i| format!("\n\nHuman: {} {}?\n\nAssistant:", OPENERS[i / 5 % 4], TOPICS[i % 5]))
        .collect();
    let mut plan = vec![("warm start".to_owned(), PolicyGroup::WarmStart, vec![0.38; k])];
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
    let clusters =
        cluster_prompts(&prompts, &ClusterConfig { n_clusters: 5, ..Default::default() })?;
    let objectives = Objectives::new(names.iter().copied())?;
    Ok(Evaluation { objectives, prompts, clusters, policies })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("name a directory to write to")?;
    let mut metrics = Vec::new();
    for step in 0..400 {
        let t = f64::from(step);
        metrics.push(json!({
            "phase": "mopo", "step": step,
            "helpful/loss": 0.7 * (-t / 150.0).exp() + 0.02 * (t * 0.9).sin(),
            "harmless/loss": 0.8 * (-t / 190.0).exp() + 0.02 * (t * 1.1).sin(),
            "helpful/lambda/harmless": 0.9 * (1.0 - (-t / 90.0).exp()),
            "harmless/lambda/helpful": 0.6 * (1.0 - (-t / 60.0).exp()),
            "helpful/slack/harmless": -0.2 + t / 1500.0,
            "harmless/slack/helpful": -0.1 + t / 1900.0,
        }));
    }
    for (names, steps) in [
        (&["helpful", "harmless"][..], 4),
        (&["helpful", "harmless", "humor"], 0),
        (&["helpful", "harmless", "humor"], 8),
        (&["helpful", "harmless", "humor", "brief"], 0),
    ] {
        let evaluation = evaluation(names, steps, 7)?;
        let report = FrontReport::new(&evaluation, &FrontConfig::new(vec![0.0; names.len()]))?;
        let out = Path::new(&dir).join(format!("{}-objectives-{steps}", names.len()));
        let extras = ReportExtras {
            title: "Made-up policies: the Pareto front".into(),
            summary: Some("Nothing was trained; scores and responses are made up.".into()),
            metrics: metrics.clone(),
            record: json!({ "made_up": true }),
            ..Default::default()
        };
        let files = write_report(&out, &report, &evaluation, &extras)?;
        println!("{}\n{}", report.table(), files.index_html.display());
    }
    Ok(())
}
