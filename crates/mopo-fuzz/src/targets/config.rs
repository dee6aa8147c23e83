//! Configurations: runs, data, reward models, labels, rewards, studies. Lines that begin with `#set ` are overrides, as
//! `--set` gives them; to TOML they are comments.

use mopo_eval::RewardSpec;
use mopo_eval::label::LabelConfig;
use mopo_eval::reward::local_directory;
use mopo_testkit::TestBackend;
use mopo_train::RunConfig;
use mopo_train::config::DataConfig;
use mopo_train::reward_model::RewardTrainConfig;

use super::files;
use crate::place::write;
use crate::{Form, Outcome, Place, Runner, Target};

const WORDS: &[&str] = &[
    "\n#set training.steps=10",
    "\n#set lora.rank=0",
    "\n#set evaluation.rewards=[]",
    "\n#set method.kind=dpo",
    "\n#set data.source=prepared",
    "\n#set policies=[\"a\"]",
    "\n#set =",
    "\n#set a.b.c.d=1",
    "\n#set seed=-1",
    "[data]",
    "[model]",
    "[model.scratch]",
    "[sft]",
    "[lora]",
    "[method]",
    "[mopo]",
    "[dpo]",
    "[training]",
    "[evaluation]",
    "[[evaluation.rewards]]",
    "[[data.folders]]",
    "[[data.sources]]",
    "[checkpoints]",
    "[tokenizer]",
    "kind",
    "sft",
    "steps",
    "batch_size",
    "learning_rate",
    "warmup_steps",
    "max_grad_norm",
    "gradient_accumulation_steps",
    "rank",
    "alpha",
    "dropout",
    "target_modules",
    "all-linear",
    "hub",
    "file",
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "num_hidden_layers",
    "intermediate_size",
    "max_position_embeddings",
    "objectives",
    "helpful",
    "harmless",
    "humor",
    "tau",
    "beta",
    "reference_lag",
    "heldout_fraction",
    "streaming",
    "max_pairs",
    "n_prompts",
    "worst_case",
    "mixture_steps",
    "length",
    "regex",
    "word_list",
    "words",
    "pattern",
    "demo",
    "objective_idx",
    "program",
    "command",
    "http",
    "url",
    "http://127.0.0.1:1/",
    "ensemble",
    "rewards",
    "weights",
    "combine",
    "mean",
    "min",
    "length_corrected",
    "price",
    "model",
    "max_length",
    "label",
    "temperature",
    "tie_threshold",
    "prefer",
    "shorter",
    "unit",
    "characters",
    "tokens",
    "target",
    "z_score",
    "statistics",
    "std",
    "tries",
    "set",
    "seeds",
    "sensitivity",
    "values",
    "{weights}",
    "{objective}",
    "{others:0}",
    "{runs:dpo}",
    "{largest}",
    "(a+)+$",
    "\\\\p{L}{1,1000}",
    "nan",
    "inf",
    "1e999",
    "nf4",
    "int8",
    "bf16",
    "int8-output",
];

pub(super) fn targets() -> Vec<Target> {
    let words = [WORDS, mopo_train::config::MethodConfig::KINDS].concat();
    let target = super::alike(Form::Text, words.leak());
    vec![
        target(
            "run-config",
            "configurations of runs, with --set",
            run_seeds,
            |_| Box::new(run),
            1.8,
        ),
        target(
            "reward-config",
            "configurations of reward models, with --set",
            || {
                files![
                    "mopo-train/configs/reward-harmless-lora.toml",
                    "mopo-train/configs/reward-helpful.toml",
                    "mopo-train/configs/reward-humor.toml",
                    "mopo-train/configs/reward-toxicity.toml",
                    "mopo-train/configs/reward-preference.toml",
                ]
            },
            |_| {
                Box::new(|bytes| {
                    let (text, sets) = parts(bytes);
                    let read = RewardTrainConfig::parse_with(&text, "input", &sets);
                    again(read, RewardTrainConfig::to_toml, |text| {
                        RewardTrainConfig::parse_with(text, "again", &[])
                    })
                })
            },
            3.6,
        ),
        target("data-config", "[data] of a configuration", data_seeds, data, 4.3),
        target(
            "labels-config",
            "rewards for labels",
            || files!["mopo-eval/src/label/paper-hh.toml", "mopo-eval/src/label/paper-tldr.toml"],
            |_| {
                Box::new(|bytes| {
                    let text = String::from_utf8_lossy(bytes);
                    let config = LabelConfig::parse(&text);
                    config.map(|config| config.hash(&[])).into()
                })
            },
            7.3,
        ),
        target("reward-spec", "rewards in files of their own", reward_seeds, reward, 5.5),
        target(
            "study",
            "studies",
            || {
                files![
                    "../xtask/src/study/demo.toml",
                    "../xtask/src/study/smollm2.toml",
                    "../xtask/src/study/smollm2-long.toml",
                    "../xtask/src/cluster_test/tiny-study.toml"
                ]
            },
            |_| Box::new(|bytes| xtask::check_study(&String::from_utf8_lossy(bytes)).into()),
            0.6,
        ),
    ]
}

/// A configuration, and the overrides in it.
fn parts(bytes: &[u8]) -> (String, Vec<String>) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let sets = text.lines().filter_map(|line| line.strip_prefix("#set ")).map(str::to_owned);
    let sets = sets.take(8).collect();
    (text, sets)
}

/// What was read must be the same after it was written, as the record of a run is.
fn again<T: PartialEq, E: std::fmt::Display>(
    read: Result<T, E>,
    write: impl Fn(&T) -> Result<String, E>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Outcome {
    let Ok(config) = read else { return Outcome::Refused };
    match write(&config).and_then(|text| parse(&text)) {
        Ok(same) if same == config => Outcome::Accepted,
        Ok(_) => Outcome::Wrong("it is another configuration after it was written and read".into()),
        Err(e) => Outcome::Wrong(format!("it cannot be written and read again: {e}")),
    }
}

fn run(bytes: &[u8]) -> Outcome {
    let (text, sets) = parts(bytes);
    let read = RunConfig::parse_with(&text, "input", &sets);
    again(read, RunConfig::to_toml, |text| RunConfig::parse(text, "again"))
}

/// The presets, and one for each other method.
fn run_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = files![
        "mopo-train/configs/demo.toml",
        "mopo-train/configs/demo-dpo.toml",
        "mopo-train/configs/hh-small.toml",
        "mopo-train/configs/paper-tldr.toml",
    ];
    let demo = String::from_utf8_lossy(&seeds[0]).into_owned();
    for line in ["training.steps=10", "lora.rank=4", "name=again", "evaluation.max_new_tokens = 8"]
    {
        seeds.push(format!("{demo}\n#set {line}\n").into_bytes());
    }
    for kind in mopo_train::config::MethodConfig::KINDS {
        let parts = mopo_train::config::Replaced { method: Some(kind), ..Default::default() };
        let config = RunConfig::parse_replaced(&demo, "demo", &[], parts);
        seeds.extend(config.and_then(|config| config.to_toml()).ok().map(String::into_bytes));
    }
    seeds
}

fn data_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = files![
        "mopo-train/configs/data/beavertails.toml",
        "mopo-train/configs/data/helpsteer.toml",
        "mopo-train/configs/data/hh.toml",
        "mopo-train/configs/data/summeval-op.toml",
        "mopo-train/configs/data/tldr-axes.toml",
        "mopo-train/configs/data/tldr.toml",
        "mopo-train/configs/data/trl.toml",
    ];
    seeds[0].extend(b"\n#set data.max_pairs=9\n");
    seeds
}

fn data(place: &Place) -> Runner {
    let path = place.path().join("data.toml");
    Box::new(move |bytes| {
        write(&path, bytes);
        DataConfig::from_file(&path, &parts(bytes).1).into()
    })
}

fn reward_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = files![
        "mopo-eval/src/reward/presets/humor.toml",
        "mopo-eval/src/reward/presets/tldr-faithful.toml",
        "mopo-eval/src/reward/presets/hh-helpful.toml",
    ];
    seeds.iter_mut().for_each(|seed| {
        seed.splice(0..0, *b"kind = \"model\"\n");
    });
    let others = [
        "kind = \"length\"\nunit = \"words\"\ntarget = 30\n",
        "kind = \"length\"\nprefer = \"shorter\"\nname = \"brief\"\n",
        "kind = \"regex\"\npattern = '(?i)\\btea\\b'\navoid = true\n",
        "kind = \"word_list\"\nwords = [\"tea\", \"caf\u{e9}\"]\n",
        "kind = \"demo\"\nobjective_idx = 1\n",
        "kind = \"program\"\ncommand = [\"true\"]\n",
        "kind = \"http\"\nurl = \"http://127.0.0.1:1/score\"\n",
        "kind = \"ensemble\"\ncombine = \"mean_minus_std\"\ncoefficient = 0.5\nrewards = [{ reward = { kind = \"length\" }, \
         statistics = { mean = 1.0, std = 2.0 } }, { reward = { kind = \"demo\", objective_idx = 0 }, statistics = { mean \
         = 0.0, std = 1.0 } }]\n",
        "kind = \"length_corrected\"\nper_word = 0.01\nfrom = 20\nreward = { kind = \"length\" }\n",
    ];
    seeds.extend(others.map(|text| text.as_bytes().to_vec()));
    seeds
}

/// Reads and checks a reward; builds and asks it if it is computed here, without files, programs and addresses.
fn reward(place: &Place) -> Runner {
    let path = place.path().join("reward.toml");
    let name = path.display().to_string();
    Box::new(move |bytes| {
        write(&path, bytes);
        let Ok(spec) = RewardSpec::from_name_or_file(&name) else { return Outcome::Refused };
        if spec.check().is_err() {
            return Outcome::Refused;
        }
        let is_ours = match &spec {
            RewardSpec::Demo { .. } | RewardSpec::Length { .. } | RewardSpec::Regex { .. } => true,
            RewardSpec::WordList { file, .. } => file.is_none(),
            _ => false,
        };
        if !is_ours {
            return Outcome::Accepted;
        }
        let Ok(reward) = spec.build::<TestBackend>(&Default::default(), &local_directory) else {
            return Outcome::Refused;
        };
        let texts = [
            ("\n\nHuman: Tea?\n\nAssistant:", " Yes, tea. Caf\u{e9}!"),
            ("", ""),
            ("a", &"aaaaaaab".repeat(40)),
        ];
        let (prompts, responses): (Vec<_>, Vec<_>) = texts
            .iter()
            .map(|(prompt, response)| ((*prompt).to_owned(), (*response).to_owned()))
            .unzip();
        match mopo_eval::reward::score_all(&[reward], &prompts, &responses) {
            Ok(scores) if scores.iter().flatten().any(|score| !score.is_finite()) => {
                Outcome::Wrong("a score is not finite".into())
            }
            scores => scores.into(),
        }
    })
}
