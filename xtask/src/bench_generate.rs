//! Generation from a GGUF file, alone or against llama.cpp and transformers in one run: `cargo xtask
//! bench generate`. Each measurement is a process of its own, and they take turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::args::{absolute, positive};
use crate::bench_train::python::Python;
use crate::bench_train::report::{number, shown};
use crate::cargo::{root, target_directory};
use crate::files::write_whole;
use crate::machine::{date_and_commit, ensure_committed, machine};
use crate::measured::{
    About, Participant, append, command_table, debug_note, median_of, range, run_block, take_turns,
    values,
};
use crate::program;

const TRANSFORMERS: &str = "xtask/peers/generate.py";
const LLAMA: &str = "xtask/peers/generate_llama.py";

/// Continued unless others are given; none is needed twice.
const PROMPTS: [&str; 8] = [
    "The capital of France is",
    "Write a short poem about the sea and the wind",
    "Once upon a time there was a little",
    "def fibonacci(n):",
    "The three laws of thermodynamics are",
    "To make a cake, you need",
    "In the year 1969, the first",
    "My favourite colour is",
];

/// Rows at once, and what ours is called then.
const BATCHES: [(usize, &str); 2] = [(1, "mopo-1"), (8, "mopo-8")];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// GGUF file
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    model: PathBuf,
    /// Prompts: JSON Lines with prompt, chosen, rejected, at least 8 [default: eight short prompts]
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    pairs: Option<PathBuf>,
    /// Python with torch, transformers and gguf: measures transformers on the same file, too
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    python: Option<PathBuf>,
    /// Python with llama-cpp-python: measures llama.cpp on the same file, too [default: that of --python]
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    llama_python: Option<PathBuf>,
    /// Runs of each participant
    #[arg(long, value_name = "N", default_value = "5", value_parser = positive)]
    rounds: usize,
    /// Calls per run; the first is left out of the median
    #[arg(long, value_name = "N", default_value = "4", value_parser = positive)]
    repeats: usize,
    /// Tokens to generate after each prompt
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive)]
    new_tokens: usize,
    /// Threads per process
    #[arg(long, value_name = "N", default_value = "2", value_parser = positive)]
    threads: usize,
    /// Use this mopo program instead of building one
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Also append the tables and raw figures to this file, e.g. docs/results/generate.md
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    out: Option<PathBuf>,
}

/// `cargo xtask bench generate …`.
pub(crate) fn run(options: &Options, args: &[String]) -> Result<ExitCode> {
    if options.out.is_some() {
        ensure_committed()?;
    }
    ensure!(options.model.is_file(), "--model {}: no such file", options.model.display());
    let when = date_and_commit();
    let folder = target_directory()?.join("generate-bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let pairs = pairs(options, &folder)?;
    let mopo = program::given(options.mopo.as_deref(), None)?;
    let all = participants(options, &mopo, &pairs);

    let before = machine();
    println!("{before}");
    let record = folder.join("runs.jsonl");
    let runs = take_turns(&all, options.rounds, &folder, &record, |line| {
        format!("{} tokens/s", number(line["tokens_per_second"].as_f64().unwrap_or(0.0)))
    })?;
    let command = format!("cargo xtask bench generate {}", shown(args));
    let context = About { command, when, machine: [before, machine()] };
    let page = page(options, &context, &all, &runs);
    println!("\n{page}");
    eprintln!("every run: {}", record.display());
    if let Some(out) = &options.out {
        append(out, "Generation from GGUF files", &page)?;
    }
    let lost = all.iter().any(|p| values(&runs, p.name, "tokens_per_second").is_empty());
    Ok(if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The file of prompts: given, or written now.
fn pairs(options: &Options, folder: &Path) -> Result<PathBuf> {
    if let Some(pairs) = &options.pairs {
        return Ok(pairs.clone());
    }
    let pairs = folder.join("pairs.jsonl");
    // Responses are not used, but pairs have some.
    let line = |prompt| json!({ "prompt": prompt, "chosen": " yes", "rejected": " no" });
    write_whole(&pairs, &PROMPTS.map(|prompt| format!("{}\n", line(prompt))).concat())?;
    Ok(pairs)
}

/// Whether an interpreter has a package.
fn has_package(python: &Path, package: &str) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", &format!("import {package}")]);
    command.output().is_ok_and(|out| out.status.success())
}

fn participants(options: &Options, mopo: &Path, pairs: &Path) -> Vec<Participant> {
    let mut all = vec![];
    let numbers = format!(
        "--new-tokens {} --repeats {} --threads {}",
        options.new_tokens, options.repeats, options.threads
    );
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let inputs = [options.model.clone(), pairs.to_path_buf()];
    for (batch, name) in BATCHES {
        let args = format!("--batch {batch} {numbers}");
        let (mopo, [model, pairs], args_of) = (mopo.to_path_buf(), inputs.clone(), words(&args));
        all.push(Participant {
            name,
            shown: format!("mopo bench generate --model MODEL --pairs PAIRS {args}"),
            command: Box::new(move || {
                let mut command = Command::new(&mopo);
                command.args(["bench", "generate", "--model"]).arg(&model);
                command.arg("--pairs").arg(&pairs).args(&args_of);
                command
            }),
        });
    }
    let mut peer = |name, path: &Path, script: &'static str, args: String| {
        let python = Python { path: path.to_path_buf(), versions: String::new() };
        let (inputs, threads, args_of) = (inputs.clone(), options.threads, words(&args));
        let file = script.rsplit('/').next().unwrap_or(script);
        all.push(Participant {
            name,
            shown: format!("python {file} MODEL PAIRS {args}"),
            command: Box::new(move || {
                let mut command = python.script(&root().join(script), threads);
                command.args(&inputs).args(&args_of);
                command
            }),
        });
    };
    if let Some(python) = options.llama_python.as_ref().or(options.python.as_ref()) {
        if has_package(python, "llama_cpp") {
            peer("llama.cpp-1", python, LLAMA, numbers.clone());
        } else {
            eprintln!("without llama.cpp: {} has no llama-cpp-python", python.display());
        }
    }
    if let Some(python) = &options.python {
        for (batch, name) in [(1, "transformers-1"), (8, "transformers-8")] {
            peer(name, python, TRANSFORMERS, format!("--batch {batch} {numbers}"));
        }
    }
    all
}

/// How many of a participant's tokens for the first prompt, from the first on, are ours.
fn equal_tokens(runs: &[Value], name: &str) -> Option<usize> {
    let ids = |name: &str| {
        let run = runs.iter().find(|run| run["participant"] == name && run["line"].is_object())?;
        run["line"]["ids"][0].as_array()
    };
    let (theirs, ours) = (ids(name)?, ids(BATCHES[0].1)?);
    Some(theirs.iter().zip(ours).take_while(|(a, b)| a == b).count())
}

fn page(options: &Options, context: &About, all: &[Participant], runs: &[Value]) -> String {
    let rate = |name: &str| median_of(runs, name, "tokens_per_second");
    let file = options.model.file_name().unwrap_or_default().to_string_lossy();
    let mut out = context.head(&file);
    out += &format!(
        "- {} threads each; {} rounds, medians over them; in a round {} calls, of which the first is \
         left out of the median. A call is a prompt and {} new tokens, greedy.\n",
        options.threads, options.rounds, options.repeats, options.new_tokens
    );
    out += debug_note(runs);
    if let (Some(theirs), Some(ours)) = (rate("llama.cpp-1"), rate("mopo-1")) {
        let ratio = number(ours / theirs);
        out += &format!("\n**{ratio} times llama.cpp's tokens per second**.\n");
    }
    out += "\n| who | rows | tokens per s | from … to | peak MiB | first tokens that are ours |\n\
            |---|--:|--:|--:|--:|--:|\n";
    for p in all {
        let all_of = |key: &str| values(runs, p.name, key);
        let of = |key: &str| median_of(runs, p.name, key).map_or("–".into(), number);
        out += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            p.name,
            all_of("batch").first().map_or("–".into(), |rows| format!("{rows:.0}")),
            of("tokens_per_second"),
            range(runs, p.name, "tokens_per_second"),
            of("peak_rss_mib"),
            equal_tokens(runs, p.name).map_or("–".into(), |n| n.to_string())
        );
    }
    out += &format!("\n{}", command_table(all));
    out += "\nEvery run, in the order in which they ran; ids left out:\n\n";
    out + &run_block(runs, "ids")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{BenchCommand, bench};

    fn parse(args: &[&str]) -> Result<Options, String> {
        match bench("generate", args)? {
            BenchCommand::Generate(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_read_and_senseless_ones_refused() {
        let o = parse(&["--model", "m.gguf", "--rounds", "2"]).unwrap();
        assert_eq!((o.rounds, o.repeats, o.new_tokens), (2, 4, 64));
        for (args, word) in [
            (&["--rounds", "2"][..], "--model"),
            (&["--model", "m", "--threads", "0"], "above 0"),
            (&["--model", "m", "--fast"], "--fast"),
        ] {
            let error = parse(args).err().unwrap();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_page_has_the_ratio_and_where_tokens_differ() {
        let run = |name: &str, rate: f64, ids: &[u32]| {
            json!({ "participant": name, "round": 1, "line": {
                "batch": 1, "tokens_per_second": rate, "ids": [ids],
            }})
        };
        let runs = [run("mopo-1", 30.0, &[1, 2, 3]), run("llama.cpp-1", 40.0, &[1, 2, 4])];
        let options = parse(&["--model", "m.gguf"]).unwrap();
        let participant = |name| Participant {
            name,
            shown: String::new(),
            command: Box::new(|| Command::new("none")),
        };
        let all = [participant("mopo-1"), participant("llama.cpp-1")];
        let context = About {
            command: String::new(),
            when: "today, commit 0".into(),
            machine: ["then".into(), "now".into()],
        };
        let page = page(&options, &context, &all, &runs);
        assert!(page.contains("**0.750 times llama.cpp's tokens per second**"), "{page}");
        assert!(page.contains("| llama.cpp-1 | 1 | 40.0 | 40.0 … 40.0 | – | 2 |"), "{page}");
        assert!(!page.contains("\"ids\""), "{page}");
    }
}
