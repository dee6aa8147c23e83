//! Every trained method on three, four and five objectives, with soft, tied and missing labels.

use std::path::Path;

use mopo_core::Objectives;
use mopo_data::{PreferenceRecord, PreparedSet, Scores};
use mopo_train::config::{MethodConfig, Replaced, preset_text};
use mopo_train::{RunConfig, RunDir, RunRecord, Silent};

use super::{TINY, go_on};

/// A set whose labels follow scores that differ by objective; every fifth label is missing, every seventh soft.
fn set(k: usize, path: &Path) {
    let names = (0..k).map(name);
    let records = (0..40).map(|i| {
        let score = |r: usize, j: usize| ((i * (3 + j) + 7 * r * (j + 1)) % 11) as f32 / 2.0;
        let scores = [0, 1].map(|r| (0..k).map(|j| score(r, j)).collect::<Vec<f32>>());
        let label = |j: usize| match (i + j, scores[0][j] - scores[1][j]) {
            (at, _) if at % 5 == 0 => None,
            (at, d) if at % 7 == 0 => Some(if d > 0.0 { 0.7 } else { 0.3 }),
            (_, 0.0) => Some(0.5),
            (_, d) => Some(if d > 0.0 { 1.0 } else { 0.0 }),
        };
        let [first, second] = scores.clone();
        PreferenceRecord {
            id: format!("made:{i}"),
            source: "made".into(),
            prompt: format!("\n\nHuman: What is {i}?\n\nAssistant:"),
            messages: None,
            first: format!(" It is {} and more.", i + 1),
            second: format!(" Nobody knows {i}."),
            indicators: (0..k).map(label).collect(),
            scores: Some(Scores { first, second }),
        }
    });
    let objectives = Objectives::new(names).unwrap();
    let set = PreparedSet::new(objectives, None, vec![], vec![], records.collect()).unwrap();
    set.write(path).unwrap();
}

fn name(j: usize) -> String {
    format!("o{j}")
}

/// The demo on a prepared set of K objectives, with a reward for each; `runs` is a run with a policy for each.
fn configured(kind: &str, k: usize, runs: &Path) -> RunConfig {
    let text = preset_text("demo").unwrap();
    let text = text.replace("source = \"demo\"\nn_prompts = 1200\n", "source = \"prepared\"\n");
    let axes = text.find("# The axes of the front").unwrap();
    let mut text = text[..axes].to_owned();
    for j in 0..k {
        text.push_str(&format!(
            "[[evaluation.rewards]]\nname = \"{}\"\nref_point = -100.0\nreward = {{ kind = \"length\", unit = \
             \"characters\", target = {} }}\n",
            name(j),
            5 + 7 * j
        ));
    }
    let all: Vec<String> = (0..k).map(|j| format!("{:?}", name(j))).collect();
    let weights: Vec<String> =
        (0..k).map(|j| format!("{} = {:?}", name(j), 1.0 / k as f64)).collect();
    let weights = format!("{{ {} }}", weights.join(", "));
    let others: Vec<String> = (1..k).map(|j| format!("{} = -5.0", name(j))).collect();
    let everyone = format!("policies=[{}]", all.join(", "));
    let one = format!("{kind}.objective=o0");
    let own: Vec<String> = match kind {
        "mopo" => vec![everyone, "adapters=per_policy".into(), "mopo.reference_lag=2".into()],
        "ham" | "ric" | "dpa" => vec![everyone],
        "modpo" => vec![one, format!("modpo.preference_weights={weights}")],
        "can" => vec![one, format!("can.thresholds={{ {} }}", others.join(", "))],
        "sacpo" => {
            let betas: Vec<String> = (0..k).map(|_| "0.1".to_string()).collect();
            let order = format!("sacpo.order=[{}]", all.join(", "));
            vec![order, format!("sacpo.betas=[{}]", betas.join(", "))]
        }
        "raco" => vec![format!("raco.preference_weights={weights}")],
        "grpo" => vec![
            format!("grpo.preference_weights={weights}"),
            "grpo.group_size=2".into(),
            "grpo.max_new_tokens=8".into(),
        ],
        "ppo" => vec![
            format!("ppo.preference_weights={weights}"),
            "ppo.max_new_tokens=8".into(),
            "ppo.epochs=2".into(),
        ],
        "rewarded_soups" | "multi_objective_decoding" => {
            let of = |j| format!("{} = {:?}", name(j), runs.display().to_string());
            let runs: Vec<String> = (0..k).map(of).collect();
            vec![everyone, format!("{kind}.runs={{ {} }}", runs.join(", "))]
        }
        _ => vec![one],
    };
    let steps = "training.steps=5".to_string();
    // For what RiC and DPA tell in prompts.
    let room = "model.scratch.max_position_embeddings=160".to_string();
    let tiny = TINY.iter().filter(|set| !set.starts_with("data.n_prompts")).map(|s| s.to_string());
    let set: Vec<String> = tiny.chain([steps, room]).chain(own).collect();
    let parts = Replaced { method: Some(kind), model: None };
    RunConfig::parse_replaced(&text, "many", &set, parts).unwrap_or_else(|e| panic!("{kind}: {e}"))
}

#[test]
fn every_method_trains_on_three_four_and_five_objectives() {
    let tmp = tempfile::tempdir().unwrap();
    for k in [3, 4, 5] {
        let data = tmp.path().join(format!("{k}.jsonl"));
        set(k, &data);
        // Those that take other runs over come last, and take MOPO's.
        let taken = ["rewarded_soups", "multi_objective_decoding"];
        let runs = tmp.path().join(format!("mopo-{k}"));
        let trained = MethodConfig::KINDS.iter().filter(|kind| !taken.contains(kind));
        for kind in trained.chain(&taken) {
            let config = configured(kind, k, &runs);
            let path = tmp.path().join(format!("{kind}-{k}"));
            let mut record =
                RunRecord::new("test".into(), config.seed, Some(&data), false).unwrap();
            RunDir::create(&path, &config, &mut record).unwrap();
            let result = go_on(&path, &mut Silent).unwrap_or_else(|e| panic!("{kind}, {k}: {e}"));
            assert_eq!(result.objectives.len(), k, "{kind}");
            assert!(!result.policies.is_empty(), "{kind}");
            let rows = super::metrics(&path);
            let losses = rows.iter().filter(|row| row["phase"] == **kind);
            let losses: Vec<f64> = losses.map(|row| row["loss"].as_f64().unwrap()).collect();
            if taken.contains(kind) {
                assert!(losses.is_empty() && result.policies.len() == k, "{kind}");
                continue;
            }
            assert!(
                losses.len() == 5 && losses.iter().all(|x| x.is_finite()),
                "{kind}: {losses:?}"
            );
        }
    }
}
