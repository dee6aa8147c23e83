//! A step of DPO on a frozen model, a GGUF file or a directory, against TRL on the same: `cargo xtask bench dpo`. Each
//! measurement is a process of its own, and they take turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::args::{absolute, positive};
use crate::bench_train::python::Python;
use crate::bench_train::report::{number, shown};
use crate::cargo::{root, target_directory};
use crate::machine::{date_and_commit, ensure_committed, machine};
use crate::measured::{
    About, Participant, append, command_table, debug_note, median_of, range, run_block, take_turns,
};
use crate::program;

const TRL: &str = "xtask/peers/dpo.py";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Model: a GGUF file, or a directory
    #[arg(long, value_name = "FILE|DIR", value_parser = absolute)]
    model: PathBuf,
    /// Pairs: JSON Lines with prompt, chosen, rejected
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    pairs: PathBuf,
    /// Python with the packages in xtask/peers/requirements.txt: measures TRL, too
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    python: Option<PathBuf>,
    /// Runs of each participant
    #[arg(long, value_name = "N", default_value = "3", value_parser = positive)]
    rounds: usize,
    /// Steps per run; the first is left out of the median
    #[arg(long, value_name = "N", default_value = "4", value_parser = positive)]
    steps: usize,
    /// Pairs per step
    #[arg(long, value_name = "N", default_value = "8", value_parser = positive)]
    batch: usize,
    /// Use pairs with fewer tokens than this in prompt and response
    #[arg(long, value_name = "N", default_value = "512", value_parser = positive)]
    max_len: usize,
    /// Threads per process
    #[arg(long, value_name = "N", default_value = "2", value_parser = positive)]
    threads: usize,
    /// Use this mopo program instead of building one
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Also append the tables and raw figures to this file, e.g. docs/results/dpo-step.md
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    out: Option<PathBuf>,
}

/// `cargo xtask bench dpo …`.
pub(crate) fn run(options: &Options, args: &[String]) -> Result<ExitCode> {
    if options.out.is_some() {
        ensure_committed()?;
    }
    for (flag, path) in [("--model", &options.model), ("--pairs", &options.pairs)] {
        ensure!(path.exists(), "{flag} {}: there is nothing", path.display());
    }
    let when = date_and_commit();
    let python = options.python.clone().map(Python::at).transpose()?;
    let mopo = program::given(options.mopo.as_deref(), None)?;
    let folder = target_directory()?.join("dpo-bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let versions = python.as_ref().map(|python| python.versions.clone());
    let all = participants(options, &mopo, python);

    let before = machine();
    println!("{before}");
    let record = folder.join("runs.jsonl");
    let runs = take_turns(&all, options.rounds, &folder, &record, |line| {
        format!("{} s per step", number(line["seconds_per_step"].as_f64().unwrap_or(0.0)))
    })?;
    let command = format!("cargo xtask bench dpo {}", shown(args));
    let about = About { command, when, machine: [before, machine()] };
    let page = page(options, &about, versions, &all, &runs);
    println!("\n{page}");
    eprintln!("every run: {}", record.display());
    if let Some(out) = &options.out {
        append(out, "A step of DPO on a published model", &page)?;
    }
    let lost = all.iter().any(|p| median_of(&runs, p.name, "seconds_per_step").is_none());
    Ok(if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn participants(options: &Options, mopo: &Path, python: Option<Python>) -> Vec<Participant> {
    let Options { model, pairs, steps, batch, max_len, threads, .. } = options;
    let sizes = format!("--steps {steps} --batch {batch} --max-len {max_len} --threads {threads}");
    let words: Vec<String> = sizes.split_whitespace().map(str::to_owned).collect();
    let mut all = vec![];
    if let Some(python) = python {
        let (words, inputs, threads) = (words.clone(), [model.clone(), pairs.clone()], *threads);
        all.push(Participant {
            name: "trl",
            shown: format!("python dpo.py MODEL PAIRS {sizes}"),
            command: Box::new(move || {
                let mut command = python.script(&root().join(TRL), threads);
                command.args(&inputs).args(&words);
                command
            }),
        });
    }
    for (name, reference) in [("mopo", "on-the-fly"), ("mopo-cached", "cached")] {
        let (mopo, words) = (mopo.to_path_buf(), words.clone());
        let (model, pairs) = (model.clone(), pairs.clone());
        all.push(Participant {
            name,
            shown: format!(
                "mopo bench train --method dpo --reference {reference} --model MODEL --pairs PAIRS {sizes}"
            ),
            command: Box::new(move || {
                let mut command = Command::new(&mopo);
                command.args(["bench", "train", "--method", "dpo", "--reference", reference]);
                command.arg("--model").arg(&model).arg("--pairs").arg(&pairs).args(&words);
                command
            }),
        });
    }
    all
}

fn page(
    options: &Options,
    about: &About,
    versions: Option<String>,
    all: &[Participant],
    runs: &[Value],
) -> String {
    let mut out = about.head(&options.model.file_name().unwrap_or_default().to_string_lossy());
    out += &format!(
        "- {} threads each; {} rounds of {} steps, medians over the rounds; the first step of a round is left \
         out. {} pairs per step, LoRA of rank 16 on all linear layers, β 0.1.\n",
        options.threads, options.rounds, options.steps, options.batch
    );
    if let Some(versions) = versions {
        out += &format!("- {versions}.\n");
    }
    out += debug_note(runs);
    let of = |name: &str, key: &str| median_of(runs, name, key);
    if let (Some(rate), Some(memory)) = (
        of("mopo", "pairs_per_second").zip(of("trl", "pairs_per_second")),
        of("mopo", "peak_rss_mib").zip(of("trl", "peak_rss_mib")),
    ) {
        let [rate, memory] = [rate, memory].map(|(ours, theirs)| number(ours / theirs));
        out += &format!("\n**{rate} times TRL's pairs per second, {memory} of its memory**.\n");
    }
    out += "\n| who | seconds per step | from … to | pairs per s | peak MiB |\n|---|--:|--:|--:|--:|\n";
    for p in all {
        let cell = |key: &str| of(p.name, key).map_or("–".into(), number);
        out += &format!(
            "| {} | {} | {} | {} | {} |\n",
            p.name,
            cell("seconds_per_step"),
            range(runs, p.name, "seconds_per_step"),
            cell("pairs_per_second"),
            cell("peak_rss_mib")
        );
    }
    out += &format!("\n{}", command_table(all));
    out += "\nEvery run, in the order in which they ran:\n\n";
    out + &run_block(runs, "losses")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::args::{BenchCommand, bench};

    fn parse(args: &[&str]) -> Result<Options, String> {
        match bench("dpo", args)? {
            BenchCommand::Dpo(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let o = parse(&["--model", "m.gguf", "--pairs", "p.jsonl", "--steps", "5"]).unwrap();
        assert_eq!((o.rounds, o.steps, o.batch), (3, 5, 8));
        for (args, word) in [
            (&["--model", "m.gguf"][..], "--pairs"),
            (&["--model", "m", "--pairs", "p", "--batch", "0"], "above 0"),
        ] {
            let error = parse(args).err().unwrap();
            assert!(error.contains(word), "{error}");
        }
        let error = run(&o, &[]).unwrap_err().to_string();
        assert!(error.contains("--model") && error.contains("m.gguf"), "{error}");
    }

    #[test]
    fn the_page_has_both_ratios() {
        let run = |name: &str, seconds: f64, memory: f64| {
            json!({ "participant": name, "round": 1, "line": {
                "seconds_per_step": seconds, "pairs_per_second": 8.0 / seconds, "peak_rss_mib": memory,
            }})
        };
        let runs = [run("trl", 40.0, 5000.0), run("mopo", 8.0, 500.0)];
        let options = parse(&["--model", "m.gguf", "--pairs", "p"]).unwrap();
        let all = participants(&options, Path::new("mopo"), None);
        assert_eq!(all.len(), 2);
        let about = About {
            command: "bench".into(),
            when: "today".into(),
            machine: ["then".into(), "now".into()],
        };
        let page = page(&options, &about, Some("trl 1".into()), &all, &runs);
        assert!(
            page.contains("**5.00 times TRL's pairs per second, 0.100 of its memory**"),
            "{page}"
        );
        assert!(page.contains("| mopo | 8.00 | 8.00 … 8.00 | 1.00 | 500 |"), "{page}");
        assert!(page.contains("| mopo-cached | – | – | – | – |"), "{page}");
    }
}
