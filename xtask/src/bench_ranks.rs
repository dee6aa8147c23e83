//! Training by several ranks on one machine, and exchanges between them by size: `cargo xtask bench ranks`. A model of the
//! cost of communication is fitted, and says what to expect of a cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::args::{absolute, positive};
use crate::bench_train::report::{number, shown};
use crate::cargo::target_directory;
use crate::machine::{date_and_commit, ensure_committed, machine, median};
use crate::measured::{About, append, measured_line};
use crate::program;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Runs of each participant
    #[arg(long, value_name = "N", default_value = "3", value_parser = positive)]
    rounds: usize,
    /// Steps of a run; the first two are left out
    #[arg(long, value_name = "N", default_value = "10", value_parser = positive)]
    steps: usize,
    /// Use this mopo program, built with the feature `mpi`, instead of building one
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Also append the tables to this file, e.g. docs/results/scale.md
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    out: Option<PathBuf>,
}

/// Pairs of a step: eight micro-batches of one, so that up to eight ranks have work.
const PAIRS: usize = 8;

/// A model and a set that take a step of a second or so on two cores.
const SETTINGS: [&str; 17] = [
    "data.n_prompts=60",
    "tokenizer.vocab_size=2000",
    "model.scratch.hidden_size=512",
    "model.scratch.intermediate_size=2048",
    "model.scratch.num_hidden_layers=8",
    "model.scratch.num_attention_heads=8",
    "sft.steps=0",
    "training.batch_size=1",
    "training.gradient_accumulation_steps=8",
    "training.warmup_steps=0",
    "mopo.reference_lag=1000",
    "mopo.prune_below=0",
    "checkpoints.save_steps=1000",
    "evaluation.n_prompts=2",
    "lora.dropout=0.0",
    "data.heldout_fraction=0.05",
    "seed=1",
];

/// Width of that model.
const WIDTH: u64 = 512;

/// How a run is made.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Kind {
    ranks: usize,
    threads: usize,
    head_rank: Option<usize>,
}

const KINDS: [Kind; 6] = [
    Kind { ranks: 1, threads: 1, head_rank: None },
    Kind { ranks: 1, threads: 2, head_rank: None },
    Kind { ranks: 2, threads: 1, head_rank: None },
    Kind { ranks: 1, threads: 1, head_rank: Some(16) },
    Kind { ranks: 1, threads: 2, head_rank: Some(16) },
    Kind { ranks: 2, threads: 1, head_rank: Some(16) },
];

impl Kind {
    fn name(self) -> String {
        let heads =
            self.head_rank.map_or("whole heads".into(), |rank| format!("heads of rank {rank}"));
        format!(
            "{} rank{}, {} thread{} each, {heads}",
            self.ranks,
            plural(self.ranks),
            self.threads,
            plural(self.threads)
        )
    }
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// A launcher with the flags of one machine.
fn mpirun(ranks: usize, threads: usize) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]);
    command.args(["--mca", "mpi_yield_when_idle", "1", "-n", &ranks.to_string()]);
    command.env("RAYON_NUM_THREADS", threads.to_string());
    command
}

/// `cargo xtask bench ranks …`.
pub(crate) fn run(options: &Options, args: &[String]) -> Result<ExitCode> {
    if options.out.is_some() {
        ensure_committed()?;
    }
    ensure!(options.steps > 2, "--steps must be 3 at least: the first two are left out");
    let launcher = Command::new("mpirun").arg("--version").output();
    launcher.context("mpirun: install an MPI library, such as openmpi-bin and libopenmpi-dev")?;
    let when = date_and_commit();
    let mopo = match &options.mopo {
        Some(_) => program::given(options.mopo.as_deref(), None)?,
        None => program::build_with(Some("mpi"))?,
    };
    let folder = target_directory()?.join("ranks-bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let before = machine();
    println!("{before}");

    let (mut steps, mut lines) = (vec![vec![]; KINDS.len()], vec![]);
    let mut trained = vec![0; KINDS.len()];
    for round in 1..=options.rounds {
        for ((kind, steps), trained) in KINDS.iter().zip(&mut steps).zip(&mut trained) {
            let (seconds, bytes) = step_seconds(*kind, &mopo, options.steps, &folder)?;
            *trained = bytes;
            eprintln!(
                "round {round} of {}: {}: {} s a step",
                options.rounds,
                kind.name(),
                number(seconds)
            );
            steps.push(seconds);
        }
        let mut exchange = mpirun(2, 1);
        exchange.arg(&mopo).args(["bench", "exchange"]);
        let line = measured_line(&mut exchange, &folder.join("exchange.log"));
        lines.push(line.map_err(anyhow::Error::msg)?);
    }
    let command = format!("cargo xtask bench ranks {}", shown(args));
    let about = About { command, when, machine: [before, machine()] };
    let page = about.head("Training by ranks") + &page(options, &steps, &trained, &lines);
    println!("\n{page}");
    if let Some(out) = &options.out {
        append(out, "Beyond one process", &page)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The median of a run's steps, and the bytes of all that it trains.
fn step_seconds(kind: Kind, mopo: &Path, steps: usize, folder: &Path) -> Result<(f64, u64)> {
    let out = folder.join("run");
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| out.display().to_string())?;
    }
    let mut command = mpirun(kind.ranks, kind.threads);
    command.arg(mopo).args(["train", "demo", "--no-cache", "--out"]).arg(&out);
    let rank = kind.head_rank.map(|rank| format!("head_rank={rank}"));
    let steps = [format!("training.steps={steps}")];
    for set in
        SETTINGS.iter().copied().chain(rank.as_deref()).chain(steps.iter().map(String::as_str))
    {
        command.args(["--set", set]);
    }
    let log = folder.join("train.log");
    let output = command.stdin(Stdio::null()).output().context("mpirun")?;
    fs::write(&log, &output.stderr).with_context(|| log.display().to_string())?;
    ensure!(output.status.success(), "{} failed: see {}", kind.name(), log.display());
    let path = out.join("metrics.jsonl");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let seconds = |line: &str| {
        let row: Value = serde_json::from_str(line).ok()?;
        Some(row["trained_tokens"].as_f64()? / row["tokens_per_second"].as_f64()?)
    };
    let all: Vec<f64> = text.lines().filter_map(seconds).skip(2).collect();
    ensure!(!all.is_empty(), "{}: no steps", path.display());
    let size = |name: &str| {
        let path = out.join("policy").join(name);
        fs::metadata(&path).map(|file| file.len()).with_context(|| path.display().to_string())
    };
    let (adapter, heads) = (size("adapter_model.safetensors")?, size("heads.safetensors")?);
    // Of an update of a head by matrices [512, rank] and [rank, vocabulary].
    let heads = match kind.head_rank {
        None => heads,
        Some(rank) => 4 * rank as u64 * (3 * WIDTH + heads / (4 * WIDTH)),
    };
    Ok((median(all), adapter + heads))
}

/// Seconds = latency + bytes / bandwidth, by least squares over relative deviations.
#[derive(Debug, Clone, Copy)]
struct Line {
    latency: f64,
    per_byte: f64,
}

impl Line {
    fn fit(points: &[(f64, f64)]) -> Self {
        // Weights 1/t², so that small exchanges count as much as large ones.
        let [mut s, mut sx, mut sy, mut sxx, mut sxy] = [0.0; 5];
        for (x, y) in points {
            let w = 1.0 / (y * y);
            s += w;
            sx += w * x;
            sy += w * y;
            sxx += w * x * x;
            sxy += w * x * y;
        }
        let per_byte = (s * sxy - sx * sy) / (s * sxx - sx * sx);
        Self { latency: (sy - per_byte * sx) / s, per_byte }
    }

    fn seconds(self, bytes: f64) -> f64 {
        self.latency + bytes * self.per_byte
    }
}

/// Medians over rounds of what each size took.
fn exchanges(lines: &[Value], key: &str) -> Vec<(f64, f64)> {
    let n = lines[0]["exchanges"].as_array().map_or(0, Vec::len);
    let of =
        |line: &Value, i: usize, key: &str| line["exchanges"][i][key].as_f64().unwrap_or(f64::NAN);
    (0..n)
        .map(|i| {
            (of(&lines[0], i, "bytes"), median(lines.iter().map(|line| of(line, i, key)).collect()))
        })
        .collect()
}

/// phi-1.5 with three policies: LoRA of rank 16 on all linear layers, and heads of 51,200 × 2048.
const PHI_ADAPTER: f64 = 11.0e6;
const PHI_HEAD: [f64; 2] = [51_200.0, 2048.0];
/// 8 machines with 8 GPUs each, 100 Gbit/s between them.
const MACHINES: f64 = 8.0;
const GPUS: f64 = 8.0;
const BYTES_PER_SECOND: f64 = 12.5e9;

fn page(options: &Options, steps: &[Vec<f64>], trained: &[u64], lines: &[Value]) -> String {
    let mut page = format!(
        "\nA step of MOPO with three policies on {PAIRS} pairs, {PAIRS} micro-batches of one; 8 blocks of width 512, a vocabulary \
         of the demo's. {} rounds, medians over them and over {} steps of each.\n\n\
         | | seconds a step | pairs per second | to 1 rank with as many cores |\n|---|--:|--:|--:|\n",
        options.rounds,
        options.steps - 2
    );
    let of = |kind: Kind| {
        let at = KINDS.iter().position(|other| *other == kind).expect("one of them");
        median(steps[at].clone())
    };
    for kind in KINDS {
        let seconds = of(kind);
        let alone = of(Kind { ranks: 1, threads: kind.ranks * kind.threads, ..kind });
        page += &format!(
            "| {} | {} | {} | {} |\n",
            kind.name(),
            number(seconds),
            number(PAIRS as f64 / seconds),
            number(alone / seconds)
        );
    }
    page += "\nExchanges between 2 ranks on this machine, by the size of a gradient of all that is trained:\n\n\
             | MiB | ms for a round of micro-batches | ms for the new parameters |\n|--:|--:|--:|\n";
    let (there, back) = (exchanges(lines, "all_to_all"), exchanges(lines, "all_gather"));
    for ((bytes, there), (_, back)) in there.iter().zip(&back) {
        let mebibytes = bytes / f64::from(1 << 20);
        page += &format!(
            "| {} | {} | {} |\n",
            number(mebibytes),
            number(1e3 * there),
            number(1e3 * back)
        );
    }
    let (there, back) = (Line::fit(&there), Line::fit(&back));
    let rounds = PAIRS as f64 / 2.0;
    page += "\n";
    for (kind, &bytes) in KINDS.iter().zip(trained).filter(|(kind, _)| kind.ranks == 2) {
        let bytes = bytes as f64;
        let seconds = rounds * there.seconds(bytes) + back.seconds(bytes);
        page += &format!(
            "- {}: {} MiB are trained, for whose exchange the model below gives {} ms of a step's {}.\n",
            kind.name(),
            number(bytes / f64::from(1 << 20)),
            number(1e3 * seconds),
            number(1e3 * of(*kind))
        );
    }
    page += &format!(
        "\nThe model: a step with V micro-batches on N ranks takes V/N rounds and sends the parameters once. Fitted here, a round \
         takes {} ms and {} ms per MiB, the parameters {} ms and {} ms per MiB.\n\n\
         ### What the model says of a cluster\n\n\
         **Not measured.** phi-1.5 with three policies, 8 machines of 8 GPUs, 100 Gbit/s between machines, 64 micro-batches. A \
         machine's GPUs share its link, over which 7 of 8 bytes go; computing is left out.\n\n\
         | | values | GB of gradient a step | seconds of communication | GB of moments on each GPU |\n|---|--:|--:|--:|--:|\n",
        number(1e3 * there.latency),
        number(1e3 * there.per_byte * f64::from(1 << 20)),
        number(1e3 * back.latency),
        number(1e3 * back.per_byte * f64::from(1 << 20)),
    );
    for (name, values, is_sharded) in clusters() {
        let bytes = 4.0 * values;
        let away = (MACHINES - 1.0) / MACHINES;
        let ranks = MACHINES * GPUS;
        let (sent, moments) = match is_sharded {
            // Each GPU sends a gradient and receives all parameters.
            true => (2.0 * GPUS * bytes * away, 2.0 * bytes / ranks),
            // Each GPU receives everybody's gradients, to sum them in order by itself.
            false => (GPUS * ranks * bytes * away, 2.0 * bytes),
        };
        page += &format!(
            "| {name} | {:.0} M | {} | {} | {} |\n",
            values / 1e6,
            number(bytes / 1e9),
            number(sent / BYTES_PER_SECOND),
            number(moments / 1e9)
        );
    }
    page
}

/// What may be trained, how many values it has, and whether sums and moments are shared out.
fn clusters() -> [(&'static str, f64, bool); 3] {
    let [vocab_size, hidden_size] = PHI_HEAD;
    let whole = PHI_ADAPTER + 3.0 * vocab_size * hidden_size;
    let low_rank = PHI_ADAPTER + 3.0 * 16.0 * (vocab_size + hidden_size);
    [
        ("whole heads, each GPU sums everything itself", whole, false),
        ("whole heads, sums and moments shared out (what `mopo train` does)", whole, true),
        ("heads of rank 16, shared out (`head_rank = 16`)", low_rank, true),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::args::{BenchCommand, bench};

    #[test]
    fn a_line_is_found_again() {
        let points: Vec<(f64, f64)> =
            [1e6, 4e6, 1.6e7].into_iter().map(|bytes| (bytes, 2e-3 + bytes * 5e-10)).collect();
        let line = Line::fit(&points);
        assert!(
            (line.latency - 2e-3).abs() < 1e-9 && (line.per_byte - 5e-10).abs() < 1e-15,
            "{line:?}"
        );
        assert!((line.seconds(2e6) - 3e-3).abs() < 1e-9);
    }

    #[test]
    fn the_page_has_ratios_and_marks_what_is_the_models() {
        let Ok(BenchCommand::Ranks(options)) = bench("ranks", &["--rounds", "1"]) else { panic!() };
        let steps: Vec<Vec<f64>> = [4.0, 2.0, 2.5, 3.0, 1.5, 1.6].map(|s| vec![s]).into();
        let at =
            |bytes: f64, t: f64| json!({ "bytes": bytes, "all_to_all": t, "all_gather": 2.0 * t });
        let line = json!({ "exchanges": [at(1_048_576.0, 0.001), at(16_777_216.0, 0.016)] });
        let page = page(&options, &steps, &[1 << 20; 6], &[line]);
        for part in [
            "| 2 ranks, 1 thread each, whole heads | 2.50 | 3.20 | 0.800 |",
            "| 1 rank, 1 thread each, whole heads | 4.00 | 2.00 | 1.00 |",
            "| 16.0 | 16.0 | 32.0 |",
            "1.00 MiB are trained, for whose exchange the model below gives 6.00 ms of a step's 2500",
            "**Not measured.**",
            "shared out (what `mopo train` does) | 326 M | 1.30 | 1.46 |",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }
}
