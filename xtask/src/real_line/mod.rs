//! The full pipeline on real data, from the files of HH-RLHF to a page, in one command: `cargo xtask real-line`.
//!
//! Every stage is a run of `mopo`. This module knows their order, which are done, and how long each took.

mod independent;
mod pretrained;
mod record;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::args::absolute;
use crate::cargo::{code, root, status};
use crate::files::write_whole;
use crate::program;
use pretrained::Budget;
use record::{Done, LineRecord};

const REWARDS: &str = include_str!("rewards.toml");
const RUN: &str = include_str!("run.toml");
const RUN_ON_MODEL: &str = include_str!("run-model.toml");
/// The reward that labels nothing.
const TOXICITY: &str = "xtask/rewards/toxicity.py";
const INDEPENDENT: &str = "harmless_toxicity";
const OBJECTIVES: [&str; 2] = ["helpful", "harmless"];

/// What `--smoke` changes, for reward models and for the run.
const SMOKE_REWARD: &[&str] =
    &["training.steps=4", "training.eval_steps=2", "tokenizer.vocab_size=400"];
const SMOKE_RUN: &[&str] = &[
    "tokenizer.vocab_size=400",
    "model.scratch.num_hidden_layers=1",
    "model.scratch.hidden_size=48",
    "model.scratch.intermediate_size=96",
    "sft.steps=2",
    "training.steps=2",
    "evaluation.n_prompts=8",
    "evaluation.n_clusters=2",
    "evaluation.max_new_tokens=8",
    "evaluation.mixture_steps=2",
];

/// Trains two reward models (helpful, harmless) on HH-RLHF, labels the pairs with them, fine-tunes a phi model
/// on the responses (SFT), trains MOPO's two policies, lets them answer held-out prompts, scores the answers, and
/// draws the front.
///
/// With --model all of it is done on a pretrained model: the reward models are an adapter and a linear layer on it, SFT and
/// the policies are adapters. With 135M parameters that takes less than two hours on two cores; --quick takes less than
/// twenty minutes.
///
/// A pipeline that was interrupted continues where it was when it is called again. docs/results/real-line.md has
/// what came out of one, and how long it took.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Directory of HH-RLHF with helpful-base/ and harmless-base/, or its parent
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    data: PathBuf,
    /// Output directory
    #[arg(long, value_name = "DIR", default_value = "runs/real-line", value_parser = absolute)]
    out: PathBuf,
    /// Seed of every stage
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    /// Device: flex (the CPU), ndarray, cuda, cuda:N, wgpu or wgpu:N
    #[arg(long, value_name = "NAME", default_value = "flex")]
    device: String,
    /// Use this mopo program instead of building one
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Pretrained model, instead of a small one with random weights: a directory, a GGUF file or a name on
    /// Hugging Face
    #[arg(long, value_name = "DIR|FILE|ORG/NAME")]
    model: Option<String>,
    /// Less of everything, to look at it (with --model)
    #[arg(long, requires = "model", conflicts_with = "smoke")]
    quick: bool,
    /// Python with numpy, h5py and the package toxic-comment-classifier: its scores of the answers are shown as well
    #[arg(long, value_name = "FILE")]
    toxicity_python: Option<PathBuf>,
    /// Use the reward models and labels of this pipeline (its --out) and its held-out prompts: what is left, SFT and
    /// MOPO, is repeated with another --seed
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    labels_of: Option<PathBuf>,
    /// The seed of that pipeline.
    #[arg(skip)]
    labels_seed: Option<u64>,
    /// Run a few steps of each stage to see whether they work; the figures mean nothing
    #[arg(long)]
    smoke: bool,
}

/// One run of `mopo`.
struct Stage {
    name: String,
    /// What it does, for the table.
    what: &'static str,
    args: Vec<String>,
    /// The arguments that continue an unfinished output; without them the stage starts again.
    resume: Option<Vec<String>>,
    /// The folder or file that it writes.
    output: PathBuf,
    /// The last file that it writes: without it the stage is not done.
    last: PathBuf,
    /// A part that ends before the stage does, and the file that is written at its end.
    part: Option<(&'static str, PathBuf)>,
}

/// `cargo xtask real-line`.
pub(crate) fn run(mut options: Options) -> Result<ExitCode> {
    let below = options.data.join("hh-rlhf");
    if below.is_dir() {
        options.data = below;
    }
    for objective in OBJECTIVES {
        let folder = options.data.join(format!("{objective}-base"));
        ensure!(
            folder.is_dir(),
            "{} does not exist; --data is the directory of HH-RLHF (datasets/hh-rlhf/README.md says how to \
             get it)",
            folder.display()
        );
    }
    // A path is one wherever `mopo` runs.
    if let Some(model) = &mut options.model
        && let Ok(path) = absolute(model)
        && path.exists()
    {
        *model = path.display().to_string();
    }
    if let Some(labels_of) = &options.labels_of {
        options.labels_seed =
            Some(record::labels_seed(&labels_of.join("line.json"), &options.asked())?);
    }
    let mut record = LineRecord::open(&options.out.join("line.json"), &options.asked())?;
    let mopo = match &options.mopo {
        Some(mopo) => mopo.clone(),
        None => program::build(Some(&options.device))?,
    };

    for index in options.stages() {
        // Created when its turn comes: later stages use what earlier ones found.
        let stage = options.stage(index)?;
        if record.is_done(&stage.name) && stage.last.exists() {
            eprintln!("\n== {}: done before", stage.name);
            continue;
        }
        let resumed = stage.output.exists();
        let args = match &stage.resume {
            Some(resume) if resumed => resume,
            _ => &stage.args,
        };
        eprintln!("\n== {}: mopo {}", stage.name, args.join(" "));
        let (clock, began) = (Instant::now(), SystemTime::now());
        let ended = status(Command::new(&mopo).args(args).current_dir(root()))?;
        if !ended.success() {
            eprintln!(
                "\nthe pipeline stopped at `{}`; run the same command again to continue there",
                stage.name
            );
            return Ok(code(ended));
        }
        ensure!(
            stage.last.exists(),
            "`{}` ended without an error, but did not write {}",
            stage.name,
            stage.last.display()
        );
        let seconds = clock.elapsed().as_secs_f64();
        let mut what = stage.what.to_string();
        if let Some((part, file)) = stage.part.filter(|_| !resumed)
            && let Ok(written) = fs::metadata(file).and_then(|file| file.modified())
            && let Ok(until) = written.duration_since(began)
        {
            what.push_str(&format!("; {part} ended after {:.0} s", until.as_secs_f64()));
        }
        record.add(Done { stage: stage.name, what, seconds, resumed })?;
    }
    println!("\n{}", record.table());
    if options.toxicity_python.is_some() {
        let table = independent::table(&options.out.join("toxicity.jsonl"), INDEPENDENT)?;
        write_whole(&options.out.join("toxicity.md"), &table)?;
        println!("{table}");
    }
    println!("the page: {}", options.out.join("report/index.html").display());
    Ok(ExitCode::SUCCESS)
}

impl Options {
    /// What must not change between calls. The device may.
    fn asked(&self) -> Value {
        let mut asked = serde_json::json!({
            "data": self.data.display().to_string(),
            "seed": self.seed,
            "smoke": self.smoke,
            "model": self.model,
            "quick": self.quick,
            "toxicity": self.toxicity_python.is_some(),
        });
        if let Some(of) = &self.labels_of {
            asked["labels_of"] = of.display().to_string().into();
        }
        asked
    }

    /// The pipeline whose reward models and labels are used.
    fn labels_in(&self) -> &Path {
        self.labels_of.as_ref().unwrap_or(&self.out)
    }

    /// The stages' numbers: those that end with the labels are left out where another pipeline has them.
    fn stages(&self) -> Range<usize> {
        let labelling = OBJECTIVES.len() + 2;
        let from = if self.labels_of.is_some() { labelling } else { 0 };
        from..labelling + 3 + usize::from(self.toxicity_python.is_some())
    }

    /// What the stages on a pretrained model take.
    fn budget(&self) -> &'static Budget {
        match (self.smoke, self.quick) {
            (true, _) => &pretrained::SMOKE,
            (false, true) => &pretrained::QUICK,
            (false, false) => &pretrained::WHOLE,
        }
    }

    /// `--set` for each of these.
    fn sets(sets: &[&str]) -> Vec<String> {
        sets.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]).collect()
    }

    /// The `index`-th run of `mopo`, with the files that it reads written.
    fn stage(&self, index: usize) -> Result<Stage> {
        let path = |name: &str| self.out.join(name);
        let text = |path: &Path| path.display().to_string();
        let (seed, device) = (self.seed.to_string(), self.device.as_str());
        let args = |args: &[&str]| args.iter().map(|arg| (*arg).to_string()).collect::<Vec<_>>();
        let data = text(&self.data);
        if let Some(objective) = OBJECTIVES.get(index) {
            let output = path("rewards").join(objective);
            let out = text(&output);
            let preset = match &self.model {
                None => (*objective).to_owned(),
                Some(_) => format!("{objective}-lora"),
            };
            let mut train = args(&["reward", "train", &preset, "--data", &data, "--out", &out]);
            train.extend(args(&["--seed", &seed, "--device", device]));
            match &self.model {
                Some(model) => {
                    train.extend(Self::sets(&[&format!("model.decoder.hub={model}")]));
                    train.extend(Self::sets(self.budget().reward));
                }
                None if self.smoke => train.extend(Self::sets(SMOKE_REWARD)),
                None => {}
            }
            let resume = args(&["reward", "train", "--resume", &out, "--device", device]);
            return Ok(Stage {
                name: format!("reward model: {objective}"),
                what: "Bradley–Terry on one half of the pairs, early stopping",
                args: train,
                resume: Some(resume),
                part: None,
                last: output.join("result.json"),
                output,
            });
        }
        let labelled = self.labels_in().join("labelled.jsonl");
        let (pairs, run) = (path("pairs.jsonl"), path("run"));
        Ok(match index - OBJECTIVES.len() {
            0 => Stage {
                name: "pairs".into(),
                what: "both halves as one set",
                args: {
                    let out = text(&pairs);
                    let mut prepare =
                        args(&["prepare", "hh-small", "--data", &data, "--out", &out]);
                    prepare.extend(args(&["--seed", &seed]));
                    prepare.extend(Self::sets(&["data.stem=test"]));
                    if self.model.is_some() {
                        prepare.extend(Self::sets(self.budget().pairs));
                    }
                    prepare
                },
                resume: None,
                part: None,
                last: pairs.clone(),
                output: pairs,
            },
            1 => {
                let rewards = path("rewards.toml");
                write_whole(&rewards, &self.with_models(REWARDS))?;
                Stage {
                    name: "label".into(),
                    what: "both responses of every pair scored by both models",
                    args: args(&[
                        "label",
                        &text(&pairs),
                        "--rewards",
                        &text(&rewards),
                        "--out",
                        &text(&labelled),
                        "--device",
                        device,
                    ]),
                    resume: None,
                    part: None,
                    last: beside(&labelled),
                    output: labelled,
                }
            }
            2 => {
                let config = path("run.toml");
                write_whole(&config, &self.run_config(&beside(&labelled))?)?;
                let out = text(&run);
                let mut train = args(&["train", "--config", &text(&config), "--data"]);
                train.extend([text(&labelled)]);
                train.extend(args(&["--out", &out, "--device", device]));
                match &self.model {
                    Some(_) => train.extend(Self::sets(self.budget().run)),
                    None if self.smoke => train.extend(Self::sets(SMOKE_RUN)),
                    None => {}
                }
                // What SFT writes last; the weights below an adapter are there from the start.
                let sft = match &self.model {
                    Some(_) => "warm_start/adapter_model.safetensors",
                    None => "warm_start/config.json",
                };
                Stage {
                    name: "train".into(),
                    what: "tokenizer, SFT, MOPO with two policies",
                    args: train,
                    resume: Some(args(&["train", "--resume", &out, "--device", device])),
                    part: Some(("SFT", run.join(sft))),
                    last: run.join("result.json"),
                    output: run,
                }
            }
            3 => Stage {
                name: "front".into(),
                what: "answers of every policy and mixture, scores, front, page",
                args: args(&["pareto", &text(&run), "--seed", &seed, "--device", device]),
                resume: None,
                part: None,
                last: run.join("pareto/report.json"),
                output: run.join("pareto"),
            },
            4 => {
                let report = path("report");
                Stage {
                    name: "report".into(),
                    what: "the page alone, from what the stage before has written",
                    args: args(&["report", &text(&run), "--out", &text(&report)]),
                    resume: None,
                    part: None,
                    last: report.join("index.html"),
                    output: report,
                }
            }
            _ => {
                let (texts, scored) = (path("answers.jsonl"), path("toxicity.jsonl"));
                independent::write_texts(&run.join("pareto/samples.jsonl"), &texts)?;
                let reward = path("toxicity.toml");
                let python = self.toxicity_python.as_ref().context("asked for it")?;
                let command = [text(python), text(&root().join(TOXICITY))];
                let command = serde_json::to_string(&command)?;
                write_whole(
                    &reward,
                    &format!("kind = \"program\"\nname = \"{INDEPENDENT}\"\ncommand = {command}\n"),
                )?;
                Stage {
                    name: "toxicity".into(),
                    what: "the answers scored by a model that labelled nothing",
                    args: args(&[
                        "score",
                        &text(&texts),
                        "--reward",
                        &text(&reward),
                        "--out",
                        &text(&scored),
                        "--device",
                        device,
                    ]),
                    resume: None,
                    part: None,
                    last: scored.clone(),
                    output: scored,
                }
            }
        })
    }

    /// A configuration with the folder of the reward models in it.
    fn with_models(&self, text: &str) -> String {
        // Into a quoted string of TOML.
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let models = self.labels_in().join("rewards").display().to_string();
        let text = text.replace("MODELS", &quoted(&models));
        match &self.model {
            Some(model) => text.replace("\"MODEL\"", &format!("\"{}\"", quoted(model))),
            None => text,
        }
    }

    /// The run's configuration: seed, models, and reference points from the statistics of the labels.
    fn run_config(&self, labels: &Path) -> Result<String> {
        let wrong = || format!("{} is not what `mopo label` writes", labels.display());
        let json =
            fs::read_to_string(labels).with_context(|| format!("reading {}", labels.display()))?;
        let record: Value = serde_json::from_str(&json).with_context(wrong)?;
        let template = if self.model.is_some() { RUN_ON_MODEL } else { RUN };
        // First the longer word.
        let mut text = self
            .with_models(template)
            .replace("SPLIT_SEED", &self.labels_seed.unwrap_or(self.seed).to_string())
            .replace("SEED", &self.seed.to_string());
        for (k, objective) in OBJECTIVES.iter().enumerate() {
            let found = &record["objectives"][k];
            ensure!(found["name"] == *objective, wrong());
            let number = |key: &str| found["scores"][key].as_f64();
            // The published reference points use the population's standard deviation, which older files
            // have as `standard_deviation`.
            let of_population = |std: f64, n: f64| std * ((n - 1.0) / n).sqrt();
            let deviation = number("standard_deviation")
                .or_else(|| Some(of_population(number("std")?, number("n")?)));
            let ref_point =
                number("mean").zip(deviation).map(|(mean, deviation)| mean - 2.0 * deviation);
            let ref_point = ref_point.with_context(wrong)?;
            let key = format!("REF_POINT_{}", objective.to_uppercase());
            text = text.replace(&key, &format!("{ref_point:.4}"));
        }
        Ok(text)
    }
}

/// Where `mopo label` writes the statistics of a set's scores.
fn beside(set: &Path) -> PathBuf {
    let mut name = set.file_name().unwrap_or_default().to_os_string();
    name.push(".labels.json");
    set.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command as Xtask};

    fn parse(args: &[&str]) -> Result<Options, String> {
        let words = ["cargo xtask", "real-line"].iter().chain(args);
        match Cli::try_parse_from(words).map_err(|e| e.to_string())?.command {
            Xtask::RealLine(options) => Ok(options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_are_read_and_wrong_ones_named() {
        let options = parse(&["--data=hh", "--seed", "7", "--smoke"]).unwrap();
        assert!(options.data.is_absolute() && options.data.ends_with("hh"));
        assert!(options.out.ends_with("runs/real-line"));
        assert_eq!((options.seed, options.smoke, options.device.as_str()), (7, true, "flex"));
        for (args, expected) in [
            (&["--seed", "1"][..], "--data <DIR>"),
            (&["--data"], "a value is required"),
            (&["--data", "hh", "--seed", "x"], "--seed"),
            (&["--data", "hh", "--steps", "3"], "--steps"),
        ] {
            let error = parse(args).err().unwrap();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_run_is_configured_from_what_was_found() {
        let folder = std::env::temp_dir().join(format!("mopo-real-line-{}", std::process::id()));
        let options = parse(&["--data", "hh", "--out", folder.to_str().unwrap()]).unwrap();
        let labels = folder.join("labelled.jsonl.labels.json");
        write_whole(
            &labels,
            r#"{"objectives": [
                {"name": "helpful", "scores": {"mean": 0.5, "standard_deviation": 1.0}},
                {"name": "harmless", "scores": {"mean": 0.0, "std": 0.5, "n": 4}}]}"#,
        )
        .unwrap();
        assert_eq!(beside(&folder.join("labelled.jsonl")), labels);
        let text = options.run_config(&labels).unwrap();
        assert!(text.contains("ref_point = -1.5000") && text.contains("ref_point = -0.8660"));
        assert!(text.contains("seed = 0") && text.contains("rewards/helpful/model\""));
        for left in ["SEED", "MODELS", "REF_POINT"] {
            assert!(!text.contains(left), "{left}");
        }
        write_whole(&labels, r#"{"objectives": []}"#).unwrap();
        let error = format!("{:#}", options.run_config(&labels).unwrap_err());
        assert!(error.contains("labels.json is not what"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
