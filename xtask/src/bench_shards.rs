//! Labels by one process with all threads, and by shards at the same time with their share of them: `cargo xtask bench
//! shards`. All take turns, and are compared within a round.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::args::{absolute, positive};
use crate::bench_train::report::{number, shown};
use crate::cargo::target_directory;
use crate::files::write_whole;
use crate::machine::{date_and_commit, ensure_committed, machine, median};
use crate::measured::{About, append};
use crate::program;

/// A reward model with random weights: what it says does not matter here.
const MODEL: &str = include_str!("bench_shards.toml");

/// All prompts of the demo's world.
const MOST_PROMPTS: usize = 3360;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Numbers of shards to compare with one process
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "2", value_parser = positive)]
    shards: Vec<usize>,
    /// Rounds
    #[arg(long, value_name = "N", default_value = "5", value_parser = positive)]
    rounds: usize,
    /// Threads of all processes together [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
    /// Prompts of the demo's world whose pairs are labelled with the model
    #[arg(long, value_name = "N", default_value = "200", value_parser = positive)]
    n_prompts: usize,
    /// Use this mopo program instead of building one
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Also add the table to this page, e.g. docs/results/scale.md
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    out: Option<PathBuf>,
}

/// What is labelled with what.
struct Work {
    name: &'static str,
    set: PathBuf,
    rewards: PathBuf,
    n_pairs: usize,
}

/// Seconds of a round: of one process, and of each number of shards with their merge.
struct Round {
    one: f64,
    sharded: Vec<(f64, f64)>,
}

/// `cargo xtask bench shards …`.
pub(crate) fn run(options: &Options, args: &[String]) -> Result<ExitCode> {
    if options.out.is_some() {
        ensure_committed()?;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or(cores);
    ensure!(
        options.shards.iter().all(|n| *n <= threads),
        "--shards: each shard takes a thread, and there are {threads}; pass --threads"
    );
    let folder = target_directory()?.join("shards-bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mopo = program::given(options.mopo.as_deref(), None)?;
    let works = works(options, &mopo, &folder)?;
    let before = machine();
    let mut tables = String::new();
    for work in &works {
        let bench = Bench { mopo: &mopo, folder: &folder, work, threads };
        let mut rounds = vec![];
        for round in 1..=options.rounds {
            let one = bench.one()?;
            let sharded: Result<Vec<_>> =
                options.shards.iter().map(|n| bench.sharded(*n)).collect();
            let sharded = sharded?;
            eprintln!(
                "{}, round {round} of {}: {one:.2} s, {sharded:.2?} s",
                work.name, options.rounds
            );
            rounds.push(Round { one, sharded });
        }
        tables += &rows(work, &options.shards, threads, &rounds);
    }
    let about = About {
        command: format!("cargo xtask bench shards {}", shown(args)),
        when: date_and_commit(),
        machine: [before, machine()],
    };
    let page = about.head("Labels in shards")
        + &format!(
            "- {} rounds, in which all take turns; medians. Ratios are those of a round.
- Functions: the demo's rewards. Model: GPT-2 of 6 blocks of width 256 with random weights, at most 96 tokens.

Pairs per second of `mopo label` by one process, and by shards that run at the same time on the same cores, their merge
included. The threads are divided among the shards. Threads of one process wait for each other, which costs most where other
work takes their cores, as the load average shows; shards do not. On several machines shards have nothing in common but
their file system, so each adds the rate of a process with all of its own cores.

| rewards | pairs | processes | threads each | pairs per s | merge, s | times one process |
|---|--:|--:|--:|--:|--:|--:|
{tables}",
            options.rounds
        );
    println!("{page}");
    if let Some(out) = &options.out {
        append(out, "Beyond one process", &page)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(work: &Work, shards: &[usize], threads: usize, rounds: &[Round]) -> String {
    let of = |f: &dyn Fn(&Round) -> f64| median(rounds.iter().map(f).collect());
    let pairs = work.n_pairs as f64;
    let Work { name, n_pairs, .. } = work;
    let mut rows = format!(
        "| {name} | {n_pairs} | 1 | {threads} | {} | – | 1 |\n",
        number(of(&|round| pairs / round.one))
    );
    for (i, n) in shards.iter().enumerate() {
        rows += &format!(
            "| {name} | {n_pairs} | {n} | {} | {} | {} | {} |\n",
            threads / n,
            number(of(&|round| pairs / round.sharded[i].0)),
            number(of(&|round| round.sharded[i].1)),
            number(of(&|round| round.one / round.sharded[i].0)),
        );
    }
    rows
}

/// Sets, rewards and the model, made unless an earlier run has left them.
fn works(options: &Options, mopo: &Path, folder: &Path) -> Result<[Work; 2]> {
    let model = folder.join("model");
    if !model.join("reward.toml").is_file() {
        eprintln!("== a reward model of random weights, in {}", model.display());
        let config = folder.join("model.toml");
        write_whole(&config, MODEL)?;
        let run = folder.join("model.run");
        let _ = fs::remove_dir_all(&run); // left by a run that was cut off
        let mut train = Command::new(mopo);
        train.args(["reward", "train", "--config"]).arg(&config).arg("--out").arg(&run);
        succeed(&mut train)?;
        let _ = fs::remove_dir_all(&model);
        fs::rename(run.join("model"), &model).with_context(|| model.display().to_string())?;
    }
    let with_model = format!("{{ kind = \"model\", path = \"{}\" }}", model.display());
    let rewards = [
        // Functions of the text are fast.
        ("functions", "{ kind = \"demo\", objective_idx = 0 }", MOST_PROMPTS),
        ("model", &with_model, options.n_prompts),
    ];
    let work = |(name, reward, n_prompts): (&'static str, &str, usize)| {
        let objective = |name: &str, reward: &str| {
            format!("[[objectives]]\nname = \"{name}\"\ntie_threshold = 0.1\nreward = {reward}\n")
        };
        let mut text = objective("one", reward);
        if name == "functions" {
            text += &objective("two", "{ kind = \"length\" }");
        }
        let path = folder.join(format!("{name}.toml"));
        write_whole(&path, &text)?;
        let set = folder.join(format!("pairs-{n_prompts}.jsonl"));
        if !set.is_file() {
            let mut prepare = Command::new(mopo);
            prepare.args(["prepare", "demo", "--set", &format!("data.n_prompts={n_prompts}")]);
            prepare.arg("--out").arg(&set);
            succeed(&mut prepare)?;
        }
        let lines = fs::read_to_string(&set).with_context(|| set.display().to_string())?;
        Ok(Work { name, set, rewards: path, n_pairs: lines.lines().count() - 1 })
    };
    let [functions, model]: [Result<Work>; 2] = rewards.map(work);
    Ok([functions?, model?])
}

struct Bench<'a> {
    mopo: &'a Path,
    folder: &'a Path,
    work: &'a Work,
    threads: usize,
}

impl Bench<'_> {
    fn label(&self, out: &Path, threads: usize) -> Command {
        let mut command = Command::new(self.mopo);
        command.arg("label").arg(&self.work.set).arg("--rewards").arg(&self.work.rewards);
        command.arg("--out").arg(out).arg("--force").env("RAYON_NUM_THREADS", threads.to_string());
        command
    }

    /// Seconds of one process.
    fn one(&self) -> Result<f64> {
        let clock = Instant::now();
        succeed(&mut self.label(&self.folder.join("whole.jsonl"), self.threads))?;
        Ok(clock.elapsed().as_secs_f64())
    }

    /// Seconds of some shards at the same time and their merge, and of the merge alone.
    fn sharded(&self, n: usize) -> Result<(f64, f64)> {
        let clock = Instant::now();
        let part = |i: usize| self.folder.join(format!("part-{i}"));
        let mut children = vec![];
        for i in 1..=n {
            let mut command = self.label(&part(i), self.threads / n);
            command.args(["--shard", &format!("{i}/{n}")]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            children.push(command.spawn().context("starting mopo")?);
        }
        for mut child in children {
            let status = child.wait()?;
            ensure!(status.success(), "a shard of `mopo label` failed: {status}");
        }
        let out = self.folder.join("merged.jsonl");
        let merging = Instant::now();
        let mut merge = Command::new(self.mopo);
        merge
            .arg("label")
            .arg("--merge")
            .args((1..=n).map(part))
            .arg("--out")
            .arg(&out)
            .arg("--force");
        succeed(&mut merge)?;
        let seconds = (clock.elapsed().as_secs_f64(), merging.elapsed().as_secs_f64());
        let same = fs::read(&out)? == fs::read(self.folder.join("whole.jsonl"))?;
        ensure!(same, "the merged labels are not those of one process");
        Ok(seconds)
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().context("starting mopo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {}", output.status, said.trim());
    Ok(())
}
