//! The participants; each run is a process that prints a JSON line.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::Options;
use super::python::Python;
use crate::cargo::root;
use crate::measured::measured_line;

const GENERATE: &str = "xtask/peers/generate.py";

/// Products in bfloat16, or with base and products in int8; fails where the processor has no instructions for them.
const BF16: &str = "--matmul-precision bf16";
const INT8: &str = "--base int8-output --matmul-precision int8";
const LOW_RANK: &str = "--head-rank 16";

/// Rows of generation that are measured at once: how many, transformers', ours, and ours in int8.
pub(super) const BATCHES: [(usize, &str, [&str; 2]); 2] = [
    (1, "transformers-generate-1", ["mopo-generate-1", "mopo-generate-1-int8"]),
    (8, "transformers-generate-8", ["mopo-generate-8", "mopo-generate-8-int8"]),
];

/// One row of the tables.
pub(super) struct Participant {
    /// Peer and method.
    pub(super) name: &'static str,
    /// The command as the page shows it, without this machine's paths.
    pub(super) shown: String,
    command: Box<dyn Fn() -> Command>,
    /// Adds arguments that follow from what ran before.
    after: fn(&mut Command, &[Run]),
}

/// A run of a participant.
pub(super) struct Run {
    pub(super) name: &'static str,
    pub(super) round: usize,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    /// What it printed.
    Line(Value),
    /// Why there is nothing, and where its output is.
    Failed(String),
}

impl Run {
    pub(super) fn line(&self) -> Option<&Value> {
        match &self.outcome {
            Outcome::Line(line) => Some(line),
            Outcome::Failed(_) => None,
        }
    }

    /// For the record.
    pub(super) fn to_json(&self) -> Value {
        let mut json = serde_json::json!({ "participant": self.name, "round": self.round });
        match &self.outcome {
            Outcome::Line(line) => json["line"] = line.clone(),
            Outcome::Failed(why) => json["failed"] = why.as_str().into(),
        }
        json
    }
}

/// All that are asked for, in the order of a round.
pub(super) fn participants(
    options: &Options,
    python: Option<&Python>,
    mopo: &Path,
    model: &Path,
    pairs: &Path,
) -> Result<Vec<Participant>> {
    let mut all = Vec::new();
    let sizes: Vec<String> = [
        ("--batch", options.batch),
        ("--max-len", options.max_len),
        ("--threads", options.threads),
    ]
    .iter()
    .flat_map(|(flag, n)| [flag.to_string(), n.to_string()])
    .collect();
    let words = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
    let steps = ["--steps".to_string(), options.steps.to_string()];

    if let Some(python) = python {
        let mut peer = |name, script: PathBuf, inputs: &[&Path], args: Vec<String>| {
            let file = script.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let shown_inputs = if inputs.len() == 1 { "MODEL" } else { "MODEL PAIRS" };
            let shown = format!("python {file} {shown_inputs} {}", args.join(" "));
            let path = python.path.clone();
            let python = Python { path, versions: String::new() };
            let inputs: Vec<PathBuf> = inputs.iter().map(|p| p.to_path_buf()).collect();
            let threads = options.threads;
            let command = Box::new(move || {
                let mut command = python.script(&script, threads);
                command.args(&inputs).args(&args);
                command
            });
            all.push(Participant { name, shown, command, after: |_, _| () });
        };
        let trl = [words(&format!("--pairs {}", options.trl_pairs)), sizes.clone()].concat();
        peer("trl-dpo", options.peers_dir()?.join("trl_dpo.py"), &[model], trl);
        for (name, method) in [("torch-dpo", "dpo"), ("torch-clone", "clone")] {
            let args = [words(&format!("--method {method}")), steps.to_vec(), sizes.clone()];
            peer(name, options.peers_dir()?.join("torch_step.py"), &[model], args.concat());
        }
        for (batch, name, _) in BATCHES {
            let args = format!(
                "--batch {batch} --new-tokens {} --max-len {} --threads {}",
                options.new_tokens, options.max_len, options.threads
            );
            peer(name, root().join(GENERATE), &[model, pairs], words(&args));
        }
    }

    let mut ours = |name, measurement: &str, inputs: bool, args: Vec<String>, after| {
        let mut shown = format!("mopo bench {measurement}");
        let mut full = words(&format!("bench {measurement}"));
        if inputs {
            shown += &format!(" --model MODEL --pairs PAIRS --device {}", options.device);
            full.extend(["--model".into(), model.display().to_string()]);
            full.extend(["--pairs".into(), pairs.display().to_string()]);
            full.extend(["--device".into(), options.device.clone()]);
        }
        shown += &format!(" {}", args.join(" "));
        full.extend(args);
        let mopo = mopo.to_path_buf();
        let command = Box::new(move || {
            let mut command = Command::new(&mopo);
            command.args(&full);
            command
        });
        all.push(Participant { name, shown, command, after });
    };
    for (name, method) in [
        ("mopo-dpo", "dpo --reference on-the-fly"),
        ("mopo-dpo-bf16", &format!("dpo --reference on-the-fly {BF16}")),
        ("mopo-dpo-int8", &format!("dpo --reference on-the-fly {INT8}")),
        ("mopo-dpo-cached", "dpo --reference cached"),
        ("mopo-dpo-cached-int8", &format!("dpo --reference cached {INT8}")),
        ("mopo-clone", "clone"),
        ("mopo-mopo", "mopo --window first"),
        ("mopo-mopo-later", "mopo --window later"),
        ("mopo-mopo-later-bf16", &format!("mopo --window later {BF16}")),
        ("mopo-mopo-later-int8", &format!("mopo --window later {INT8}")),
        ("mopo-mopo-low-rank", &format!("mopo --window later {LOW_RANK}")),
        ("mopo-mopo-low-rank-bf16", &format!("mopo --window later {LOW_RANK} {BF16}")),
        ("mopo-mopo-low-rank-int8", &format!("mopo --window later {LOW_RANK} {INT8}")),
    ] {
        let args = [words(&format!("--method {method}")), steps.to_vec(), sizes.clone()];
        ours(name, "train", true, args.concat(), |_, _| ());
    }
    for (batch, _, names) in BATCHES {
        for (name, precision) in names.into_iter().zip(["", INT8]) {
            let args = format!(
                "{precision} --batch {batch} --new-tokens {} --max-len {} --threads {}",
                options.new_tokens, options.max_len, options.threads
            );
            ours(name, "generate", true, words(&args), |_, _| ());
        }
    }
    let threads = words(&format!("--threads {}", options.threads));
    ours("mopo-matmul", "matmul", false, threads, shapes_of_the_step);

    if let Some(only) = &options.only {
        for name in only {
            let known: Vec<&str> = all.iter().map(|p| p.name).collect();
            ensure!(
                known.contains(&name.as_str()),
                "--only {name}: the participants are {} (the peers with --peers)",
                known.join(", ")
            );
        }
        all.retain(|p| only.iter().any(|name| name == p.name));
    }
    Ok(all)
}

/// The matrices of the DPO step that was just measured.
fn shapes_of_the_step(command: &mut Command, runs: &[Run]) {
    let last = runs.iter().rev().find(|r| r.name == "mopo-dpo").and_then(Run::line);
    for (flag, key) in [("--tokens", "tokens_per_step"), ("--outputs", "outputs_per_step")] {
        if let Some(n) = last.and_then(|line| line[key].as_f64()).filter(|n| *n >= 1.0) {
            command.args([flag, &(n as usize).to_string()]);
        }
    }
}

impl Participant {
    /// Runs it; `runs` are those before it.
    pub(super) fn run(&self, runs: &[Run], folder: &Path) -> Outcome {
        let mut command = (self.command)();
        (self.after)(&mut command, runs);
        let log = folder.join(format!("{}.log", self.name));
        match measured_line(&mut command, &log) {
            Ok(line) => Outcome::Line(line),
            Err(why) => Outcome::Failed(why),
        }
    }
}
