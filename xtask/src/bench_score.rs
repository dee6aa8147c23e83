//! Scores of texts by a reward model, alone or against transformers in one run: `cargo xtask
//! bench score`. Each measurement is a process of its own, and they take turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::args::{absolute, positive};
use crate::bench_train::python::{Python, REQUIREMENTS, WRITE_PAIRS};
use crate::bench_train::report::{number, shown};
use crate::cargo::{root, status, target_directory};
use crate::files::write_whole;
use crate::machine::{date_and_commit, ensure_committed, machine, median};
use crate::measured::{
    Participant, command_table, debug_note, median_of, run_block, take_turns, values,
};
use crate::program;

const SCORE: &str = "xtask/peers/score.py";
const MAKE_MODEL: &str = "xtask/peers/make_gpt2.py";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Python with the packages in xtask/peers/requirements.txt: measures transformers too, and creates
    /// model and texts on first use
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    python: Option<PathBuf>,
    /// Runs of each participant
    #[arg(long, value_name = "N", default_value = "3", value_parser = positive)]
    rounds: usize,
    /// Calls per run; the first is left out of the median
    #[arg(long, value_name = "N", default_value = "3", value_parser = positive)]
    repeats: usize,
    /// Threads per process
    #[arg(long, value_name = "N", default_value = "2", value_parser = positive)]
    threads: usize,
    /// Number of texts, two from each pair
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive)]
    n_texts: usize,
    /// Reward model directory [default: a random GPT-2 classifier with 12 blocks of width 768]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    model: Option<PathBuf>,
    /// Texts: JSON Lines with prompt, response [default: HH-RLHF, by hh_pairs.py]
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    texts: Option<PathBuf>,
    /// Directory with hh_pairs.py, which finds texts of HH-RLHF; needed once, to create the texts
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    peers_dir: Option<PathBuf>,
    /// Directory with a tokenizer.json for the random model; needed once, to create the model
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    tokenizer: Option<PathBuf>,
    /// Use this mopo program instead of building one
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Also write the tables and raw figures to this file, e.g. docs/results/score.md
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    out: Option<PathBuf>,
}

/// `cargo xtask bench score …`.
pub(crate) fn run(options: &Options, args: &[String]) -> Result<ExitCode> {
    if options.out.is_some() {
        ensure_committed()?;
    }
    let when = date_and_commit();
    let target = target_directory()?;
    let folder = target.join("score-bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let python = options.python.clone().map(Python::at).transpose()?;
    let model = model(options, python.as_ref(), &folder)?;
    let texts = texts(options, python.as_ref(), &folder)?;
    let mopo = program::given(options.mopo.as_deref(), None)?;
    let versions = python.as_ref().map(|python| python.versions.clone());
    let all = participants(options, python, &mopo, &model, &texts);

    let before = machine();
    println!("{before}");
    let record = folder.join("runs.jsonl");
    let runs = take_turns(&all, options.rounds, &folder, &record, |line| {
        format!("{} texts/s", number(line["texts_per_second"].as_f64().unwrap_or(0.0)))
    })?;
    let context = About { command: shown(args), when, versions, machine: [before, machine()] };
    let page = page(options, &context, &all, &runs);
    println!("\n{page}");
    eprintln!("every run: {}", record.display());
    if let Some(out) = &options.out {
        write_whole(out, &page)?;
        eprintln!("wrote {}", out.display());
    }
    let lost = all.iter().any(|p| values(&runs, p.name, "texts_per_second").is_empty());
    Ok(if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn needs_python<'a>(python: Option<&'a Python>, what: &str, flag: &str) -> Result<&'a Python> {
    python.with_context(|| {
        format!(
            "there is no {what} yet: pass one with `{flag}`, or create it with `--python PATH`, a Python with \
             the packages in {REQUIREMENTS}"
        )
    })
}

/// The model's directory: given, left by an earlier run, or made now.
fn model(options: &Options, python: Option<&Python>, folder: &Path) -> Result<PathBuf> {
    if let Some(model) = &options.model {
        ensure!(
            model.join("reward.toml").is_file(),
            "--model {}: it has no reward.toml, which says how it is asked (docs/reward-models.md)",
            model.display()
        );
        return Ok(model.clone());
    }
    let model = folder.join("model");
    if !model.join("reward.toml").is_file() {
        let python = needs_python(python, "model", "--model DIR")?;
        let folder_of_tokenizer = options.tokenizer.as_ref().context(
            "there is no model yet: pass the directory of a tokenizer.json for it with `--tokenizer DIR`",
        )?;
        let tokenizer = folder_of_tokenizer.join("tokenizer.json");
        ensure!(tokenizer.is_file(), "--tokenizer: {} does not exist", tokenizer.display());
        eprintln!("== the benchmark's model, in {}", model.display());
        let part = folder.join("model.part");
        let _ = fs::remove_dir_all(&part); // left by a run that was cut off
        let mut make = python.script(&root().join(MAKE_MODEL), options.threads);
        make.arg(&part).arg("--tokenizer").arg(folder_of_tokenizer);
        ensure!(status(&mut make)?.success(), "{MAKE_MODEL} failed: its output is above");
        let _ = fs::remove_dir_all(&model);
        fs::rename(&part, &model).with_context(|| model.display().to_string())?;
    }
    Ok(model)
}

/// The file of texts: given, left by an earlier run, or made now of HH pairs in their order.
fn texts(options: &Options, python: Option<&Python>, folder: &Path) -> Result<PathBuf> {
    if let Some(texts) = &options.texts {
        return Ok(texts.clone());
    }
    let texts = folder.join(format!("texts-{}.jsonl", options.n_texts));
    if !texts.is_file() {
        let python = needs_python(python, "file of texts", "--texts FILE")?;
        let pairs = folder.join("pairs.jsonl");
        let mut write = python.script(&root().join(WRITE_PAIRS), options.threads);
        let rows = options.n_texts.div_ceil(2).to_string();
        let peers_dir = options.peers_dir.as_ref().context(
            "there are no texts yet: pass the directory of hh_pairs.py, which finds them, with \
             `--peers-dir DIR`, or pass texts with `--texts FILE`",
        )?;
        write.arg(peers_dir).arg(&pairs).args(["--rows", &rows]);
        ensure!(
            status(&mut write)?.success(),
            "{WRITE_PAIRS} failed: its output is above; hh_pairs.py says where it looks for data"
        );
        let text = fs::read_to_string(&pairs).with_context(|| pairs.display().to_string())?;
        let mut lines = String::new();
        for line in text.lines() {
            let pair: Value = serde_json::from_str(line).context("a line of the pairs")?;
            for response in ["chosen", "rejected"] {
                let text = json!({ "prompt": pair["prompt"], "response": pair[response] });
                lines += &format!("{text}\n");
            }
        }
        let lines: String = lines.lines().take(options.n_texts).map(|l| format!("{l}\n")).collect();
        write_whole(&texts, &lines)?;
    }
    Ok(texts)
}

/// In f32, which all scores are compared with, and in int8.
const OURS: [&str; 2] = ["mopo", "mopo-int8"];

fn participants(
    options: &Options,
    python: Option<Python>,
    mopo: &Path,
    model: &Path,
    texts: &Path,
) -> Vec<Participant> {
    let mut all = vec![];
    let numbers = format!("--repeats {} --threads {}", options.repeats, options.threads);
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let inputs = [model.to_path_buf(), texts.to_path_buf()];
    // The second fails where the processor has no instructions for it.
    for (name, precision) in OURS.into_iter().zip(["", "--matmul-precision int8 "]) {
        let numbers = format!("{precision}{numbers}");
        let (mopo, [model, texts], words) = (mopo.to_path_buf(), inputs.clone(), words(&numbers));
        all.push(Participant {
            name,
            shown: format!("mopo bench score --model MODEL --texts TEXTS {numbers}"),
            command: Box::new(move || {
                let mut command = Command::new(&mopo);
                command.args(["bench", "score", "--model"]).arg(&model).arg("--texts").arg(&texts);
                command.args(&words);
                command
            }),
        });
    }
    let Some(python) = python else { return all };
    for (name, how) in [
        ("transformers-1", "--batch 1"),
        ("transformers-8", "--batch 8"),
        ("transformers-8-sorted", "--batch 8 --sort"),
        ("transformers-16-sorted", "--batch 16 --sort"),
    ] {
        let Python { path, versions } = &python;
        let python = Python { path: path.clone(), versions: versions.clone() };
        let (threads, inputs) = (options.threads, inputs.clone());
        let args = words(&format!("{how} {numbers}"));
        all.push(Participant {
            name,
            shown: format!("python score.py MODEL TEXTS {how} {numbers}"),
            command: Box::new(move || {
                let mut command = python.script(&root().join(SCORE), threads);
                command.args(&inputs).args(&args);
                command
            }),
        });
    }
    all
}

/// The largest difference between two participants' scores, relative to the largest score.
fn difference(runs: &[Value], a: &str, b: &str) -> Option<f64> {
    let scores = |name: &str| {
        let run = runs.iter().find(|run| run["participant"] == name && run["line"].is_object())?;
        run["line"]["scores"].as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<_>>>()
    };
    let (a, b) = (scores(a)?, scores(b)?);
    let largest = b.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let differences = a.iter().zip(&b).map(|(a, b)| (a - b).abs() / largest);
    (a.len() == b.len()).then(|| differences.fold(0.0, f64::max))
}

/// What the page says besides the figures.
struct About {
    command: String,
    /// The day and the commit.
    when: String,
    /// Of the peers' packages.
    versions: Option<String>,
    /// Before and after.
    machine: [String; 2],
}

fn page(options: &Options, context: &About, all: &[Participant], runs: &[Value]) -> String {
    let [before, after] = &context.machine;
    let rate = |name: &str| median_of(runs, name, "texts_per_second");
    let peers = all.iter().filter(|p| !OURS.contains(&p.name));
    let best =
        peers.filter_map(|p| Some((p.name, rate(p.name)?))).max_by(|(_, a), (_, b)| a.total_cmp(b));
    let mut out = String::from("# Scores of a reward model\n\n");
    out += "How many texts a GPT-2 classifier scores per second, from text to number, next to \
            transformers. All take turns, each as a process of its own.\n\n";
    out += &format!("```\ncargo xtask bench score {}\n```\n\n", context.command);
    out += &format!("{}.\n\n- Before: {before}.\n- After: {after}.\n", context.when);
    out += &format!(
        "- {} threads each; {} rounds, medians over them; in a round {} calls, of which the first is \
         left out of the median.\n",
        options.threads, options.rounds, options.repeats
    );
    if let Some(versions) = &context.versions {
        out += &format!("- Peers: {versions}.\n");
    }
    let first = runs.iter().find(|run| run["participant"] == "mopo").map(|run| &run["line"]);
    if let Some(line) = first {
        out += &format!("- {} texts, {} tokens.\n", line["texts"], line["tokens"]);
    }
    out += debug_note(runs);
    if let (Some((name, theirs)), Some(ours)) = (best, rate("mopo")) {
        let in_int8 = match rate("mopo-int8") {
            Some(ours) => format!("; {} times with products in int8", number(ours / theirs)),
            None => String::new(),
        };
        out += &format!(
            "\n**{} times the texts per second of {name}**, the fastest of the others{in_int8} \
             (demanded: at least 1.8).\n",
            number(ours / theirs)
        );
    }
    out += "\n| who | texts per s | tokens per s | padded tokens | peak MiB | scores differ by |\n\
            |---|--:|--:|--:|--:|--:|\n";
    for p in all {
        let of = |key: &str| {
            let values = values(runs, p.name, key);
            if values.is_empty() { "–".into() } else { number(median(values)) }
        };
        let other = difference(runs, p.name, "mopo").filter(|_| p.name != "mopo");
        out += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            p.name,
            of("texts_per_second"),
            of("tokens_per_second"),
            of("padded_tokens"),
            of("peak_rss_mib"),
            other.map_or("–".into(), number)
        );
    }
    out += "\n`--sort` goes by length, so that little is padded. Ours always does, and pads nothing. The \
            last column is the largest difference from our scores, relative to the largest score.\n";
    out += &format!("\n## Commands\n\n{}", command_table(all));
    out += "\n## Every run\n\nOne line each, in the order in which they ran; scores left out.\n\n";
    out + &run_block(runs, "scores")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{BenchCommand, bench};

    fn parse(args: &[&str]) -> Result<Options, String> {
        match bench("score", args)? {
            BenchCommand::Score(options) => Ok(options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_read_and_senseless_ones_refused() {
        let o = parse(&["--rounds", "5", "--n-texts", "8"]).unwrap();
        assert_eq!((o.rounds, o.n_texts, o.repeats), (5, 8, 3));
        for (args, word) in [
            (&["--rounds", "0"][..], "above 0"),
            (&["--python"], "a value is required"),
            (&["--fast"], "--fast"),
        ] {
            let error = parse(args).err().unwrap();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_page_has_the_ratio_to_the_fastest_peer() {
        let run = |name: &str, rate: f64, score: f64| {
            json!({ "participant": name, "round": 1, "line": {
                "texts": 2, "tokens": 9, "texts_per_second": rate, "scores": [score, 2.0],
            }})
        };
        let runs = [
            run("mopo", 6.0, 1.0),
            run("mopo-int8", 8.0, 1.0),
            run("transformers-1", 2.0, 1.0),
            run("transformers-8", 4.0, 1.5),
        ];
        let options = parse(&[]).unwrap();
        let python = Python { path: "python".into(), versions: String::new() };
        let (a, b) = (Path::new("a"), Path::new("b"));
        let all = participants(&options, Some(python), a, a, b);
        let context = About {
            command: String::new(),
            when: "today, commit 0".into(),
            versions: Some("torch 2".into()),
            machine: ["then".into(), "now".into()],
        };
        let page = page(&options, &context, &all, &runs);
        assert!(page.contains("**1.50 times the texts per second of transformers-8**"), "{page}");
        assert!(page.contains("| transformers-8 | 4.00 |") && page.contains("| 0.250 |"), "{page}");
        assert!(page.contains("2.00 times with products in int8"), "{page}");
        assert!(page.contains("2 texts, 9 tokens") && !page.contains("\"scores\""), "{page}");
    }
}
