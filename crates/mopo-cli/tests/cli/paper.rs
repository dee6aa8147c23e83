//! The paper's protocol from data to page, with the commands of docs/paper.md: a server on the
//! loopback device has tiny random models under the names of the public ones.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mopo_eval::label::LABEL_PRESETS;
use mopo_report::{FrontReport, PolicyGroup};
use mopo_testkit::LoopbackHub;

use crate::common::{mopo, succeed, tiny};
use crate::hub::publish;

/// What makes a preset of the paper tiny.
const TINY: &[&str] = &[
    "data.max_prompt_tokens=80",
    "data.max_response_tokens=24",
    "data.heldout_fraction=0.3",
    "sft.steps=2",
    "sft.batch_size=2",
    "lora.rank=2",
    "training.steps=3",
    // Large enough that answers differ after three steps.
    "training.learning_rate=0.02",
    "training.batch_size=3",
    "mopo.reference_lag=2",
    "evaluation.n_prompts=4",
    "evaluation.n_clusters=2",
    "evaluation.max_new_tokens=6",
    "evaluation.mixture_steps=2",
];

/// A public name, and the random model of the same architecture behind it.
const MODELS: &[(&str, &str)] = &[
    ("Ray2333/gpt2-large-helpful-reward_model", "gpt2"),
    ("Ray2333/gpt2-large-harmless-reward_model", "gpt2-shards"),
    ("mohameddhiab/humor-no-humor", "distilbert-bin"),
    ("Tristan/gpt2_reward_summarization", "gpt2-shards"),
    ("CogComp/bart-faithful-summary-detector", "bart-bin-shards"),
];

struct Place {
    dir: tempfile::TempDir,
    server: LoopbackHub,
}

impl Place {
    /// A server with the public names, and a working directory.
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), server: LoopbackHub::start() };
        let fixtures =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../mopo-eval/tests/reward/fixtures");
        for (name, fixture) in MODELS {
            publish(&place.server, name, &fixtures.join(fixture));
        }
        succeed(&mut tiny(&place.at("demo")));
        let export = ["export", "demo", "--policy", "warm-start", "--out", "phi"];
        place.run(&export);
        publish(&place.server, "microsoft/phi-1_5", &place.at("phi"));
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = mopo(args);
        command.current_dir(self.dir.path()).env("HF_HOME", self.at("home"));
        command.env("HF_ENDPOINT", self.server.endpoint());
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, args: &[&str]) -> String {
        succeed(&mut self.command(args))
    }

    /// From a prepared set and prompts to a page, under a preset's name.
    fn protocol(&self, preset: &str, objectives: [&str; 3]) {
        let short = |text: &str| text.replace("preset = ", "max_length = 90, preset = ");
        let labels = LABEL_PRESETS.text(preset).unwrap();
        self.write("rewards.toml", &short(labels));
        self.write("run.toml", &short(&self.run(&["config", preset])));
        self.run(&["label", "pairs.jsonl", "--rewards", "rewards.toml", "--out", "labelled.jsonl"]);
        let labelled = fs::read_to_string(self.at("labelled.jsonl")).unwrap();
        let header: serde_json::Value =
            serde_json::from_str(labelled.lines().next().unwrap()).unwrap();
        assert_eq!(header["objectives"], serde_json::json!(objectives));

        let data = ["train", "--config", "run.toml", "--data", "labelled.jsonl", "--out", preset];
        let set: Vec<&str> = TINY.iter().flat_map(|set| ["--set", *set]).collect();
        self.run(&[&data[..], &set].concat());
        // All models are in the cache by now.
        let mut pareto = self.command(&["pareto", preset, "--prompts", "prompts.jsonl"]);
        succeed(pareto.env("HF_HUB_OFFLINE", "1"));
        let said = self.run(&["report", preset, "--out", "report"]);
        let page = fs::read_to_string(self.at("report/index.html")).unwrap();
        for objective in objectives {
            assert!(said.contains(objective) && page.contains(objective), "{objective}");
        }
        // The SFT model, three policies and three mixtures of two, each scored on the four prompts.
        let json = fs::read_to_string(self.at(preset).join("pareto/report.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let front: FrontReport = serde_json::from_value(json["front"].clone()).unwrap();
        let count = |group| front.points.iter().filter(|point| point.group == group).count();
        let groups = [PolicyGroup::Sft, PolicyGroup::Head, PolicyGroup::Mixture];
        assert_eq!(groups.map(count), [1, 3, 3]);
        assert_eq!(front.objectives, objectives);
        for point in &front.points {
            assert!(point.n == 4 && point.means.iter().all(|mean| mean.is_finite()), "{point:?}");
        }
        // The raw scores of the reward models, not constants: the models differ, and so do the answers.
        assert!(front.points.iter().any(|point| point.means != front.points[0].means), "{front:?}");
        let rows = fs::read_to_string(self.at("report/front.csv")).unwrap();
        assert!(rows.lines().count() > front.points.len(), "{rows}");
    }
}

/// A row of HH-RLHF, made up.
fn dialogue(text: &mut String, i: usize) {
    let prompt = format!("\n\nHuman: What goes with tea number {i}?\n\nAssistant:");
    let row = serde_json::json!({
        "chosen": format!("{prompt} Try {i} biscuits."),
        "rejected": format!("{prompt} No idea, friend {i}!"),
    });
    writeln!(text, "{row}").unwrap();
}

#[test]
fn hh_from_data_to_page() {
    let place = Place::new();
    for folder in ["helpful-base", "harmless-base"] {
        let offset = if folder == "helpful-base" { 0 } else { 100 };
        for (split, rows) in [("train", 0..15), ("test", 50..58)] {
            let mut text = String::new();
            rows.for_each(|i| dialogue(&mut text, offset + i));
            place.write(&format!("hh/{folder}/{split}.jsonl"), &text);
        }
    }
    let train = ["prepare", "hh", "--data", "hh", "--set", "data.stem=train"];
    place.run(&[&train[..], &["--out", "pairs.jsonl"]].concat());
    let test = ["prepare", "hh", "--data", "hh", "--set", "data.stem=test", "--prompts"];
    place.run(&[&test[..], &["--n-prompts", "6", "--out", "prompts.jsonl"]].concat());
    let prompts = fs::read_to_string(place.at("prompts.jsonl")).unwrap();
    assert!(
        !prompts.contains("number 3?"),
        "a training prompt is among those of the test: {prompts}"
    );
    place.protocol("paper-hh", ["helpful", "harmless", "humor"]);
}

#[test]
fn summaries_from_data_to_page() {
    let place = Place::new();
    let mut text = String::new();
    for i in 0..24 {
        let row = serde_json::json!({
            "info": { "id": format!("t{i}"), "post": format!("My cat {i} sat on the mat all day."),
                      "title": "cat", "subreddit": "pets" },
            "split": if i < 16 { "train" } else { "valid2" },
            "summaries": [
                { "text": format!(" The cat {i} sat."), "policy": "a" },
                { "text": format!(" Mat, day {i}."), "policy": "b" },
            ],
            "choice": i % 2, "worker": "w", "batch": "b", "extra": { "confidence": 5 },
        });
        writeln!(text, "{row}").unwrap();
    }
    place.write("comparisons.json", &text);
    let of =
        |split: &'static str| ["prepare", "tldr", "--data", "comparisons.json", "--set", split];
    place.run(&[&of("data.split=train")[..], &["--out", "pairs.jsonl"]].concat());
    let prompts = ["--prompts", "--n-prompts", "6", "--out", "prompts.jsonl"];
    place.run(&[&of("data.split=valid2")[..], &prompts].concat());
    place.protocol("paper-tldr", ["preferred", "faithful", "less_hallucination"]);
}
