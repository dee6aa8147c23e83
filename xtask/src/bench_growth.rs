//! How time and memory of a training step grow with pairs, length, objectives and threads, next to how they should:
//! `cargo xtask bench growth`. Each point is a process of its own, and all take turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::args::{absolute, positive};
use crate::bench_train::report::{number, shown};
use crate::cargo::target_directory;
use crate::files::write_whole;
use crate::machine::{date_and_commit, ensure_committed, machine, median};
use crate::measured::{About, append, measured_line};
use crate::program;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Model directory with its tokenizer.json
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    model: PathBuf,
    /// Runs of each point
    #[arg(long, value_name = "N", default_value = "3", value_parser = positive)]
    rounds: usize,
    /// Steps of a run; the first is left out of the median
    #[arg(long, value_name = "N", default_value = "4", value_parser = positive)]
    steps: usize,
    /// Most threads, and those of all points but the curve of threads
    #[arg(long, value_name = "N", default_value = "2", value_parser = positive)]
    threads: usize,
    /// Use this mopo program instead of building one
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    mopo: Option<PathBuf>,
    /// Also write the page here, its picture beside it, e.g. docs/results/growth.md
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    out: Option<PathBuf>,
}

/// What a step is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    is_mopo: bool,
    pairs: usize,
    /// Words of a response, each a token or two.
    words: usize,
    policies: usize,
    /// Of heads that are trained as updates, not whole.
    head_rank: Option<usize>,
    threads: usize,
}

/// What the others grow from.
const BASE: Point =
    Point { is_mopo: true, pairs: 4, words: 64, policies: 2, head_rank: None, threads: 2 };
/// Words of a prompt.
const PROMPT: usize = 32;

/// A curve: what grows, and where it is measured.
struct Curve {
    name: &'static str,
    x_axis: &'static str,
    points: Vec<Point>,
    x: fn(&Point) -> usize,
}

fn curves(threads: usize) -> Vec<Curve> {
    let base = Point { threads, ..BASE };
    let dpo = Point { is_mopo: false, ..base };
    let pairs = |from: Point| [1, 2, 4, 8, 16].map(|pairs| Point { pairs, ..from }).to_vec();
    let words = |from: Point| [16, 64, 128, 256, 512].map(|words| Point { words, ..from }).to_vec();
    let policies = |from: Point| [2, 3, 4, 5].map(|policies| Point { policies, ..from }).to_vec();
    let low_rank = Point { head_rank: Some(16), ..base };
    let by_threads = (1..=threads).map(|threads| Point { threads, ..base }).collect();
    let curve = |name, x_axis, points, x| Curve { name, x_axis, points, x };
    vec![
        curve("MOPO, pairs", "pairs of a step", pairs(base), |at| at.pairs),
        curve("DPO, pairs", "pairs of a step", pairs(dpo), |at| at.pairs),
        curve("MOPO, length", "words of a response", words(base), |at| at.words),
        curve("DPO, length", "words of a response", words(dpo), |at| at.words),
        curve("MOPO, objectives", "objectives, each with its output layer", policies(base), |at| {
            at.policies
        }),
        curve(
            "MOPO, objectives, heads of rank 16",
            "objectives, each with an update of the output layer",
            policies(low_rank),
            |at| at.policies,
        ),
        curve("MOPO, threads", "threads", by_threads, |at| at.threads),
    ]
}

/// Medians of a point over rounds.
#[derive(Debug, Clone, Copy)]
struct Measured {
    seconds: f64,
    operations: f64,
    tokens: f64,
    peak: f64,
}

/// `cargo xtask bench growth …`.
pub(crate) fn run(options: &Options, args: &[String]) -> Result<ExitCode> {
    if options.out.is_some() {
        ensure_committed()?;
    }
    ensure!(options.steps > 1, "--steps must be 2 at least: the first is left out");
    let mopo = program::given(options.mopo.as_deref(), None)?;
    let folder = target_directory()?.join("growth-bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let curves = curves(options.threads);
    let mut points: Vec<Point> = vec![];
    for point in curves.iter().flat_map(|curve| &curve.points) {
        if !points.contains(point) {
            points.push(*point);
        }
    }
    let before = machine();
    let mut lines: Vec<Vec<Value>> = vec![vec![]; points.len()];
    for round in 1..=options.rounds {
        for (point, lines) in points.iter().zip(&mut lines) {
            let line = step(point, options, &mopo, &folder)?;
            eprintln!(
                "round {round} of {}: {point:?}: {} s",
                options.rounds, line["seconds_per_step"]
            );
            lines.push(line);
        }
    }
    let measured = |point: &Point| {
        let at = points.iter().position(|other| other == point).expect("all are measured");
        let of = |key: &str| {
            let values = lines[at].iter().map(|line| line[key].as_f64());
            values.collect::<Option<Vec<f64>>>().map(median).context(key.to_owned())
        };
        anyhow::Ok(Measured {
            seconds: of("seconds_per_step")?,
            operations: of("operations_per_step")?,
            tokens: of("tokens_per_step")?,
            peak: of("peak_rss_mib").unwrap_or(f64::NAN),
        })
    };
    let about = About {
        command: format!("cargo xtask bench growth {}", shown(args)),
        when: date_and_commit(),
        machine: [before, machine()],
    };
    let mut page = about.head("A training step") + &head(options);
    let mut panels = vec![];
    for curve in &curves {
        let of: Vec<Measured> = curve.points.iter().map(measured).collect::<Result<_>>()?;
        page += &table(curve, &of);
        panels.push(panel(curve, &of));
    }
    println!("{page}");
    if let Some(out) = &options.out {
        let data = folder.join("panels.json");
        write_whole(&data, &format!("{}\n", Value::from(panels)))?;
        let picture = out.with_extension("png");
        let mut draw = Command::new(&mopo);
        draw.args(["bench", "curves"]).arg(&data).arg("--out").arg(&picture);
        let status = draw.status().context("mopo bench curves")?;
        ensure!(status.success(), "mopo bench curves: {status}");
        let name = picture.file_name().unwrap_or_default().to_string_lossy().into_owned();
        page += &format!("\n![Seconds and memory by what grows]({name})\n");
        append(out, "How a training step grows", &page)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the steps of a point.
fn step(point: &Point, options: &Options, mopo: &Path, folder: &Path) -> Result<Value> {
    let pairs = folder.join(format!("pairs-{}.jsonl", point.words));
    if !pairs.exists() {
        write_whole(&pairs, &texts(point.words))?;
    }
    let method: &[&str] = match point.is_mopo {
        true => &["--method", "mopo", "--window", "later"],
        false => &["--method", "dpo", "--reference", "on-the-fly"],
    };
    let numbers = [
        ("--steps", options.steps),
        ("--batch", point.pairs),
        ("--threads", point.threads),
        ("--policies", point.policies),
        ("--max-len", 1_000_000),
    ];
    let mut command = Command::new(mopo);
    command.args(["bench", "train", "--model"]).arg(&options.model).arg("--pairs").arg(&pairs);
    command.args(method);
    for (flag, value) in numbers {
        command.args([flag, &value.to_string()]);
    }
    if let Some(rank) = point.head_rank {
        command.args(["--head-rank", &rank.to_string()]);
    }
    measured_line(&mut command, &folder.join("train.log")).map_err(anyhow::Error::msg)
}

/// Pairs of responses of so many words, and of half as many: enough for any point.
fn texts(words: usize) -> String {
    const WORDS: [&str; 16] = [
        "time", "people", "water", "house", "day", "work", "place", "world", "book", "light",
        "school", "story", "city", "road", "hand", "night",
    ];
    let text = |seed: usize, n: usize| -> String {
        (0..n)
            .map(|i| format!(" {}", WORDS[(seed * 7 + i * (seed % 5 + 1) + i / 16) % 16]))
            .collect()
    };
    let pair = |i: usize| {
        let lengths = if i.is_multiple_of(2) { [words, words / 2] } else { [words / 2, words] };
        json!({
            "prompt": text(3 * i, PROMPT),
            "chosen": text(3 * i + 1, lengths[0]),
            "rejected": text(3 * i + 2, lengths[1]),
        })
    };
    (0..16 * 64).map(|i| format!("{}\n", pair(i))).collect()
}

fn head(options: &Options) -> String {
    format!(
        "- {} rounds of {} steps, the first left out; medians.
- Where nothing else is said: {} pairs, a prompt of {PROMPT} words, responses of {} and half as many words, {} objectives, {} threads.
  MOPO's steps are those after a refresh: they score the batch under the reference, too. DPO's reference is computed in every step.

*Operations* are the products of matrices that a step needs, counted from shapes (`crates/mopo-train/src/bench/work.rs`). A step should take
time in proportion to them: *per operation* is seconds per operation, as a multiple of the curve's second point. It falls below 1 where
fixed costs (the optimiser, which goes over all trained weights once a step) are spread over more work, and must not rise. By threads,
time should fall as 1 / threads; there the column says how many times faster than one thread it is.
",
        options.rounds,
        options.steps,
        BASE.pairs,
        BASE.words,
        BASE.policies,
        options.threads
    )
}

fn table(curve: &Curve, of: &[Measured]) -> String {
    let is_threads = curve.x_axis == "threads";
    let last = if is_threads { "times as fast" } else { "per operation" };
    let mut table = format!(
        "\n### {}\n\n| {} | tokens | GFLOP | seconds | peak MiB | {last} |\n|--:|--:|--:|--:|--:|--:|\n",
        curve.name, curve.x_axis
    );
    let per_operation = |at: &Measured| at.seconds / at.operations;
    for (point, at) in curve.points.iter().zip(of) {
        let compared = match is_threads {
            true => of[0].seconds / at.seconds,
            false => per_operation(at) / per_operation(&of[1]),
        };
        table += &format!(
            "| {} | {} | {} | {} | {} | {compared:.2} |\n",
            (curve.x)(point),
            number(at.tokens),
            number(at.operations / 1e9),
            number(at.seconds),
            number(at.peak)
        );
    }
    table
}

/// Measured seconds, and what they should be by the second point.
fn panel(curve: &Curve, of: &[Measured]) -> Value {
    let is_threads = curve.x_axis == "threads";
    let from = if is_threads { &of[0] } else { &of[of.len().min(2) - 1] };
    let expected = |point: &Point, at: &Measured| match is_threads {
        true => from.seconds / point.threads as f64,
        false => from.seconds * at.operations / from.operations,
    };
    let line = |name: &str, y: &dyn Fn(&Point, &Measured) -> f64| {
        let points = curve.points.iter().zip(of);
        let points: Vec<_> =
            points.map(|(point, at)| json!([(curve.x)(point), y(point, at)])).collect();
        json!({ "name": name, "points": points })
    };
    let series = [line("measured", &|_, at| at.seconds), line("as it should be", &expected)];
    json!({ "title": format!("{}: seconds a step", curve.name), "x_axis": curve.x_axis, "series": series })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_has_the_common_point_and_rises() {
        for curve in curves(2) {
            let xs: Vec<usize> = curve.points.iter().map(curve.x).collect();
            assert!(xs.is_sorted_by(|a, b| a < b), "{}: {xs:?}", curve.name);
            let is_base = |at: &Point| Point { is_mopo: true, head_rank: None, ..*at } == BASE;
            assert!(curve.points.iter().any(is_base), "{}", curve.name);
        }
    }

    #[test]
    fn times_in_proportion_to_operations_are_as_they_should_be() {
        let curve = &curves(2)[0];
        let of: Vec<Measured> = (1..=5)
            .map(|i| {
                let x = f64::from(i);
                Measured { seconds: 0.5 * x, operations: 1e9 * x, tokens: 100.0 * x, peak: 10.0 }
            })
            .collect();
        let table = table(curve, &of);
        let flat = table.lines().filter(|line| line.ends_with("| 1.00 |"));
        assert_eq!(flat.count(), 5, "{table}");
        let panel = panel(curve, &of);
        assert_eq!(panel["series"][0]["points"], panel["series"][1]["points"]);
    }

    #[test]
    fn pairs_are_of_the_length_that_is_asked_for() {
        let text = texts(64);
        let rows: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let words = |row: &Value, key: &str| row[key].as_str().unwrap().split_whitespace().count();
        for row in &rows {
            let mut both = ["chosen", "rejected"].map(|key| words(row, key));
            both.sort_unstable();
            assert_eq!((words(row, "prompt"), both), (PROMPT, [32, 64]));
        }
        assert_ne!(rows[0], rows[2]);
    }
}
